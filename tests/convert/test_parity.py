"""The judge itself: it counts flips, makes hard rows, and does not let NaN pass."""

from __future__ import annotations

import numpy as np
import pytest

from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract
from wherry_convert.graph import inspect_graph, seal
from wherry_convert.parity import RESOLUTION, between_scores, compare, row_classes

CASES = [
    ("equal", [0.1, 0.9], [0.1, 0.9], 0, 0.0),
    ("near", [0.1, 0.9], [0.2, 0.8], 0, 0.1),
    ("across", [0.49, 0.5], [0.51, 0.49], 2, 0.02),
    ("on it", [0.5, 0.5], [0.5, 0.49999], 1, 1e-5),
    ("no number", [0.9, 0.1], [np.nan, 0.1], 1, np.inf),
    ("no number below", [0.1, 0.1], [np.nan, 0.1], 1, np.inf),
    ("none", [], [], 0, 0.0),
]


@pytest.mark.parametrize(
    ("reference", "found", "flips", "largest"), [pytest.param(*row[1:], id=row[0]) for row in CASES]
)
def test_compare(reference: list[float], found: list[float], flips: int, largest: float) -> None:
    done = compare(np.array(reference), np.array(found), 0.5)
    assert (done.rows, done.flips) == (len(reference), flips)
    assert done.largest == pytest.approx(largest)


def test_shapes_must_agree() -> None:
    with pytest.raises(ConvertError, match="K07"):
        compare(np.zeros(2), np.zeros(3), 0.5)


def test_distinct_scores() -> None:
    done = compare(np.arange(10.0), np.arange(10) // 5 * 1.0, 0.5)
    assert (done.distinct_reference, done.distinct_found) == (10, 2)


BETWEEN = [
    ("on a tie", [0.1, 0.3, 0.3, 0.5], 0.3, 0.2),
    ("between", [0.1, 0.3], 0.15, 0.2),
    ("ties but for noise", [0.1, 0.3 - 1e-16, 0.3, 0.3 + 1e-16, 0.5], 0.3, 0.2),
    ("above all", [0.1, 0.2], 0.9, 0.9),
    ("one score", [0.1], 0.1, 0.1),
    ("none", [], 0.4, 0.4),
]


@pytest.mark.parametrize(
    ("scores", "wanted", "found"), [pytest.param(*row[1:], id=row[0]) for row in BETWEEN]
)
def test_a_threshold_on_no_score(scores: list[float], wanted: float, found: float) -> None:
    assert between_scores(np.array(scores), wanted) == pytest.approx(found)


def test_where_scores_are_dense_the_widest_gap_near_is_taken() -> None:
    scores = np.concatenate([np.linspace(0.29999, 0.3, 50), np.linspace(0.300003, 0.30001, 50)])
    assert np.diff(scores).max() < RESOLUTION
    assert 0.3 < between_scores(scores, 0.3) < 0.300003


CONTRACT = InputContract.from_dict(
    {
        "name": "test",
        "version": 1,
        "features": [
            {"name": "amount", "minimum": 0, "maximum": 100},
            {"name": "age", "missing": "allow"},
            {"name": "kind", "dtype": "category", "categories": ["a", "b"], "unseen": "allow"},
        ],
    }
)


def test_hard_rows() -> None:
    raw = np.c_[np.linspace(0, 99, 50), np.full(50, 30.0), np.arange(50) % 2]
    cut = 12.5
    found = row_classes(raw, CONTRACT, cuts={"amount": np.array([cut])}, limit=20)
    assert set(found) == {"clean", "missing age", "unseen kind", "out of range", "near a threshold"}
    assert found["clean"] is raw
    assert np.isnan(found["missing age"][:, 1]).all()
    assert (found["unseen kind"][:, 2] == -1).all()
    outside = found["out of range"][:, 0]
    assert len(outside) == 20
    assert ((outside < 0) | (outside > 100)).all()
    near = set(found["near a threshold"][:, 0])
    single = np.float32(cut)
    assert near == {
        cut,
        np.nextafter(cut, 0),
        np.nextafter(cut, 99),
        float(np.nextafter(single, np.float32(0))),
        float(np.nextafter(single, np.float32(99))),
    }
    assert all(len(rows) <= 20 for name, rows in found.items() if name != "clean")
    again = row_classes(raw, CONTRACT, cuts={"amount": np.array([cut])}, limit=20)
    assert all(np.array_equal(found[name], again[name], equal_nan=True) for name in found)


def test_no_rows() -> None:
    assert row_classes(np.empty((0, 3)), CONTRACT, cuts={"amount": np.array([1.0])}) == {}


def _graph(operator: str, domain: str = "") -> object:
    from onnx import TensorProto, helper

    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])
    two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(domain or "ai.onnx.ml", 1)]
    return helper.make_model(helper.make_graph([node], "g", [one], [two]), opset_imports=opsets)


@pytest.mark.parametrize(
    ("operator", "domain"),
    [("RandomNormalLike", ""), ("Anything", "com.example"), ("ZipMap", "ai.onnx.ml")],
)
def test_operators_outside_the_list(operator: str, domain: str) -> None:
    with pytest.raises(ConvertError, match=f"K01.*{operator}"):
        seal(_graph(operator, domain), "y")


def test_sealing_keeps_what_is_needed() -> None:
    model = _graph("Relu")
    sealed = seal(model, "y")
    facts = inspect_graph(sealed)
    assert facts.operators == ("Relu",)
    assert facts.opsets == {"": 13}
    assert facts.outputs == ("score",)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x08\x07", bytes(100)])
def test_bytes_that_are_no_graph(data: bytes) -> None:
    with pytest.raises(ConvertError, match="K04"):
        inspect_graph(data)
