"""The corpus: what converters and quantizers are known to get wrong, and what Wherry makes of it.

Each row names where it was reported (a GitHub issue, or "measured" with the figures that
were seen with scikit-learn 1.9.1, skl2onnx 1.20.0, onnxmltools 1.16.0 and onnxruntime 1.32)
and what went wrong there. Wherry either gives the source's decisions (`RIGHT`: the row's own
asserts hold) or refuses with a code and a cure. Any other exception fails the row, so that
no bad input ends in a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from support_boosted import assert_same, need
from support_boosted import shop as categories
from support_convert import fitted, numbers, scored, table, through_skops
from support_corpus import (
    behind_a_scaler,
    forest,
    graph_of,
    library,
    lightgbm_same,
    lightgbm_source,
    net,
    on_board,
    one_hash,
    onnx_file,
    quantized,
    sklearn_same,
    strings_same,
    xgboost_same,
    xgboost_source,
)

from wherry_contract.errors import WherryError
from wherry_contract.manifest import RuntimeNeeds
from wherry_contract.versions import in_range
from wherry_convert.quantize import Budgets, quantize
from wherry_convert.sources import onnx_file as onnx_source
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import check_protobuf, convert


@dataclass(frozen=True)
class Refused:
    """The code of the refusal, and words of its cure."""

    code: str
    cure: str


@dataclass(frozen=True)
class Row:
    """What went wrong elsewhere; None for `outcome` where Wherry is right."""

    where: str
    wrong: str
    outcome: Refused | None
    act: Callable[[], Any]


RIGHT = None
RF = RandomForestClassifier(30, max_depth=6, random_state=0)
HIST = HistGradientBoostingClassifier(max_iter=25, random_state=0)
GB = GradientBoostingClassifier(n_estimators=25, random_state=0)
CODES = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
PREPARED = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())


# --- acts that need more than a line ---------------------------------------------------------


def small_probabilities() -> None:
    make = np.random.default_rng(2)
    raw = make.normal(size=(2000, 2)) * 10
    model = LogisticRegression(C=100)
    source = through_skops(fitted(model, raw, (raw[:, 0] + make.normal(size=2000) > 5) * 1))
    rows = np.c_[np.linspace(-12, 0, 500), np.zeros(500)]
    wanted = source.scores(rows, numbers(2))
    small = (wanted > 1e-10) & (wanted < 1e-6)
    assert small.any()
    found = scored(convert(source, numbers(2))).scores(rows)
    assert np.abs(found[small] / wanted[small] - 1).max() < 1e-4


def no_fused_link() -> None:
    raw, label = table()
    made = graph_of(convert(through_skops(fitted(GB, raw, label)), numbers(5)))
    versions = {item.domain: item.version for item in made.opset_import}
    assert versions["ai.onnx.ml"] < 5
    (trees,) = (node for node in made.graph.node if node.op_type.startswith("TreeEnsemble"))
    links = [item.s for item in trees.attribute if item.name == "post_transform"]
    assert links in ([], [b"NONE"])
    assert "Sigmoid" in {node.op_type for node in made.graph.node}


def no_zip_map() -> None:
    made = graph_of(forest())
    assert "ZipMap" not in {node.op_type for node in made.graph.node}
    (out,) = made.graph.output
    assert out.type.tensor_type.elem_type in {TensorProto.FLOAT, TensorProto.DOUBLE}


def old_enough() -> None:
    assert graph_of(forest()).ir_version <= 8
    assert graph_of(net()[0]).ir_version <= 8


def many_trees_in_a_regressor() -> None:
    raw, label = table()
    model = fitted(RandomForestRegressor(300, max_depth=5, random_state=0), raw, label * 1.0)
    source = through_skops(model)
    assert np.abs(source.scores(raw, numbers(5)) - model.predict(raw)).max() < 1e-12
    assert_same(source, raw, numbers(5))


def large_integers(runtime: str = "onnx") -> None:
    make = np.random.default_rng(0)
    second, number = 1.7e9 + make.integers(0, 4000, 4000), make.integers(2**52, 2**52 + 900, 4000)
    raw = np.c_[second, number].astype(float)
    label = ((second % 977 > 480) ^ (number % 211 > 90)) * 1
    model = library("lightgbm").LGBMClassifier(n_estimators=40, num_leaves=63, n_jobs=1, verbose=-1)
    source = lightgbm_source(model, raw, label)
    assert_same(source, raw, numbers(2), runtime)
    cast = source.scores(raw.astype(np.float32).astype(float), numbers(2))
    assert ((cast >= 0.5) != (source.scores(raw, numbers(2)) >= 0.5)).sum() > 100


def early_stopping(kind: str) -> None:
    raw, label = table()
    late = {"eval_set": [(raw[900:], label[900:])]}
    if kind == "xgboost":
        model = library(kind).XGBClassifier(
            n_estimators=80, early_stopping_rounds=5, learning_rate=0.9, n_jobs=1
        )
        source = xgboost_source(model, raw[:900], label[:900], verbose=False, **late)
        kept = model.best_iteration + 1
        assert kept < model.get_booster().num_boosted_rounds()
    else:
        stop = library(kind).early_stopping(5, verbose=False)
        model = library(kind).LGBMClassifier(
            n_estimators=200, learning_rate=0.5, n_jobs=1, verbose=-1
        )
        late = {"eval_X": raw[900:], "eval_y": label[900:]}
        source = lightgbm_source(model, raw[:900], label[:900], callbacks=[stop], **late)
        kept = model.best_iteration_
        assert kept < 200
    wanted = model.predict_proba(raw)[:, 1]
    assert np.abs(source.scores(raw, numbers(5)) - wanted).max() < 1e-12
    assert_same(source, raw, numbers(5))
    assert len(source.grown.forest.trees) == kept  # type: ignore[attr-defined]


def framework_categories(kind: str) -> None:
    module = library(kind)
    library("pandas")
    frame, contract, raw, label = categories()
    if kind == "xgboost":
        model = module.XGBClassifier(
            n_estimators=20, enable_categorical=True, max_cat_to_onehot=3, n_jobs=1
        )
        source = xgboost_source(model, frame, label)
    else:
        model = module.LGBMClassifier(n_estimators=20, min_data_per_group=5, n_jobs=1, verbose=-1)
        source = lightgbm_source(model, frame, label)
    wanted = model.predict_proba(frame)[:, 1]
    assert np.abs(source.scores(raw, contract) - wanted).max() < 1e-12
    assert_same(source, raw, contract)


def three_hashes() -> None:
    raw, label = table()
    model = library("lightgbm").LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)
    source = lightgbm_source(model, raw, label)
    one_hash(lambda: convert(source, numbers(5)).model)


def int8_is_really_there() -> None:
    done = quantized("int8")
    kinds = {item.data_type for item in graph_of(done.converted).graph.initializer}
    assert TensorProto.INT8 in kinds
    assert done.bytes_after < done.bytes_before


def four_bits_of_gemm() -> None:
    done = quantized("weights-int4")
    assert done.bytes_after * 2 < done.bytes_before
    assert done.kept.difference.largest > 0


def differences_are_told() -> None:
    done = quantized("int8", "float16")
    assert {item.method for item in done.variants} == {"int8", "float16"}
    (rows,) = {item.difference.rows for item in done.variants}
    assert rows >= 500
    assert max(item.difference.largest for item in done.variants) > 1e-6


def slower_is_measured() -> None:
    """A clock under which every quantized row takes twice the float model's time."""
    converted, rows = net()
    calls = iter(range(10**9))

    def clock() -> float:
        count = next(calls)  # four readings a round: who goes first changes by turns
        turn, place = divmod(count, 4)
        slow_first = turn % 2 == 1
        ends = (2.0 if slow_first else 1.0, 1.0 if slow_first else 2.0)
        return turn * 10 + (0.0, ends[0], ends[0], sum(ends))[place]

    budgets = Budgets(latency_ratio=1.0)
    quantize(converted, rows, methods=("int8",), budgets=budgets, clock=clock)


