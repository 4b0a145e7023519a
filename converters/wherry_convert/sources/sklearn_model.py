"""A model of scikit-learn: how it scores raw rows itself, and how it is lowered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install
from wherry_contract.features import InputContract, RawMatrix

from .base import Lowered, Network, Scores
from .outputs import ONE_PROBABILITY, Picked, Wanted, class_names, pick_class, pick_value
from .sklearn_blend import BLENDS, lower_blend, models_in
from .sklearn_column import Column
from .sklearn_columns import (
    before,
    check_columns,
    final_of,
    parts,
    source_columns,
    takes_frames,
    takes_objects,
    trace,
)
from .sklearn_dense import DENSE_REGRESSORS, FAMILIES, lower_dense
from .sklearn_growers import GROWERS, REGRESSORS, check_trees
from .sklearn_trees import lower_trees

_LIBRARIES: Final = ("scikit-learn", "skl2onnx", "onnx", "numpy")
_VALUES: Final = REGRESSORS | DENSE_REGRESSORS
_TWO_ALONE: Final = (*BLENDS, "AdaBoostClassifier")  # of more classes they are not known
_ONE_CLASS: Final = "fit it on one class against all others: label = (label == positive)"
_CURE: Final = "fit a classifier of two classes in its place, as GradientBoostingClassifier"
_MODULES: Final = ("sklearn.", "xgboost.", "lightgbm.")


@dataclass(frozen=True)
class SklearnModel:
    """A fitted classifier or regressor, or a pipeline of one.

    Attributes:
        estimator: the whole, as it was fitted.
        family: ``trees``, ``neural`` or ``linear``.
        versions: of the libraries that read it.
        digest: ``sha256:...`` of its file.
        picked: what of its output is looked at.
    """

    estimator: Any
    family: str
    versions: Mapping[str, str]
    digest: str
    picked: Picked

    @classmethod
    def wrap(cls, estimator: Any, digest: str, wanted: Wanted = ONE_PROBABILITY) -> SklearnModel:
        """Check that it is a model that we know.

        Raises:
            ConvertError: K01 or K02.
        """
        final = final_of(estimator)
        name = type(final).__name__
        if not type(final).__module__.startswith(_MODULES):
            raise ConvertError("K01", f"it holds a {name}, not a model of scikit-learn")
        classes = _check_outputs(final, wanted)
        models = models_in(final) if name in BLENDS else [final]
        for model in map(final_of, models):
            kind = type(model).__name__
            if kind not in GROWERS and kind not in FAMILIES:
                known = ", ".join([*GROWERS, *FAMILIES, *BLENDS])
                raise ConvertError("K01", f"{kind} is not known", cure=f"use one of {known}")
            span = check_trees(model) if kind in GROWERS else (-math.inf, math.inf)
        if classes:
            picked = pick_class(wanted, classes, name, _CURE)
        else:
            picked = pick_value(wanted, span, name, _CURE)
        _one_thread(estimator)
        versions = {library: version(library) for library in _LIBRARIES}
        return cls(estimator, FAMILIES.get(kind, "trees"), versions, digest, picked)

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """Probabilities, or a regressor's value, by scikit-learn itself.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories.

        Returns:
            float64, shape (rows,), or (rows, classes).

        Raises:
            ConvertError: K07, the model does not take these rows.
        """
        table = self._table(raw, contract)
        if not len(table):
            return self.picked.of(np.empty(0))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it was fitted with names, and gets an array
                if type(final_of(self.estimator)).__name__ in _VALUES:
                    return np.asarray(self.estimator.predict(table), np.float64)
                found = self.estimator.predict_proba(table)
        except (ValueError, TypeError) as error:
            detail = " ".join(str(error).split())[:300]
            raise ConvertError("K07", f"the model does not take these rows: {detail}") from error
        return self.picked.of(found)

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
        found = replace(self._lowered(contract), picked=self.picked)
        several = len(getattr(final_of(self.estimator), "classes_", ())) > 2
        if several and isinstance(found.body, Network):
            found = replace(found, body=replace(found.body, column=self.picked.column))
        return found

    def _lowered(self, contract: InputContract) -> Lowered:
        columns = trace(before(self.estimator), source_columns(contract, self.estimator))
        final = final_of(self.estimator)
        linear = self.family == "linear" and type(final).__name__ == "CalibratedClassifierCV"
        if type(final).__name__ in BLENDS and not linear:
            return lower_blend(final, columns, contract.names)
        check_columns(final, columns)
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
            cure=how_to_install("sklearn-frames"),
        ) from error
    return pd.DataFrame(
        {name: pd.Series(values, dtype=values.dtype) for name, values in cells.items()}
    )


def _check_outputs(final: Any, wanted: Wanted) -> tuple[str, ...]:
    """Names of its classes; none for a regressor."""
    name, classes = type(final).__name__, class_names(getattr(final, "classes_", ()))
    # a net has an output for each class
    net = getattr(final, "out_activation_", "") == "softmax"
    outputs = 1 if net else int(getattr(final, "n_outputs_", 1))
    if name in _VALUES and outputs == 1:
        return ()
    if len(classes) > 2 and name in _TWO_ALONE:
        raise ConvertError("K01", f"{name} knows {len(classes)} classes", cure=_ONE_CLASS)
    if len(classes) > 2 and outputs == 1 and hasattr(type(final), "predict_proba"):
        pick_class(wanted, classes, name, _ONE_CLASS)
        return classes
    if not hasattr(type(final), "predict_proba"):
        raise ConvertError(
            "K01",
            f"{name} gives no probability",
            cure="fit a classifier of two classes in its place, as GradientBoostingClassifier",
        )
    if len(classes) != 2 or outputs != 1:
        raise ConvertError("K01", f"{name} should be fitted, with two classes and one output")
    return classes


def _one_thread(estimator: Any) -> None:
    # trees that are summed by several threads are summed in any order
    names = [name for name in estimator.get_params(deep=True) if name.split("__")[-1] == "n_jobs"]
    estimator.set_params(**dict.fromkeys(names, 1))
    for part, _ in parts(estimator):
        if getattr(part, "n_jobs", None) is not None:
            part.n_jobs = 1
