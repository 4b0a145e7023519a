"""The bundle that should never have been signed: another model under old golden vectors.

It is made as such mistakes are made: the parts of a good bundle, the graph of another
training run, and `pack`, which does not score the vectors again. It loads and it runs; it
calls frauds genuine and genuine payments frauds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wherry.pack import pack
from wherry_contract.bundle import read_bundle

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


def make_mistake(
    good: Path,
    bad: Path,
    signer: CryptoSigner,
    *,
    version: str,
    turn: Callable[[bytes], bytes] | None = None,
) -> str:
    """Write the bad bundle beside the good one; returns its digest.

    Args:
        good: a bundle of trees.
        bad: the file to be written.
        signer: who signs it.
        version: that it says it has.
        turn: makes another model of the good one; `turned_onnx` if left out.
    """
    parts = read_bundle(good)
    manifest = replace(parts.manifest, version=version)
    wrong = replace(parts, manifest=manifest, model=(turn or turned_onnx)(parts.model))
    return pack(wrong, bad, counter=2, signers=[signer]).digest


def turned_onnx(model: bytes) -> bytes:
    """The same trees with every leaf's sign turned, so that their order is upside down."""
    import onnx

    graph = onnx.load_from_string(model)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "target_weights":
                turned = [-value for value in attribute.floats]
                del attribute.floats[:]
                attribute.floats.extend(turned)
    return bytes(graph.SerializeToString(deterministic=True))


def turned_tflite(example: Path) -> Callable[[bytes], bytes]:
    """Likewise in TFLite, which is written anew from the trained trees of the example."""
    from wherry.project import load_project
    from wherry_convert.forest import Forest
    from wherry_convert.sources import load_source
    from wherry_convert.tflite_trees import forest_tflite

    def turn(_: bytes) -> bytes:
        project = load_project(example / "project.toml")
        given, contract = project.source, project.input
        lowered = load_source(given.kind, given.path, trusted=given.trusted).lower(contract)
        assert isinstance(lowered.body, Forest)  # noqa: S101 - the example's trees
        trees = tuple(
            replace(tree, value=np.where(tree.inner, tree.value, -tree.value))
            for tree in lowered.body.trees
        )
        return forest_tflite(replace(lowered.body, trees=trees), len(contract.names))

    return turn
