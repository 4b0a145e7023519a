"""Every way to quantize a TFLite net, run under both runtimes; and the search that claims no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import ROOT
from support_convert import converted_from, fitted, numbers, scored, table
from support_tflite import old_runtime, score_in

from wherry.traits import DYNAMIC, HALF, INTEGER, LOWEST, SIGNED, SINGLE, WEIGHTS, WIDE, traits
from wherry_contract.encoder import Encoder, Tensor
from wherry_contract.errors import ConvertError
from wherry_contract.manifest import NEVER
from wherry_convert.parity import compare
from wherry_convert.quantize import Budgets, Outside, Quantized, methods_for, quantize
from wherry_convert.sources.base import Scores
from wherry_convert.tflite_convert import convert_tflite, tflite_needs
from wherry_convert.to_onnx import SCORE, Converted

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")
pytest.importorskip("ai_edge_quantizer", reason="the extra tflite-quant is absent; likewise")

from wherry_convert.tflite_graph import layers_of
from wherry_convert.tflite_inspect import inspect_tflite
from wherry_convert.tflite_quant import METHODS, TfliteWorkshop, ranges_of
from wherry_convert.tflite_write import GraphWriter, Options

OLD = "tflite-runtime"


@dataclass(frozen=True)
class Net:
    """A float net, rows, and what makes it again from its source."""

    converted: Converted
    rows: Tensor

    def workshop(self) -> TfliteWorkshop:
        """Of this net."""
        return TfliteWorkshop(self.converted, self.rows[:700], self.written)

    def written(self, weights: str) -> Converted:
        """The net, made again."""
        source, _ = converted_from(model(), numbers(5))
        return convert_tflite(source, numbers(5), weights=weights)


@cache
def model() -> object:
    raw, label = table()
    net = MLPClassifier((96, 70, 32), max_iter=25, random_state=0)
    return fitted(make_pipeline(StandardScaler(), net), raw, label)


@pytest.fixture(scope="module")
def net() -> Net:
    raw, _ = table()
    source, _ = converted_from(model(), numbers(5))
    converted = convert_tflite(source, numbers(5))
    return Net(converted, converted.encoder.encode(raw))


@dataclass(frozen=True)
class Old:
    """A witness: tflite-runtime 2.14 in its own environment."""

    folder: Path
    name: str = OLD
    version: str = "2.14.0"

    def score(self, models: Sequence[Converted], rows: Tensor) -> Sequence[Scores | str]:
        """Model by model, so that one that does not load ends no other."""
        found: list[Scores | str] = []
        for item in models:
            try:
                (table,) = score_in(old_runtime(), [(item.model, rows)], self.folder)
            except subprocess.CalledProcessError:
                found.append("it does not load")
            else:
                found.append(table.reshape(-1))
        return found


def convolved() -> Converted:
    """A convolution, a pool over it, and a layer: what passes integers on stays integer."""
    make = np.random.default_rng(3)
    writer = GraphWriter()
    last = writer.input(24)
    shape = writer.constant(np.array([1, 4, 6, 1], np.int32))
    last = writer.add("RESHAPE", [last, shape], (1, 4, 6, 1))
    kernel = writer.constant(make.normal(0, 0.4, (16, 2, 3, 1)).astype(np.float32))
    bias = writer.constant(np.zeros(16, np.float32))
    conv = ("Conv2DOptions", {"StrideW": 1, "StrideH": 1, "Padding": 1, "DilationWFactor": 1,
            "DilationHFactor": 1, "FusedActivationFunction": 1})  # fmt: skip
    last = writer.add("CONV_2D", [last, kernel, bias], (1, 3, 4, 16), options=conv)
    flat = writer.constant(np.array([1, 192], np.int32))
    last = writer.add("RESHAPE", [last, flat], (1, 192))
    weight = writer.constant(make.normal(0, 0.1, (1, 192)).astype(np.float32))
    one = writer.constant(np.zeros(1, np.float32))
    dense: Options = ("FullyConnectedOptions", {})
    last = writer.add("FULLY_CONNECTED", [last, weight, one], (1, 1), options=dense)
    file = writer.finish(writer.add("LOGISTIC", [last], (1, 1)))
    encoder = Encoder(numbers(24), ())
    return Converted(file, tflite_needs(file), encoder, SCORE, -1, "neural")


# method -> dtype of the weights, the largest error here, whether 2.14 gives the same scores
EVERY = [
    ("int8", "int8", 0.2, 1e-6),
    ("int16", "int8", 0.05, 5e-3),
    ("dynamic", "int8", 0.1, 1e-6),
    ("dynamic-channel", "int8", 0.1, None),
    ("float16", "float16", 2e-3, 1e-6),
    ("weights-int8", "int8", 0.02, 1e-6),
    ("weights-int4", "int4", 0.25, None),
    ("written-float16", "float16", 2e-3, 1e-6),
    ("written-int8", "int8", 0.02, 1e-6),
]


@pytest.mark.parametrize("row", EVERY, ids=[row[0] for row in EVERY])
def test_every_method_does_what_it_says(
    row: tuple[str, str, float, float | None], net: Net, tmp_path: Path
) -> None:
    method, dtype, error, old_gap = row
    done = net.workshop().make(method, [])
    facts = inspect_tflite(done.model)
    assert facts.precision == dtype
    assert {end.dtype for end in (*facts.inputs, *facts.outputs)} == {"float32"}
    ours = scored(net.converted).score_tensor(net.rows)
    theirs = scored(done).score_tensor(net.rows)
    assert 0 < compare(ours, theirs, 0.5).largest < error
    assert net.workshop().make(method, []).model == done.model
    (answer,) = Old(tmp_path).score([done], net.rows[:200])
    if old_gap is None:
        assert answer == "it does not load"  # and not wrong numbers without an error
    else:
        assert not isinstance(answer, str)
        assert np.abs(answer - theirs[:200]).max() <= old_gap


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("dynamic", {SINGLE, INTEGER, WEIGHTS}),
        ("dynamic-channel", {DYNAMIC, INTEGER, WEIGHTS}),
        ("weights-int8", {WEIGHTS}),
        ("int16", {WIDE, INTEGER, WEIGHTS}),
        ("float16", {HALF}),
    ],
)
def test_traits(method: str, found: set[str], net: Net) -> None:
    """A board's known faults are found by them: one scale is right on 2.14, many are wrong."""
    shop = net.workshop()
    for floats in ([], shop.layers[:1]):
        seen = traits(shop.make(method, floats).model, "tflite")
        assert seen - {SIGNED, LOWEST} == found


