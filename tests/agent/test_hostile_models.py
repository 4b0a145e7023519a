"""Models made to do harm never leave the probe's child: rows, each with its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_agent import UncheckedParts, make_bundle, statement_of

from wherry_agent.serving.probe import probe
from wherry_agent.store import BlobStore
from wherry_contract.bundle import assemble
from wherry_contract.errors import WherryError

SOUND = make_bundle()


def _graph(*nodes: Any, constants: Any = (), functions: Any = ()) -> bytes:
    """A model from three numbers to a score, whatever stands between."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        list(nodes),
        "hostile",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, None)],
        list(constants),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("evil", 1)],
        ir_version=8,
        functions=list(functions),
    )
    return bytes(model.SerializeToString())


def _identity(source: str) -> Any:
    from onnx import helper

    return helper.make_node("Identity", [source], ["score"])


def outside(place: str) -> bytes:
    """Weights that lie in a file of the board's."""
    from onnx import TensorProto

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "64")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return _graph(_identity("w"), constants=[tensor])


def giant(dims: list[int]) -> bytes:
    """A tensor that says it is larger than it is."""
    from onnx import TensorProto

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
    return _graph(_identity("w"), constants=[tensor])


def unknown_operator() -> bytes:
    """An operator of a library that is not here."""
    from onnx import helper

    return _graph(helper.make_node("Shell", ["input"], ["score"], domain="evil"))


def calls_itself() -> bytes:
    """A function that is made of itself."""
    from onnx import helper

    inner = helper.make_node("Again", ["x"], ["y"], domain="evil")
    opset = [helper.make_opsetid("evil", 1)]
    again = helper.make_function("evil", "Again", ["x"], ["y"], [inner], opset)
    return _graph(helper.make_node("Again", ["input"], ["score"], domain="evil"), functions=[again])


def circle() -> bytes:
    """Two nodes that wait for each other."""
    from onnx import helper

    return _graph(
        helper.make_node("Identity", ["b"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        _identity("a"),
    )


def nested(depth: int) -> bytes:
    """Bytes that nest messages deeper than any stack."""
    data = b""
    for _ in range(depth):
        if len(data) > 60_000:
            break
        length = len(data)
        coded = bytearray()
        while length > 127:
            coded.append(length & 127 | 128)
            length >>= 7
        coded.append(length)
        data = b"\x3a" + bytes(coded) + data  # graph, and again
    return data


def endless() -> bytes:
    """A loop that ends after 2^62 turns."""
    from onnx import TensorProto, helper

    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["x"], ["x_out"]),
        ],
        "turn",
        [
            info("turn", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("x", TensorProto.FLOAT, None),
        ],
        [info("go_on", TensorProto.BOOL, []), info("x_out", TensorProto.FLOAT, None)],
    )
    constants = [
        helper.make_tensor("most", TensorProto.INT64, [], [2**62]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [1]),
    ]
    loop = helper.make_node("Loop", ["most", "yes", "input"], ["score"], body=body)
    return _graph(loop, constants=constants)


MODELS: list[tuple[str, Callable[[], bytes], set[str]]] = [
    ("nothing", lambda: b"", {"P04"}),
    ("garbage", lambda: b"\xff" * 10_000, {"P04"}),
    ("half a model", lambda: SOUND.parts.model[: len(SOUND.parts.model) // 2], {"P02", "P04"}),
    ("weights in /etc/passwd", lambda: outside("/etc/passwd"), {"P04"}),
    ("weights up the tree", lambda: outside("../../../../etc/passwd"), {"P04"}),
    ("weights of the parent's memory", lambda: outside("/proc/self/mem"), {"P04"}),
    ("a tensor of 4 TB", lambda: giant([2**20, 2**20]), {"P04", "P05"}),
    ("a tensor of 2^126 numbers", lambda: giant([2**63 - 1, 2**63 - 1]), {"P02", "P04", "P05"}),
    ("a tensor of less than nothing", lambda: giant([-5]), {"P02", "P04"}),
    ("an operator that is not here", unknown_operator, {"P04"}),
    ("a function that calls itself", calls_itself, {"P02", "P03", "P04", "P05"}),
    ("nodes in a circle", circle, {"P02", "P04"}),
    ("nested deeper than the stack", lambda: nested(100_000), {"P02", "P04"}),
    ("a loop without end", endless, {"P03"}),
]


def _stored(folder: Path, model: bytes) -> str:
    """A bundle in a store as a careless host would have made it: nobody looked at the graph."""
    layout = assemble(UncheckedParts(**{**SOUND.parts.__dict__, "model": model}))
    made = replace(SOUND, layout=layout, statement=statement_of(layout, SOUND.parts.manifest))
    blobs = BlobStore(folder)
    for digest, data in {made.digest: layout.manifest, **layout.blobs}.items():
        blobs.put(digest, data)
    return made.digest


def _children() -> set[int]:
    """Our own, those that have ended and wait to be looked at too."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(words[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("make", "codes"), [row[1:] for row in MODELS], ids=[row[0] for row in MODELS]
)
def test_it_never_leaves_the_child(
    tmp_path: Path, make: Callable[[], bytes], codes: set[str]
) -> None:
    digest = _stored(tmp_path, make())
    before, others = sorted(path.name for path in tmp_path.rglob("*")), _children()
    began = time.monotonic()
    with pytest.raises(WherryError) as caught:
        probe(tmp_path, digest, seconds=5, mib=256)
    assert caught.value.code in codes, caught.value
    assert time.monotonic() - began < 60
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert _children() <= others  # none is left behind


def test_processor_time_is_capped_even_if_nobody_watches() -> None:
    """The child's own limit ends it, should the parent's clock stand still."""
    code = "from wherry_agent.child import cap_processor; cap_processor(0.1)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_a_sound_model_still_passes(tmp_path: Path) -> None:
    digest = _stored(tmp_path, SOUND.parts.model)
    assert wait_for(lambda: probe(tmp_path, digest, seconds=60, mib=256))["largest_gap"] < 1e-5
