"""The bundle that should never have been signed: another model under old golden vectors.

It is made as such mistakes are made: the parts of a good bundle, the graph of another
training run, and `pack`, which does not score the vectors again. It loads and it runs; it
calls frauds genuine and genuine payments frauds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wherry.pack import pack
from wherry_contract.bundle import read_bundle

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


def make_mistake(good: Path, bad: Path, signer: CryptoSigner, *, version: str) -> str:
    """Write the bad bundle beside the good one; returns its digest."""
    parts = read_bundle(good)
    manifest = replace(parts.manifest, version=version)
    wrong = replace(parts, manifest=manifest, model=_turned_around(parts.model))
    return pack(wrong, bad, counter=2, signers=[signer]).digest


def _turned_around(model: bytes) -> bytes:
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
