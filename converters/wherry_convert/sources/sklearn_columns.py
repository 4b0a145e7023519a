"""Preprocessing of scikit-learn, understood column by column.

Each column that reaches the estimator is traced back to one raw feature, as a function of
that one value (`sklearn_column`). What is not known is refused by name, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from wherry_contract.errors import ConvertError
from wherry_contract.features import Feature, InputContract

from .sklearn_column import Column, Columns, Fill, Lookup, Map, Swap
from .sklearn_encoders import encode, is_gap


def source_columns(contract: InputContract, model: Any) -> Columns:
    """The features in the order in which the model was fitted.

    Raises:
        ConvertError: K07, the model knows other features.
    """
    wanted = int(getattr(model, "n_features_in_", len(contract.names)))
    names = getattr(model, "feature_names_in_", None)
    features = contract.features
    if names is not None:
        missing = sorted(set(map(str, names)) ^ set(contract.names))
        if missing:
            raise ConvertError("K07", f"model and contract differ in {', '.join(missing[:8])}")
        places = {feature.name: feature for feature in features}
        features = tuple(places[str(name)] for name in names)
    if len(features) != wanted:
        raise ConvertError("K07", f"the model takes {wanted} features, not {len(features)}")
    gap = gap_marker(model)
    return tuple(Column(f, names=_names(f, gap), gaps=f.missing == "allow") for f in features)


def _names(feature: Feature, gap: float | None) -> tuple[Any, ...] | None:
    if feature.dtype != "category":
        return None
    unlisted = "wherry: not listed"
    while unlisted in feature.categories:
        unlisted += "."
    return (*feature.categories, gap, unlisted)


def gap_marker(model: Any) -> float | None:
    """What stands for a missing string in the rows that the model was fitted on."""
    for part, _ in parts(model):
        known = [name for names in getattr(part, "categories_", ()) for name in names]
        if any(name is None for name in known):
            return None
        if hasattr(part, "statistics_") and part.missing_values is None:
            return None
    return math.nan


def parts(model: Any) -> Iterator[tuple[Any, Any]]:
    """Every fitted transformer and estimator in it, with the columns that it was given."""
    stack: list[tuple[Any, Any]] = [(model, None)]
    while stack:
        part, places = stack.pop()
        if part is None:
            continue
        yield part, places
        stack.append((getattr(part, "_preprocessor", None), None))
        if type(part).__name__ == "Pipeline":
            stack += [(step, None) for _, step in part.steps]
        elif type(part).__name__ == "CalibratedClassifierCV":
            stack += [(member.estimator, None) for member in part.calibrated_classifiers_]
        elif type(part).__name__ == "FrozenEstimator":
            stack.append((part.estimator, None))
        elif type(part).__name__ == "VotingClassifier":
            stack += [(member, None) for member in part.estimators_]
        elif type(part).__name__ == "ColumnTransformer":
            stack += [(step, chosen) for _, step, chosen in part.transformers_]


def takes_objects(model: Any) -> bool:
    """Whether it was fitted on an array of Python's own values, not of doubles."""
    known = [found for part, _ in parts(model) for found in getattr(part, "categories_", ())]
    return any(np.asarray(names).dtype == object for names in known)


def takes_frames(model: Any) -> bool:
    """Whether it picks columns by name, which it does only in data frames."""
    return any(isinstance(name, str) for _, places in parts(model) for name in _listed(places))


def _listed(places: Any) -> list[Any]:
    if isinstance(places, slice):
        return [places.start, places.stop]
    return list(np.atleast_1d(np.asarray(places, object)))


