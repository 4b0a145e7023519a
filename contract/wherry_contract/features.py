"""The input contract: what an application hands in, by name, before anything is encoded.

A row is a set of named raw values: numbers in double precision, strings for categories,
null for missing. `InputContract.matrix` checks rows and turns them into the raw matrix
that the encoder, the drift counters and the fallback rule all read: float64, one column
for each feature in contract order, NaN for missing; a category is the index of its name
in the contract's list, or -1 if the list does not have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .wire import MANIFEST, Domain, Fields, canonical, sha256_digest

NAME: Final = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"
MAX_FEATURES: Final = 1024
LARGEST: Final = 3.4028234663852886e38  # float32 max: what no graph of ours can hold is refused
UNSEEN: Final = -1.0

RawMatrix = NDArray[np.float64]
RawValue = float | int | str | bool | None


@dataclass(frozen=True)
class Feature:
    """One named input.

    Attributes:
        name: the column's name, as the application sends it.
        dtype: ``number`` (double precision; true and false count as 1 and 0) or ``category``.
        unit: the unit in words, as ``EUR`` or ``count``; "" if it has none.
        minimum: values below are counted as out of range; they are scored all the same.
        maximum: values above likewise.
        missing: ``refuse`` or ``allow``; what the model makes of a gap is the encoder's matter.
        categories: the names that a category may take, in the order of their codes.
        unseen: ``refuse`` or ``allow`` a category that is not listed.
        supplied_by: who computes it: ``application``, ``backend`` or ``device``.
        period: ``week`` if the calendar moves it, so that only whole weeks are comparable.
    """

    name: str
    dtype: str = "number"
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    missing: str = "refuse"
    categories: tuple[str, ...] = ()
    unseen: str = "refuse"
    supplied_by: str = "application"
    period: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Feature:
        """Read one feature; unknown fields are kept in `extra`."""
        feature = cls(
            name=fields.text("name", pattern=NAME),
            dtype=fields.choice("dtype", ("number", "category"), "number"),
            unit=fields.text("unit", "", limit=32),
            minimum=fields.optional_number("minimum"),
            maximum=fields.optional_number("maximum"),
            missing=fields.choice("missing", ("refuse", "allow"), "refuse"),
            categories=fields.texts("categories", [], limit=4096),
            unseen=fields.choice("unseen", ("refuse", "allow"), "refuse"),
            supplied_by=fields.choice(
                "supplied_by", ("application", "backend", "device"), "application"
            ),
            period=fields.choice("period", ("", "week"), ""),
            extra=fields.rest(),
        )
        feature._check(fields)
        return feature

    def _check(self, fields: Fields) -> None:
        if (self.dtype == "category") != bool(self.categories):
            raise fields.error("categories", "the list of a category's names, and of no number's")
        if len(set(self.categories)) != len(self.categories):
            raise fields.error("categories", "a list without repeats")
        if (
            self.minimum is not None
            and self.maximum is not None
            and not self.minimum <= self.maximum
        ):
            raise fields.error("minimum", "not above maximum")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; what has its default value is left out."""
        document: dict[str, Any] = {"name": self.name, "dtype": self.dtype}
        for name in ("unit", "minimum", "maximum", "supplied_by", "period", "missing"):
            document[name] = getattr(self, name)
        if self.dtype == "category":
            document |= {"categories": list(self.categories), "unseen": self.unseen}
        kept = {name: value for name, value in document.items() if value not in ("", None)}
        return kept | dict(self.extra)

    def read(self, value: RawValue) -> float:
        """One raw value as its cell of the raw matrix.

        Raises:
            InputError: C02 missing, C03 wrong type, C04 not finite, C05 unseen category.
        """
        return self._reader(value)

    @cached_property
    def _reader(self) -> Callable[[RawValue], float]:
        return self._category_reader() if self.dtype == "category" else self._number_reader()

    def _number_reader(self) -> Callable[[RawValue], float]:
        def read(value: RawValue) -> float:
            if isinstance(value, float | int):
                number = _to_float(value)
                if -LARGEST <= number <= LARGEST:
                    return number
                if number == number:  # noqa: PLR0124 - the test for "is not NaN" without a call
                    raise InputError("C04", f"{self.name} is infinite or too large")
                value = None
            if value is None:
                return self._gap()
            raise InputError("C03", f"{self.name} should be a number, got a {type(value).__name__}")

        return read

    def _category_reader(self) -> Callable[[RawValue], float]:
        codes = {name: float(code) for code, name in enumerate(self.categories)}

        def read(value: RawValue) -> float:
            if value is None:
                return self._gap()
            if not isinstance(value, str):
                kind = type(value).__name__
                raise InputError("C03", f"{self.name} should be a string, got a {kind}")
            code = codes.get(value, UNSEEN)
            if code == UNSEEN and self.unseen == "refuse":
                raise InputError("C05", f"{self.name} has an unlisted value")
            return code

        return read

    def _gap(self) -> float:
        if self.missing == "refuse":
            raise InputError("C02", f"{self.name} is missing")
        return math.nan


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def to_table(rows: object) -> RawMatrix:
    """Numbers as an application holds them, copied; what they are worth `check_matrix` says.

    Args:
        rows: an array or sequences, None or NaN for missing.

    Returns:
        float64, C-contiguous.

    Raises:
        InputError: C03 something is no number, C04 one is too large, C06 rows differ in length.
    """
    try:
        found = np.asarray(rows)
    except ValueError:
        raise InputError("C06", "the values do not make a table") from None
    boxed = found.dtype.kind == "O"
    if found.dtype.kind not in "biufO" or (
        boxed and any(isinstance(value, str | bytes) for value in found.flat)
    ):
        raise InputError("C03", "there should be numbers only")
    try:
        return np.array(found, np.float64, order="C")
    except OverflowError:  # an integer of more than 308 digits
        raise InputError("C04", "a value is infinite or too large") from None
    except (TypeError, ValueError):
        raise InputError("C03", "there should be numbers only") from None


