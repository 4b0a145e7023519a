"""One column on its way to an estimator of scikit-learn, as a function of one raw value.

The raw value is a cell of the raw matrix: a double, NaN for missing, the code of a category
or -1 for one that is not listed. What scalers, imputers and encoders make of it is applied
here as numpy does it there, in double precision, so that whoever needs to know where a
decision changes can ask the function itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_contract.features import LARGEST, UNSEEN, Feature
from wherry_convert.forest import raw_cuts

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

    @property
    def neutral(self) -> bool:
        """Whether it leaves every value as it is."""
        return self.op != "clip" and self.value == (0.0 if self.op in {"sub", "add"} else 1.0)


_ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    "sub": np.subtract,
    "add": np.add,
    "div": np.divide,
    "mul": np.multiply,
}


@dataclass(frozen=True)
class Fill:
    """A missing value becomes `value`."""

    value: float

    def apply(self, values: Doubles) -> Doubles:
        """NaN becomes the value."""
        return np.where(np.isnan(values), self.value, values)


@dataclass(frozen=True)
class Swap:
    """A number that stands for a missing value becomes `value`."""

    marker: float
    value: float

    def apply(self, values: Doubles) -> Doubles:
        """The marker becomes the value."""
        return np.where(values == self.marker, self.value, values)


@dataclass(frozen=True)
class Lookup:
    """A table: each of `keys` (ascending) has a value, and so have others and gaps."""

    keys: tuple[float, ...]
    values: tuple[float, ...]
    other: float
    missing: float

    def apply(self, values: Doubles) -> Doubles:
        """The table's values."""
        keys, found = np.array(self.keys), np.full(values.shape, self.other)
        if len(keys):
            place = np.clip(np.searchsorted(keys, values), 0, len(keys) - 1)
            found = np.where(keys[place] == values, np.array(self.values)[place], found)
        return np.where(np.isnan(values), self.missing, found)


@dataclass(frozen=True)
class Column:
    """One column on its way to the estimator.

    Attributes:
        feature: the raw feature that it comes from.
        maps: what was done to it, in order.
        names: while it holds strings: those of the categories, of a gap (None or NaN) and
            of a category that is not listed; None once it holds numbers.
        gaps: whether a missing value can be here.
        points: raw values behind which it jumps, ascending; empty if it never falls.
        flat: whether it changes nowhere else.
        single: whether the estimator casts it to float32 before it compares.
    """

    feature: Feature
    maps: tuple[Map | Fill | Swap | Lookup, ...] = ()
    names: tuple[Any, ...] | None = None
    gaps: bool = False
    points: tuple[float, ...] = ()
    flat: bool = False
    single: bool = False

    def mapped(self, values: Doubles) -> Doubles:
        """What the estimator gets, of raw values."""
        for step in self.maps:
            values = step.apply(values)
        return values

    def compared(self, mapped: Doubles) -> Doubles:
        """What the estimator compares, of what it gets."""
        if not self.single:
            return mapped
        with np.errstate(over="ignore"):
            return mapped.astype(np.float32).astype(np.float64)

    def smooth(self, values: Doubles) -> Doubles:
        """Likewise, without what happens at single points: it never falls."""
        for step in self.maps:
            if isinstance(step, Map):
                values = step.apply(values)
        return values

    @property
    def linear(self) -> bool:
        """Whether it is only scaled, clipped and filled."""
        return all(isinstance(step, Map | Fill) for step in self.maps)

    def then(self, *maps: Map) -> Column:
        """The column behind the maps of a scaler.

        Raises:
            ConvertError: K07 the column holds strings, K02 a map turns the order round.
        """
        if self.names is not None:
            raise ConvertError(
                "K07",
                f"{self.feature.name} is a category and meets a scaler",
                cure="code it with OneHotEncoder or OrdinalEncoder in the pipeline",
            )
        for item in maps:
            if item.op in {"div", "mul"} and not 0 < item.value < math.inf:
                raise ConvertError("K02", f"the scale of {self.feature.name} is {item.value}")
        kept = tuple(item for item in maps if not item.neutral)
        return replace(self, maps=self.maps + kept)

    def swapped(self, swap: Swap) -> Column:
        """The column after an imputer that takes a number for missing."""
        return replace(self, maps=(*self.maps, swap), points=self._points_around([swap.marker]))

    def looked_up(self, table: Lookup, *, gaps: bool) -> Column:
        """The column behind a table."""
        points = self.points if self.flat else self._points_around(table.keys)
        maps = (*self.maps, table)
        if self.feature.dtype == "category":
            points = ()
        return replace(self, maps=maps, names=None, gaps=gaps, points=points, flat=True)

    def _points_around(self, keys: Sequence[float]) -> tuple[float, ...]:
        # x is at a key if it is above the number before it, and not above the key itself
        ends = np.unique([[np.nextafter(key, -np.inf), key] for key in keys])
        found = raw_cuts(lambda raw: self.smooth(raw) <= ends, len(ends), LARGEST)
        joined = np.union1d(found[np.isfinite(found)], np.array(self.points))
        return tuple(joined.tolist())

    def classes(self) -> Doubles:
        """One raw value of each class of values that it does not tell apart.

        Only for a category and for a flat column: the codes, or the last of each interval;
        then a gap and a category that is not listed, where the contract allows them.
        """
        feature = self.feature
        if feature.dtype == "category":
            found = [float(code) for code in range(len(feature.categories))]
        else:
            found = [*self.points, LARGEST]
        if feature.missing == "allow":
            found.append(math.nan)
        if feature.dtype == "category" and feature.unseen == "allow":
            found.append(UNSEEN)
        return np.array(found)


Columns = tuple[Column, ...]
