"""A strict reader of plain tar, and a writer that always gives the same bytes.

The reader takes what `wherry pack` and skopeo write: ustar headers, plain files and
directories, nothing compressed, nothing sparse, no links, no long names. It is not
`tarfile` because that reads extended headers of any size into memory before anyone can
look at them, and a device has little of it; a header here is 512 bytes or refused.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from .errors import BundleError

BLOCK: Final = 512
_PAX_LIMIT: Final = 4096
_PLAIN = (b"0", b"\0")
_FOLDER = re.compile(r"blobs(?:/sha256)?/?")  # all the folders of a layout
_PAX_TIME = re.compile(rb"\d{1,3} [mac]time=[0-9.-]+")
_END_LIMIT: Final = 64 * 1024  # zeros behind the last entry; tar pads to 10 KiB


@dataclass(frozen=True)
class Entry:
    """A plain file in a tar: its name, where its bytes begin, how many there are."""

    name: str
    offset: int
    size: int


def write(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar of plain files, in the given order, with no date, owner or other chance in it."""
    import tarfile  # hosts write; a device only reads

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def entries(stream: BinaryIO, *, most: int) -> Iterator[Entry]:
    """The plain files of a tar, in order; directories are passed over.

    Args:
        stream: a file that can seek; its position is not kept.
        most: how many headers are read at the most.

    Raises:
        BundleError: B01 cut short, B03 no tar, B06 something else than a plain file.
    """
    end = stream.seek(0, os.SEEK_END)
    place = headers = 0
    while True:
        stream.seek(place)
        header = stream.read(BLOCK)
        if len(header) < BLOCK:
            raise BundleError("B01" if headers else "B03", f"it ends at byte {end} inside a header")
        if header == bytes(BLOCK):
            _check_end(stream, end - place)
            return
        headers += 1
        if headers > most:
            raise BundleError("B02", f"it has more than {most} entries")
        kind, entry = _parse(header, place + BLOCK)
        if entry.offset + entry.size > end:
            raise BundleError("B01", f"it ends at byte {end}, {entry.name[:80]!r} goes on")
        if kind == b"x":
            _check_pax(stream, entry)
        elif kind in _PLAIN:
            yield entry
        elif kind != b"5":
            raise BundleError("B06", f"{entry.name[:80]!r} has type {kind!r}")
        elif not _FOLDER.fullmatch(entry.name):
            raise BundleError("B05", f"folder {entry.name[:80]!r}")
        place = entry.offset + -(-entry.size // BLOCK) * BLOCK


def _parse(header: bytes, offset: int) -> tuple[bytes, Entry]:
    if header[257:262] != b"ustar":
        raise BundleError("B03", "it is no plain ustar archive")
    stored = _octal(header[148:156])
    if stored != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise BundleError("B03", f"the header at byte {offset - BLOCK} is damaged")
    prefix, name = _text(header[345:500]), _text(header[0:100])
    full = f"{prefix}/{name}" if prefix else name
    return header[156:157], Entry(full, offset, _octal(header[124:136]))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def _octal(raw: bytes) -> int:
    digits = raw.strip(b" \0")
    if not digits or not all(0x30 <= digit <= 0x37 for digit in digits):
        raise BundleError("B03", "a header holds a number that is not octal")
    return int(digits, 8)


def _check_pax(stream: BinaryIO, entry: Entry) -> None:
    """Let extended headers pass that only state times; refuse those that could say more."""
    if entry.size > _PAX_LIMIT:
        raise BundleError("B06", "an extended header is too large")
    stream.seek(entry.offset)
    for record in stream.read(entry.size).split(b"\n"):
        if record and not _PAX_TIME.fullmatch(record):
            raise BundleError("B06", "an extended header says more than a time")


def _check_end(stream: BinaryIO, left: int) -> None:
    """Let the padding of an archive pass, and nothing that hides behind its end."""
    if left > _END_LIMIT or stream.read(left).strip(b"\0"):
        raise BundleError("B07", "something stands behind the end of the archive")
