"""Universal Binary JSON, as XGBoost writes it: read strictly, from bytes nobody vouches for.

Format: https://ubjson.org (draft 12). Numbers are big-endian; a container may state the type
and the count of its items. Optional parts that XGBoost never writes (no-ops, high-precision
numbers, counted objects) are refused.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np

MAX_DEPTH: Final = 32
_NUMBERS: Final = {
    ord("i"): ">i1",
    ord("U"): ">u1",
    ord("I"): ">i2",
    ord("l"): ">i4",
    ord("L"): ">i8",
    ord("d"): ">f4",
    ord("D"): ">f8",
}
_PLAIN: Final = {ord("Z"): None, ord("T"): True, ord("F"): False}


def read_ubjson(data: bytes) -> Any:
    """Parse a document; arrays of numbers become lists.

    Raises:
        ValueError: it is no such document, or holds what XGBoost never writes.
    """
    reader = _Reader(data)
    found = reader.value(0)
    if reader.place != len(data):
        raise ValueError("there is more after the document")
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def _take(self, count: int) -> bytes:
        end = self.place + count
        if count < 0 or end > len(self._data):
            raise ValueError("the document ends too early")
        part = self._data[self.place : end]
        self.place = end
        return part

    def _peek(self) -> int:
        return self._data[self.place] if self.place < len(self._data) else -1

    def value(self, depth: int) -> Any:
        marker = self._take(1)[0]
        if marker in _NUMBERS:
            return self._numbers(marker, 1)[0]
        if marker in _PLAIN:
            return _PLAIN[marker]
        if depth >= MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if marker == ord("S"):
            return self._text()
        if marker == ord("C"):
            return self._take(1).decode("ascii")
        if marker == ord("["):
            return self._array(depth + 1)
        if marker == ord("{"):
            return self._object(depth + 1)
        raise ValueError(f"byte {marker} begins no value")

    def _numbers(self, marker: int, count: int) -> list[Any]:
        kind = np.dtype(_NUMBERS[marker])
        found: list[Any] = np.frombuffer(self._take(count * kind.itemsize), kind).tolist()
        return found

    def _length(self) -> int:
        marker = self._take(1)[0]
        if marker not in _NUMBERS or marker in b"dD":
            raise ValueError("a length is no integer")
        return int(self._numbers(marker, 1)[0])

    def _text(self) -> str:
        return self._take(self._length()).decode()

    def _array(self, depth: int) -> list[Any]:
        kind = None
        if self._peek() == ord("$"):
            kind = struct.unpack(">xB", self._take(2))[0]
        if self._peek() == ord("#"):
            self._take(1)
            count = self._length()
            if kind in _NUMBERS:
                return self._numbers(kind, count)
            if kind is not None or not 0 <= count <= len(self._data):
                raise ValueError("an array of a type that is not known, or too long")
            return [self.value(depth) for _ in range(count)]
        if kind is not None:
            raise ValueError("an array has a type and no count")
        found = []
        while self._peek() != ord("]"):
            found.append(self.value(depth))
        self._take(1)
        return found

    def _object(self, depth: int) -> dict[str, Any]:
        found = {}
        while self._peek() != ord("}"):
            name = self._text()
            found[name] = self.value(depth)
        self._take(1)
        return found
