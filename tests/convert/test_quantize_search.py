"""Every way to quantize a net, run; and the search that keeps budgets and says why others lost."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support_convert import converted_from, fitted, numbers, scored, table

from wherry_contract.encoder import Encoder, Tensor
from wherry_convert.graph import seal
from wherry_convert.parity import Difference, between_scores, compare
from wherry_convert.quantize import METHODS, Budgets, NoCandidateError, quantize
from wherry_convert.quantize_budget import Ahead, Measured, choose, exceeded, pareto, reason
from wherry_convert.quantize_graph import layers_of, narrow_weights, precision_of, without_gemm
from wherry_convert.quantize_methods import apply
from wherry_convert.quantize_search import leave_out, words
from wherry_convert.to_onnx import SCORE, Converted, runtime_needs


@pytest.fixture(scope="module")
def net() -> tuple[Converted, Tensor]:
    """A net of four layers and encoded rows."""
    raw, label = table()
    model = make_pipeline(
        StandardScaler(), MLPClassifier((96, 70, 32), max_iter=25, random_state=0)
    )
    _, converted = converted_from(fitted(model, raw, label), numbers(5))
    return converted, converted.encoder.encode(raw)


def gemms(*, turned: bool = False, convolved: bool = False) -> Converted:
    """A net as other frameworks write it: Gemm with its bias, perhaps a Conv before."""
    make = np.random.default_rng(5)
    nodes, last, width, weights = [], "input", 6, {}
    if convolved:
        weights |= {"shape": np.array([0, 1, 6]), "flat": np.array([0, 72])}
        weights["kernel"] = make.normal(size=(24, 1, 4)).astype(np.float32)
        nodes += [
            helper.make_node("Reshape", ["input", "shape"], ["channels"]),
            helper.make_node("Conv", ["channels", "kernel"], ["filtered"]),
            helper.make_node("Reshape", ["filtered", "flat"], ["x"]),
        ]
        last, width = "x", 72
    for place, out in enumerate((40, 33, 1)):
        weight = make.normal(0, width**-0.5, (width, out)).astype(np.float32)
        weights[f"w{place}"] = weight.T.copy() if turned else weight
        weights[f"b{place}"] = make.normal(0, 0.1, out).astype(np.float32)
        inputs = [last, f"w{place}", f"b{place}"]
        nodes.append(helper.make_node("Gemm", inputs, [f"g{place}"], transB=int(turned)))
        end = "Relu" if place < 2 else "Sigmoid"
        nodes.append(helper.make_node(end, [f"g{place}"], [f"a{place}"]))
        last, width = f"a{place}", out
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 6])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = seal(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), last)
    return Converted(model, runtime_needs(model), Encoder(numbers(6), ()), SCORE, -1, "neural")


# method -> bits of a weight, the largest error that its arithmetic may make here
EVERY = [
    ("int8", 8, 0.2),
    ("int8-signed", 8, 0.2),
    ("int16", 8, 0.05),
    ("dynamic", 8, 0.1),
    ("float16", 16, 2e-3),
    ("weights-int8", 8, 0.02),
    ("weights-int4", 4, 0.25),
]


@pytest.mark.parametrize("shape", ["matmul", "gemm", "turned gemm"])
@pytest.mark.parametrize(("method", "bits", "error"), EVERY)
def test_every_method_does_what_it_says(
    method: str, bits: int, error: float, shape: str, net: tuple[Converted, Tensor]
) -> None:
    converted, rows = net
    if shape != "matmul":
        converted = gemms(turned=shape != "gemm")
        rows = np.random.default_rng(1).normal(size=(500, 6)).astype(np.float32)
    graph = without_gemm(onnx.load_model_from_string(converted.model))
    done = apply(converted, graph, method, rows, [])
    assert _bits_of_weights(done.model) == bits
    wide = "float16" if method == "float16" else f"int{bits}"
    assert precision_of(onnx.load_model_from_string(done.model)) == wide
    assert precision_of(graph) == "float32"
    found = compare(scored(converted).score_tensor(rows), scored(done).score_tensor(rows), 0.5)
    assert 0 < found.largest < error
    assert apply(converted, graph, method, rows, []).model == done.model


def _bits_of_weights(model: bytes) -> int:
    """Of the largest constant."""
    known = {
        TensorProto.FLOAT: 32,
        TensorProto.FLOAT16: 16,
        TensorProto.INT8: 8,
        TensorProto.INT4: 4,
    }
    constants = onnx.load_model_from_string(model).graph.initializer
    largest = max(constants, key=lambda tensor: int(np.prod(tensor.dims)))
    return known[largest.data_type]


@pytest.mark.parametrize("method", METHODS)
def test_a_convolution_too(method: str) -> None:
    converted = gemms(convolved=True)
    rows = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    graph = without_gemm(onnx.load_model_from_string(converted.model))
    done = apply(converted, graph, method, rows, [])
    left = layers_of(onnx.load_model_from_string(done.model), 64)
    assert len(left) == (method == "dynamic")  # ConvInteger is several times slower
    found = compare(scored(converted).score_tensor(rows), scored(done).score_tensor(rows), 0.5)
    assert found.largest < 0.3


def test_a_layer_left_in_float_keeps_its_weights(net: tuple[Converted, Tensor]) -> None:
    converted, rows = net
    graph = without_gemm(onnx.load_model_from_string(converted.model))
    layers = layers_of(graph)
    for method in METHODS:
        done = apply(converted, graph, method, rows, layers[:1])
        left = layers_of(onnx.load_model_from_string(done.model), 64)
        assert len(left) == 1, method


def test_four_bits_are_the_nearest_of_their_block() -> None:
    converted = gemms()
    graph = without_gemm(onnx.load_model_from_string(converted.model))
    wide = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    name = next(n.input[1] for n in graph.graph.node if n.op_type == "MatMul")
    made = narrow_weights(graph, 4, [])
    stored = {item.name: numpy_helper.to_array(item) for item in made.graph.initializer}
    codes, scale = stored[f"{name}_codes"].astype(np.float32), stored[f"{name}_scale"]
    back = (codes * scale).reshape(-1, wide[name].shape[1])[: len(wide[name])]
    step = np.broadcast_to(scale, codes.shape).reshape(-1, back.shape[1])[: len(back)]
    assert (np.abs(back - wide[name]) <= step * (0.5 + 1e-6)).mean() > 0.95


def test_the_search_keeps_its_budgets_and_says_why_others_lost(
    net: tuple[Converted, Tensor],
) -> None:
    converted, rows = net
    most = len(converted.model) * 10 // 29
    said: list[str] = []
    done = quantize(
        converted,
        rows,
        threshold=0.3,
        methods=tuple(METHODS),
        budgets=Budgets(flips=3, bytes=most),
        metric=lambda scores, _places: float(np.mean(scores)),
        progress=said.append,
    )
    assert done.kept.difference.flips <= 3
    assert done.bytes_after == len(done.converted.model) <= most
    assert [variant for variant in done.variants if not variant.lost] == [done.kept]
    assert {variant.method for variant in done.variants} == set(METHODS)
    assert len(said) == len(done.variants) + len(done.refused)
    assert all(
        variant.latency_ratio and variant.metric_drop is not None for variant in done.variants
    )
    smaller = [v for v in done.variants if v.bytes < done.bytes_after]
    assert all("budget" in variant.lost or "distinct" in variant.lost for variant in smaller)
    assert METHODS[done.kept.method].words in done.converted.notes[-1]
    again = quantize(
        converted, rows, threshold=0.3, methods=tuple(METHODS), budgets=Budgets(3, most)
    )
    assert again.converted.model == done.converted.model


@pytest.mark.parametrize(
    ("budgets", "says"),
    [
        (Budgets(bytes=100), "bytes, budget 100"),
        (Budgets(flips=0, distinct_share=1.01), "distinct scores"),
        (Budgets(metric_drop=-9.0), "metric drops"),
        (Budgets(latency_ratio=0.0), "times as slow"),
    ],
)
def test_no_candidate(budgets: Budgets, says: str, net: tuple[Converted, Tensor]) -> None:
    converted, rows = net
    with pytest.raises(NoCandidateError, match="Q01") as caught:
        quantize(converted, rows, budgets=budgets, metric=lambda scores, _places: float(scores[0]))
    assert caught.value.exit_code == 1
    assert any(says in variant.lost for variant in caught.value.variants)


@pytest.fixture(scope="module")
def bed() -> Any:
    """The benchmark's seeded table and net."""
    path = Path(__file__).parents[2] / "benchmarks" / "common" / "bed.py"
    spec = importlib.util.spec_from_file_location("bed", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bed"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_benchmarks_net_keeps_decisions_where_plain_int8_does_not(bed: Any) -> None:
    """At most 5 flips in 60,000 at 2.9 times smaller, here on a sixth of the rows."""
    rows = bed.make_bed(10_000)
    source, converted = converted_from(bed.train_net(rows, 3), rows.contract)
    train = converted.encoder.encode(rows.train)
    scores = source.scores(rows.test, rows.contract)
    threshold = between_scores(scores, float(np.quantile(scores, 0.99)))
    most = int(len(converted.model) / 2.9)
    done = quantize(
        converted,
        train,
        threshold=threshold,
        methods=("int8", "weights-int8"),
        budgets=Budgets(flips=2, bytes=most),
    )
    found = compare(scores, scored(done.converted).scores(rows.test), threshold)
    assert done.bytes_after <= most
    assert found.flips <= 5
    plain = {item.method: item for item in done.variants if item.floats == "no layer"}
    assert plain["int8"].difference.flips > 5 * max(1, found.flips)
    assert plain["int8"].difference.distinct_found <= 256 < found.distinct_found


def measured(
    size: int = 50, flips: int = 0, distinct: int = 100, largest: float = 0.1, **more: Any
) -> Measured:
    """A candidate of a float model of 100 bytes with 100 scores."""
    return Measured("int8", "no layer", size, Difference(9, flips, largest, 100, distinct), **more)


RULES = [
    ("fewest flips without a budget", Budgets(), [measured(40, 3), measured(60, 2)], 1),
    ("of several the smallest", Budgets(), [measured(60, 2), measured(50, 2)], 1),
    ("smallest within a budget", Budgets(flips=3), [measured(60, 0), measured(40, 3)], 1),
    ("scores come first", Budgets(), [measured(flips=0, distinct=9), measured(flips=5)], 1),
    ("unless there are no others", Budgets(), [measured(flips=2, distinct=9)], 0),
    ("never larger than float", Budgets(), [measured(100), measured(101)], None),
    ("nothing keeps it", Budgets(flips=1), [measured(flips=2)], None),
    ("the first of equals", Budgets(), [measured(), measured()], 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("budgets", "found", "place"), [pytest.param(*row[1:], id=row[0]) for row in RULES]
)
def test_choose(budgets: Budgets, found: list[Measured], place: int | None) -> None:
    assert choose(found, budgets, 100) == place


AHEAD = [
    # flips on 9 rows that judge, rows and budget of the gate, whether that leaves too little room
    ("none seen", 0, Ahead(9_000, 0), False),
    ("one seen, none allowed", 1, Ahead(9, 0), True),
    ("as many as allowed", 5, Ahead(9, 5), True),  # 5 expected, give or take 3.2
    ("with a deviation to spare", 2, Ahead(9, 5), True),  # 2 and 2
    ("with two to spare", 2, Ahead(9, 6), False),
    ("more rows there", 1, Ahead(900, 99), True),  # 100 expected
    ("fewer rows there", 8, Ahead(1, 3), False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("flips", "ahead", "tight"), [pytest.param(*row[1:], id=row[0]) for row in AHEAD]
)
def test_room_for_the_gate(flips: int, ahead: Ahead, tight: bool) -> None:  # noqa: FBT001
    assert ahead.is_tight(measured(flips=flips).difference) == tight


def test_what_leaves_no_room_loses_to_what_does() -> None:
    found = [measured(40, 5), measured(60, 0)]
    budgets, ahead = Budgets(flips=5), Ahead(9, 5)
    assert (choose(found, budgets, 100), choose(found, budgets, 100, ahead)) == (0, 1)
    words = reason(found[0], found[1], budgets, 100, ahead)
    assert words == (
        "no room for the gate: 5.0 flips expected on its 9 rows, give or take 3.2; its budget is 5"
    )


def test_what_runs_in_fewer_places_comes_later_and_what_fits_no_board_never() -> None:
    narrow, wide = measured(40, doubts=("old 1.0: wrong",)), measured(60)
    assert choose([narrow, wide], Budgets(), 100) == 1
    assert reason(narrow, wide, Budgets(), 100) == "old 1.0: wrong"
    assert choose([narrow], Budgets(), 100) == 0
    assert choose([measured(unfit="board: no")], Budgets(), 100) is None


@given(
    st.lists(st.tuples(st.integers(1, 120), st.integers(0, 9)), min_size=1, max_size=9),
    st.none() | st.integers(0, 9),
)
def test_every_loser_has_a_reason(points: list[tuple[int, int]], flips: int | None) -> None:
    found = [measured(size, count, largest=place) for place, (size, count) in enumerate(points)]
    budgets = Budgets(flips=flips)
    place = choose(found, budgets, 100)
    kept = None if place is None else found[place]
    for item in found:
        assert (reason(item, kept, budgets, 100) == "") == (item is kept)
    if kept is not None:
        assert not exceeded(kept, budgets, 100)
    front = pareto(found)
    assert front
    best = min(found, key=lambda item: (item.bytes, item.difference.flips, item.difference.largest))
    assert found.index(best) in front


def test_which_layers_are_tried() -> None:
    """Flips fall with each bad layer in float; the search adds up the worst until it is enough."""
    bad = {1: 40, 3: 9, 5: 1}
    tried: list[tuple[int, ...]] = []

    def attempt(floats: tuple[int, ...]) -> Measured:
        tried.append(floats)
        return measured(flips=sum(cost for place, cost in bad.items() if place not in floats))

    leave_out(6, attempt, 1)
    assert tried[0] == ()
    assert set(tried[1:7]) == {(place,) for place in range(6)}
    assert tried[7:] == [(0, 5), (1, 3)]
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("layers", [1, 2, 3, 40])
def test_the_search_ends(layers: int) -> None:
    def attempts() -> Iterator[int]:
        tried: list[tuple[int, ...]] = []

        def attempt(floats: tuple[int, ...]) -> None:
            tried.append(floats)

        leave_out(layers, lambda floats: attempt(floats) or measured(flips=9), 0)
        yield len(tried)

    assert next(attempts()) <= 18


def test_words() -> None:
    assert [words(floats, 4) for floats in ((), (0,), (3,), (0, 3), (1,), (1, 2))] == [
        "no layer", "first layer", "last layer", "first and last layer", "layer 2", "layers 2, 3",
    ]  # fmt: skip
