"""Models of XGBoost decide the same, or are refused with what to do."""

from __future__ import annotations

import json
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
from support_convert import fitted, numbers, table

from wherry_contract.errors import ConvertError
from wherry_convert.sources import load_source
from wherry_convert.sources.ubjson import read_ubjson
from wherry_convert.sources.xgboost_file import XgboostModel, load
from wherry_convert.to_onnx import convert

xgboost = pytest.importorskip("xgboost", reason="the extra xgboost is absent; make test-frameworks")
GAPS = numbers(5, missing="allow")


def source_of(booster: Any, form: str = "ubj") -> XgboostModel:
    """Through the bytes of a file."""
    booster = booster.get_booster() if hasattr(booster, "get_booster") else booster
    return load(bytes(booster.save_raw(form)), (), trust_pickle=False)


def classifier(**more: Any) -> Any:
    return xgboost.XGBClassifier(**{"n_estimators": 30, "n_jobs": 1, "max_depth": 4} | more)


ROWS = [
    ("plain", classifier(), 0),
    ("with gaps", classifier(), 0.05),
    ("deep", classifier(max_depth=9, n_estimators=10), 0.05),
    ("loss guided", classifier(grow_policy="lossguide", max_leaves=20, max_depth=0), 0.05),
    ("exact cuts", classifier(tree_method="exact"), 0.05),
    ("pruned", classifier(gamma=3.0), 0.05),
    # microsoft/onnxruntime#11892, onnx/onnxmltools#510, #671: base_score was lost
    ("base_score", classifier(base_score=0.03), 0),
    ("base_score of raw scores", classifier(base_score=0.4, objective="binary:logitraw"), 0),
    ("weights that shift the base", classifier(scale_pos_weight=9), 0),
    # facts-convert 2a: dart was a KeyError
    ("dart", classifier(booster="dart", rate_drop=0.5, one_drop=True), 0.05),
    ("random forest rounds", classifier(num_parallel_tree=4, subsample=0.5, n_estimators=5), 0),
    ("random forest", xgboost.XGBRFClassifier(n_estimators=15, n_jobs=1), 0.05),
    ("a regressor on probabilities", classifier(objective="reg:logistic"), 0),
    ("leaves only", classifier(gamma=1e9), 0),
    (
        "averages of labels",
        xgboost.XGBRFRegressor(n_estimators=15, base_score=0.0, reg_lambda=0.0, n_jobs=1),
        0.05,
    ),
]


@pytest.mark.parametrize("form", ["json", "ubj"])
@pytest.mark.parametrize(
    ("model", "gaps"), [pytest.param(model, gaps, id=name) for name, model, gaps in ROWS]
)
def test_same_decisions(model: Any, gaps: float, form: str) -> None:
    raw, label = table(gaps=gaps)
    contract = GAPS if gaps else numbers(5)
    source = source_of(model.fit(raw, label), form)
    wanted = model.get_booster().predict(xgboost.DMatrix(raw)).astype(float)
    if source.facts.objective == "binary:logitraw":
        wanted = 1 / (1 + np.exp(-wanted))
    assert np.array_equal(source.scores(raw, contract), wanted)
    assert_same(source, raw, contract)


def test_early_stopping_is_honoured() -> None:
    """onnx/onnxmltools#517: trees after the best round were converted too."""
    raw, label = table()
    model = classifier(n_estimators=80, early_stopping_rounds=5, learning_rate=0.9)
    model.fit(raw[:900], label[:900], eval_set=[(raw[900:], label[900:])], verbose=False)
    kept, grown = model.best_iteration + 1, model.get_booster().num_boosted_rounds()
    assert kept < grown
    source = source_of(model)
    assert len(source.grown.forest.trees) == kept
    assert np.array_equal(source.scores(raw, numbers(5)), model.predict_proba(raw)[:, 1])
    converted = assert_same(source, raw, numbers(5))
    assert converted.notes[0] == f"{kept} of {grown} rounds, up to best_iteration"


def test_raw_scores_become_probabilities() -> None:
    raw, label = table()
    model = classifier(objective="binary:logitraw").fit(raw, label)
    source = source_of(model)
    margin = model.get_booster().predict(xgboost.DMatrix(raw), output_margin=True)
    assert np.allclose(source.scores(raw, numbers(5)), 1 / (1 + np.exp(-margin.astype(float))))


