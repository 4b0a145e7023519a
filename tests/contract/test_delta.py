"""Deltas: what they make, what they must not, and their list."""

from __future__ import annotations

import bz2
import random
import struct
from collections.abc import Callable
from dataclasses import replace

import bsdiff4
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from wherry_contract.delta import Delta, apply_delta, read_deltas, write_deltas
from wherry_contract.errors import BundleError, ManifestError

OLD = random.Random(1).randbytes(5000)
NEW = OLD[:2000] + b"new" * 100 + bytes(byte + 1 & 255 for byte in OLD[1800:])
DELTA = bsdiff4.diff(OLD, NEW)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_it_makes_the_new_file(old: bytes, new: bytes) -> None:
    assert apply_delta(old, bsdiff4.diff(old, new), len(new)) == new


def test_it_agrees_with_the_library() -> None:
    assert apply_delta(OLD, DELTA, len(NEW)) == NEW == bsdiff4.patch(OLD, DELTA)


def _number(value: int) -> bytes:
    return struct.pack("<Q", abs(value) | (1 << 63 if value < 0 else 0))


def crafted(steps: list[tuple[int, int, int]], add: bytes, copy: bytes, size: int) -> bytes:
    """A delta that says what it is told to."""
    packed = [
        bz2.compress(b"".join(_number(part) for step in steps for part in step)),
        bz2.compress(add),
        bz2.compress(copy),
    ]
    head = b"BSDIFF40" + _number(len(packed[0])) + _number(len(packed[1])) + _number(size)
    return head + b"".join(packed)


def test_beyond_the_old_file_there_are_zeros() -> None:
    delta = crafted([(4, 0, 0)], b"abcd", b"", 4)
    assert apply_delta(b"\x01\x01", delta, 4) == b"bccd"
    shifted = crafted([(0, 1, -2), (3, 0, 0)], b"abc", b"!", 4)
    assert apply_delta(b"\x01\x01", shifted, 4) == b"!abd"


HOSTILE: list[tuple[str, Callable[[], bytes]]] = [
    ("nothing", lambda: b""),
    ("another file", lambda: b"x" * 100),
    ("cut off in its head", lambda: DELTA[:20]),
    ("cut off in its body", lambda: DELTA[:-5]),
    ("another size", lambda: crafted([(0, 5, 0)], b"", b"12345", 5)),
    ("a huge size", lambda: crafted([(0, 4, 0)], b"", b"1234", 2**62)),
    ("a length below nothing", lambda: b"BSDIFF40" + _number(-1) + _number(0) + _number(4)),
    ("a step backwards", lambda: crafted([(-1, 5, 0)], b"", b"12345", 4)),
    ("a step too far", lambda: crafted([(0, 5, 0)], b"", b"12345", 4)),
    ("differences are missing", lambda: crafted([(4, 0, 0)], b"abc", b"", 4)),
    ("bytes are missing", lambda: crafted([(0, 4, 0)], b"", b"abc", 4)),
    ("half a step", lambda: crafted([(0, 3, 0)], b"", b"abc", 4)),
    ("a bomb of differences", lambda: crafted([(4, 0, 0)], bytes(10**8), b"", 4)),
    ("a bomb of steps", lambda: crafted([(0, 0, 0)] * (1 << 21), b"", b"abcd", 4)),
    ("no bz2", lambda: b"BSDIFF40" + _number(3) + _number(0) + _number(4) + b"abc"),
]


@pytest.mark.parametrize("make", [row[1] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile(make: Callable[[], bytes]) -> None:
    with pytest.raises(BundleError, match="B11"):
        apply_delta(b"\x01\x02\x03", make(), 4)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_garbage_is_refused_or_makes_what_was_asked_for(junk: bytes, place: int) -> None:
    spoiled = DELTA[:place] + junk + DELTA[place + len(junk) :]
    try:
        assert len(apply_delta(OLD, spoiled, len(NEW))) == len(NEW)
    except BundleError as error:
        assert error.code == "B11"  # noqa: PT017 - either is right


ROW = Delta("sha256:" + "a" * 64, "sha256:" + "b" * 64, "sha256:" + "c" * 64, 7)


def test_the_list_survives() -> None:
    assert read_deltas(write_deltas([ROW, ROW])) == [ROW, ROW]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"{}",
        write_deltas([ROW]).replace(b"/1", b"/2"),
        write_deltas([ROW]).replace(b"sha256:a", b"../../:a"),
        write_deltas([ROW]).replace(b":7", b":-7"),
    ],
    ids=["nothing", "a page", "no schema", "from the future", "a path", "a size below nothing"],
)
def test_a_list_that_is_none(text: bytes) -> None:
    with pytest.raises(ManifestError):
        read_deltas(text)


def test_the_specs_example() -> None:
    text = (ROOT / "contract" / "SPEC-delta.md").read_text()
    example = text.split("```json deltas\n")[1].split("```")[0]
    (found,) = read_deltas(example.encode())
    assert (found, found.size) == (replace(ROW, size=17215), 17215)