def bad_trees_behind_old_runtimes() -> None:
    """The versions that a bundle allows leave the wrong one out, and golden vectors run again."""
    needs = forest().needs
    assert not in_range("1.26.0", needs.version)
    assert in_range("1.28.0", needs.version)


def both_interpreters_are_named() -> None:
    need("tflite")
    raw, label = table()
    needs = convert_tflite(through_skops(fitted(RF, raw, label)), numbers(5)).needs
    assert in_range("2.14.0", needs.version)
    assert in_range("2.3.0", needs.also["ai-edge-litert"])


def armv7_runs_trees() -> None:
    need("tflite")
    raw, label = table()
    made = convert_tflite(through_skops(fitted(RF, raw, label)), numbers(5))
    on_board(made, "pos-armv7")


def deep_trees_stay_small() -> None:
    need("tflite")
    raw, label = table()
    model = fitted(RandomForestClassifier(5, random_state=0), raw, label)
    assert max(tree.get_depth() for tree in model.estimators_) > 10
    made = assert_same(through_skops(model), raw, numbers(5), "tflite")
    assert len(made.model) < 200_000


def load_onnx(data: bytes) -> Any:
    return onnx_source.load(data, (), trust_pickle=False)


def lite_traits(trait: str) -> None:
    """A net as TFLite whose file has a trait that tflite-runtime 2.14 computes wrongly."""
    need("tflite")
    converted, _ = net()
    needs = RuntimeNeeds("tflite", ">=2.14,<2.15", 3, {"FULLY_CONNECTED": 1}, ("FULLY_CONNECTED",))
    _judge(replace(converted, needs=needs), trait)