def trace(steps: Sequence[Any], columns: Columns) -> Columns:
    """Follow columns through transformers.

    Raises:
        ConvertError: K01 a transformer is not known, K02 it would convert wrongly, K07.
    """
    for step in steps:
        if step is None or (isinstance(step, str) and step == "passthrough"):
            continue
        handler = _HANDLERS.get(type(step).__name__)
        if handler is None or not type(step).__module__.startswith("sklearn."):
            known = ", ".join(sorted(_HANDLERS))
            raise ConvertError(
                "K01",
                f"{type(step).__name__} before the model is not known",
                cure=f"use one of {known}, or prepare the feature before it is sent",
            )
        columns = handler(step, columns)
    return columns


def final_of(estimator: Any) -> Any:
    """The model at the end of a pipeline."""
    while type(estimator).__name__ in {"Pipeline", "FrozenEstimator"}:
        frozen = type(estimator).__name__ == "FrozenEstimator"
        estimator = estimator.estimator if frozen else estimator.steps[-1][1]
    return estimator


def before(estimator: Any) -> list[Any]:
    """The transformers before it."""
    found: list[Any] = []
    while type(estimator).__name__ in {"Pipeline", "FrozenEstimator"}:
        if type(estimator).__name__ == "FrozenEstimator":
            estimator = estimator.estimator
            continue
        found += [step for _, step in estimator.steps[:-1]]
        estimator = estimator.steps[-1][1]
    own = getattr(estimator, "_preprocessor", None)  # HistGradientBoosting codes its categories
    return found if own is None else [*found, own]


def check_columns(final: Any, columns: Columns) -> None:
    """Check that a model can take the columns.

    Raises:
        ConvertError: K07.
    """
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


def _pipeline(pipeline: Any, columns: Columns) -> Columns:
    return trace([step for _, step in pipeline.steps], columns)


def _imputer(imputer: Any, columns: Columns) -> Columns:
    marker = imputer.missing_values
    found = [
        _filled(column, marker, value)
        for column, value in zip(columns, imputer.statistics_, strict=True)
        if not is_gap(value) or _refuse_empty(column)
    ]
    if imputer.add_indicator:
        found += [_flag(columns[int(place)], marker) for place in imputer.indicator_.features_]
    return tuple(found)


def _refuse_empty(column: Column) -> bool:
    name = column.feature.name
    raise ConvertError("K02", f"{name} had no value at all in training; leave it out")


def _filled(column: Column, marker: Any, value: Any) -> Column:
    if column.names is not None:
        names = tuple(value if _stands(name, marker) else name for name in column.names)
        return replace(column, names=names, gaps=column.gaps and is_gap(names[-2]))
    if is_gap(marker):
        return replace(column, maps=(*column.maps, Fill(float(value))), gaps=False)
    return column.swapped(Swap(_number(marker, column), float(value)))


def _stands(name: Any, marker: Any) -> bool:
    return is_gap(name) if is_gap(marker) else bool(name == marker)


def _number(marker: Any, column: Column) -> float:
    if isinstance(marker, str):
        detail = f"SimpleImputer takes {marker!r} for missing in the number {column.feature.name}"
        raise ConvertError("K07", detail, cure="let the contract refuse it, and send null instead")
    return float(marker)


def _flag(column: Column, marker: Any) -> Column:
    """1 where a value is missing."""
    if column.names is not None:
        cells = [1.0 if _stands(name, marker) else 0.0 for name in column.names]
        keys = tuple(map(float, range(len(cells) - 2)))
        table = Lookup(keys, tuple(cells[:-2]), other=cells[-1], missing=cells[-2])
    elif is_gap(marker):
        table = Lookup((), (), other=0.0, missing=1.0)
    else:
        table = Lookup((_number(marker, column),), (1.0,), other=0.0, missing=0.0)
    return column.looked_up(table, gaps=False)


def _vector(values: Any, columns: Columns, *, used: bool, neutral: float) -> list[float]:
    if not used or values is None:
        return [neutral] * len(columns)
    return [float(value) for value in values]