def test_all_methods_are_here() -> None:
    assert [row[0] for row in EVERY] == list(METHODS) == list(methods_for("tflite"))


@pytest.mark.parametrize("method", [name for name, item in METHODS.items() if item.refine])
def test_a_layer_left_in_float_keeps_its_weights(method: str, net: Net) -> None:
    workshop = net.workshop()
    for kept in (workshop.layers[:1], [workshop.layers[0], workshop.layers[-1]]):
        done = workshop.make(method, kept)
        assert [layer.name for layer in layers_of(done.model)] == kept
        assert len(done.model) < len(net.converted.model)
        scored(done).score_tensor(net.rows[:9])


@pytest.mark.parametrize("method", ["int8", "int16", "float16", "weights-int8", "dynamic"])
def test_a_convolution_too(method: str) -> None:
    converted = convolved()
    rows = np.random.default_rng(1).normal(size=(300, 24)).astype(np.float32)
    done = TfliteWorkshop(converted, rows, None).make(method, [])
    assert layers_of(done.model) == []
    ours, theirs = (scored(item).score_tensor(rows) for item in (converted, done))
    assert compare(ours, theirs, 0.5).largest < 0.1
    if method == "int8":  # one QUANTIZE before the convolution and one DEQUANTIZE at the end
        assert operators(done.model) == operators(converted.model) + 2


def operators(model: bytes) -> int:
    import tflite

    return int(tflite.Model.GetRootAs(model, 0).Subgraphs(0).OperatorsLength())


def test_ranges_are_those_of_the_rows(net: Net) -> None:
    ranges = ranges_of(net.converted.model, net.rows[:50])
    entry = ranges["input"]
    assert (entry["min"].item(), entry["max"].item()) == (
        net.rows[:50].min(),
        net.rows[:50].max(),
    )
    rows = net.rows[:5].copy()
    rows[2, 1] = np.inf
    with pytest.raises(ConvertError, match=r"K02.*not finite"):
        ranges_of(net.converted.model, rows)


