"""Selectors: which devices are meant, in one line that can be typed, stored and shown again. Pure.

    board=pi3,site!=7,group=pilot      all of these
    site=paris|lyon                    one of these values
    site, !site                        has such a label, has none

`device` is the id, and `group` any group that the device is in, as `wherry group` or a label
says; every other name is a label.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from wherry_contract.errors import RolloutError

LABEL: Final = r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,62}"
MOST_TERMS: Final = 32
LIMIT: Final = 2000
_TERM: Final = re.compile(r"(!?)([^!=|]+)(?:(!?=)([^!=]+))?")


@dataclass(frozen=True)
class Term:
    """One condition: a label's value is, or with `negated` is not, one of `values`.

    Attributes:
        values: ascending; without any, the condition is that there is such a label.
    """

    name: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def __str__(self) -> str:
        """As it is typed."""
        if not self.values:
            return f"{'!' if self.negated else ''}{self.name}"
        return f"{self.name}{'!=' if self.negated else '='}{'|'.join(self.values)}"

    def holds(self, values: Collection[str]) -> bool:
        """Whether a device that has these values under the name is meant."""
        found = any(value in values for value in self.values) if self.values else bool(values)
        return found != self.negated


@dataclass(frozen=True)
class Selector:
    """Conditions that a device must meet, all of them; without any, every device is meant."""

    terms: tuple[Term, ...] = ()

    def __str__(self) -> str:
        """As it is typed; `parse` reads it back."""
        return ",".join(map(str, self.terms))

    def holds(self, device: str, labels: Mapping[str, str], groups: Collection[str] = ()) -> bool:
        """Whether a device is meant.

        Args:
            device: its id.
            labels: as it reports them.
            groups: that operators have put it into.
        """
        return all(term.holds(_values(term.name, device, labels, groups)) for term in self.terms)


def _values(
    name: str, device: str, labels: Mapping[str, str], groups: Collection[str]
) -> Collection[str]:
    if name == "device":
        return (device,)
    own = {labels[name]} if name in labels else set()
    return own | set(groups) if name == "group" else own


def parse(text: str) -> Selector:
    """Read a selector; "" means every device.

    Raises:
        RolloutError: R06, it cannot be read.
    """
    if len(text) > LIMIT:
        raise RolloutError("R06", f"a selector has at most {LIMIT} characters")
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > MOST_TERMS:
        raise RolloutError("R06", f"a selector has at most {MOST_TERMS} conditions")
    return Selector(tuple(_term(part) for part in parts))


def _term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    words = [match[2], *(match[4] or "x").split("|")] if match else [""]
    words = [word.strip() for word in words]
    if (
        match is None
        or (match[1] and match[3])
        or not all(re.fullmatch(LABEL, word) for word in words)
    ):
        cure = "write it like board=pi3,site!=7,group=pilot|early"
        raise RolloutError("R06", f"the selector's part {text[:80]!r} cannot be read", cure=cure)
    values = tuple(sorted(set(words[1:]))) if match[3] else ()
    return Term(words[0], values, negated=bool(match[1]) or match[3] == "!=")