def _judge(converted: Any, trait: str) -> None:
    from pathlib import Path

    from wherry.profiles import load_board, load_knowledge
    from wherry.targets import BoardsRefuseError, Model, judge_board
    from wherry_contract.manifest import BoardNeeds

    model = Model(converted.needs, BoardNeeds(), frozenset({trait}))
    board = load_board("pos-armv7", Path())
    verdict = judge_board(board, model, load_knowledge())
    assert verdict.problems
    raise BoardsRefuseError([verdict])


def strings(step: Any, model: Any) -> Any:
    return make_pipeline(
        ColumnTransformer([("n", StandardScaler(), [0]), ("c", step, [1])], sparse_threshold=0),
        model,
    )


# --- the table ---------------------------------------------------------------------------

ROWS = [
    Row("onnx/sklearn-onnx#1253", "a forest forgets where missing values go: 274 flips", RIGHT,
        lambda: sklearn_same(RF, gaps=0.05)),
    Row("microsoft/onnxruntime#28557", "1.26.0 mispredicts forests that 1.25.1 got right", RIGHT,
        bad_trees_behind_old_runtimes),
    Row("microsoft/onnxruntime#27533", "the link is skipped where trees are leaves only", RIGHT,
        lambda: xgboost_same(gamma=1e9)),
    Row("microsoft/onnxruntime#26596", "the newer tree operator ignores its link", RIGHT,
        no_fused_link),
    Row("microsoft/onnxruntime#26281", "small probabilities become 0", RIGHT, small_probabilities),
    Row("microsoft/onnxruntime#4130", "regressors drift with the number of trees", RIGHT,
        many_trees_in_a_regressor),
    Row("onnx/sklearn-onnx#1074, #1183", "trees on doubles end in a type error", RIGHT,
        lambda: sklearn_same(GB)),
    Row("onnx/sklearn-onnx#1150", "doubles beside strings change scores on upgrade", RIGHT,
        lambda: strings_same(strings(OneHotEncoder(handle_unknown="ignore"), GB))),
    Row("onnx/sklearn-onnx#1151", "isotonic calibration of a forest: 1.7e-2 off", RIGHT,
        lambda: sklearn_same(CalibratedClassifierCV(RF, method="isotonic", cv=2))),
    Row("microsoft/onnxruntime#11892", "base_score is taken for a margin", RIGHT,
        lambda: xgboost_same(base_score=0.03)),
    Row("onnx/onnxmltools#517", "trees after the best round are converted", RIGHT,
        lambda: early_stopping("xgboost")),
    Row("microsoft/onnxruntime#5450", "likewise of LightGBM", RIGHT,
        lambda: early_stopping("lightgbm")),
    Row("onnx/onnxmltools#671", "XGBoost 2 and later: wrong probabilities of two classes", RIGHT,
        lambda: xgboost_same(scale_pos_weight=7)),
    Row("onnx/onnxmltools#309, #321", "LightGBM's categories end in a type error", RIGHT,
        lambda: framework_categories("lightgbm")),
    Row("onnx/sklearn-onnx#218", "ZipMap is slow, and no other runtime has it", RIGHT, no_zip_map),
    Row("microsoft/onnxruntime#20559", "the IR is newer than the board's runtime", RIGHT,
        old_enough),
    Row("microsoft/onnxruntime#20559", "likewise, of a file from elsewhere",
        Refused("K01", "export it with an older onnx"),
        lambda: load_onnx(onnx_file(helper.make_node("Sigmoid", ["x"], ["y"]), ir=99))),
    Row("microsoft/onnxruntime#24511", "there is no wheel for armv7",
        Refused("Q06", 'runtime = "tflite"'), lambda: on_board(forest(), "pos-armv7")),
    Row("microsoft/onnxruntime#8874", "so trees do not run there", RIGHT, armv7_runs_trees),
    Row("microsoft/onnxruntime#9195, #19466", "a reduced build lacks tree operators",
        Refused("Q06", "operators"),
        lambda: on_board(forest(), "pi4", operators={"onnxruntime": ("Add",)})),
    Row("onnx/sklearn-onnx#858", "the checker for boards crashes on trees", RIGHT,
        lambda: on_board(lightgbm_same(), "pi4")),
    Row("microsoft/onnxruntime#20052", "int8 is slower than float32, unnoticed",
        Refused("Q01", "raise a budget"), slower_is_measured),
    Row("PINTO0309/onnx2tf#444, #683", "int8 loses decisions, unnoticed",
        Refused("Q01", "raise a budget"), lambda: quantized("int8", flips=0)),
    Row("PINTO0309/onnx2tf#258", "nobody compares float and int8", RIGHT, differences_are_told),
    Row("PINTO0309/onnx2tf#740", "int8 is asked for and not made", RIGHT, int8_is_really_there),
    Row("tensorflow/tensorflow#41840, #44289", "a quantized model with hardly any scores left",
        Refused("Q01", "raise a budget"), lambda: quantized("int8-signed", distinct_share=0.5)),
    Row("microsoft/onnxruntime#15563", "Failed to find proper ai.onnx domain",
        Refused("K03", "quantize"), lambda: quantize(forest(), np.zeros((9, 5), np.float32))),
    Row("microsoft/onnxruntime#23600", "calibration rows of another shape: an opaque error",
        Refused("K07", "features"), lambda: quantize(net()[0], np.zeros((9, 3), np.float32))),
    Row("onnx/tensorflow-onnx#1032", "protobuf 7 breaks every conversion of HistGradientBoosting",
        Refused("K06", "protobuf<7"), lambda: check_protobuf("7.36.2")),
    Row("microsoft/Olive#686", "an operator that is not there is found at the end",
        Refused("K01", ""),
        lambda: load_onnx(onnx_file(
            helper.make_node("MatMulNBits", ["x"], ["y"], domain="com.microsoft"),
            domain="com.microsoft"))),
    Row("microsoft/hummingbird#524", "deep trees need minutes and gigabytes", RIGHT,
        deep_trees_stay_small),
    Row("onnx/sklearn-onnx#881, #1001", "one model, three files", RIGHT, three_hashes),
    Row("tensorflow/tflite-micro#2703", "no wheel of LiteRT for some boards", RIGHT,
        both_interpreters_are_named),
    Row("measured", "HistGradientBoosting does not convert at all beside scikit-learn 1.9", RIGHT,
        lambda: sklearn_same(HIST, gaps=0.05)),
    Row("measured", "its native categories: 669 of 10,000 decisions flip", RIGHT,
        lambda: strings_same(make_pipeline(
            ColumnTransformer([("c", CODES, [1])], remainder="passthrough"),
            HistGradientBoostingClassifier(max_iter=20, categorical_features=[0])))),
    Row("measured", "a scaler before a forest: 1e-2 off", RIGHT,
        lambda: sklearn_same(make_pipeline(StandardScaler(), RF))),
    Row("measured", "a scaler before gradient boosting: 1.1e-2 off", RIGHT,
        lambda: sklearn_same(make_pipeline(StandardScaler(), GB))),
    Row("measured", "a scaler before HistGradientBoosting: 0.12 off, decisions flip", RIGHT,
        lambda: sklearn_same(make_pipeline(PREPARED, HIST))),
    Row("measured", "a scaler before XGBoost: 122 of 10,000 decisions flip", RIGHT,
        lambda: behind_a_scaler("xgboost")),
    Row("measured", "a scaler before LightGBM: 2.6e-2 off", RIGHT,
        lambda: behind_a_scaler("lightgbm")),
    Row("measured", "an imputer on doubles: NOT_IMPLEMENTED", RIGHT,
        lambda: sklearn_same(make_pipeline(PREPARED, LogisticRegression()), gaps=0.05)),
    Row("measured", "a calibrated HistGradientBoosting: 3e-2 off", RIGHT,
        lambda: sklearn_same(CalibratedClassifierCV(HIST, method="isotonic", cv=2))),
    Row("measured", "XGBoost with other names than f0, f1, ... is refused", RIGHT,
        lambda: framework_categories("xgboost")),
    Row("measured", "XGBoost's dart: KeyError", RIGHT,
        lambda: xgboost_same(booster="dart", rate_drop=0.5, one_drop=True, gaps=0.05)),
    Row("measured", "LightGBM's thresholds in float32: 8.6e-3 off", RIGHT, lightgbm_same),
    Row("measured", "epoch seconds through float32: 6,430 of 40,000 decisions flip", RIGHT,
        large_integers),
    Row("measured", "MatMulNBits leaves Gemm as it is, without a word", RIGHT, four_bits_of_gemm),
    Row("measured", "dynamic int8 on tflite-runtime 2.14: wrong numbers, no error",
        Refused("Q06", "static int8"), lambda: lite_traits("dynamic int8")),
    Row("measured", "4-bit weights on tflite-runtime 2.14",
        Refused("Q06", "8 bits"), lambda: lite_traits("int4 weights")),
    Row("measured", "quantizing trees changes nothing, and says nothing",
        Refused("K03", ""), lambda: quantize(forest(), np.zeros((9, 5), np.float32),
                                             methods=("dynamic",))),
    Row("measured", "a net in float64 is cast without a word",
        Refused("K02", "float32"), lambda: load_onnx(_double())),
    Row("measured", "a net that is too small to gain grows",
        Refused("K02", "leave"), lambda: quantize(_tiny(), np.zeros((9, 5), np.float32))),
]  # fmt: skip