def search(net: Net, outside: Outside, *methods: str, flips: int = 3) -> Quantized:
    return quantize(
        net.converted,
        net.rows,
        threshold=0.3,
        methods=methods or methods_for("tflite"),
        budgets=Budgets(flips=flips),
        outside=outside,
    )


def test_the_search_claims_what_witnesses_bear_out(net: Net, tmp_path: Path) -> None:
    outside = Outside([Old(tmp_path)], 1e-6, written=net.written)
    done = search(net, outside, "int16", "dynamic", "dynamic-channel", "weights-int8")
    doubted = {item.method for item in done.variants if item.doubts}
    assert doubted >= {"dynamic-channel"}
    assert {"dynamic", "weights-int8"}.isdisjoint(doubted)
    assert done.kept.difference.flips <= 3
    assert done.converted.needs.takes(OLD, "2.14.0")
    assert done.converted.needs.takes("ai-edge-litert", "2.3.0")
    assert all("2.14.0" in item.lost or "budget" in item.lost for item in done.variants
               if item.doubts and item.bytes < done.kept.bytes)  # fmt: skip


def test_alone_it_is_kept_and_the_claim_is_narrower(net: Net, tmp_path: Path) -> None:
    done = search(net, Outside([Old(tmp_path)]), "dynamic-channel", flips=99)
    assert done.converted.needs.version == NEVER
    assert not done.converted.needs.takes(OLD, "2.14.0")
    assert done.converted.needs.words == "ai-edge-litert >=2.3,<2.4"
    assert any("not claimed: tflite-runtime 2.14.0" in note for note in done.converted.notes)


def test_nobody_claims_what_nobody_ran(net: Net) -> None:
    done = search(net, Outside(), "dynamic", flips=99)
    assert not done.converted.needs.takes(OLD, "2.14.0")
    assert "wherry doctor --install runtimes" in done.kept.doubts[0]
    portable = search(net, Outside(), "weights-int8", flips=99)
    assert portable.converted.needs == replace(
        tflite_needs(portable.converted.model), version=net.converted.needs.version
    )


def test_a_board_that_cannot_run_it_is_a_reason(net: Net) -> None:
    def needs_old(candidate: Converted) -> str:
        return "" if candidate.needs.takes(OLD, "2.14.0") else "terminal: has only 2.14"

    done = search(net, Outside(fits=needs_old), "dynamic", "float16", flips=99)
    assert done.kept.method == "float16"
    assert any("terminal: has only 2.14" in item.lost for item in done.variants)


def test_without_a_source_nothing_is_written_from_it(net: Net) -> None:
    done = quantize(net.converted, net.rows, methods=("float16", "written-int8"))
    assert any("no source model" in why for _what, why in done.refused)


def test_what_has_no_weights(net: Net) -> None:
    small = convert_tflite(
        converted_from(
            fitted(make_pipeline(StandardScaler(), MLPClassifier((2,), max_iter=3)), *table(300)),
            numbers(5),
        )[0],
        numbers(5),
    )
    with pytest.raises(ConvertError, match=r"K02.*no layer worth quantizing"):
        quantize(small, net.rows)
    narrow = net.workshop().make("float16", [])
    with pytest.raises(ConvertError, match=r"K02.*no layer worth quantizing"):
        quantize(narrow, net.rows)


_PROGRAM = """
import hashlib, sys
from pathlib import Path
from support_convert import numbers, table
from wherry_convert.quantize import methods_for
from wherry_convert.sources import load_source
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.tflite_quant import TfliteWorkshop
source = load_source("sklearn", Path(sys.argv[1]))
done = convert_tflite(source, numbers(5))
shop = TfliteWorkshop(
    done, done.encoder.encode(table(300)[0]),
    lambda weights: convert_tflite(source, numbers(5), weights=weights),
)
for name in methods_for("tflite"):
    print(name, hashlib.sha256(shop.make(name, shop.layers[1:2]).model).hexdigest())
"""


def test_same_bytes_in_another_process_with_any_hash_seed(tmp_path: Path) -> None:
    import skops.io

    skops.io.dump(model(), tmp_path / "net.skops")
    said = []
    for seed in ("0", "7"):
        path = os.pathsep.join(str(ROOT / part) for part in ("contract", "converters", "tests"))
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(tmp_path / "net.skops")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        said.append(done.stdout.splitlines())
    assert said[0] == said[1]
    assert len(said[0]) == len(METHODS)
