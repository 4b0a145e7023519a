"""TFLite files from elsewhere: what they are made of, which are taken, and that real ones are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support_convert import fitted, numbers, scored, through_skops
from support_tflite import old_runtime, score_in

from wherry_contract.errors import ConvertError
from wherry_convert.sources import load_source
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.tflite_inspect import inspect_tflite, refuse_tflite
from wherry_convert.tflite_scoring import TfliteRunner
from wherry_convert.tflite_write import GraphWriter
from wherry_convert.to_onnx import convert

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")

DENSE = ("FULLY_CONNECTED", "RESHAPE", "SOFTMAX")
POOLED = ("AVERAGE_POOL_2D", "CONV_2D", *DENSE)
# file, bytes, operators beside those that it shares, input, outputs, quantization
REAL = [
    (
        "mlperf_tiny/kws_ref_model.tflite",
        {*POOLED, "DEPTHWISE_CONV_2D"},
        ("int8", (-1, 49, 10, 1)),
        12,
        "int8 weights and activations",
    ),
    # called float32, and yet its weights are bytes
    (
        "mlperf_tiny/kws_ref_model_float32.tflite",
        {*POOLED, "DEPTHWISE_CONV_2D"},
        ("float32", (-1, 49, 10, 1)),
        12,
        "int8 weights",
    ),
    (
        "mlperf_tiny/pretrainedResnet.tflite",
        {*POOLED, "ADD"},
        ("float32", (-1, 32, 32, 3)),
        10,
        "none",
    ),
    (
        "mlperf_tiny/pretrainedResnet_quant.tflite",
        {*POOLED, "ADD"},
        ("int8", (-1, 32, 32, 3)),
        10,
        "int8 weights and activations",
    ),
    (
        "tflite_micro/hello_world_float.tflite",
        {"FULLY_CONNECTED"},
        ("float32", (-1, 1)),
        1,
        "none",
    ),
    (
        "tflite_micro/hello_world_int8.tflite",
        {"FULLY_CONNECTED"},
        ("int8", (-1, 1)),
        1,
        "int8 weights and activations",
    ),
    (
        "tflite_micro/micro_speech_quantized.tflite",
        {*DENSE, "DEPTHWISE_CONV_2D"},
        ("int8", (1, 1960)),
        4,
        "int8 weights and activations",
    ),
]
STATEFUL = ["tflite_micro/trained_lstm.tflite", "tflite_micro/trained_lstm_int8.tflite"]


@pytest.fixture
def models(shared: Path) -> Path:
    folder = shared / "models"
    if not folder.is_dir():
        pytest.skip("no real models here")
    return folder


@pytest.mark.parametrize("row", REAL, ids=lambda row: row[0].rpartition("/")[2])
def test_what_real_files_are_made_of(row: Any, models: Path) -> None:
    name, operators, entry, width, words = row
    facts = inspect_tflite((models / name).read_bytes())
    refuse_tflite(facts)
    assert set(facts.operators) == operators
    assert (facts.inputs[0].dtype, facts.inputs[0].shape) == entry
    assert facts.outputs[0].shape[-1] == width
    assert facts.quantization == words
    assert (facts.inputs[0].scale > 0) == (entry[0] == "int8")


@pytest.mark.parametrize("name", STATEFUL)
def test_a_file_that_remembers_rows_is_refused(name: str, models: Path) -> None:
    with pytest.raises(ConvertError, match=r"K02.*from one row to the next") as caught:
        load_source("tflite", models / name)
    assert "unroll" in caught.value.cure
    facts = inspect_tflite((models / name).read_bytes())
    with pytest.raises(ConvertError, match=r"K01.*LSTM") as caught:
        refuse_tflite(replace(facts, state=False))
    assert "SELECT_TF_OPS" not in caught.value.cure


@pytest.mark.parametrize("name", [row[0] for row in REAL])
def test_what_gives_no_single_probability_is_refused(name: str, models: Path) -> None:
    """Wide rows, several classes, or a number that is no probability."""
    if "hello_world" not in name:
        says = "columns" if "kws" in name else "and a contract names at most 1,024"
        with pytest.raises(ConvertError, match=rf"K01.*{says}"):
            load_source("tflite", models / name)
        return
    source = load_source("tflite", models / name)
    with pytest.raises(ConvertError, match=r"K01.*goes from"):
        source.scores(np.linspace(0, 6, 20)[:, np.newaxis], numbers(1))


def test_keyword_spotting_under_both_runtimes(models: Path, tmp_path: Path) -> None:
    """The reference model names 276 of these 300 stimuli right, through float rows too."""
    with np.load(models / "kws01" / "kws01_first300.npz") as found:
        steps, wanted = found["x"].reshape(300, -1), found["y"]
    pairs = []
    for name, *_ in REAL[:2]:
        model = (models / name).read_bytes()
        entry = inspect_tflite((models / REAL[0][0]).read_bytes()).inputs[0]
        rows = (steps.astype(np.float32) - entry.zero_point) * np.float32(entry.scale)
        pairs.append((model, rows))
    here = [TfliteRunner(model, 1, "Identity").run(rows) for model, rows in pairs]
    for found in (*here, *score_in(old_runtime(), pairs, tmp_path, "Identity")):
        assert abs(int((found.argmax(axis=1) == wanted).sum()) - 276) <= 2


def test_sine_in_eight_bits(models: Path) -> None:
    rows = np.linspace(0, 6.28, 200, dtype=np.float32)[:, np.newaxis]
    for name in ("hello_world_float.tflite", "hello_world_int8.tflite"):
        model = (models / "tflite_micro" / name).read_bytes()
        runner = TfliteRunner(model, 1, "StatefulPartitionedCall:0")
        assert np.abs(runner.run(rows).ravel() - np.sin(rows.ravel())).max() < 0.12


def net_file(folder: Path, features: int = 3) -> Path:
    """A net's file, as somebody else may have made it, and what it scores."""
    make = np.random.default_rng(0)
    raw = make.normal(size=(400, features))
    net = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=50, random_state=0))
    source = through_skops(fitted(net, raw, (raw[:, 0] > raw[:, 1]) * 1))
    converted = convert_tflite(source, numbers(features))
    path = folder / "net.tflite"
    path.write_bytes(converted.model)
    return path