@dataclass(frozen=True)
class InputContract:
    """The features of a model, in the order of its columns.

    Attributes:
        name: the contract's own name; models that share it share their baselines.
        version: grows when a feature, its meaning or its edges change.
    """

    name: str
    version: int
    features: tuple[Feature, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> InputContract:
        """Read a contract.

        Raises:
            ManifestError: M04, or the error of the fields' own domain.
        """
        features = tuple(
            Feature.from_fields(item) for item in fields.tables("features", limit=MAX_FEATURES)
        )
        names = [feature.name for feature in features]
        if not names or len(set(names)) != len(names):
            raise fields.error("features", "a list of features with names of their own")
        return cls(
            name=fields.text("name", pattern=NAME),
            version=fields.integer("version", low=1),
            features=features,
            extra=fields.rest(),
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], domain: Domain = MANIFEST) -> InputContract:
        """Read a contract from a parsed document."""
        return cls.from_fields(Fields(document, "input", domain))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        features = [feature.to_dict() for feature in self.features]
        return {"name": self.name, "version": self.version, "features": features} | dict(self.extra)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names, in column order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def _columns(self) -> tuple[tuple[str, Callable[[RawValue], float]], ...]:
        return tuple((feature.name, feature.read) for feature in self.features)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def matrix(
        self, rows: Sequence[Mapping[str, RawValue]], *, also: frozenset[str] = frozenset()
    ) -> RawMatrix:
        """Check rows and lay them out as the raw matrix.

        Args:
            rows: one mapping of feature name to raw value for each row.
            also: further names that a row may carry; they are passed over.

        Returns:
            float64, shape (rows, features).

        Raises:
            InputError: C01 to C05, naming the first row and feature that is wrong.
        """
        table = np.empty((len(rows), len(self.features)))
        for place, row in enumerate(rows):
            if not row.keys() <= self._known:
                self._refuse_unknown(row.keys() - self._known - also, place)
            try:
                table[place] = [read(row.get(name)) for name, read in self._columns]
            except InputError as error:
                raise InputError(error.code, f"row {place}: {error.detail}") from None
        return table

    def _refuse_unknown(self, names: Iterable[str], place: int) -> None:
        for name in sorted(names):
            raise InputError("C01", f"row {place} has {name[:64]!r}")

    def columns(self, columns: Mapping[str, Sequence[RawValue]]) -> RawMatrix:
        """Like `matrix`, for rows that come as one sequence for each feature.

        Raises:
            InputError: C01 to C06.
        """
        self._refuse_unknown(columns.keys() - self._known, 0)
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1:
            raise InputError("C06", f"columns have the lengths {sorted(lengths)}")
        table = np.empty((lengths.pop(), len(self.features)))
        for place, feature in enumerate(self.features):
            values = columns.get(feature.name, [None] * len(table))
            table[:, place] = [feature.read(value) for value in values]
        return table

    def check_matrix(self, table: RawMatrix) -> RawMatrix:
        """Check a raw matrix that arrived as a tensor of numbers; categories are refused there.

        Args:
            table: float64, shape (rows, features).

        Raises:
            InputError: C02, C03, C04 or C06.
        """
        if table.ndim != 2 or table.shape[1] != len(self.features):
            wanted = f"(rows, {len(self.features)})"
            raise InputError("C06", f"the tensor has shape {table.shape}, expected {wanted}")
        self._refuse_categories()
        gaps: NDArray[np.bool_] = np.isnan(table)
        if bool((np.abs(table, where=~gaps, out=np.zeros_like(table)) > LARGEST).any()):
            raise InputError("C04", "the tensor holds infinite values")
        refused = [
            feature.name
            for place, feature in enumerate(self.features)
            if gaps[:, place].any() and feature.missing == "refuse"
        ]
        if refused:
            raise InputError("C02", f"{refused[0]} is missing")
        return table

    def _refuse_categories(self) -> None:
        strings = [feature.name for feature in self.features if feature.dtype == "category"]
        if strings:
            detail = f"{strings[0]} is a category: send named values, not one tensor"
            raise InputError("C03", detail)

    @cached_property
    def digest(self) -> str:
        """What two contracts share exactly when they mean the same columns."""
        return sha256_digest(canonical(self.to_dict()))
