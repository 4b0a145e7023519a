"""Version ranges as the manifest states them: ``>=1.27,<1.29``, numbers and dots only."""

from __future__ import annotations

import re
from itertools import zip_longest

_NUMBERS = r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,3}"
_CLAUSE = re.compile(rf"(>=|<=|==|!=|<|>)({_NUMBERS})")


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(_NUMBERS, version)
    if not match:
        raise ValueError(f"{version[:40]!r} is not a version")
    return tuple(int(part) for part in match[0].split("."))


def _compare(left: str, right: str) -> int:
    for a, b in zip_longest(_numbers(left), _numbers(right), fillvalue=0):
        if a != b:
            return -1 if a < b else 1
    return 0


def in_range(version: str, wanted: str) -> bool:
    """Whether `version` satisfies every clause of `wanted`; an empty range takes all.

    Raises:
        ValueError: either text is not of the form above.
    """
    tests = {
        ">=": lambda order: order >= 0,
        "<=": lambda order: order <= 0,
        "==": lambda order: order == 0,
        "!=": lambda order: order != 0,
        "<": lambda order: order < 0,
        ">": lambda order: order > 0,
    }
    for clause in filter(None, wanted.replace(" ", "").split(",")):
        match = _CLAUSE.fullmatch(clause)
        if not match:
            raise ValueError(f"{clause[:40]!r} is not a version clause like >=1.27")
        if not tests[match[1]](_compare(version, match[2])):
            return False
    return True
