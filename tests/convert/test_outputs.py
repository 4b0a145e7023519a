"""Scores that are not one probability: each source, target and kind of output, to the agent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from skops.io import dumps
from support_outputs import (
    CLASSES,
    CONTRACT,
    lightgbm_of,
    onnx_of,
    rows,
    skops_of,
    write_project,
    xgboost_of,
)

from wherry.build import build
from wherry.bundle_view import look
from wherry.data import read_rows
from wherry.project import load_project
from wherry_agent.serving.inference import load_model
from wherry_contract.decision import decide
from wherry_contract.errors import ConvertError, SetupError
from wherry_convert.sources import load_source
from wherry_convert.sources.outputs import Wanted

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")
pytest.importorskip("xgboost", reason="likewise")
pytest.importorskip("lightgbm", reason="likewise")

LIKELIEST = 'decision = "class"'
ONE = 'positive_class = "mid"\nthreshold = 0.4'
VALUE = 'decision = "value"\nflag_share = 0.2'
SK_CLASSES = [
    ("tree", DecisionTreeClassifier(max_depth=5)),
    ("forest", RandomForestClassifier(70, max_depth=5, random_state=0)),
    ("extra trees", ExtraTreesClassifier(7, max_depth=5, random_state=0)),
    ("bag", BaggingClassifier(DecisionTreeClassifier(max_depth=4), 5, random_state=0)),
    ("boosting", GradientBoostingClassifier(n_estimators=70, max_depth=2, random_state=0)),
    ("histograms", HistGradientBoostingClassifier(max_iter=10)),
    ("linear", make_pipeline(StandardScaler(), LogisticRegression())),
    ("net", make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=30, random_state=0))),
]
SK_VALUES = [
    ("tree", DecisionTreeRegressor(max_depth=5)),
    ("forest", RandomForestRegressor(9, max_depth=5, random_state=0)),
    ("boosting", GradientBoostingRegressor(n_estimators=20, random_state=0)),
    ("histograms", HistGradientBoostingRegressor(max_iter=10)),
    ("histograms, poisson", HistGradientBoostingRegressor(loss="poisson", max_iter=10)),
    ("linear", make_pipeline(StandardScaler(), LinearRegression())),
    (
        "net",
        make_pipeline(
            StandardScaler(),
            MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, random_state=0),
        ),
    ),
]
Make = Callable[[], bytes]
# name, kind of source, its file, what is decided, the label
SOURCES: list[tuple[str, str, Make, str, str]] = [
    *((f"sklearn {n}", "sklearn", skops_of(m, "names"), LIKELIEST, "names") for n, m in SK_CLASSES),
    ("sklearn one class", "sklearn", skops_of(SK_CLASSES[4][1], "names"), ONE, "names"),
    ("sklearn one of a net", "sklearn", skops_of(SK_CLASSES[7][1], "names"), ONE, "names"),
    *(
        (f"sklearn value, {n}", "sklearn", skops_of(m, "values"), VALUE, "values")
        for n, m in SK_VALUES
    ),
    ("xgboost softprob", "xgboost", xgboost_of("multi:softprob", "codes", num_class=3), LIKELIEST, "codes"),
    ("xgboost softmax, dart", "xgboost", xgboost_of("multi:softmax", "codes", num_class=3, booster="dart", num_parallel_tree=2), LIKELIEST, "codes"),
    ("xgboost one class", "xgboost", xgboost_of("multi:softprob", "codes", num_class=3), 'positive_class = "2"\nthreshold = 0.3', "codes"),
    ("xgboost value", "xgboost", xgboost_of("reg:squarederror", "values"), VALUE, "values"),
    ("xgboost counts", "xgboost", xgboost_of("count:poisson", "values"), VALUE, "values"),
    ("xgboost tweedie", "xgboost", xgboost_of("reg:tweedie", "values"), VALUE, "values"),
    ("lightgbm multiclass", "lightgbm", lightgbm_of("multiclass", "codes", num_class=3), LIKELIEST, "codes"),
    ("lightgbm one against all", "lightgbm", lightgbm_of("multiclassova", "codes", num_class=3), LIKELIEST, "codes"),
    ("lightgbm forest", "lightgbm", lightgbm_of("multiclass", "codes", num_class=3, boosting="rf", bagging_freq=1, bagging_fraction=0.7), LIKELIEST, "codes"),
    ("lightgbm value", "lightgbm", lightgbm_of("regression", "values"), VALUE, "values"),
    ("lightgbm poisson", "lightgbm", lightgbm_of("poisson", "values"), VALUE, "values"),
    ("onnx file", "onnx", onnx_of("Softmax", 3), LIKELIEST + '\nclasses = ["low", "mid", "high"]', "names"),
    ("onnx file, one class", "onnx", onnx_of("Softmax", 3), 'positive_class = "1"\nthreshold = 0.3', "codes"),
    ("onnx file, value", "onnx", onnx_of("Identity", 1), VALUE, "values"),
]  # fmt: skip


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite"])
@pytest.mark.parametrize(
    ("kind", "make", "output", "label"),
    [row[1:] for row in SOURCES],
    ids=[row[0] for row in SOURCES],
)
def test_the_agent_decides_as_the_source(  # noqa: PLR0917 - a row
    kind: str, make: Make, output: str, label: str, runtime: str, tmp_path: Path
) -> None:
    path = write_project(tmp_path, kind, make(), output, label, runtime)
    project = load_project(path)
    done = build(project, out=tmp_path / "a.wherry")
    wanted = project.threshold.wanted
    parts = look(tmp_path / "a.wherry").parts
    raw = read_rows(project.data.check, project.input, project.data, wanted).raw
    expected = load_source(kind, project.source.path, wanted=wanted).scores(raw, project.input)
    model = load_model(done.digest, parts)
    answers = model.answer(raw)
    assert not isinstance(answers, str)
    threshold = parts.manifest.output.threshold
    found = answers.scores if answers.classes is None else answers.classes
    assert np.array_equal(decide(found, threshold), decide(expected, threshold))
    assert (done.report.flips, done.report.edge_flips) == (0, 0)
    assert found == pytest.approx(expected, rel=3e-6, abs=3e-6)
    assert parts.golden.width == (3 if output.startswith(LIKELIEST) else 1)
    assert answers.bins.max() < 64
    assert sum(parts.profile.scores) == len(rows().raw) // 2


def test_a_rebuild_gives_the_same_bundle(tmp_path: Path) -> None:
    make = xgboost_of("multi:softprob", "codes", num_class=3)
    project = load_project(
        write_project(tmp_path, "xgboost", make(), LIKELIEST, "codes", "onnxruntime")
    )
    done = [build(project, out=tmp_path / name).digest for name in ("a.wherry", "b.wherry")]
    assert done[0] == done[1]


def test_what_a_bundle_of_classes_says(tmp_path: Path) -> None:
    make = skops_of(SK_CLASSES[4][1], "names")
    more = "\n[out]\nreport = 'page.html'\n"
    project = load_project(
        write_project(
            tmp_path, "sklearn", make(), LIKELIEST + "\nleast = 0.5", "names", "onnxruntime", more
        )
    )
    done = build(project, out=tmp_path / "a.wherry")
    parts = look(tmp_path / "a.wherry").parts
    said = json.loads(parts.manifest.to_bytes())["output"]
    assert said["classes"] == list(CLASSES)
    assert (said["threshold"], said["column"]) == (0.5, -1)
    assert look(tmp_path / "a.wherry").precision == "float32"
    assert len(parts.profile.classes) == 4
    assert sum(parts.profile.classes) == sum(parts.profile.scores)
    assert parts.profile.classes[-1] == sum(parts.profile.scores) - parts.profile.flagged > 0
    assert {"accuracy", "macro_recall"} <= set(done.report.metrics["bundle"].to_dict())
    page = (tmp_path / "page.html").read_text()
    assert "recall of the classes" in page
    assert "The likeliest class is decided, if that is at least 0.5, of high, low, mid." in page
    assert "Only one probability and labels of two classes" in page
    assert done.report.decided_by == "decided: the likeliest class of at least 0.5"


LABELS = [
    ("classes without names", LIKELIEST, "holds 'mid' in row 0", "[output] classes"),
    ("names in another spelling", LIKELIEST + '\nclasses = ["Low", "mid", "high"]', "holds 'low'", "classes"),
    ("a class in no row", 'positive_class = "odd"\nclasses = ["low", "mid", "odd"]\nthreshold = 0.4', "is never 'odd'", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "says", "cure"), [row[1:] for row in LABELS], ids=[row[0] for row in LABELS]
)
def test_labels_that_the_model_does_not_know(
    output: str, says: str, cure: str, tmp_path: Path
) -> None:
    """Each would count as a mistake of source and bundle alike, and no gate would see it."""
    path = write_project(tmp_path, "onnx", onnx_of("Softmax", 3)(), output, "names", "onnxruntime")
    with pytest.raises(SetupError, match="H10") as caught:
        build(load_project(path), out=tmp_path / "a.wherry")
    assert says in caught.value.detail
    assert cure in caught.value.cure
    assert not (tmp_path / "a.wherry").exists()


@pytest.mark.parametrize("gap", [None, float("nan")], ids=["null", "NaN"])
@pytest.mark.parametrize("output", [LIKELIEST, 'positive_class = "1"\nthreshold = 0.4'])
def test_a_label_that_is_missing(output: str, gap: float | None, tmp_path: Path) -> None:
    """It is no row of another class."""
    path = write_project(tmp_path, "onnx", onnx_of("Softmax", 3)(), output, "codes", "onnxruntime")
    whole = parquet.read_table(tmp_path / "check.parquet").drop_columns(["codes"])
    labels = [0.0, 1.0, gap, *[2.0] * (len(whole) - 3)]
    whole = whole.append_column("codes", pa.array(labels, from_pandas=False))
    parquet.write_table(whole, tmp_path / "check.parquet")
    with pytest.raises(SetupError, match="'codes' is missing in row 2"):
        build(load_project(path), out=tmp_path / "a.wherry")


def test_a_name_for_a_column_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(onnx_of("Softmax", 3)())
    with pytest.raises(ConvertError, match="K01") as caught:
        load_source("onnx", tmp_path / "model", wanted=Wanted(positive="high"))
    assert "columns 0, 1, 2" in caught.value.detail
    assert "[output] classes" in caught.value.cure


def test_what_a_bundle_of_values_says(tmp_path: Path) -> None:
    make = skops_of(SK_VALUES[2][1], "values")
    path = write_project(
        tmp_path,
        "sklearn",
        make(),
        'decision = "value"\nthreshold = 150.0\nlow = 0.0\nhigh = 640.0',
        "values",
        "onnxruntime",
    )
    done = build(load_project(path), out=tmp_path / "a.wherry")
    parts = look(tmp_path / "a.wherry").parts
    assert parts.manifest.output.edges == pytest.approx(np.arange(1, 64) * 10.0)
    assert parts.manifest.output.threshold == 150.0
    assert parts.golden.tolerance > 1e-6
    assert {"mae", "rmse", "r2"} <= set(done.report.metrics["source"].to_dict())


def _of_two() -> bytes:
    return dumps(DecisionTreeClassifier(max_depth=3).fit(rows().raw, rows().codes > 0))


WRONG = [
    ("several classes, one score", skops_of(SK_CLASSES[0][1], "names"), Wanted(), "3 classes", "positive_class"),
    ("a class that is none", skops_of(SK_CLASSES[0][1], "names"), Wanted(positive="odd"), "no class 'odd'", "high"),
    ("a classifier's value", skops_of(SK_CLASSES[0][1], "names"), Wanted("value"), "no regressor", "leave"),
    ("a regressor's class", skops_of(SK_VALUES[0][1], "values"), Wanted("class"), "no classes", "value"),
    ("a regressor's probability", skops_of(SK_VALUES[0][1], "values"), Wanted(), "not in [0, 1]", "value"),
    ("names for too few columns", skops_of(SK_CLASSES[0][1], "names"), Wanted(classes=("low", "mid")), "3 columns", "each column"),
    ("names in another order", skops_of(SK_CLASSES[0][1], "names"), Wanted("class", classes=("low", "mid", "high")), "order: high, low, mid", "leave classes"),
    ("two classes", _of_two, Wanted("class", classes=("a", "b")), "two classes", "threshold"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "wanted", "says", "cure"),
    [row[1:] for row in WRONG],
    ids=[row[0] for row in WRONG],
)
def test_refused(make: Make, wanted: Wanted, says: str, cure: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(make())
    with pytest.raises(ConvertError, match="K01") as caught:
        load_source("sklearn", tmp_path / "model", wanted=wanted)
    assert says in caught.value.detail
    assert cure in caught.value.cure


def test_the_contract_of_these_tests_is_the_projects(tmp_path: Path) -> None:
    path = write_project(tmp_path, "sklearn", b"x", LIKELIEST, "names", "onnxruntime")
    found: Any = load_project(path).input
    assert found.names == CONTRACT.names
