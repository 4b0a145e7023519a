"""Models of LightGBM decide the same, or are refused with what to do."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from support_boosted import (
    POOL,
    TO,
    TREES,
    RandomTree,
    assert_every_path,
    assert_no_harm,
    assert_same,
    need,
    piped,
    random_tree,
    shop,
)
from support_convert import EPOCH, fitted, numbers, table

from wherry_contract.errors import ConvertError
from wherry_convert.sources import load_source
from wherry_convert.sources.lightgbm_file import LightgbmModel, load
from wherry_convert.to_onnx import convert

lightgbm = pytest.importorskip(
    "lightgbm", reason="the extra lightgbm is absent; make test-frameworks"
)
GAPS = numbers(5, missing="allow")


def text_of(model: Any) -> str:
    return str(getattr(model, "booster_", model).model_to_string())


def source_of(model: Any) -> LightgbmModel:
    """Through the bytes of a file."""
    return load(text_of(model).encode(), (), trust_pickle=False)


def classifier(**more: Any) -> Any:
    return lightgbm.LGBMClassifier(**{"n_estimators": 30, "n_jobs": 1, "verbose": -1} | more)


def regressor(**more: Any) -> Any:
    return lightgbm.LGBMRegressor(**{"n_estimators": 30, "n_jobs": 1, "verbose": -1} | more)


BAGS = {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}
ROWS = [
    # facts-convert 2a: float32 thresholds moved scores by 5e-3
    ("plain", classifier(), 0),
    ("deep", classifier(num_leaves=200, min_child_samples=2), 0),
    ("with gaps", classifier(), 0.05),
    ("gaps count as zero", classifier(use_missing=False), 0.05),
    ("zeros count as gaps", classifier(zero_as_missing=True), 0.05),
    ("no gaps seen, but sent", classifier(), -1),
    ("sigmoid", classifier(sigmoid=2.5), 0.05),
    ("from zero", classifier(boost_from_average=False), 0),
    ("weights", classifier(scale_pos_weight=7), 0),
    ("goss", classifier(data_sample_strategy="goss"), 0),
    ("extra trees", classifier(extra_trees=True), 0),
    ("dart", classifier(boosting_type="dart"), 0.05),
    ("random forest", classifier(**BAGS), 0.05),
    ("averages of labels", regressor(**BAGS), 0.05),
    ("cross entropy", regressor(objective="cross_entropy"), 0.05),
    ("leaves only", classifier(min_child_samples=1400), 0),
]


@pytest.mark.parametrize(
    ("model", "gaps"), [pytest.param(model, gaps, id=name) for name, model, gaps in ROWS]
)
def test_same_decisions(model: Any, gaps: float) -> None:
    raw, label = table(gaps=max(gaps, 0))
    contract = GAPS if gaps else numbers(5)
    source = source_of(model.fit(raw, label))
    wanted = model.booster_.predict(raw, num_threads=1)
    assert np.array_equal(source.scores(raw, contract), wanted)
    assert_same(source, raw, contract)


def test_early_stopping_is_honoured() -> None:
    raw, label = table()
    model = classifier(n_estimators=200, learning_rate=0.5)
    stop = lightgbm.early_stopping(5, verbose=False)
    model.fit(raw[:900], label[:900], eval_X=raw[900:], eval_y=label[900:], callbacks=[stop])
    source = source_of(model)
    assert len(source.grown.forest.trees) == model.best_iteration_ < 200
    wanted = model.predict_proba(raw)[:, 1]
    assert np.abs(source.scores(raw, numbers(5)) - wanted).max() < 1e-12
    assert_same(source, raw, numbers(5))


def test_epoch_seconds_and_large_integers() -> None:
    """anchors-convert, fact 3: 6,430 of 40,000 decisions flipped after the float32 cast."""
    make = np.random.default_rng(0)
    second, number = EPOCH + make.integers(0, 4000, 6000), make.integers(2**52, 2**52 + 900, 6000)
    raw = np.c_[second, number].astype(float)
    label = ((second % 977 > 480) ^ (number % 211 > 90)).astype(int)
    source = source_of(classifier(n_estimators=60, num_leaves=63).fit(raw, label))
    converted = assert_same(source, raw, numbers(2))
    # the same trees without ranks show that these rows can tell
    cast = raw.astype(np.float32).astype(float)
    flips = (source.scores(raw, numbers(2)) >= 0.5) != (source.scores(cast, numbers(2)) >= 0.5)
    assert flips.sum() > 100
    assert {step.op for step in converted.encoder.steps} == {"rank"}


@pytest.mark.parametrize("runtime", sorted(TO))
def test_names_and_categories(runtime: str) -> None:
    """onnx/onnxmltools#309, #321: categories were refused."""
    need(runtime)
    frame, contract, raw, label = shop()
    model = classifier(min_data_per_group=5, cat_smooth=1.0).fit(frame, label)
    source = source_of(model)
    assert {q.column for q in source.grown.questions if q.members} == {1, 2}
    wanted = model.predict_proba(frame)[:, 1]
    assert np.abs(source.scores(raw, contract) - wanted).max() < 1e-12
    converted = assert_same(source, raw, contract, runtime)
    assert {step.op for step in converted.encoder.steps} == {"codes", "rank"}


