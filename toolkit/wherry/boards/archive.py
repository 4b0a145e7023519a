"""An initial file system for Linux: the `newc` form of cpio. Pure.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = b"070701"
_END: Final = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """A file, or a folder if `data` is None."""

    name: str
    data: bytes | None = None
    executable: bool = False

    @property
    def mode(self) -> int:
        """Kind and rights, as stat(2) has them."""
        if self.data is None:
            return stat.S_IFDIR | 0o755
        return stat.S_IFREG | (0o755 if self.executable else 0o644)


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive, compressed; the same entries give the same bytes."""
    numbered = [_member(place, item) for place, item in enumerate(entries, 1)]
    return gzip.compress(b"".join([*numbered, _member(0, Entry(_END, b""))]), 1, mtime=0)


def _member(number: int, item: Entry) -> bytes:
    name, data = item.name.encode() + b"\0", item.data or b""
    mode = 0 if item.name == _END else item.mode
    # inode, mode, uid, gid, links, time, size, device (4 fields), length of the name, checksum
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
