"""What a model gives for each row, and what of it becomes a bundle's score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_contract.manifest import MAX_CLASSES

DECISIONS: Final = ("threshold", "class", "value")
_ROUNDING: Final = 1e-6  # of a sum of float32 leaves
_BETWEEN: Final = 'say [output] decision = "class", or which one counts with positive_class'
_VALUE: Final = 'say [output] decision = "value"'


@dataclass(frozen=True)
class Wanted:
    """What the project decides by.

    Attributes:
        decision: ``threshold`` for a probability, ``class`` for the likeliest of several,
            ``value`` for a regressor's value.
        positive: which class's probability is the score; "" for the second of two.
        classes: names for the columns of a file that has none.
    """

    decision: str = "threshold"
    positive: str = ""
    classes: tuple[str, ...] = ()


ONE_PROBABILITY: Final = Wanted()


@dataclass(frozen=True)
class Picked:
    """What of a model's output is looked at.

    Attributes:
        column: of its table; -1 for all of it, or for the only one.
        classes: names of the columns, if all are looked at.
    """

    column: int = -1
    classes: tuple[str, ...] = ()

    def of(self, table: NDArray[Any]) -> NDArray[np.float64]:
        """The scores in a source's own answer: float64 (rows,), or (rows, classes).

        Args:
            table: shape (rows,) or (rows, columns).
        """
        found = np.asarray(table, np.float64)
        if self.classes:
            return found.reshape(len(found), len(self.classes))
        if found.ndim == 1:
            return found
        return np.asarray(found[:, max(0, self.column)])


ALL: Final = Picked()


def class_names(values: Iterable[Any]) -> tuple[str, ...]:
    """Names of classes as labels have them; 1.0 is 1."""
    return tuple(
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        for value in (getattr(value, "item", lambda value=value: value)() for value in values)
    )


def pick_class(wanted: Wanted, names: tuple[str, ...], what: str, cure: str = "") -> Picked:
    """What is looked at of a classifier, of which one probability or one of each is known.

    Args:
        wanted: what the project decides by.
        names: of its classes, at least two.
        what: the model, in words.
        cure: what else to do, in words.

    Raises:
        ConvertError: K01.
    """
    names = _named(wanted.classes, names, what)
    if wanted.decision == "value":
        raise ConvertError("K01", f"{what} is no regressor", cure='leave decision = "value" out')
    if wanted.positive and wanted.positive not in names:
        listed = ", ".join(names[:20])
        raise ConvertError(
            "K01", f"{what} knows no class {wanted.positive!r}", cure=f"say {listed}"
        )
    if len(names) == 2:
        return _of_two(wanted, names, what)
    if not 2 < len(names) <= MAX_CLASSES or len(set(names)) != len(names):
        raise ConvertError("K01", f"{what} has {len(names)} classes, or two of one name")
    if wanted.decision == "class":
        return Picked(classes=names)
    if wanted.positive:
        return Picked(column=names.index(wanted.positive))
    also = f", or {cure}" if cure else ""
    raise ConvertError(
        "K01",
        f"{what} knows {len(names)} classes, and one threshold cannot decide between them",
        cure=f"{_BETWEEN}{also}",
    )


def _named(said: tuple[str, ...], own: tuple[str, ...], what: str) -> tuple[str, ...]:
    """What the project calls the columns, or what the model does.

    Raises:
        ConvertError: K01.
    """
    if not said:
        return own
    if len(said) != len(own):
        detail = f"{what} has {len(own)} columns, and [output] names {len(said)} classes"
        raise ConvertError("K01", detail, cure="name each column once, in order")
    if said != own != class_names(range(len(own))) and sorted(said) == sorted(own):
        detail = f"{what} has its classes in another order: {', '.join(own[:20])}"
        raise ConvertError(
            "K01", detail, cure="leave classes out of [output]: the model knows them"
        )
    return said


def _of_two(wanted: Wanted, names: tuple[str, ...], what: str) -> Picked:
    if wanted.decision == "class":
        raise ConvertError(
            "K01", f"{what} knows two classes", cure="leave decision out, and give a threshold"
        )
    if wanted.positive == names[0]:
        raise ConvertError(
            "K01",
            f"{what} gives the probability of {names[1]}",
            cure=f"say positive_class = {names[1]!r}, and turn the threshold around",
        )
    return Picked(column=1)


def pick_value(wanted: Wanted, span: tuple[float, float], what: str, cure: str = "") -> Picked:
    """What is looked at of a regressor: its value.

    Args:
        wanted: what the project decides by.
        span: lowest and highest value that it may give.
        what: the model, in words.
        cure: what else to do, in words.

    Raises:
        ConvertError: K01.
    """
    if wanted.decision == "class" or wanted.positive:
        raise ConvertError("K01", f"{what} knows no classes", cure=_VALUE)
    low, high = span
    if wanted.decision == "threshold" and (low < -_ROUNDING or high > 1 + _ROUNDING):
        raise ConvertError(
            "K01",
            f"its scores may lie anywhere in [{low:.3g}, {high:.3g}], not in [0, 1]",
            cure=f"{_VALUE}, or {cure}" if cure else _VALUE,
        )
    return Picked()