def _standard(scaler: Any, columns: Columns) -> Columns:
    means = _vector(scaler.mean_, columns, used=scaler.with_mean, neutral=0.0)
    scales = _vector(scaler.scale_, columns, used=scaler.with_std, neutral=1.0)
    return _subtract_divide(columns, means, scales)


def _robust(scaler: Any, columns: Columns) -> Columns:
    centers = _vector(scaler.center_, columns, used=scaler.with_centering, neutral=0.0)
    scales = _vector(scaler.scale_, columns, used=scaler.with_scaling, neutral=1.0)
    return _subtract_divide(columns, centers, scales)


def _subtract_divide(columns: Columns, low: list[float], scale: list[float]) -> Columns:
    return tuple(
        column.then(Map("sub", a), Map("div", b))
        for column, a, b in zip(columns, low, scale, strict=True)
    )


def _minmax(scaler: Any, columns: Columns) -> Columns:
    low, high = scaler.feature_range
    clip = (Map("clip", float(low), float(high)),) if scaler.clip else ()
    return tuple(
        column.then(Map("mul", float(a)), Map("add", float(b)), *clip)
        for column, a, b in zip(columns, scaler.scale_, scaler.min_, strict=True)
    )


def _maxabs(scaler: Any, columns: Columns) -> Columns:
    clip = (Map("clip", -1.0, 1.0),) if getattr(scaler, "clip", False) else ()
    return tuple(
        column.then(Map("div", float(scale)), *clip)
        for column, scale in zip(columns, scaler.scale_, strict=True)
    )


def _selector(selector: Any, columns: Columns) -> Columns:
    kept = selector.get_support()
    return tuple(column for column, keep in zip(columns, kept, strict=True) if keep)


def only_checks(func: Any) -> bool:
    """Whether a FunctionTransformer leaves its values as they are."""
    from sklearn.utils.validation import check_array

    return func is None or (isinstance(func, partial) and func.func is check_array)


def _function(transformer: Any, columns: Columns) -> Columns:
    if not only_checks(transformer.func):
        raise ConvertError(
            "K01",
            "FunctionTransformer runs code of its own",
            cure="prepare the feature before it is sent",
        )
    return columns


def _column_transformer(transformer: Any, columns: Columns) -> Columns:
    found: list[Column] = []
    weights = transformer.transformer_weights or {}
    for name, step, places in transformer.transformers_:
        if isinstance(step, str) and step == "drop":
            continue
        chosen = _places(places, len(columns), getattr(transformer, "feature_names_in_", ()))
        made = trace([step], tuple(columns[place] for place in chosen))
        weight = weights.get(name)
        found += made if weight is None else [c.then(Map("mul", float(weight))) for c in made]
    return tuple(found)


def _places(chosen: Any, count: int, names: Sequence[Any]) -> list[int]:
    where = {str(name): place for place, name in enumerate(names)}
    if isinstance(chosen, slice):
        start = where.get(chosen.start, chosen.start)
        # a slice of names holds its end
        stop = where[chosen.stop] + 1 if isinstance(chosen.stop, str) else chosen.stop
        return list(range(count))[start : stop : chosen.step]
    items = _listed(chosen)
    if items and isinstance(items[0], bool | np.bool_):
        return [place for place, keep in enumerate(items) if keep]
    return [where[item] if isinstance(item, str) else int(item) % count for item in items]


_HANDLERS: Final[dict[str, Callable[[Any, Columns], Columns]]] = {
    "Pipeline": _pipeline,
    "SimpleImputer": _imputer,
    "StandardScaler": _standard,
    "RobustScaler": _robust,
    "MinMaxScaler": _minmax,
    "MaxAbsScaler": _maxabs,
    "VarianceThreshold": _selector,
    "SelectKBest": _selector,
    "SelectPercentile": _selector,
    "FunctionTransformer": _function,
    "ColumnTransformer": _column_transformer,
    "OneHotEncoder": encode,
    "OrdinalEncoder": encode,
    "TargetEncoder": encode,
}
