"""The encoder: from the raw matrix (double precision) to the graph's float32 tensor.

A short declarative list of steps, each on one feature, applied in order before the graph
by the same code on host and device. Exactness lives here: TFLite has neither strings nor
doubles, and a float32 cast flips decisions on large integers, so what needs double
precision happens before the cast.

| step | does | needs |
|---|---|---|
| ``codes`` | category index -> number | `values` (one for each category), `unseen`, `missing` |
| ``fill`` | missing -> number | `value` |
| ``offset`` | x - value, in float64 | `value` |
| ``clip`` | x into [low, high]; missing stays | `low`, `high` |
| ``rank`` | x -> how many edges are below it; missing stays | `edges`, ascending |

Column j of the tensor is feature j; the last act is the cast to float32, to nearest.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .features import InputContract, RawMatrix
from .wire import Fields

MAX_STEPS: Final = 4096
MAX_EDGES: Final = 65_535

Column = NDArray[np.float64]
Tensor = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """One step on one feature; `settings` holds the numbers that its operation needs."""

    op: str
    feature: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Step:
        """Read one step.

        Raises:
            ManifestError: M04 for an unknown operation or a setting of the wrong form.
        """
        operation = fields.choice("op", tuple(_READERS))
        feature = fields.text("feature")
        return cls(operation, feature, _READERS[operation](fields) | fields.rest())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"op": self.op, "feature": self.feature} | dict(self.settings)


def _read_codes(fields: Fields) -> dict[str, Any]:
    settings: dict[str, Any] = {"values": list(fields.numbers("values"))}
    for name in ("unseen", "missing"):
        value = fields.optional_number(name)
        if value is not None:
            settings[name] = value
    return settings


def _read_value(fields: Fields) -> dict[str, Any]:
    return {"value": fields.number("value")}


def _read_clip(fields: Fields) -> dict[str, Any]:
    low, high = fields.number("low"), fields.number("high")
    if not low <= high:
        raise fields.error("low", "not above high")
    return {"low": low, "high": high}


def _read_rank(fields: Fields) -> dict[str, Any]:
    edges = fields.numbers("edges", limit=MAX_EDGES)
    if any(b <= a for a, b in pairwise(edges)):
        raise fields.error("edges", "an ascending list")
    return {"edges": list(edges)}


_READERS: Final[dict[str, Callable[[Fields], dict[str, Any]]]] = {
    "codes": _read_codes,
    "fill": _read_value,
    "offset": _read_value,
    "clip": _read_clip,
    "rank": _read_rank,
}


def _codes(settings: Mapping[str, Any]) -> Callable[[Column], Column]:
    # index -1 (unseen) reads the last cell, and missing goes one further
    table = np.array(
        [
            *settings["values"],
            settings.get("missing", math.nan),
            settings.get("unseen", math.nan),
        ]
    )
    gap = len(settings["values"])

    def apply(column: Column) -> Column:
        return np.asarray(table[np.where(np.isnan(column), gap, column).astype(np.int64)])

    return apply


def _fill(settings: Mapping[str, Any]) -> Callable[[Column], Column]:
    return lambda column: np.where(np.isnan(column), settings["value"], column)


def _offset(settings: Mapping[str, Any]) -> Callable[[Column], Column]:
    return lambda column: np.asarray(column - settings["value"])


def _clip(settings: Mapping[str, Any]) -> Callable[[Column], Column]:
    return lambda column: np.asarray(np.clip(column, settings["low"], settings["high"]))


def _rank(settings: Mapping[str, Any]) -> Callable[[Column], Column]:
    edges = np.array(settings["edges"])

    def apply(column: Column) -> Column:
        ranks = np.searchsorted(edges, column, side="left").astype(np.float64)
        return np.where(np.isnan(column), np.nan, ranks)

    return apply


_APPLIERS: Final[dict[str, Callable[[Mapping[str, Any]], Callable[[Column], Column]]]] = {
    "codes": _codes,
    "fill": _fill,
    "offset": _offset,
    "clip": _clip,
    "rank": _rank,
}


def _codes_one(settings: Mapping[str, Any]) -> Callable[[float], float]:
    cells = [*settings["values"], settings.get("missing", math.nan)]
    unseen = settings.get("unseen", math.nan)
    gap = len(settings["values"])
    return lambda x: cells[gap] if math.isnan(x) else unseen if x < 0 else cells[int(x)]


def _fill_one(settings: Mapping[str, Any]) -> Callable[[float], float]:
    value: float = settings["value"]
    return lambda x: value if math.isnan(x) else x


def _offset_one(settings: Mapping[str, Any]) -> Callable[[float], float]:
    value: float = settings["value"]
    return lambda x: x - value


def _clip_one(settings: Mapping[str, Any]) -> Callable[[float], float]:
    low, high = settings["low"], settings["high"]
    return lambda x: low if x < low else min(x, high)


def _rank_one(settings: Mapping[str, Any]) -> Callable[[float], float]:
    edges = settings["edges"]
    return lambda x: x if math.isnan(x) else float(bisect_left(edges, x))


# the same steps for one value: for a single payment, numpy's calls cost more than their work
_ONE_APPLIERS: Final[dict[str, Callable[[Mapping[str, Any]], Callable[[float], float]]]] = {
    "codes": _codes_one,
    "fill": _fill_one,
    "offset": _offset_one,
    "clip": _clip_one,
    "rank": _rank_one,
}


@dataclass(frozen=True)
class Encoder:
    """The steps of a model, bound to the columns of its input contract."""

    contract: InputContract
    steps: tuple[Step, ...] = ()

    @classmethod
    def from_fields(cls, items: list[Fields], contract: InputContract, owner: Fields) -> Encoder:
        """Read the steps and check that each names a feature that it fits.

        Raises:
            ManifestError: M04.
        """
        steps = tuple(Step.from_fields(item) for item in items)
        kinds = {feature.name: feature for feature in contract.features}
        seen: set[str] = set()
        for step in steps:
            feature = kinds.get(step.feature)
            if feature is None:
                raise owner.error("encoder", f"about features; {step.feature!r} is none")
            if step.op == "codes":
                # it reads the value as an index, so nothing may have changed that before
                if feature.dtype != "category" or step.feature in seen:
                    raise owner.error("encoder", f"codes first, on a category: {step.feature!r}")
                if len(step.settings["values"]) != len(feature.categories):
                    raise owner.error("encoder", f"one code for each category of {step.feature!r}")
            seen.add(step.feature)
        return cls(contract, steps)

    def to_list(self) -> list[dict[str, Any]]:
        """The JSON form."""
        return [step.to_dict() for step in self.steps]

    @cached_property
    def _plan(self) -> tuple[tuple[int, Callable[[Column], Column]], ...]:
        places = {name: place for place, name in enumerate(self.contract.names)}
        return tuple((places[s.feature], _APPLIERS[s.op](s.settings)) for s in self.steps)

    @cached_property
    def _one_plan(self) -> tuple[tuple[int, Callable[[float], float]], ...]:
        places = {name: place for place, name in enumerate(self.contract.names)}
        return tuple((places[s.feature], _ONE_APPLIERS[s.op](s.settings)) for s in self.steps)

    def _one(self, raw: RawMatrix) -> RawMatrix:
        row: list[float] = raw[0].tolist()
        for place, apply in self._one_plan:
            row[place] = apply(row[place])
        return np.array([row])

    def _many(self, raw: RawMatrix) -> RawMatrix:
        table = raw.copy() if self._plan else raw
        for place, apply in self._plan:
            table[:, place] = apply(table[:, place])
        return table

    def encode(self, raw: RawMatrix) -> Tensor:
        """The graph's input.

        Args:
            raw: float64, shape (rows, features); it is left as it is.

        Returns:
            float32, shape (rows, features), C-contiguous.
        """
        table = self._one(raw) if len(raw) == 1 else self._many(raw)
        with np.errstate(over="ignore"):  # beyond float32 is infinity, as the cast has it
            return table.astype(np.float32)
