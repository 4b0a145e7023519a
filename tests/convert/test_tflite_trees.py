"""Trees as TFLite graphs: every path is the source's, under both interpreters.

Leaves of random forests hold whole numbers, so that sums are exact and equal sums mean equal
paths. tflite-runtime 2.14 is the interpreter that 32-bit boards have.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
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
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from support_convert import differences, fitted, numbers, scored, table, through_skops
from support_tflite import old_runtime, random_tree, score_in, walk

from wherry_contract.encoder import Encoder
from wherry_contract.errors import ConvertError
from wherry_convert.forest import Forest, Sets, Tree
from wherry_convert.parity import steps_around
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.tflite_scoring import TfliteRunner
from wherry_convert.tflite_trees import forest_tflite, lay_out, rank_all
from wherry_convert.to_onnx import convert

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")

FAMILIES = {
    "tree": lambda seed: DecisionTreeClassifier(max_depth=6, random_state=seed),
    "forest": lambda seed: RandomForestClassifier(5, random_state=seed),
    "extra": lambda seed: ExtraTreesClassifier(5, random_state=seed),
    "boosting": lambda seed: GradientBoostingClassifier(n_estimators=8, random_state=seed),
    "hist": lambda seed: HistGradientBoostingClassifier(
        max_iter=4, min_samples_leaf=2, max_bins=17 + seed % 200, random_state=seed
    ),
}
# ties, neighbours in float32 and float64, epoch seconds, huge, tiny, subnormal, both zeros
POOL = np.array([
    0.0, -0.0, 1.0, np.nextafter(1, 2), 1 + 2.0**-24, 0.1, np.float32(0.1), -3.5, 1e-30, 5e-39,
    1.7e9, 1.7e9 + 1, 1.7e9 + 64, 2.0**24, 2.0**24 + 1, 2.0**53, 1e30, -1e30, 1e-300,
])  # fmt: skip
CUTS = (*np.float32([0, 1, 0.1, -3.5, 1e-30, 1.7e9, 2**24, 1e30, -1e30]).tolist(), -np.inf, np.inf)
FEATURES = 4


def some_forest(seed: int) -> tuple[Forest, Any]:
    """A forest, and rows on and beside its cuts, with gaps."""
    make = np.random.default_rng(seed)
    sizes = make.integers(1, 40, int(make.choice([1, 3, 7, 90])))
    trees = tuple(random_tree(make, int(size), FEATURES, CUTS) for size in sizes)
    near = np.float32(CUTS[:-2])
    values = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    rows = make.choice(np.concatenate([*values, np.full(9, np.nan)]), (40, FEATURES))
    return Forest(trees), rows.astype(np.float32)


def judge(forest: Forest, rows: Any, found: Any) -> None:
    assert np.array_equal(found.ravel(), walk(forest, rows))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_path_of_a_random_forest(seed: int) -> None:
    forest, rows = some_forest(seed)
    judge(forest, rows, TfliteRunner(forest_tflite(forest, FEATURES), 1, "score").run(rows))


def test_every_path_in_the_old_runtime(tmp_path: Path) -> None:
    cases = [some_forest(seed) for seed in range(25)]
    pairs = [(forest_tflite(forest, FEATURES), rows) for forest, rows in cases]
    for (forest, rows), found in zip(cases, score_in(old_runtime(), pairs, tmp_path), strict=True):
        judge(forest, rows, found)


def test_the_judge_can_fail() -> None:
    forest, rows = some_forest(3)
    (first, *rest) = forest.trees
    other = replace(forest, trees=(replace(first, missing_left=~first.missing_left), *rest))
    found = TfliteRunner(forest_tflite(other, FEATURES), 1, "score").run(rows)
    with pytest.raises(AssertionError):
        judge(forest, rows, found)


def test_questions_about_sets(tmp_path: Path) -> None:
    right = np.array([[0, 1], [1, 0], [1, 1], [0, 0]], bool)
    column, answers = Sets(1, right), np.array([0.5, 0, 0])
    trees = tuple(
        Tree(
            np.array([asked, 0, 0]), answers, np.array([1, -1, -1]), np.array([2, -1, -1]),
            np.zeros(3, bool), np.array([0.0, 1, weight]),
        )
        for asked, weight in ((2, 10), (3, 100))
    )  # fmt: skip
    forest = Forest(trees, sets=(column,))
    rows = np.array([[9, code] for code in (0, 1, 2, 3)], np.float32)
    model, wanted = forest_tflite(forest, 2), [101.0, 11, 110, 2]
    assert TfliteRunner(model, 1, "score").run(rows).ravel().tolist() == wanted
    (found,) = score_in(old_runtime(), [(model, rows)], tmp_path)
    assert found.ravel().tolist() == wanted


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**16), scaled=st.booleans(), gaps=st.booleans(), half=st.booleans())
def test_scores_are_the_sources(
    family: str, seed: int, *, scaled: bool, gaps: bool, half: bool
) -> None:
    make = np.random.default_rng(seed)
    raw = make.choice(POOL, (80, 3))
    gaps = gaps and family != "boosting"  # it takes none
    if gaps:
        raw[make.random(raw.shape) < 0.1] = np.nan
    label = (make.random(80) < 0.4) * 1
    label[:2] = 0, 1
    contract = numbers(3, missing="allow" if gaps else "refuse")
    steps = (StandardScaler(),) if scaled else ()
    source = through_skops(fitted(make_pipeline(*steps, FAMILIES[family](seed)), raw, label))
    half = half and (scaled or family == "hist")  # the others are too small to be worth ranks
    converted = convert_tflite(source, contract, leaves="int16" if half else "float32")
    around = [np.clip(steps_around(cuts), -1e37, 1e37) for cuts in converted.cuts.values()]
    values = np.concatenate([POOL, *around, [np.nan] if gaps else []])
    rows = np.concatenate([raw, make.choice(values, (200, 3))])
    gap = np.abs(source.scores(rows, contract) - scored(converted).scores(rows)).max()
    assert gap < (1e-3 if half else 1e-6)


SIZES = {
    "hist": HistGradientBoostingClassifier(
        max_iter=200, max_leaf_nodes=31, early_stopping=False, min_samples_leaf=5, random_state=0
    ),
    "boosting": GradientBoostingClassifier(
        n_estimators=200, max_leaf_nodes=31, max_depth=None, subsample=0.5, random_state=0
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_small_and_still_the_same_decisions(name: str, tmp_path: Path) -> None:
    raw, label = table(3000, gaps=0.0 if name == "boosting" else 0.05)
    contract = numbers(5, missing="allow" if name == "hist" else "refuse")
    source = through_skops(fitted(SIZES[name], raw, label))
    beside, exact = convert(source, contract), convert_tflite(source, contract)
    assert len(exact.model) * 2.5 < len(beside.model)
    if name == "hist":  # at most 255 thresholds of a column, and ranked already
        small = convert_tflite(source, contract, leaves="int16")
        assert len(small.model) < len(exact.model) * 0.8
    else:
        with pytest.raises(ConvertError, match="more bytes of the manifest"):
            convert_tflite(source, contract, leaves="int16")
    found = differences(source, exact, raw[:500], contract)
    assert {key: d.flips for key, d in found.items() if d.flips} == {}
    assert max(d.largest for d in found.values()) < 1e-6
    rows = raw[:300]
    (old,) = score_in(old_runtime(), [(exact.model, exact.encoder.encode(rows))], tmp_path)
    assert np.abs(old.ravel() - source.scores(rows, contract)).max() < 1e-6


def test_ranks_of_sixteen_bits_take_the_same_paths() -> None:
    for seed in range(8):
        make = np.random.default_rng(seed)
        cuts = tuple(np.float32(make.normal(size=30)).tolist())
        trees = tuple(random_tree(make, 40, FEATURES, (*cuts, np.inf)) for _ in range(40))
        forest = Forest(trees)
        contract = numbers(FEATURES, missing="allow")
        ranked, steps, names = rank_all(forest, contract.names, ())
        assert names == contract.names
        raw = make.choice(np.concatenate([steps_around(np.array(cuts)), [np.nan]]), (50, FEATURES))
        wanted = walk(forest, raw.astype(np.float32))
        assert np.array_equal(walk(ranked, Encoder(contract, steps).encode(raw)), wanted)


def test_the_same_forest_gives_the_same_bytes() -> None:
    code = (
        "import sys, hashlib; sys.path[:0] = sys.argv[1:]\n"
        "from test_tflite_trees import some_forest\n"
        "from wherry_convert.tflite_trees import forest_tflite\n"
        "print(hashlib.sha256(forest_tflite(some_forest(5)[0], 4)).hexdigest())"
    )
    here = Path(__file__).parent
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(here), str(here.parent)],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop()) == 65


def test_too_deep_is_refused() -> None:
    chain = np.arange(300)
    left = np.where(chain % 2 == 0, chain + 1, -1)
    left[-2:] = -1
    right = np.where(left == -1, -1, chain + 2)
    zeros = chain * 0.0
    tree = Tree(chain * 0, zeros, left, right, chain > 999, zeros)
    assert lay_out(Forest((tree,)), 1).levels == 149
    long = np.arange(700)
    left = np.where((long % 2 == 0) & (long < 698), long + 1, -1)
    tree = Tree(
        long * 0, long * 0.0, left, np.where(left == -1, -1, long + 2), long > 999, long * 0.0
    )
    with pytest.raises(ConvertError, match="K01"):
        forest_tflite(Forest((tree,)), 1)
