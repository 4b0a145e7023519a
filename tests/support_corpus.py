"""What the corpus of known failures is made with: small models that other tools get wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support_boosted import assert_same, piped
from support_convert import fitted, numbers, scored, table, through_skops

from wherry.profiles import load_board, load_knowledge
from wherry.targets import BoardsRefuseError, Model, judge_board
from wherry.traits import traits
from wherry_contract.features import InputContract
from wherry_contract.manifest import BoardNeeds
from wherry_convert.quantize import Budgets, Quantized, quantize
from wherry_convert.sources import SourceModel
from wherry_convert.to_onnx import Converted, convert

GAPS = numbers(5, missing="allow")
SKOPS_TYPES = {
    "xgboost": ("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier"),
    "lightgbm": (
        "collections.OrderedDict",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
    ),
}


def library(name: str) -> Any:
    """A framework, or a skip."""
    return pytest.importorskip(name, reason=f"the extra {name} is absent; make test-frameworks")


def sklearn_same(model: Any, *, gaps: float = 0.0, runtime: str = "onnx") -> Converted:
    """A model on the table that hurts: the source's own scores, and no flip on any class of rows."""
    raw, label = table(gaps=gaps)
    source = through_skops(fitted(model, raw, label))
    contract = GAPS if gaps else numbers(5)
    assert np.abs(source.scores(raw, contract) - model.predict_proba(raw)[:, 1]).max() < 1e-12
    return assert_same(source, raw, contract, runtime)


def xgboost_source(model: Any, raw: Any, label: Any, **more: Any) -> SourceModel:
    """Through its own file."""
    from wherry_convert.sources.xgboost_file import load

    model.fit(raw, label, **more)
    data = bytes(getattr(model, "get_booster", lambda: model)().save_raw("ubj"))
    return load(data, (), trust_pickle=False)


def lightgbm_source(model: Any, raw: Any, label: Any, **more: Any) -> SourceModel:
    """Likewise."""
    from wherry_convert.sources.lightgbm_file import load

    model.fit(raw, label, **more)
    return load(model.booster_.model_to_string().encode(), (), trust_pickle=False)


def xgboost_same(*, gaps: float = 0.0, **settings: Any) -> Converted:
    """A classifier with these settings, against its own predict_proba."""
    model = library("xgboost").XGBClassifier(
        **{"n_estimators": 25, "max_depth": 4, "n_jobs": 1} | settings
    )
    raw, label = table(gaps=gaps)
    contract = GAPS if gaps else numbers(5)
    source = xgboost_source(model, raw, label)
    # of dart, XGBoost's own ways to predict differ in the last bit
    assert np.abs(source.scores(raw, contract) - model.predict_proba(raw)[:, 1]).max() < 2e-7
    return assert_same(source, raw, contract)


def lightgbm_same(*, gaps: float = 0.0, runtime: str = "onnx", **settings: Any) -> Converted:
    """Likewise."""
    model = library("lightgbm").LGBMClassifier(
        **{"n_estimators": 30, "n_jobs": 1, "verbose": -1} | settings
    )
    raw, label = table(gaps=gaps)
    contract = GAPS if gaps else numbers(5)
    source = lightgbm_source(model, raw, label)
    assert np.abs(source.scores(raw, contract) - model.predict_proba(raw)[:, 1]).max() < 1e-12
    return assert_same(source, raw, contract, runtime)


def behind_a_scaler(name: str) -> None:
    """A booster at the end of a pipeline whose scaler float32 would not hold."""
    module = library(name)
    booster = (
        module.XGBClassifier(n_estimators=25, max_depth=4, n_jobs=1)
        if name == "xgboost"
        else module.LGBMClassifier(n_estimators=25, n_jobs=1, verbose=-1)
    )
    raw, label = table()
    model = fitted(make_pipeline(StandardScaler(), booster), raw, label)
    source = piped(model, *SKOPS_TYPES[name])
    assert np.abs(source.scores(raw, GAPS) - model.predict_proba(raw)[:, 1]).max() < 1e-12
    assert_same(source, raw, GAPS)


def net(width: int = 64) -> tuple[Converted, Any]:
    """A perceptron on scaled columns, and float32 rows."""
    raw, label = table()
    raw = (raw - raw.mean(0)) / raw.std(0)
    model = fitted(MLPClassifier((width, 32), max_iter=20, random_state=0), raw, label)
    converted = convert(through_skops(model), numbers(5))
    return converted, converted.encoder.encode(raw)


def quantized(*methods: str, **budgets: Any) -> Quantized:
    """The net, by these methods within these budgets."""
    converted, rows = net()
    return quantize(converted, rows, methods=methods, budgets=Budgets(**budgets))


def forest() -> Converted:
    """Ten trees as ONNX."""
    raw, label = table()
    model = fitted(RandomForestClassifier(10, max_depth=5, random_state=0), raw, label)
    return convert(through_skops(model), numbers(5))


def on_board(converted: Converted, name: str, **changes: Any) -> None:
    """Refuse what this board cannot run, as a build does.

    Raises:
        BoardsRefuseError: Q06.
    """
    from dataclasses import replace
    from pathlib import Path

    needs = converted.needs
    model = Model(needs, BoardNeeds(), traits(converted.model, needs.kind))
    verdict = judge_board(replace(load_board(name, Path()), **changes), model, load_knowledge())
    if verdict.problems:
        raise BoardsRefuseError([verdict])


def one_hash(make: Callable[[], bytes]) -> None:
    """Three runs, one file."""
    assert len({hashlib.sha256(make()).hexdigest() for _ in range(3)}) == 1


def onnx_file(*nodes: Any, domain: str = "", shape: Any = ("rows", 2), **more: Any) -> bytes:
    """A file of these nodes from x to y, as somebody else may have made it."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
    )
    opsets = [helper.make_opsetid("", more.pop("opset", 17))]
    opsets += [helper.make_opsetid(domain, 1)] if domain else []
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=more.pop("ir", 8))
    return bytes(proto.SerializeToString())


def graph_of(converted: Converted) -> Any:
    """The graph that was made."""
    return onnx.load_model_from_string(converted.model)


def colors(rows: int = 1500) -> tuple[Any, Any, InputContract, Any]:
    """Cells of a number and a string, labels, their contract, and the raw matrix."""
    make = np.random.default_rng(4)
    names = np.array(["red", "green", "blue", "grey"], object)
    number, code = make.normal(size=rows) * 1e5, make.integers(0, 4, rows)
    label = (number / 1e5 + np.isin(code, [0, 2]) + make.normal(0, 0.3, rows) > 0.5) * 1
    cells = np.empty((rows, 2), object)
    cells[:, 0], cells[:, 1] = number, names[code]
    features = [
        {"name": "f0"},
        {"name": "color", "dtype": "category", "categories": names.tolist(), "unseen": "allow"},
    ]
    contract = InputContract.from_dict({"name": "test", "version": 1, "features": features})
    raw = contract.columns({"f0": number.tolist(), "color": cells[:, 1].tolist()})
    return cells, label, contract, raw


def strings_same(model: Any) -> None:
    """A pipeline over a number and a string, against scikit-learn on the cells themselves."""
    cells, label, contract, raw = colors()
    source = through_skops(fitted(model, cells, label))
    converted = convert(source, contract)
    wanted = model.predict_proba(cells)[:, 1]
    found = scored(converted).scores(raw)
    assert np.array_equal(found >= 0.5, wanted >= 0.5)
    assert np.abs(found - wanted).max() < 3e-6
    assert_same(source, raw, contract)
