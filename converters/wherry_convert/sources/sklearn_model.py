"""A model of scikit-learn: how it scores raw rows itself, and how it is lowered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract, RawMatrix

from .base import Lowered, Scores
from .sklearn_column import Column, Columns
from .sklearn_columns import source_columns, takes_frames, takes_objects, trace
from .sklearn_dense import FAMILIES, lower_dense
from .sklearn_growers import GROWERS, check_trees
from .sklearn_trees import lower_trees

_LIBRARIES: Final = ("scikit-learn", "skl2onnx", "onnx", "numpy")
_MODULES: Final = ("sklearn.", "xgboost.", "lightgbm.")
# what is often asked for, and why it is refused: class -> code, detail, cure
_REFUSED: Final = {
    "CalibratedClassifierCV": (
        "K02",
        "a CalibratedClassifierCV converts wrongly: float32 moves scores between isotonic steps",
        "ship the model that is inside; a calibration keeps the order, so move the threshold",
    ),
}


@dataclass(frozen=True)
class SklearnModel:
    """A fitted classifier of two classes, or a pipeline that ends in one.

    Attributes:
        estimator: the whole, as it was fitted.
        family: ``trees``, ``neural`` or ``linear``.
        versions: of the libraries that read it.
        digest: ``sha256:...`` of its file.
    """

    estimator: Any
    family: str
    versions: Mapping[str, str]
    digest: str

    @classmethod
    def wrap(cls, estimator: Any, digest: str) -> SklearnModel:
        """Check that it is a model that we know.

        Raises:
            ConvertError: K01 or K02.
        """
        final = _final(estimator)
        name = type(final).__name__
        if not type(final).__module__.startswith(_MODULES):
            raise ConvertError("K01", f"it holds a {name}, not a model of scikit-learn")
        if name in _REFUSED:
            code, detail, cure = _REFUSED[name]
            raise ConvertError(code, detail, cure=cure)
        if name not in GROWERS and name not in FAMILIES:
            known = ", ".join([*GROWERS, *FAMILIES])
            raise ConvertError("K01", f"{name} is not known", cure=f"use one of {known}")
        if len(getattr(final, "classes_", ())) != 2 or getattr(final, "n_outputs_", 1) != 1:
            raise ConvertError("K01", f"{name} should be fitted, with two classes")
        if name in GROWERS:
            check_trees(final)
        _one_thread(estimator)
        versions = {library: version(library) for library in _LIBRARIES}
        return cls(estimator, FAMILIES.get(name, "trees"), versions, digest)

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """Probabilities of the second class, by scikit-learn itself.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories.

        Returns:
            float64, shape (rows,).

        Raises:
            ConvertError: K07, the model does not take these rows.
        """
        table = self._table(raw, contract)
        if not len(table):
            return np.empty(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it was fitted with names, and gets an array
                found = self.estimator.predict_proba(table)
        except (ValueError, TypeError) as error:
            detail = " ".join(str(error).split())[:300]
            raise ConvertError("K07", f"the model does not take these rows: {detail}") from error
        return np.asarray(found[:, 1], np.float64)

    def _table(self, raw: RawMatrix, contract: InputContract) -> Any:
        columns = source_columns(contract, self.estimator)
        cells = [
            _cells(column, raw[:, contract.names.index(column.feature.name)]) for column in columns
        ]
        if takes_frames(self.estimator):
            return _frame({c.feature.name: v for c, v in zip(columns, cells, strict=True)})
        strings = any(column.names is not None for column in columns)
        if not strings and not takes_objects(self.estimator):
            return np.stack(cells, axis=1)
        table = np.empty(raw[:, : len(cells)].shape, object)
        for slot, values in enumerate(cells):
            table[:, slot] = values
        return table

    def lower(self, contract: InputContract) -> Lowered:
        """The neutral form.

        Raises:
            ConvertError: K01, K02, K06 or K07.
        """
        columns = trace(_before(self.estimator), source_columns(contract, self.estimator))
        final = _final(self.estimator)
        _check_columns(final, columns)
        if self.family == "trees":
            return lower_trees(final, columns, contract.names)
        return lower_dense(final, columns, contract.names)


def _cells(column: Column, values: NDArray[np.float64]) -> NDArray[Any]:
    """Raw values as the model was fitted on them: strings for a category."""
    if column.names is None:
        return values
    names = np.empty(len(column.names), object)
    names[:] = column.names
    # -1, a category that is not listed, reads the last cell, a gap the one before
    places = np.where(np.isnan(values), len(names) - 2, values).astype(np.int64)
    return np.asarray(names[places])


def _frame(cells: Mapping[str, NDArray[Any]]) -> Any:
    try:
        import pandas as pd  # type: ignore[import-untyped]  # it ships no types
    except ImportError as error:
        raise ConvertError(
            "K06",
            "the model picks columns by name, which it does only in pandas' data frames",
            cure="pip install 'wherry[sklearn-frames]'",
        ) from error
    return pd.DataFrame(
        {name: pd.Series(values, dtype=values.dtype) for name, values in cells.items()}
    )


def _final(estimator: Any) -> Any:
    while type(estimator).__name__ == "Pipeline":
        estimator = estimator.steps[-1][1]
    return estimator


def _before(estimator: Any) -> list[Any]:
    found: list[Any] = []
    while type(estimator).__name__ == "Pipeline":
        found += [step for _, step in estimator.steps[:-1]]
        estimator = estimator.steps[-1][1]
    own = getattr(estimator, "_preprocessor", None)  # HistGradientBoosting codes its categories
    return [*found, own]


def _one_thread(estimator: Any) -> None:
    # trees that are summed by several threads are summed in any order
    names = [name for name in estimator.get_params(deep=True) if name.split("__")[-1] == "n_jobs"]
    estimator.set_params(**dict.fromkeys(names, 1))


def _check_columns(final: Any, columns: Columns) -> None:
    if len(columns) != final.n_features_in_:
        detail = f"{len(columns)} columns reach a model that takes {final.n_features_in_}"
        raise ConvertError("K07", detail)
    strings = [column.feature.name for column in columns if column.names is not None]
    if strings:
        raise ConvertError(
            "K07",
            f"{strings[0]} is a category and reaches the model as a string",
            cure="code it with OneHotEncoder or OrdinalEncoder in the pipeline",
        )
    gaps = [column.feature.name for column in columns if column.gaps]
    if gaps and not final.__sklearn_tags__().input_tags.allow_nan:
        raise ConvertError(
            "K07",
            f"the contract allows {gaps[0]} to be missing, and {type(final).__name__} has no answer",
            cure="put a SimpleImputer first, or let the contract refuse it",
        )
