"""What the tests of output kinds share: a table with three classes and a value, models, projects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skops.io import dumps
from support_convert import numbers, table

CLASSES = ("high", "low", "mid")  # as scikit-learn orders them
CONTRACT = numbers(3)
PROJECT = """
[project]
name = "till"
version = "1"
counter = 1
[source]
kind = "{kind}"
path = "model"
[target]
runtime = "{runtime}"
[input]
name = "test"
version = 1
features = [{{ name = "f0" }}, {{ name = "f1" }}, {{ name = "f2" }}]
[data]
reference = "rows.parquet"
check = "check.parquet"
label = "{label}"
[output]
{output}
"""


@dataclass(frozen=True)
class Table:
    """Rows, their classes by name and by number, and values with a skew."""

    raw: NDArray[np.float64]
    names: NDArray[Any]
    codes: NDArray[np.int64]
    values: NDArray[np.float64]


@cache
def rows(count: int = 900) -> Table:
    """The table; the same in every test."""
    raw = table(count)[0][:, [0, 1, 3]]
    noise = np.random.default_rng(1).normal(0, 0.5, count)
    codes = np.digitize(np.log(raw[:, 0]) + noise, [2.5, 3.5])
    return Table(raw, np.array(["low", "mid", "high"])[codes], codes, raw[:, 0] * 3 + 5 + noise)


def skops_of(model: Any, labels: str) -> Callable[[], bytes]:
    """A fitted model of scikit-learn as a file's bytes."""

    def make() -> bytes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a net that has not converged is good enough here
            return dumps(model.fit(rows().raw, getattr(rows(), labels)))

    return make


def xgboost_of(objective: str, labels: str, **more: Any) -> Callable[[], bytes]:
    """A booster of XGBoost as a file's bytes."""

    def make() -> bytes:
        import xgboost

        settings = {"objective": objective, "max_depth": 4, "nthread": 1} | more
        matrix = xgboost.DMatrix(rows().raw, getattr(rows(), labels))
        return bytes(xgboost.train(settings, matrix, 10).save_raw("ubj"))

    return make


def lightgbm_of(objective: str, labels: str, **more: Any) -> Callable[[], bytes]:
    """A booster of LightGBM as a file's bytes."""

    def make() -> bytes:
        import lightgbm

        settings = {"objective": objective, "verbose": -1, "num_threads": 1, "num_leaves": 9} | more
        data = lightgbm.Dataset(rows().raw, getattr(rows(), labels))
        text: str = lightgbm.train(settings, data, 10).model_to_string()
        return text.encode()

    return make


def onnx_of(link: str, width: int) -> Callable[[], bytes]:
    """An ONNX file from elsewhere with `width` outputs behind an operator."""

    def make() -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        weights = np.random.default_rng(3).normal(size=(3, width)).astype(np.float32) / 9
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["z"]),
            helper.make_node(link, ["z"], ["y"], **({"axis": 1} if link == "Softmax" else {})),
        ]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
            [numpy_helper.from_array(weights, "w")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        made.ir_version = 8
        return bytes(made.SerializeToString())

    return make


def write_project(  # noqa: PLR0917 - what a project file says, in its order
    folder: Path, kind: str, model: bytes, output: str, label: str, runtime: str, more: str = ""
) -> Path:
    """A project whose reference and check rows are halves of the table."""
    import pyarrow as pa
    from pyarrow import parquet

    found = rows()
    columns: Mapping[str, Any] = {f"f{place}": found.raw[:, place] for place in range(3)} | {
        "names": found.names,
        "codes": found.codes,
        "values": found.values,
    }
    whole = pa.table({name: pa.array(values) for name, values in columns.items()})
    half = len(found.raw) // 2
    parquet.write_table(whole.slice(0, half), folder / "rows.parquet")
    parquet.write_table(whole.slice(half), folder / "check.parquet")
    (folder / "model").write_bytes(model)
    path = folder / "project.toml"
    text = PROJECT.format(kind=kind, output=output, label=label, runtime=runtime)
    path.write_text(text + more)
    return path
