"""Boards as data: every profile reads, every rule refuses what it should, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support_build import wherry, write_project

from wherry.profiles import (
    FOLDER,
    NOTE,
    OWN_VARIABLE,
    Board,
    known_boards,
    load_board,
    load_knowledge,
)
from wherry.targets import Model, judge_board
from wherry.traits import (
    DYNAMIC,
    FOUR,
    HALF,
    INTEGER,
    LOWEST,
    SIGNED,
    SINGLE,
    UNSIGNED,
    WEIGHTS,
    WIDE,
    traits,
)
from wherry_contract.errors import SetupError
from wherry_contract.manifest import BoardNeeds, RuntimeNeeds
from wherry_convert.tflite_write import GraphWriter
from wherry_convert.to_onnx import RUNTIME_RANGE

PAGE = Path(__file__).parents[2] / "docs" / "project.md"
KNOWLEDGE = load_knowledge()
NEEDS = RuntimeNeeds("onnxruntime", RUNTIME_RANGE, 8, {"": 17, "ai.onnx.ml": 3}, ("Add", "MatMul"))
OLD = replace(NEEDS, version=">=1.21,<1.29")
LITE = RuntimeNeeds(
    "tflite", ">=2.14,<2.15", 3, {"FULLY_CONNECTED": 9}, ("FULLY_CONNECTED",),
    also={"ai-edge-litert": ">=2.3,<2.4"},
)  # fmt: skip
INT8 = {SIGNED, WEIGHTS, INTEGER}


def board(name: str, **changes: Any) -> Board:
    """A profile of ours, changed."""
    return replace(load_board(name, FOLDER), **changes)


def test_every_profile_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert len(known_boards()) >= 6
    for name in known_boards():
        assert f"| `{name}` | {load_board(name, FOLDER).title} |" in text


def test_every_defect_says_where_it_was_seen_and_what_to_do() -> None:
    for item in KNOWLEDGE.wrong:
        assert item.says
        assert item.seen
        assert item.effect == NOTE or item.cure


@pytest.mark.parametrize(
    ("name", "needs", "found", "problem", "note"),
    [
        pytest.param("pi4", NEEDS, (), "", "", id="float on a Pi 4"),
        pytest.param("pi5", NEEDS, INT8, "", "", id="int8 with dot product"),
        pytest.param("pi4", NEEDS, INT8, "", "slower than float32", id="int8 without"),
        pytest.param("pc-x86-64", NEEDS, INT8, "", "", id="int8 on a PC"),
        pytest.param(
            "pi3", NEEDS, {*INT8, LOWEST}, "overflows at -128", "slower", id="-128"
        ),
        pytest.param("pi5", NEEDS, {*INT8, LOWEST}, "", "", id="-128 on a Pi 5"),
        pytest.param(
            "pos-armv7", NEEDS, (), "the bundle claims onnxruntime", "",
            id="no onnxruntime on 32 bits",
        ),
        pytest.param("pos-armv7", LITE, (), "", "", id="tflite on 32 bits"),
        pytest.param(
            "pos-armv7-debian13", NEEDS, (), "the board can have onnxruntime 1.21", "",
            id="too old a runtime",
        ),
        pytest.param("pos-armv7-debian13", OLD, (), "", "", id="float on 1.21"),
        pytest.param(
            "pos-armv7-debian13", OLD, INT8, "115 of 200 decisions", "slower",
            id="signed int8 on 1.21 armhf",
        ),
        pytest.param(
            "pos-armv7-debian13", OLD, {UNSIGNED, WEIGHTS, INTEGER}, "", "slower",
            id="unsigned int8 on 1.21 armhf",
        ),
        pytest.param(
            "pi5", LITE, {DYNAMIC, WEIGHTS, INTEGER}, "ai-edge-quantizer's dynamic", "",
            id="dynamic int8 on tflite-runtime 2.14",
        ),
        pytest.param("pi5", LITE, {WEIGHTS}, "", "", id="int8 weights alone"),
        pytest.param("pi5", LITE, {FOUR}, "cannot load 4-bit", "", id="int4 weights"),
        pytest.param(
            "pi4", replace(NEEDS, ir=14), (), "IR versions up to 13, the file has 14", "",
            id="IR",
        ),
        pytest.param(
            "pi4", replace(NEEDS, opsets={"": 27}), (), "up to 26", "", id="opset"
        ),
        pytest.param(
            "pi4", replace(NEEDS, opsets={"": 17, "com.microsoft": 1}), (),
            "no operators of 'com.microsoft'", "", id="domain",
        ),
        pytest.param(
            "pi4", replace(LITE, opsets={"FULLY_CONNECTED": 12}), (),
            "FULLY_CONNECTED up to 11", "", id="operator version",
        ),
    ],
)  # fmt: skip
def test_a_verdict(
    name: str, needs: RuntimeNeeds, found: set[str], problem: str, note: str
) -> None:
    model = Model(needs, BoardNeeds(), frozenset(found))
    verdict = judge_board(board(name), model, KNOWLEDGE)
    said = "; ".join(what for what, _cure in verdict.problems)
    assert problem in said
    assert bool(problem) == bool(said), said
    assert note in "; ".join(verdict.notes)
    assert bool(note) == bool(verdict.notes)
    assert all(cure for _what, cure in verdict.problems)


@pytest.mark.parametrize(
    ("changes", "needs", "asks", "problem"),
    [
        pytest.param(
            {}, NEEDS, BoardNeeds(("x86_64",)), "this one is aarch64", id="architecture"
        ),
        pytest.param({}, NEEDS, BoardNeeds((), 4096), "it has 1024", id="memory"),
        pytest.param(
            {"operators": {"onnxruntime": ("Add",)}}, NEEDS, BoardNeeds(),
            "built without MatMul", id="a reduced build",
        ),
        pytest.param(
            {"runtimes": {"onnxruntime": ("1.21.0",)}}, OLD, BoardNeeds(), "SIGILL",
            id="a runtime that crashes on this core",
        ),
        pytest.param(
            {"runtimes": {"onnxruntime": ("1.30.0",)}}, replace(NEEDS, version=">=1.27"),
            BoardNeeds(), "telemetry", id="a runtime that reports home",
        ),
        pytest.param(
            {"architecture": "armv7l"}, LITE, BoardNeeds(), "CPU with neon-vfpv4", id="an old core"
        ),
    ],
)  # fmt: skip
def test_what_a_board_lacks(
    changes: dict[str, Any], needs: RuntimeNeeds, asks: BoardNeeds, problem: str
) -> None:
    model = Model(needs, asks, frozenset())
    verdict = judge_board(board("pi4", **changes), model, KNOWLEDGE)
    assert any(problem in what for what, _cure in verdict.problems), verdict


# --- profiles of one's own ----------------------------------------------------------------

OWN = """title = "Till"
architecture = "aarch64"
cpu = "cortex-a35"
memory_mib = 512
{more}
[runtimes]
onnxruntime = ["{version}"]
"""


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "till.toml").write_text(OWN.format(more="", version="1.28.0"))
    found = load_board("till.toml", tmp_path)
    assert (found.name, found.cpu, found.runtimes) == (
        "till",
        "cortex-a35",
        {"onnxruntime": ("1.28.0",)},
    )


def test_profiles_in_the_folder_of_ones_own_are_known_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(OWN_VARIABLE, str(tmp_path))
    (tmp_path / "till.toml").write_text(OWN.format(more="", version="1.28.0"))
    assert "till" in known_boards()
    assert load_board("till", Path()).cpu == "cortex-a35"
    listed = json.loads(wherry(capsys, "board", "list", "--json").out)["boards"]
    assert "Till" in [item["title"] for item in listed]
    (tmp_path / "pi4.toml").write_text(OWN.format(more="", version="1.28.0"))
    with pytest.raises(SetupError, match="comes with Wherry"):
        load_board("pi4", Path())


@pytest.mark.parametrize(
    ("name", "text", "code", "words"),
    [
        pytest.param("pi-4", "", "H01", "did you mean 'pi4'", id="misspelt"),
        pytest.param("zzz", "", "H01", "known: arm64-generic", id="unknown"),
        pytest.param("till.toml", "", "H02", "No such file", id="no file"),
        pytest.param("till.toml", "[[", "H01", "not valid TOML", id="no TOML"),
        pytest.param("till.toml", OWN.format(more="fetures = []", version="1.28.0"), "H01",
                     "fetures", id="a name that nobody knows"),
        pytest.param("till.toml", OWN.format(more="", version=">=1.27"), "H01",
                     "versions like 1.27.0", id="a range for a version"),
        pytest.param("till.toml", "title = 3", "H01", "title", id="a wrong type"),
        pytest.param("till.toml", "#" * 70_000, "H01", "more than 65536 bytes", id="too large"),
    ],
)  # fmt: skip
def test_profiles_that_are_refused(
    tmp_path: Path, name: str, text: str, code: str, words: str
) -> None:
    if text:
        (tmp_path / "till.toml").write_text(text)
    with pytest.raises(SetupError, match=words) as caught:
        load_board(name, tmp_path)
    assert caught.value.code == code


# --- traits ------------------------------------------------------------------------------


def graph(nodes: list[Any], constants: list[Any]) -> bytes:
    """An ONNX file that need not run."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in "xy"]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return bytes(helper.make_model(made).SerializeToString())


