"""The fallback rule: what answers when no model can, so that a payment never waits.

A rule is a list of comparisons on raw values; it flags a row when any of them (or all of
them) hold. It is data, not code: no expression is ever evaluated. A missing value
compares false. The same rule is the heuristic that every report holds against the model.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import ManifestError
from .features import InputContract, RawMatrix
from .wire import Fields

Flags = NDArray[np.bool_]

_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Condition:
    """`feature` `op` `value`; the value of a category is one of its names."""

    feature: str
    op: str
    value: float | str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Condition:
        """Read one condition."""
        feature, op = fields.text("feature"), fields.choice("op", tuple(_COMPARE))
        is_name = isinstance(fields.rest().get("value"), str)
        value = fields.text("value", limit=256) if is_name else fields.number("value")
        return cls(feature, op, value, fields.rest())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"feature": self.feature, "op": self.op, "value": self.value} | dict(self.extra)

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{self.feature} {self.op} {value}"


@dataclass(frozen=True)
class Rule:
    """Conditions joined by ``any`` or ``all``."""

    conditions: tuple[Condition, ...]
    join: str = "any"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields, contract: InputContract) -> Rule:
        """Read a rule and check its features against the contract.

        Raises:
            ManifestError: M04 in the fields' domain, M08 for a feature that is not there.
        """
        conditions = tuple(Condition.from_fields(item) for item in fields.tables("conditions"))
        rule = cls(conditions, fields.choice("join", ("any", "all"), "any"), fields.rest())
        for condition in conditions:
            rule._cell(condition, contract)
        return rule

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        conditions = [condition.to_dict() for condition in self.conditions]
        return {"join": self.join, "conditions": conditions} | dict(self.extra)

    def _cell(self, condition: Condition, contract: InputContract) -> tuple[int, float]:
        for place, feature in enumerate(contract.features):
            if feature.name == condition.feature:
                value, listed = condition.value, feature.categories
                if not isinstance(value, str) and feature.dtype == "number":
                    return place, float(value)
                if isinstance(value, str) and value in listed and condition.op == "==":
                    return place, float(listed.index(value))
        raise ManifestError("M08", f"the fallback rule's {condition} does not fit the input")

    def flags(self, raw: RawMatrix, contract: InputContract) -> Flags:
        """Which rows the rule flags.

        Args:
            raw: float64, shape (rows, features), in the contract's order.
            contract: says which column is which feature.

        Returns:
            bool, shape (rows,).
        """
        found = np.full(len(raw), self.join == "all" and bool(self.conditions))
        for condition in self.conditions:
            place, value = self._cell(condition, contract)
            with np.errstate(invalid="ignore"):
                holds = _COMPARE[condition.op](raw[:, place], value)
            found = found | holds if self.join == "any" else found & holds
        return np.asarray(found)

    def __str__(self) -> str:
        return f" {'or' if self.join == 'any' else 'and'} ".join(map(str, self.conditions))
