"""Reading and writing JSON at the boundary: limits first, then parsing, then types.

Nothing here guesses. A document is refused when it is too large, too deep, says a
name twice, holds NaN or Infinity, or is not UTF-8. Fields are taken out by name and
checked one by one; what is left over is kept, so that reading and writing a document
back loses nothing (python-tuf, ADR 0008).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from .errors import ManifestError, MessageError, SetupError, TrustError, WherryError
from .when import to_seconds

SLUG: Final = r"[a-z0-9][a-z0-9-]{0,62}"  # ids of devices, families, rollouts
MAX_DEPTH: Final = 24  # levels of nesting; our deepest own document has 7
# possessive, so that a string which never ends costs one pass and no more
_DEPTH_SCAN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
_LONG = 512  # bytes; looking through more costs more than looking at each fraction
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# what could become infinite as a double, and halves of surrogate pairs: looked at more closely
_MAY_OVERFLOW = re.compile(rb"[eE]\+?\d\d|\d{300}")
_MAY_BE_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Domain:
    """Which errors the readers below raise: a leaf of the tree and four of its codes."""

    leaf: type[WherryError]
    malformed: str
    limit: str
    newer: str
    field: str


MANIFEST: Final = Domain(ManifestError, "M01", "M02", "M03", "M04")
MESSAGE: Final = Domain(MessageError, "G01", "G02", "G03", "G01")
TRUST: Final = Domain(TrustError, "T09", "T09", "T08", "T09")
PROJECT: Final = Domain(SetupError, "H01", "H01", "H01", "H01")
SETTINGS: Final = Domain(SetupError, "H08", "H08", "H08", "H08")


def sha256_digest(data: bytes) -> str:
    """The OCI digest text of `data`: ``sha256:`` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical(document: Mapping[str, Any]) -> bytes:
    """Serialise with sorted names and no white space: one document, one byte string."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def compact(document: Mapping[str, Any]) -> bytes:
    """Serialise in the given order, without white space, so that `schema` stays first."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _bound_of_depth(data: bytes) -> int | None:
    """At most so deep, for a document without escapes; None if that takes a closer look.

    Every second part between quotes is a string, and what is left of the rest is brackets.
    """
    left = b"".join(data.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    for rounds in range(MAX_DEPTH // 2):  # each takes away one level, or two
        if not left:
            return 2 * rounds
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    return None


def _depth(data: bytes) -> int:
    depth = deepest = 0
    if b"\\" not in data and (bound := _bound_of_depth(data)) is not None:
        return bound
    for token in _DEPTH_SCAN.finditer(data):
        first = token.group()[0]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice[:64]!r} occurs twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def _load(data: bytes) -> Any:
    document = json.loads(
        data.decode(),
        object_pairs_hook=_no_duplicates,
        parse_constant=_no_constant,
        parse_float=_finite if len(data) > _LONG or _MAY_OVERFLOW.search(data) else None,
    )
    if b"\\" in data and _MAY_BE_HALF.search(data):
        json.dumps(document, ensure_ascii=False).encode()  # half a pair cannot be written back
    return document


def parse_json(data: bytes, *, limit: int, what: str, domain: Domain = MANIFEST) -> dict[str, Any]:
    """Parse one JSON object, limits first.

    Args:
        data: the document.
        limit: the most bytes that are looked at.
        what: the document's name, for the error.
        domain: which errors to raise.

    Raises:
        WherryError: `domain.limit` if too large or too deep, `domain.malformed` otherwise.
    """
    if len(data) > limit:
        raise domain.leaf(domain.limit, f"{what} has {len(data)} bytes, at most {limit} are read")
    if _depth(data) > MAX_DEPTH:
        raise domain.leaf(domain.limit, f"{what} is nested more than {MAX_DEPTH} levels deep")
    try:
        document = _load(data)
    except (ValueError, RecursionError) as error:
        raise domain.leaf(domain.malformed, f"{what}: {error}") from error
    if not isinstance(document, dict):
        raise domain.leaf(domain.malformed, f"{what} is not a JSON object")
    return document


_INT: Final = {int}


def all_counts(values: list[Any]) -> bool:
    """Whether all are integers in [0, 2**53); each step is one loop in C."""
    if not values:
        return True
    return set(map(type, values)) == _INT and min(values) >= 0 and max(values) < 2**53


class Fields:
    """Takes typed fields out of a parsed object and remembers what nobody asked for.

    Every getter raises the domain's field error, with the field's path in it.
    """

    def __init__(self, document: Mapping[str, Any], what: str, domain: Domain = MANIFEST) -> None:
        self._left = dict(document)
        self._what = what
        self._domain = domain

    def error(self, name: str, wanted: str) -> WherryError:
        """The error for field `name`, which should have been `wanted`."""
        return self._domain.leaf(self._domain.field, f"{self._what}.{name} should be {wanted}")

    def _take(self, name: str, default: object) -> Any:
        if name in self._left:
            return self._left.pop(name)
        if default is _REQUIRED:
            raise self.error(name, "there")
        return default

    def peek(self, name: str) -> Any:
        """A value as it stands, not taken yet; None if it is not there."""
        return self._left.get(name)

    def text(
        self, name: str, default: object = None, *, pattern: str = "", limit: int = 4096
    ) -> str:
        """A string of at most `limit` characters that matches `pattern` as a whole."""
        value = self._take(name, _REQUIRED if default is None else default)
        if not isinstance(value, str) or len(value) > limit:
            raise self.error(name, f"a string of at most {limit} characters")
        if pattern and value != default and not re.fullmatch(pattern, value):
            raise self.error(name, f"a string like {pattern}")
        return value

    def integer(
        self, name: str, default: object = None, *, low: int = 0, high: int = 2**53 - 1
    ) -> int:
        """An integer in [low, high]; the default upper end is what every JSON reader holds."""
        value = self._take(name, _REQUIRED if default is None else default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"an integer from {low} to {high}")
        return value

    def moment(self, name: str) -> float:
        """A time, RFC 3339 in UTC, as Unix seconds."""
        return self._seconds(name, self.text(name, limit=40))

    def optional_moment(self, name: str) -> float | None:
        """Likewise; None where there is none."""
        text = self.text(name, "", limit=40)
        return self._seconds(name, text) if text else None

    def _seconds(self, name: str, text: str) -> float:
        try:
            return to_seconds(text)
        except ValueError as error:
            raise self.error(name, "a time like 2026-11-24T07:54:29Z") from error

    def number(self, name: str, default: object = None) -> float:
        """A finite number."""
        value = self._take(name, _REQUIRED if default is None else default)
        if not _is_finite(value):
            raise self.error(name, "a finite number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """A finite number, or nothing."""
        value = self._take(name, _ABSENT)
        if value is _ABSENT or value is None:
            return None
        if not _is_finite(value):
            raise self.error(name, "a finite number or null")
        return float(value)

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """True or false."""
        value = self._take(name, _REQUIRED if default is None else default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def items(self, name: str, default: object = None, *, limit: int = 4096) -> list[Any]:
        """A list of at most `limit` items."""
        value = self._take(name, _REQUIRED if default is None else default)
        if not isinstance(value, list) or len(value) > limit:
            raise self.error(name, f"a list of at most {limit} items")
        return value

    def texts(self, name: str, default: object = None, *, limit: int = 4096) -> tuple[str, ...]:
        """A list of strings."""
        values = self.items(name, default, limit=limit)
        if not all(isinstance(value, str) for value in values):
            raise self.error(name, "a list of strings")
        return tuple(values)

    def counts(self, name: str, default: object = None, *, limit: int = 4096) -> tuple[int, ...]:
        """A list of integers that are not negative."""
        values = self.items(name, default, limit=limit)
        if not all_counts(values):
            raise self.error(name, "a list of counts")
        return tuple(values)

    def numbers(self, name: str, default: object = None, *, limit: int = 4096) -> tuple[float, ...]:
        """A list of finite numbers."""
        values = self.items(name, default, limit=limit)
        if not all(_is_finite(value) for value in values):
            raise self.error(name, "a list of finite numbers")
        return tuple(float(value) for value in values)

    def mapping(self, name: str, default: object = None) -> dict[str, Any]:
        """An object, as it stands."""
        value = self._take(name, _REQUIRED if default is None else default)
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return value

    def table(self, name: str, default: object = None) -> Fields:
        """An object, as `Fields` of its own."""
        return Fields(self.mapping(name, default), f"{self._what}.{name}", self._domain)

    def tables(self, name: str, default: object = None, *, limit: int = 4096) -> list[Fields]:
        """A list of objects."""
        values = self.items(name, default, limit=limit)
        if not all(isinstance(value, dict) for value in values):
            raise self.error(name, "a list of objects")
        return [
            Fields(value, f"{self._what}.{name}[{place}]", self._domain)
            for place, value in enumerate(values)
        ]

    def schema(self, name: str) -> int:
        """Check the `schema` field against ``<name>/<version>``; only version 1 is known.

        Raises:
            WherryError: `domain.newer` for a later version of the same schema.
        """
        value = self._take("schema", _REQUIRED)
        match = re.fullmatch(r"([a-z/-]+)/([1-9][0-9]{0,5})(?:\+[a-z]+)?", str(value))
        if not match or match[1] != name:
            raise self.error("schema", f"{name}/1")
        if int(match[2]) != 1:
            raise self._domain.leaf(
                self._domain.newer, f"{self._what} has schema {value}, known is {name}/1"
            )
        return 1

    def choice(self, name: str, choices: tuple[str, ...], default: object = None) -> str:
        """One of a few words."""
        value = self._take(name, _REQUIRED if default is None else default)
        if value not in choices:
            raise self.error(name, "one of " + ", ".join(choices))
        return str(value)

    def rest(self) -> dict[str, Any]:
        """The fields that nobody asked for; they are written back unchanged."""
        return self._left


_REQUIRED: Final = object()
_ABSENT: Final = object()


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 1.7976931348623157e308