@pytest.mark.parametrize("runtime", sorted(TO))
def test_names_and_categories(runtime: str) -> None:
    """facts-convert 2a: other names than f0, f1, ... were refused."""
    need(runtime)
    frame, contract, raw, label = shop()
    model = classifier(enable_categorical=True, max_cat_to_onehot=3).fit(frame, label)
    source = source_of(model)
    assert {q.column for q in source.grown.questions if q.members} == {1, 2}
    assert np.array_equal(source.scores(raw, contract), model.predict_proba(frame)[:, 1])
    converted = assert_same(source, raw, contract, runtime)
    assert {step.op for step in converted.encoder.steps} == {"codes"}


def test_codes_without_names() -> None:
    raw, label = table(gaps=0.05)
    kinds = ["float", "c", "float", "float", "float"]
    data = xgboost.DMatrix(raw, label, feature_types=kinds)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}, data, 20
    )
    source = source_of(booster)
    assert any(q.members for q in source.grown.questions)
    assert {s.op for s in assert_same(source, raw, GAPS).encoder.steps} == {"rank", "fill"}


TEMPLATE: dict[str, Any] = {}


def _template() -> dict[str, Any]:
    if not TEMPLATE:
        raw = np.c_[np.arange(30.0), np.arange(30.0) % 7, np.arange(30) % 3]
        data = xgboost.DMatrix(raw, np.arange(30) % 2, feature_types=["float", "float", "c"])
        settings = {"objective": "binary:logistic", "nthread": 1, "base_score": 0.3, "gamma": 1e9}
        booster = xgboost.train(settings, data, TREES)
        TEMPLATE.update(json.loads(bytes(booster.save_raw("json"))))
    return json.loads(json.dumps(TEMPLATE))  # type: ignore[no-any-return]


def _json_tree(tree: RandomTree, number: int) -> dict[str, Any]:
    leaves, total = tree.inner + 1, 2 * tree.inner + 1
    parents = [2**31 - 1] * total
    for side in (tree.left, tree.right):
        for node, child in enumerate(side):
            parents[child] = node
    coded = [node for node in range(tree.inner) if tree.column[node] == 2]
    sizes = [len(tree.sets[node]) for node in coded]
    return {
        "base_weights": [0.0] * total,
        "categories": [code for node in coded for code in tree.sets[node]],
        "categories_nodes": coded,
        "categories_segments": [sum(sizes[:k]) for k in range(len(sizes))],
        "categories_sizes": sizes,
        "default_left": [int(d) for d in tree.default] + [0] * leaves,
        "id": number,
        "left_children": tree.left + [-1] * leaves,
        "right_children": tree.right + [-1] * leaves,
        "loss_changes": [1.0] * total,
        "parents": parents,
        "split_conditions": tree.cut + tree.leaf,
        "split_indices": tree.column + [0] * leaves,
        "split_type": [int(c == 2) for c in tree.column] + [0] * leaves,
        "sum_hessian": [1.0] * total,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": "3",
            "num_nodes": str(total),
            "size_leaf_vector": "1",
        },
    }


@pytest.mark.parametrize("runtime", sorted(TO))
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_path_of_random_trees(runtime: str, seed: int) -> None:
    need(runtime)
    make = np.random.default_rng(seed)
    document = _template()
    model = document["learner"]["gradient_booster"]["model"]
    with np.errstate(over="ignore"):
        cuts = np.append(POOL.astype(np.float32), [np.inf, -np.inf]).astype(float)
    model["trees"] = [_json_tree(random_tree(make, n, cuts), n) for n in range(TREES)]
    data = json.dumps(document).encode()
    assert_every_path(load(data, (), trust_pickle=False), numbers(3, missing="allow"), runtime)


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_same_file_same_bytes(form: str) -> None:
    frame, contract, _, label = shop()
    data = bytes(classifier(enable_categorical=True).fit(frame, label).get_booster().save_raw(form))
    found = {convert(load(data, (), trust_pickle=False), contract).model for _ in range(3)}
    assert len(found) == 1


def test_a_file_of_the_kind(tmp_path: Path) -> None:
    raw, label = table(300)
    classifier(n_estimators=3).fit(raw, label).save_model(tmp_path / "model.ubj")
    source = load_source("xgboost", tmp_path / "model.ubj")
    assert (source.family, source.versions["xgboost"]) == ("trees", xgboost.__version__)
    assert source.digest.startswith("sha256:")


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_damaged_files_do_no_harm(form: str) -> None:
    """XGBoost's own reader ends the process at some of these."""
    booster = xgboost.Booster()
    booster.load_model(bytearray(_broken(lambda *_: None)))
    data = bytes(booster.save_raw(form))
    assert_no_harm(lambda changed: load(changed, (), trust_pickle=False), data)


