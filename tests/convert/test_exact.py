"""Random trees of every family, on values that hurt, agree with their source row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from support_convert import converted_from, fitted, numbers, scored

from wherry_contract.features import LARGEST
from wherry_convert.forest import Forest, Tree, below_or_at, forest_graph, ranks, raw_cuts
from wherry_convert.graph import seal
from wherry_convert.parity import steps_around

FAMILIES = {
    "tree": lambda seed: DecisionTreeClassifier(max_depth=6, random_state=seed),
    "forest": lambda seed: RandomForestClassifier(5, random_state=seed),
    "extra": lambda seed: ExtraTreesClassifier(5, random_state=seed),
    "boosting": lambda seed: GradientBoostingClassifier(n_estimators=8, random_state=seed),
    "hist": lambda seed: HistGradientBoostingClassifier(
        max_iter=4, min_samples_leaf=2, max_bins=17 + seed % 200, random_state=seed
    ),
}
SCALERS = {"none": (), "standard": (StandardScaler(),), "min-max": (MinMaxScaler(),)}
# ties, neighbours in float32 and float64, epoch seconds, huge, tiny, subnormal, both zeros
POOL = np.array([
    0.0, -0.0, 1.0, np.nextafter(1, 2), 1 + 2.0**-24, 0.1, np.float32(0.1), -3.5, 1e-30, 5e-39,
    1.7e9, 1.7e9 + 1, 1.7e9 + 64, 2.0**24, 2.0**24 + 1, 2.0**53, 1e30, -1e30, 1e-300,
])  # fmt: skip


def _agree(model: Any, raw: Any, label: Any, *, gaps: bool) -> None:
    contract = numbers(raw.shape[1], missing="allow" if gaps else "refuse")
    source, converted = converted_from(fitted(model, raw, label), contract)
    around = [np.clip(steps_around(cuts), -1e37, 1e37) for cuts in converted.cuts.values()]
    values = np.concatenate([POOL, *around, [np.nan] if gaps else []])
    rows = np.random.default_rng(0).choice(values, (400, raw.shape[1]))
    rows = np.concatenate([raw, rows])
    largest = np.abs(source.scores(rows, contract) - scored(converted).scores(rows)).max()
    assert largest < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), scaler=st.sampled_from(sorted(SCALERS)), gaps=st.booleans())
def test_every_path_is_the_sources(family: str, seed: int, scaler: str, *, gaps: bool) -> None:
    make = np.random.default_rng(seed)
    raw = make.choice(POOL, (80, 3))
    raw[:, 1] = make.choice(POOL[:4], 80)  # few values, so that thresholds repeat
    gaps = gaps and family != "boosting"  # it takes none
    if gaps:
        raw[make.random(raw.shape) < 0.1] = np.nan
    label = (make.random(80) < 0.4) * 1
    label[:2] = 0, 1
    _agree(make_pipeline(*SCALERS[scaler], FAMILIES[family](seed)), raw, label, gaps=gaps)


ANY = st.floats(-LARGEST, LARGEST)


@given(cut=st.floats(allow_nan=False), value=st.floats(width=32, allow_nan=False))
def test_the_float32_threshold_decides_as_the_double_one(cut: float, value: float) -> None:
    (single,) = below_or_at(np.array([cut]))
    assert (value <= cut) == (np.float32(value) <= single)


@given(cuts=st.lists(ANY, min_size=1, max_size=8), values=st.lists(ANY, min_size=1))
def test_ranks_decide_as_the_values_do(cuts: list[float], values: list[float]) -> None:
    edges = np.unique(cuts)
    codes = np.searchsorted(edges, values, side="left")
    for cut, rank in zip(cuts, ranks(np.array(cuts), edges), strict=True):
        assert np.array_equal(np.array(values) <= cut, codes <= rank)
    assert ranks(np.array([-np.inf, np.inf]), edges).tolist() == [-1, len(edges)]


@given(shift=st.floats(-1e9, 1e9), scale=st.floats(1e-6, 1e6), cut=st.floats(-1e6, 1e6), near=ANY)
def test_a_cut_is_the_last_double_that_passes(
    shift: float, scale: float, cut: float, near: float
) -> None:
    def passes(values: Any) -> Any:
        with np.errstate(over="ignore"):
            return ((values - shift) / scale).astype(np.float32) <= cut

    (found,) = raw_cuts(passes, 1, LARGEST)
    if np.isfinite(found):
        assert passes(np.array([found]))[0]
        assert not passes(np.array([np.nextafter(found, np.inf)]))[0]
    assert passes(np.array([near]))[0] == (near <= found)


BAD_TREES = [
    ("a child outside", [1, -1, -1], [9, -1, -1], [0, 0, 0], 0.5),
    ("round in circles", [1, 0, -1], [2, 2, -1], [0, 0, 0], 0.5),
    ("a column outside", [1, -1, -1], [2, -1, -1], [7, 0, 0], 0.5),
    ("a threshold that is none", [1, -1, -1], [2, -1, -1], [0, 0, 0], np.nan),
]


@pytest.mark.parametrize(
    ("left", "right", "feature", "cut"), [pytest.param(*row[1:], id=row[0]) for row in BAD_TREES]
)
def test_a_crafted_tree_is_refused(left: Any, right: Any, feature: Any, cut: float) -> None:
    tree = Tree(
        np.array(feature), np.full(3, cut), np.array(left), np.array(right),
        np.zeros(3, bool), np.array([0.0, 1, 2]),
    )  # fmt: skip
    with pytest.raises(ValueError, match="a tree"):
        Forest((tree,)).check(3)


def test_gaps_go_both_ways() -> None:
    import onnxruntime

    for missing_left, wanted in ((True, 1.0), (False, 2.0)):
        tree = Tree(
            np.array([0, 0, 0]), np.array([0.5, 0, 0]), np.array([1, -1, -1]),
            np.array([2, -1, -1]), np.array([missing_left, False, False]), np.array([0.0, 1, 2]),
        )  # fmt: skip
        model = seal(forest_graph(Forest((tree,)), 1), "score")
        session = onnxruntime.InferenceSession(model)
        rows = np.array([[np.nan], [0.5], [0.6]], np.float32)
        (found,) = session.run(None, {"input": rows})
        assert found.ravel().tolist() == [wanted, 1.0, 2.0]
