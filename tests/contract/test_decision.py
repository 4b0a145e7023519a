"""From scores to decisions: classes, values, ties, and what a bundle may say of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wherry_contract.decision import TIE, UNDECIDED, class_counts, decide, winning
from wherry_contract.errors import ManifestError, ProbeError
from wherry_contract.golden import GoldenVectors
from wherry_contract.histograms import value_bins
from wherry_contract.manifest import Output
from wherry_contract.profile import value_edges
from wherry_contract.wire import Fields

CASES = [
    ("the highest", [0.2, 0.3, 0.5], 0.0, 2),
    ("a tie", [0.2, 0.4, 0.4], 0.0, 1),
    ("within a last bit of a tie", [0.4, 0.4 + 1e-7, 0.2], 0.0, 0),
    ("just apart", [0.4, 0.4 + 3e-6, 0.2], 0.0, 1),
    ("a chain of ties hangs on the highest", [0.4, 0.4 + 8e-7, 0.4 + 1.6e-6], 0.0, 1),
    ("too low", [0.3, 0.3, 0.4], 0.5, UNDECIDED),
    ("just enough", [0.25, 0.25, 0.5], 0.5, 2),
    ("NaN decides nothing", [0.25, float("nan"), 0.5], 0.0, UNDECIDED),
]


@pytest.mark.parametrize(
    ("scores", "threshold", "wanted"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_classes(scores: list[float], threshold: float, wanted: int) -> None:
    assert decide(np.array([scores]), threshold).tolist() == [wanted]


def test_one_score_reaches_its_threshold_or_not() -> None:
    assert decide(np.array([0.1, 0.5, 0.9, np.nan]), 0.5).tolist() == [0, 1, 1, 0]
    assert decide(np.array([-3.0, 80.0]), 79.5).tolist() == [0, 1]


tables = st.integers(2, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(0, 1, width=16), min_size=width, max_size=width), min_size=1, max_size=9
    )
)


@given(tables, st.floats(0, 1), st.integers(0, 9))
def test_counts_of_parts_add_up(rows: list[list[float]], least: float, cut: int) -> None:
    scores = np.array(rows)
    width = scores.shape[1]
    found = decide(scores, least)
    whole = class_counts(found, width)
    assert (class_counts(found[:cut], width) + class_counts(found[cut:], width) == whole).all()
    assert whole.sum() == len(rows)
    assert whole[-1] == (winning(scores) < least).sum()


@given(tables)
def test_what_is_decided_is_the_highest_or_tied_with_it(rows: list[list[float]]) -> None:
    scores = np.array(rows)
    chosen = scores[np.arange(len(scores)), decide(scores, 0.0)]
    assert (chosen >= winning(scores) - TIE).all()


@given(tables, st.integers(0, 2**32))
def test_float32_breaks_no_exact_tie(rows: list[list[float]], seed: int) -> None:
    scores = np.array(rows)
    noise = np.random.default_rng(seed).uniform(-2e-7, 2e-7, scores.shape)
    gaps = np.abs(scores[:, :, None] - scores[:, None, :])
    clear = ~((gaps > 0) & (gaps < 3e-6)).any(axis=(1, 2))
    assert (decide(scores, -1.0) == decide(scores + noise, -1.0))[clear].all()


# --- what a manifest says ---------------------------------------------------------------

PLAIN = {"tensor": "score", "column": -1, "threshold": 0.5, "positive": "fraud"}


def read(**changes: Any) -> Output:
    return Output.from_fields(Fields(PLAIN | changes, "output"))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "probability"),
        ({"column": 3}, "probability"),
        ({"classes": ["a", "b", "c"], "threshold": 0.0}, "classes"),
        ({"edges": [-5.0, 3.5], "threshold": 99.0}, "value"),
        ({"later": {"a": 1}}, "probability"),
    ],
    ids=["one", "one of many", "classes", "value", "unknown fields"],
)
def test_outputs_survive(changes: dict[str, Any], kind: str) -> None:
    found = read(**changes)
    assert found.kind == kind
    assert found.to_dict() == PLAIN | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["a"]},
        {"classes": ["a", "a"]},
        {"classes": ["a", ""]},
        {"classes": ["a", "b" * 65]},
        {"classes": [f"{place}" for place in range(1025)]},
        {"classes": ["a", "b"], "column": 1},
        {"classes": ["a", "b"], "edges": [1.0]},
        {"edges": [2.0, 1.0]},
        {"edges": [1.0, 1.0]},
        {"edges": list(map(float, range(64)))},
    ],
    ids=lambda changes: ", ".join(f"{k} {str(v)[:20]}" for k, v in changes.items()),
)
def test_outputs_that_are_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="M04"):
        read(**changes)


def test_values_are_counted_between_their_edges() -> None:
    found = read(edges=[10.0, 20.0]).bins(np.array([-1e9, 9.9, 10.0, 19.0, 20.0, 1e9]))
    assert found.tolist() == [0, 0, 1, 1, 2, 2]


ATOMS = {
    "few leaves": [1.5, 3.25, 8.0, 100.0],
    "one": [7.0],
    "nought": [0.0],
    "below nought": [-20.0, -1.0, 5.0],
    "many": list(np.random.default_rng(0).gamma(2, 9, 500)),
}


@pytest.mark.parametrize("atoms", ATOMS.values(), ids=ATOMS)
def test_the_last_bit_of_a_value_moves_no_row_to_another_bin(atoms: list[float]) -> None:
    values = np.repeat(atoms, 20)
    edges = value_edges(values)
    assert 1 <= len(edges) < 64
    assert list(edges) == sorted(set(edges))
    counted = value_bins(values, edges)
    for last in (-np.inf, np.inf):
        assert np.array_equal(
            value_bins(np.nextafter(values.astype(np.float32), last), edges), counted
        )
    assert len(set(counted.tolist())) >= min(len(atoms), 40)


# --- golden vectors ---------------------------------------------------------------------

GOLDEN = GoldenVectors(("X",), ((1,), (2,)), (0.7, 0.2, 0.1, 0.3, 0.3, 0.4), 0.01, width=3)


def test_golden_vectors_of_classes_survive() -> None:
    data = GOLDEN.to_bytes()
    assert json.loads(data)["width"] == 3
    assert GoldenVectors.from_bytes(data) == GOLDEN


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ([[0, 0, 0], [0, 0, 0]], True),
        ([[0.009, -0.009, 0], [0, 0, 0]], True),
        ([[0.02, 0, 0], [0, 0, 0]], False),
        ([[0, 0, 0], [0, np.nan, 0]], False),
    ],
    ids=["equal", "near", "far", "NaN"],
)
def test_judging_classes(change: list[list[float]], passes: bool) -> None:  # noqa: FBT001 - a row
    found: NDArray[np.float64] = np.reshape(GOLDEN.scores, (2, 3)) + np.array(change)
    if passes:
        assert GOLDEN.judge(found, 0.0) <= 0.01
        return
    with pytest.raises(ProbeError, match="P01"):
        GOLDEN.judge(found, 0.0)


def test_another_class_fails_within_the_tolerance() -> None:
    close = GoldenVectors(("X",), ((1,),), (0.501, 0.499), 0.01, width=2)
    with pytest.raises(ProbeError, match="P01"):
        close.judge(np.array([[0.499, 0.501]]), 0.0)
    with pytest.raises(ProbeError, match="P01"):
        close.judge(np.array([0.501]), 0.0)


@pytest.mark.parametrize("change", [{"width": 2}, {"width": 0}, {"width": 4}])
def test_golden_vectors_that_are_none(change: dict[str, Any]) -> None:
    document = json.loads(GOLDEN.to_bytes()) | change
    with pytest.raises(ManifestError, match="M04"):
        GoldenVectors.from_bytes(json.dumps(document).encode())