def test_codes_without_names() -> None:
    raw, label = table(gaps=0.05)
    model = classifier(min_data_per_group=5).fit(raw, label, categorical_feature=[1])
    source = source_of(model)
    assert any(q.members for q in source.grown.questions)
    assert "fill" in {s.op for s in assert_same(source, raw, GAPS).encoder.steps}


def _words(codes: list[int]) -> list[int]:
    words = [0] * (max(codes) // 32 + 1)
    for code in codes:
        words[code // 32] |= 1 << code % 32
    return words


def _text_tree(tree: RandomTree, number: int, kinds: list[int]) -> str:
    coded = [node for node in range(tree.inner) if tree.column[node] == 2]
    words = [_words(tree.sets[node]) for node in coded]
    cuts = [float(coded.index(n)) if n in coded else tree.cut[n] for n in range(tree.inner)]
    decisions = [
        1 | kinds[n] << 2 if n in coded else 2 * tree.default[n] | kinds[n] << 2
        for n in range(tree.inner)
    ]
    ends = np.cumsum([0, *map(len, words)]).tolist()
    rows: dict[str, list[Any]] = {
        "num_leaves": [tree.inner + 1],
        "num_cat": [len(coded)],
        "split_feature": tree.column,
        "split_gain": [1] * tree.inner,
        "threshold": [f"{cut:.17g}" for cut in cuts],
        "decision_type": decisions,
        "left_child": [c if c < tree.inner else tree.inner - 1 - c for c in tree.left],
        "right_child": [c if c < tree.inner else tree.inner - 1 - c for c in tree.right],
        "leaf_value": tree.leaf,
        "leaf_weight": [1] * (tree.inner + 1),
        "leaf_count": [1] * (tree.inner + 1),
        "internal_value": [0] * tree.inner,
        "internal_weight": [1] * tree.inner,
        "internal_count": [1] * tree.inner,
    }
    if coded:
        rows |= {"cat_boundaries": ends, "cat_threshold": [w for part in words for w in part]}
    rows |= {"is_linear": [0], "shrinkage": [1]}
    lines = [f"{name}={' '.join(map(str, values))}" for name, values in rows.items()]
    return "\n".join([f"Tree={number}", *lines, "", ""])


HEAD = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=2
objective=binary sigmoid:1
feature_names=Column_0 Column_1 Column_2
feature_infos=[-1:1] [-1:1] 1:2:3

"""
END = "end of trees\n\nparameters:\nend of parameters\n\npandas_categorical:[]\n"


def random_text(seed: int, pool: Any = POOL) -> str:
    make = np.random.default_rng(seed)
    trees = []
    for number in range(TREES):
        tree = random_tree(make, number, np.append(pool, [1e300, -1e300, np.inf, -np.inf]))
        trees.append(_text_tree(tree, number, [int(k) for k in make.integers(0, 3, tree.inner)]))
    return HEAD + "\n".join(trees) + "\n" + END


@pytest.mark.parametrize("runtime", sorted(TO))
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_path_of_random_trees(runtime: str, seed: int) -> None:
    need(runtime)
    source = load(random_text(seed).encode(), (), trust_pickle=False)
    assert_every_path(source, numbers(3, missing="allow"), runtime)


def test_same_file_same_bytes() -> None:
    """anchors-convert, fact 10: onnxmltools gave three hashes in three runs."""
    frame, contract, _, label = shop()
    data = text_of(classifier(min_data_per_group=5).fit(frame, label)).encode()
    found = {convert(load(data, (), trust_pickle=False), contract).model for _ in range(3)}
    assert len(found) == 1


def test_a_file_of_the_kind(tmp_path: Path) -> None:
    raw, label = table(300)
    classifier(n_estimators=3).fit(raw, label).booster_.save_model(tmp_path / "model.txt")
    source = load_source("lightgbm", tmp_path / "model.txt")
    assert (source.family, source.versions["lightgbm"]) == ("trees", lightgbm.__version__)
    assert source.digest.startswith("sha256:")


REFUSED = [
    ("three classes", classifier(), lambda y: np.arange(len(y)) % 3, "objective binary"),
    ("amounts", regressor(), lambda y: y * 99.0, "classifier"),
    ("counts", regressor(objective="poisson"), lambda y: y, "objective binary"),
    ("square roots", regressor(reg_sqrt=True), lambda y: y, "objective binary"),
    ("linear leaves", classifier(linear_tree=True), lambda y: y, "linear_tree"),
    (
        "an objective of its own",
        classifier(objective=lambda y, p: (p - y, np.ones(len(y)))),
        lambda y: y,
        "objective binary",
    ),
]


@pytest.mark.parametrize(
    ("model", "label", "cure"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_refused(model: Any, label: Any, cure: str) -> None:
    raw, y = table(300)
    model.set_params(n_estimators=3).fit(raw, label(y))
    with pytest.raises(ConvertError) as caught:
        source_of(model)
    assert (caught.value.code, cure in caught.value.cure) == ("K01", True)


def test_names_for_some_categories_only() -> None:
    frame, _, _, label = shop(400)
    frame["hour"] = np.arange(400) % 24
    model = classifier(n_estimators=3).fit(
        frame, label, categorical_feature=["currency", "kind", "hour"]
    )
    with pytest.raises(ConvertError, match="3 columns of categories and names for 2") as caught:
        source_of(model)
    assert caught.value.code == "K02"


GOOD = random_text(4, POOL[:4])
BROKEN = [
    ("empty", ""),
    ("no text", "\udcff"),
    ("another file", "tree of life"),
    ("half", GOOD[: len(GOOD) // 2]),
    ("a child outside", GOOD.replace("left_child=", "left_child=9", 1)),
    ("a column outside", GOOD.replace("split_feature=", "split_feature=7", 1)),
    ("a threshold that is none", GOOD.replace("threshold=", "threshold=nan ", 1)),
    ("a set outside", GOOD.replace("cat_boundaries=0 ", "cat_boundaries=0 999999", 1)),
    ("words for numbers", GOOD.replace("leaf_value=", "leaf_value=x", 1)),
]


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in BROKEN])
def test_broken_files_are_a_coded_error(text: str) -> None:
    with pytest.raises(ConvertError) as caught:
        load(text.encode(errors="surrogateescape"), (), trust_pickle=False)
    assert caught.value.code == "K04"
    assert "save_model" in caught.value.cure


def test_damaged_files_do_no_harm() -> None:
    """LightGBM's own reader ends the process at some of these."""
    data = random_text(3).encode()
    assert_no_harm(lambda changed: load(changed, (), trust_pickle=False), data)


def test_sizes_in_the_file_are_not_trusted() -> None:
    raw, label = table(300)
    text = text_of(classifier(n_estimators=3).fit(raw, label))
    lines = [
        "tree_sizes=1 99999999 5" if x.startswith("tree_sizes") else x for x in text.split("\n")
    ]
    source, wrong = (load(t.encode(), (), trust_pickle=False) for t in (text, "\n".join(lines)))
    assert np.array_equal(source.scores(raw, GAPS), wrong.scores(raw, GAPS))


TRUSTED = ("collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier")
PIPES = [
    # facts-convert 2a: a scaler before XGBoost flipped 122 of 10,000 decisions
    ("a scaler", (StandardScaler(),), 0.05),
    ("two of them", (MinMaxScaler(), StandardScaler()), 0.05),
    ("filled, then scaled", (SimpleImputer(strategy="median"), StandardScaler()), 0.05),
    ("nothing", (), 0.05),
]


@pytest.mark.parametrize(
    ("steps", "gaps"), [pytest.param(steps, gaps, id=name) for name, steps, gaps in PIPES]
)
def test_behind_scalers(steps: Any, gaps: float) -> None:
    raw, label = table(gaps=gaps)
    model = fitted(make_pipeline(*steps, classifier()), raw, label)
    source = piped(model, *TRUSTED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are fitted with names
        wanted = model.predict_proba(raw)[:, 1]
    assert np.array_equal(source.scores(raw, GAPS), wanted)
    assert_same(source, raw, GAPS)


def test_a_pipeline_is_not_trusted_by_itself() -> None:
    raw, label = table(300)
    with pytest.raises(ConvertError) as caught:
        piped(fitted(make_pipeline(StandardScaler(), classifier(n_estimators=2)), raw, label))
    assert caught.value.code == "K05"
    assert "LGBMClassifier" in caught.value.detail


PIPES_REFUSED = [("zeros for gaps", classifier(zero_as_missing=True), "K01")]


@pytest.mark.parametrize(
    ("model", "code"), [pytest.param(model, code, id=name) for name, model, code in PIPES_REFUSED]
)
def test_what_a_pipeline_cannot_say(model: Any, code: str) -> None:
    raw, label = table(600)
    raw[:, 3] = np.round(raw[:, 3], 5)  # with zeros in the middle
    with pytest.raises(ConvertError) as caught:
        piped(fitted(make_pipeline(StandardScaler(), model), raw - raw.mean(0), label), *TRUSTED)
    assert caught.value.code == code
    assert caught.value.cure