UBJSON = [
    ("nothing", b""),
    ("a count of more than there is", b"{i\x01a[$l#L\x00\x00\x00\x00\x7f\xff\xff\xff"),
    ("a length below nought", b"{i\xff"),
    ("a type that nobody knows", b"{i\x01a[$Q#i\x01\x00}"),
    ("no end", b"{i\x01a[i\x01i\x01"),
    ("more after the end", b"{}}"),
    ("a text for a length", b"{S"),
    ("depth", b"[" * 99),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in UBJSON])
def test_malformed_ubjson(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_ubjson(data)


def test_both_forms_say_the_same() -> None:
    raw, label = table(300, gaps=0.1)
    booster = classifier(n_estimators=3).fit(raw, label).get_booster()
    one, other = json.loads(booster.save_raw("json")), read_ubjson(bytes(booster.save_raw("ubj")))
    trees = [form["learner"]["gradient_booster"]["model"]["trees"] for form in (one, other)]
    for left, right in zip(*trees, strict=True):
        for name, values in left.items():
            if isinstance(values, list):
                assert np.array_equal(np.float32(values), np.float32(right[name])), name
    assert one["learner"]["objective"] == other["learner"]["objective"]


REFUSED = [
    ("linear booster", {"booster": "gblinear"}, lambda y: y, "K01", "gbtree"),
    ("three classes", {}, lambda y: np.arange(len(y)) % 3, "K01", "binary:logistic"),
    ("hinge", {"objective": "binary:hinge"}, lambda y: y, "K01", "binary:logistic"),
    ("counts", {"objective": "count:poisson"}, lambda y: y, "K01", "binary:logistic"),
    ("amounts", {"objective": "reg:squarederror"}, lambda y: y * 99.0, "K01", "classifier"),
]


@pytest.mark.parametrize(
    ("more", "label", "code", "cure"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
@pytest.mark.filterwarnings("ignore")  # XGBoost warns of gblinear
def test_refused(more: dict[str, Any], label: Any, code: str, cure: str) -> None:
    raw, y = table(300)
    settings = {"objective": "binary:logistic", "nthread": 1} | more
    if label(y).max() == 2:
        settings |= {"objective": "multi:softprob", "num_class": 3}
    booster = xgboost.train(settings, xgboost.DMatrix(raw, label(y)), 3)
    with pytest.raises(ConvertError) as caught:
        source_of(booster)
    assert (caught.value.code, cure in caught.value.cure) == (code, True)


def _broken(change: Any) -> bytes:
    document = _template()
    model = document["learner"]["gradient_booster"]["model"]
    model["trees"] = [
        _json_tree(random_tree(np.random.default_rng(5), n, POOL[:3]), n) for n in range(TREES)
    ]
    change(document, model)
    return json.dumps(document).encode()


def _circle(_: Any, model: Any) -> None:
    model["trees"][0]["left_children"][1] = 0


def _column(_: Any, model: Any) -> None:
    model["trees"][0]["split_indices"][0] = 77


BROKEN = [
    ("empty", b""),
    ("a pickle", b"\x80\x04K\x01."),
    ("half", _broken(lambda *_: None)[:900] if xgboost else b""),
    ("no model", b'{"a": 1}'),
    ("in circles", _broken(_circle)),
    ("a column outside", _broken(_column)),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BROKEN])
def test_broken_files_are_a_coded_error(data: bytes) -> None:
    with pytest.raises(ConvertError) as caught:
        load(data, (), trust_pickle=False)
    assert caught.value.code == "K04"
    assert "save_model" in caught.value.cure


def test_a_contract_that_does_not_fit() -> None:
    frame, contract, _, label = shop(400)
    source = source_of(classifier(enable_categorical=True).fit(frame, label))
    raw, label = table(300)
    plain = source_of(classifier(n_estimators=3).fit(raw, label))
    for model, features, words in (
        (plain, numbers(4), "takes 5 features"),
        (source, numbers(3), "differ in amount"),
    ):
        with pytest.raises(ConvertError, match=words) as caught:
            convert(model, features)
        assert caught.value.code == "K07"
    document = contract.to_dict()
    document["features"][0] = {"name": "kind"}
    with pytest.raises(ConvertError, match="names of kind"):
        convert(source, type(contract).from_dict(document))
    document = contract.to_dict()
    document["features"][1] |= {"dtype": "category", "categories": ["a"]}
    with pytest.raises(ConvertError, match="compares the category amount as a number"):
        convert(source, type(contract).from_dict(document))


TRUSTED = ("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier")
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
    assert "XGBClassifier" in caught.value.detail


PIPES_REFUSED = [
    ("an own sentinel", classifier(missing=-1.0), "K02"),
    ("raw scores", classifier(objective="binary:logitraw"), "K01"),
]


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