def test_a_file_is_kept_as_it_is(tmp_path: Path) -> None:
    path = net_file(tmp_path)
    source = load_source("tflite", path)
    converted = convert_tflite(source, numbers(3))
    assert converted.model == path.read_bytes()
    assert converted.needs.operators == inspect_tflite(path.read_bytes()).operators
    raw = np.random.default_rng(1).normal(size=(50, 3))
    assert np.array_equal(scored(converted).scores(raw), source.scores(raw, numbers(3)))


def test_there_is_no_way_back_to_onnx(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="K01") as caught:
        convert(load_source("tflite", net_file(tmp_path)), numbers(3))
    assert "[target]" in caught.value.cure


def test_a_contract_that_does_not_fit(tmp_path: Path) -> None:
    source = load_source("tflite", net_file(tmp_path))
    with pytest.raises(ConvertError, match=r"K07.*3 numbers.*4 features"):
        convert_tflite(source, numbers(4))
    with pytest.raises(ConvertError, match=r"K07.*missing"):
        convert_tflite(source, numbers(3, missing="allow"))


BAD = [
    ("empty", b"", "no TFLite model"),
    ("another file", b"\x89PNG" * 20, "no TFLite model"),
    ("only a name", b"\x00\x00\x00\x00TFL3", "damaged"),
    ("far away", b"\xff\xff\xff\x7fTFL3" + bytes(64), "damaged"),
]


@pytest.mark.parametrize(("data", "words"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_no_model_at_all(data: bytes, words: str) -> None:
    with pytest.raises(ConvertError, match=rf"K04.*{words}"):
        inspect_tflite(data)


def small() -> bytes:
    writer = GraphWriter()
    inputs = [
        writer.input(2),
        writer.constant(np.ones((1, 2), np.float32)),
        writer.constant(np.zeros(1, np.float32)),
    ]
    last = writer.add("FULLY_CONNECTED", inputs, (1, 1), options=("FullyConnectedOptions", {}))
    return writer.finish(last)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_coded_error_or_still_a_file(data: Any) -> None:
    model = bytearray(small())
    for place in data.draw(st.lists(st.integers(0, len(model) - 1), min_size=1, max_size=6)):
        model[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    cut = data.draw(st.integers(0, len(model)))
    for damaged in (bytes(model), bytes(model[:cut])):
        try:
            refuse_tflite(inspect_tflite(damaged))
        except ConvertError as error:
            assert error.code in {"K01", "K02", "K04"}  # noqa: PT017 - either way is right


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(("old", "new"), id="as TensorFlow writes it"),
        pytest.param(("old",), id="an old file"),
        pytest.param(("new",), id="as ai-edge-quantizer writes it"),
    ],
)
def test_an_operator_of_tensorflow_is_named(tmp_path: Path, fields: tuple[str, ...]) -> None:
    import flatbuffers
    import tflite as schema

    builder = flatbuffers.Builder(256)
    name = builder.CreateString("FlexErf")
    schema.OperatorCodeStart(builder)
    if "old" in fields:
        schema.OperatorCodeAddDeprecatedBuiltinCode(builder, schema.BuiltinOperator.CUSTOM)
    if "new" in fields:
        schema.OperatorCodeAddBuiltinCode(builder, schema.BuiltinOperator.CUSTOM)
    schema.OperatorCodeAddCustomCode(builder, name)
    code = schema.OperatorCodeEnd(builder)
    builder.StartVector(4, 0, 4)
    nothing = builder.EndVector()
    schema.OperatorStart(builder)
    schema.OperatorAddInputs(builder, nothing)
    schema.OperatorAddOutputs(builder, nothing)
    operator = schema.OperatorEnd(builder)
    vectors = []
    for item in (code, operator):
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(item)
        vectors.append(builder.EndVector())
    schema.SubGraphStart(builder)
    schema.SubGraphAddOperators(builder, vectors[1])
    graph = schema.SubGraphEnd(builder)
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddOperatorCodes(builder, vectors[0])
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    path = tmp_path / "flex.tflite"
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises(ConvertError, match=r"K01.*CUSTOM:FlexErf") as caught:
        load_source("tflite", path)
    assert "SELECT_TF_OPS" in caught.value.cure
