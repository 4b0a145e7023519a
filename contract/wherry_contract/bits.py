"""Whole numbers in few bits: varints, and counts coded by how far they are from expected.

Specification: SPEC-compact.md. All arithmetic is on integers, so that every machine writes
and reads the same bits.
"""

from __future__ import annotations

from math import isqrt
from typing import Final, Protocol

LARGEST_BITS: Final = 53
_ESCAPE: Final = 24  # so many ones before a number that is written as it stands
_WIDTH_BITS: Final = 6
_CLASSES: Final = 64
_FORGET: Final = 64


class DamagedError(ValueError):
    """The bytes are not what a writer makes."""


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more come (LEB128)."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


class ByteReader:
    """Takes bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            DamagedError: there are not as many.
        """
        end = self._place + size
        if end > len(self._data):
            raise DamagedError("it ends too early")
        found = self._data[self._place : end]
        self._place = end
        return found

    def varint(self) -> int:
        """A number below 2^53.

        Raises:
            DamagedError: it is larger, or the bytes end.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > LARGEST_BITS:
                raise DamagedError("a number is too large")
        if value >> LARGEST_BITS:
            raise DamagedError("a number is too large")
        return value

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._place == len(self._data)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._place)


class Coder(Protocol):
    """Writes a number and gives it back, or reads it and ignores what it was handed."""

    def bits(self, value: int, width: int) -> int:
        """A number of so many bits, the highest first."""

    def run(self, length: int, most: int) -> int:
        """Ones, and a zero behind them unless there are `most`."""


class BitWriter:
    """A coder that writes."""

    def __init__(self) -> None:
        self._value = 1  # a leading one keeps leading zeros
        self._full: list[int] = []

    def bits(self, value: int, width: int) -> int:
        """Write."""
        self._value = self._value << width | value
        if self._value >> 512:
            self._full.append(self._value)
            self._value = 1
        return value

    def run(self, length: int, most: int) -> int:
        """Write."""
        if length < most:
            self.bits((1 << length + 1) - 2, length + 1)
        else:
            self.bits((1 << most) - 1, most)
        return length

    def to_bytes(self) -> bytes:
        """What was written, filled up with zeros to whole bytes."""
        text = "".join(f"{part:b}"[1:] for part in (*self._full, self._value))
        text += "0" * (-len(text) % 8)
        return int(text or "0", 2).to_bytes(len(text) // 8, "big")


class BitReader:
    """A coder that reads."""

    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def bits(self, value: int, width: int) -> int:  # noqa: ARG002 - it is what is asked for
        """Read.

        Raises:
            DamagedError: the bits end.
        """
        end = self._place + width
        if end > len(self._text):
            raise DamagedError("it ends too early")
        found = int(self._text[self._place : end] or "0", 2)
        self._place = end
        return found

    def run(self, length: int, most: int) -> int:  # noqa: ARG002 - it is what is asked for
        """Read.

        Raises:
            DamagedError: the bits end.
        """
        end = self._text.find("0", self._place, self._place + most)
        if end >= 0:
            found, self._place = end - self._place, end + 1
            return found
        self._place += most
        if self._place > len(self._text):
            raise DamagedError("it ends too early")
        return most


class CountCoder:
    """Codes counts by their distance from what was expected; Golomb-Rice, adaptive.

    A count c in 0 to `left`, of which e was expected, is folded into a number that is small
    if c is near e (zigzag, and straight on where one side is used up). It is written with k
    low bits and the rest in ones, k from the mean of such numbers so far, of those with an e
    of as many bits: as LOCO-I does it (Weinberger, Seroussi, Sapiro 2000). The mean begins
    where chance alone would have it.
    """

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        # 4 times 1.6 standard deviations of a Poisson count
        self._sums = [isqrt(29 << size) if size else 1 for size in range(_CLASSES)]
        self._seen = [4] * _CLASSES

    def count(self, value: int, expected: int, left: int) -> int:
        """One count.

        Args:
            value: what to write; a reader does not look at it.
            expected: 0 to `left`.
            left: the most that it can be.

        Raises:
            DamagedError: what was read is more.
        """
        if left == 0:
            return 0
        size = expected.bit_length()
        folded = self._number(_fold(value, expected, left), size)
        if folded > left:
            raise DamagedError("a count is more than there are rows")
        return _unfold(folded, expected, left)

    def _number(self, value: int, size: int) -> int:
        total, seen = self._sums[size], self._seen[size]
        low = 0
        while seen << low < total:
            low += 1
        high = self._coder.run(value >> low, _ESCAPE)
        if high >= _ESCAPE:
            width = self._coder.bits(value.bit_length(), _WIDTH_BITS)
            value = self._coder.bits(value, width)
        else:
            value = high << low | self._coder.bits(value & (1 << low) - 1, low)
        self._sums[size], self._seen[size] = total + value, seen + 1
        if seen + 1 == _FORGET:
            self._sums[size], self._seen[size] = self._sums[size] >> 1, _FORGET >> 1
        return value


def _fold(value: int, expected: int, left: int) -> int:
    near = min(expected, left - expected)
    away = abs(value - expected)
    if away > near:
        return near + away
    return 2 * away - (value > expected)


def _unfold(folded: int, expected: int, left: int) -> int:
    near = min(expected, left - expected)
    if folded > 2 * near:
        away = folded - near
        return expected + away if expected == near else expected - away
    away = (folded + 1) >> 1
    return expected + away if folded & 1 else expected - away
