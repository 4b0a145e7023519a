"""Deltas between two versions of one file, and the list of those that a depot offers.

A delta is a BSDIFF40 file (Percival 2003, "Naive differences of executable code"): a list of
(add, copy, seek) with the differences of bytes and the new bytes, each bz2. Adding byte
differences is what makes it small for quantized weights that moved by a little, and its
seeks follow trees that were inserted. Any bspatch reads it; this one needs bz2 and numpy.
A delta is not trusted: whoever applies one checks the digest of what comes out.
"""

from __future__ import annotations

import bz2
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .errors import BundleError
from .oci import DIGEST
from .wire import Fields, compact, parse_json

SCHEMA: Final = "wherry/deltas"
LIST_LIMIT_BYTES: Final = 64 * 1024
LARGEST_SHARE: Final = 0.6  # of the compressed whole; a larger delta is not worth its trouble
_MAGIC: Final = b"BSDIFF40"
_HEAD: Final = struct.Struct("<8s8s8s8s")
_STEP_BYTES: Final = 24
_MOST_STEPS: Final = 1 << 20
_MOST: Final = 256


@dataclass(frozen=True)
class Delta:
    """One delta on offer: a blob of the depot that makes one blob out of another.

    Attributes:
        source: digest of the blob that the device must have.
        result: digest of the blob that comes out.
        digest: of the delta.
        size: of the delta, in bytes.
    """

    source: str
    result: str
    digest: str
    size: int


def write_deltas(deltas: list[Delta]) -> bytes:
    """The list of a bundle's deltas, ``deltas/<hex of the bundle>.json`` in the depot."""
    rows = [
        {"from": item.source, "to": item.result, "digest": item.digest, "size": item.size}
        for item in deltas
    ]
    return compact({"schema": f"{SCHEMA}/1", "deltas": rows})


def read_deltas(data: bytes) -> list[Delta]:
    """Read such a list; it is a hint, and signed by nobody.

    Raises:
        ManifestError: M01 to M04.
    """
    fields = Fields(parse_json(data, limit=LIST_LIMIT_BYTES, what="deltas"), "deltas")
    fields.schema(SCHEMA)
    return [
        Delta(
            source=item.text("from", pattern=DIGEST),
            result=item.text("to", pattern=DIGEST),
            digest=item.text("digest", pattern=DIGEST),
            size=item.integer("size", low=1),
        )
        for item in fields.tables("deltas")[:_MOST]
    ]


def apply_delta(old: bytes, delta: bytes, size: int) -> bytes:
    """What a delta makes of a file; the caller checks its digest.

    Args:
        old: the file that is there.
        delta: a BSDIFF40 file.
        size: of what should come out, in bytes; no more memory than that is taken for it.

    Raises:
        BundleError: B11, it is no delta or does not fit.
    """
    try:
        return _Patch(old, delta, size).apply()
    except (struct.error, OSError, EOFError, ValueError) as error:
        raise BundleError("B11", str(error)) from error


class _Patch:
    def __init__(self, old: bytes, delta: bytes, size: int) -> None:
        magic, *numbers = _HEAD.unpack_from(delta)
        steps, differences, new_size = (_number(item) for item in numbers)
        _need(magic == _MAGIC and new_size == size, "another head")
        _need(steps >= 0 and differences >= 0, "a length below nothing")
        _need(_HEAD.size + steps + differences <= len(delta), "it is cut off")
        body = memoryview(delta)[_HEAD.size :]
        self._old = np.frombuffer(old, np.uint8)
        self._size = size
        self._steps = _unpack(body[:steps], _STEP_BYTES * _MOST_STEPS)
        self._add = _unpack(body[steps : steps + differences], size)
        self._copy = _unpack(body[steps + differences :], size)

    def apply(self) -> bytes:
        new = np.empty(self._size, np.uint8)
        at = added = copied = place = 0
        for start in range(0, len(self._steps), _STEP_BYTES):
            step = self._steps[start : start + _STEP_BYTES]
            add, copy, seek = (_number(step[part : part + 8]) for part in (0, 8, 16))
            _need(add >= 0 and copy >= 0 and at + add + copy <= self._size, "a step too far")
            _need(added + add <= len(self._add), "differences are missing")
            _need(copied + copy <= len(self._copy), "bytes are missing")
            new[at : at + add] = np.frombuffer(self._add, np.uint8, add, added)
            self._add_old(new, at, add, place)
            at, added = at + add, added + add
            new[at : at + copy] = np.frombuffer(self._copy, np.uint8, copy, copied)
            at, copied = at + copy, copied + copy
            place += add + seek
        _need(at == self._size, "it ends too soon")
        return new.tobytes()

    def _add_old(self, new: Any, at: int, count: int, place: int) -> None:
        """Add the old bytes; beyond the old file's ends there are zeros."""
        first, last = max(place, 0), min(place + count, len(self._old))
        if first < last:
            shift = at - place
            new[first + shift : last + shift] += self._old[first:last]


def _need(holds: bool, what: str) -> None:  # noqa: FBT001 - like assert
    if not holds:
        raise ValueError(what)


def _number(raw: bytes) -> int:
    """An integer as bsdiff has it: 63 bits and a sign."""
    (value,) = struct.unpack("<Q", raw)
    return -(value & ~(1 << 63)) if value >> 63 else int(value)


def _unpack(packed: memoryview, most: int) -> bytes:
    if not packed.nbytes:
        return b""
    reader = bz2.BZ2Decompressor()
    found = reader.decompress(bytes(packed), most + 1)
    _need(len(found) <= most, "it unpacks to too much")
    _need(reader.eof, "it is cut off")
    return found