def constant(name: str, dtype: Any, *values: float) -> Any:
    """An initializer."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def quantized(zero: Any) -> bytes:
    """A graph that rounds its input with a zero point of this type."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return graph(nodes, [constant("s", np.float32, 1), constant("z", zero, 0)])


def weights(dtype: Any, *values: float) -> bytes:
    """A graph that widens constants of this type."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("Add", ["x", "v"], ["y"]),
    ]
    return graph(nodes, [constant("s", np.float32, 1), constant("w", dtype, *values)])


@pytest.mark.parametrize(
    ("model", "found"),
    [
        pytest.param(quantized(np.int8), {SIGNED, INTEGER}, id="signed"),
        pytest.param(quantized(np.uint8), {UNSIGNED, INTEGER}, id="unsigned"),
        pytest.param(quantized(np.int16), {WIDE, INTEGER}, id="16 bits"),
        pytest.param(weights(np.int8, -127, 127), {WEIGHTS}, id="weights"),
        pytest.param(weights(np.int8, -128, 127), {WEIGHTS, LOWEST}, id="weights with -128"),
        pytest.param(
            graph([helper.make_node("Add", ["x", "h"], ["y"])], [constant("h", np.float16, 1)]),
            {HALF}, id="half",
        ),
        pytest.param(
            graph([helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])], []),
            {DYNAMIC, INTEGER}, id="dynamic",
        ),
        pytest.param(graph([helper.make_node("Add", ["x", "x"], ["y"])], []), set(), id="float"),
    ],
)  # fmt: skip
def test_traits(model: bytes, found: set[str]) -> None:
    assert traits(model, "onnxruntime") == found


def lite(*, widened: bool, kind: str = "int8", product: bool = True) -> bytes:
    """A TFLite file whose weights are small integers, which an operator widens or not."""
    pytest.importorskip("tflite")
    writer = GraphWriter()
    entry = writer.input(2)
    inside = writer.constant(np.ones((1, 2), kind))
    if widened:
        inside = writer.add("CAST", [inside], (1, 2), options=("CastOptions", {}))
    inputs = [entry, inside, writer.constant(np.zeros(1, np.float32))]
    if product:
        options = ("FullyConnectedOptions", {})
        return writer.finish(writer.add("FULLY_CONNECTED", inputs, (1, 1), options=options))
    return writer.finish(writer.add("ADD", inputs[:2], (1, 2), options=("AddOptions", {})))


@pytest.mark.parametrize(
    ("made", "found"),
    [
        pytest.param({"widened": False}, {SINGLE, WEIGHTS, INTEGER}, id="dynamic int8"),
        pytest.param({"widened": True}, {WEIGHTS}, id="widened first"),
        pytest.param({"widened": False, "product": False}, {WEIGHTS}, id="places in trees"),
        pytest.param({"widened": False, "kind": "float32"}, set(), id="float"),
    ],
)
def test_traits_of_tflite(made: dict[str, Any], found: set[str]) -> None:
    assert traits(lite(**made), "tflite") == found


# --- the gate ----------------------------------------------------------------------------


def test_a_board_that_cannot_run_it_stops_the_build(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = '[target]\nboards = ["pi5", "pos-armv7"]\n'
    project, out = write_project(shop, more=more), tmp_path / "no.wherry"
    done = wherry(capsys, "build", project, "--out", out, "--unsigned", "--json")
    assert done.code == 1
    assert "Q06" in done.err
    assert 'runtime = "tflite" in [target]' in done.err
    assert not out.exists()
    answer = json.loads(done.out)
    assert answer["bundle"] is None
    assert [bool(item["problems"]) for item in answer["boards"]] == [False, True]
    assert wherry(capsys, "check", project).code == 1


def test_boards_that_can_are_named_with_what_is_slow_there(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        '[target]\nboards = ["pi4", "pi5"]\n[quantize]\nmethod = "int8"\n'
        '[gates]\nflips = 400\nedge_flips = 400\nmetric_drop = 1.0\nboards = "off"\n'
    )
    project, page = write_project(shop, model="net", more=more), tmp_path / "a.html"
    out = tmp_path / "a.wherry"
    done = wherry(capsys, "build", project, "--out", out, "--unsigned", "--report", page)
    assert done.code == 0, done.err
    (slow,) = (line for line in done.out.splitlines() if line.startswith("pi4"))
    assert "slower than float32" in slow
    (fine,) = (line for line in done.out.splitlines() if line.startswith("pi5"))
    assert fine.endswith("fits")
    assert "pi4" in page.read_text()
