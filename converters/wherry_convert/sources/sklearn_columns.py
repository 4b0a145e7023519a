"""Preprocessing of scikit-learn, understood column by column.

Each column that reaches the estimator is traced back to one raw feature: which encoder
steps it needs (fill, codes), and which maps in double precision follow. All maps known
here are monotone and rounded by IEEE rules, so that a threshold behind them has one exact
cut in the raw value; and all but a clip are linear, so that they fold into an offset and
a factor. What is not known is refused by name, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Step
from wherry_contract.errors import ConvertError
from wherry_contract.features import Feature, InputContract

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Map:
    """One step of a scaler: ``sub``, ``add``, ``div``, ``mul`` by a value, or ``clip``."""

    op: str
    value: float
    high: float = math.inf

    def apply(self, values: Doubles) -> Doubles:
        """As numpy does it in the scaler, in double precision."""
        if self.op == "clip":
            return np.clip(values, self.value, self.high)
        done: Doubles = _ARITHMETIC[self.op](values, self.value)
        return done


_ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    "sub": np.subtract,
    "add": np.add,
    "div": np.divide,
    "mul": np.multiply,
}


@dataclass(frozen=True)
class Column:
    """One column on its way to the estimator.

    Attributes:
        feature: the raw feature that it comes from.
        steps: encoder steps so far.
        maps: what follows them.
        strings: whether it still holds strings.
        default: the string that stands for a missing one.
        gaps: whether a missing value is still missing here.
    """

    feature: Feature
    steps: tuple[Step, ...] = ()
    maps: tuple[Map, ...] = ()
    strings: bool = False
    default: str | None = None
    gaps: bool = False

    def mapped(self, values: Doubles) -> Doubles:
        """The maps, applied to what the steps leave."""
        for step in self.maps:
            values = step.apply(values)
        return values

    def then(self, *maps: Map) -> Column:
        """The column behind further maps.

        Raises:
            ConvertError: K07 the column holds strings, K02 a map turns the order round.
        """
        if self.strings:
            raise ConvertError("K07", f"{self.feature.name} is a category and meets a scaler")
        for item in maps:
            if item.op in {"div", "mul"} and not 0 < item.value < math.inf:
                raise ConvertError("K02", f"the scale of {self.feature.name} is {item.value}")
        kept = tuple(item for item in maps if not _is_neutral(item))
        return replace(self, maps=self.maps + kept)


def _is_neutral(item: Map) -> bool:
    return item.op != "clip" and item.value == (0.0 if item.op in {"sub", "add"} else 1.0)


Columns = tuple[Column, ...]


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
    return tuple(
        Column(f, strings=f.dtype == "category", gaps=f.missing == "allow") for f in features
    )


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


def shared_steps(columns: Columns) -> tuple[Step, ...]:
    """The encoder steps of all columns, each feature's once.

    Raises:
        ConvertError: K01, a feature is used twice, prepared in two ways.
    """
    found: dict[str, tuple[Step, ...]] = {}
    for column in columns:
        name = column.feature.name
        if found.setdefault(name, column.steps) != column.steps:
            detail = f"{name} is used twice, with its gaps or codes handled in two ways"
            raise ConvertError("K01", detail)
    return tuple(step for steps in found.values() for step in steps)


def _pipeline(pipeline: Any, columns: Columns) -> Columns:
    return trace([step for _, step in pipeline.steps], columns)


def _imputer(imputer: Any, columns: Columns) -> Columns:
    if imputer.add_indicator:
        raise ConvertError("K01", "SimpleImputer with add_indicator is not known")
    marker = imputer.missing_values
    if not (marker is None or (isinstance(marker, float) and math.isnan(marker))):
        raise ConvertError("K02", f"SimpleImputer takes {marker!r} for missing; send null instead")
    return tuple(
        _filled(column, value)
        for column, value in zip(columns, imputer.statistics_, strict=True)
        if not _is_gap(value) or _refuse_empty(column)
    )


def _refuse_empty(column: Column) -> bool:
    name = column.feature.name
    raise ConvertError("K02", f"{name} had no value at all in training; leave it out")


def _filled(column: Column, value: Any) -> Column:
    name = column.feature.name
    if column.strings:
        return replace(column, default=str(value), gaps=False)
    if column.maps and column.gaps:
        raise ConvertError(
            "K02",
            f"{name} is scaled before its gaps are filled, which no encoder step can say exactly",
            cure="put SimpleImputer before the scaler",
        )
    if not column.gaps:
        return column
    step = Step("fill", name, {"value": float(value)})
    return replace(column, steps=(*column.steps, step), gaps=False)


def _is_gap(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


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


def _function(transformer: Any, columns: Columns) -> Columns:
    if transformer.func is not None:
        detail = "FunctionTransformer runs code of its own; prepare the feature before it is sent"
        raise ConvertError("K01", detail)
    return columns


def _column_transformer(transformer: Any, columns: Columns) -> Columns:
    found: list[Column] = []
    for _, step, places in transformer.transformers_:
        if isinstance(step, str) and step == "drop":
            continue
        found += trace([step], tuple(columns[place] for place in _places(places, len(columns))))
    return tuple(found)


def _places(chosen: Any, count: int) -> list[int]:
    if isinstance(chosen, slice):
        return list(range(count))[chosen]
    items = list(np.atleast_1d(np.asarray(chosen)))
    if any(isinstance(item, str) for item in items):
        raise ConvertError(
            "K01",
            "a ColumnTransformer that picks columns by name takes only data frames",
            cure="fit it on an array, with column numbers",
        )
    if items and isinstance(items[0], bool | np.bool_):
        return [place for place, keep in enumerate(items) if keep]
    return [int(item) % count for item in items]


def _ordinal(encoder: Any, columns: Columns) -> Columns:
    pairs = zip(columns, encoder.categories_, strict=True)
    return tuple(_coded(encoder, column, list(known)) for column, known in pairs)


def _coded(encoder: Any, column: Column, known: list[Any]) -> Column:
    feature = column.feature
    if not column.strings or column.steps or column.maps:
        raise ConvertError(
            "K02", f"OrdinalEncoder codes the number {feature.name}; leave it as it is"
        )
    codes = {str(name): float(code) for code, name in enumerate(known) if not _is_gap(name)}
    unknown = _unknown_code(encoder)
    values = [codes.get(name, unknown) for name in feature.categories]
    if None in values or (feature.unseen == "allow" and unknown is None):
        raise ConvertError(
            "K07",
            f"the contract allows values of {feature.name} that the model has not seen",
            cure="give OrdinalEncoder handle_unknown='use_encoded_value', or list only what it saw",
        )
    if any(math.isnan(value) for value in values if value is not None):
        raise ConvertError("K02", f"a listed category of {feature.name} is coded as missing")
    missing = _missing_code(encoder, column, known, codes, unknown)
    others = {"unseen": unknown, "missing": missing}
    settings: dict[str, Any] = {"values": values} | {
        name: code for name, code in others.items() if code is not None and not math.isnan(code)
    }
    gaps = (feature.missing == "allow" and "missing" not in settings) or (
        feature.unseen == "allow" and "unseen" not in settings
    )
    step = Step("codes", feature.name, settings)
    return replace(column, steps=(step,), strings=False, gaps=gaps)


def _unknown_code(encoder: Any) -> float | None:
    if encoder.handle_unknown == "use_encoded_value":
        return float(encoder.unknown_value)
    return None


def _missing_code(
    encoder: Any,
    column: Column,
    known: list[Any],
    codes: Mapping[str, float],
    unknown: float | None,
) -> float | None:
    if column.default is not None:
        code = codes.get(column.default, unknown)
    elif any(_is_gap(name) for name in known):
        code = float(encoder.encoded_missing_value)
    else:
        code = unknown
    if code is None and column.feature.missing == "allow":
        name = column.feature.name
        raise ConvertError("K07", f"the model has seen no missing {name}, the contract allows it")
    return code


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
    "OrdinalEncoder": _ordinal,
}