def _double() -> bytes:
    import onnx

    proto = onnx.load_model_from_string(onnx_file(helper.make_node("Sigmoid", ["x"], ["y"])))
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return bytes(proto.SerializeToString())


def _tiny() -> Any:
    raw, label = table(300)
    raw = (raw - raw.mean(0)) / raw.std(0)
    model = fitted(MLPClassifier((2,), max_iter=5, random_state=0), raw, label)
    return convert(through_skops(model), numbers(5))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.where}: {row.wrong}")
def test_right_or_refused(row: Row) -> None:
    if row.outcome is RIGHT:
        row.act()
        return
    with pytest.raises(WherryError) as caught:
        row.act()
    assert caught.value.code == row.outcome.code
    assert row.outcome.cure in caught.value.cure
    assert caught.value.cure, "a refusal says what to do"
    assert "Traceback" not in caught.value.render()


def test_the_corpus_is_large_enough() -> None:
    assert len({(row.where, row.wrong) for row in ROWS}) == len(ROWS) >= 45


def test_the_judge_sees_what_the_plain_converter_does() -> None:
    """The same comparison fails on skl2onnx's file, so that the rows above can fail too."""
    import onnxruntime
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    raw, label = table(gaps=0.05)
    model = fitted(RF, raw, label)
    made = to_onnx(
        model,
        initial_types=[("x", FloatTensorType([None, 5]))],
        options={id(model): {"zipmap": False}},
    )
    session = onnxruntime.InferenceSession(made.SerializeToString())
    found = session.run(None, {"x": raw.astype(np.float32)})[1][:, 1]
    assert np.abs(found - model.predict_proba(raw)[:, 1]).max() > 0.05
