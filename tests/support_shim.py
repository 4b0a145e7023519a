"""A C shim under a real program: sees, kills and fails each call that changes a file.

The shim (faults/shim.c) is compiled by the test and preloaded; the test and the program
share one page of memory through `Page`.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

SOURCE = Path(__file__).parent / "faults" / "shim.c"
_FIELDS = (
    "count",
    "kill_at",
    "main",
    "per_million",
    "seed",
    "failed",
    "armed",
    "fail_at",
    "fail_times",
    "fail_errno",
    "reads",
    "asked",
    "begun",
    "killed",
)
_PATTERN_AT = 8 * len(_FIELDS)
_PATTERN_BYTES, _ROOT_BYTES = 64, 512
_HEAD = struct.Struct("<IIIIQQ")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: a sync that costs nothing is still called."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    with TemporaryDirectory(prefix="wherry-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@cache
def shim() -> Path:
    """The compiled shim; there is no way without a compiler, so its absence is a failure."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "no C compiler is here; `make test-tools` installs gcc"
    built = Path(mkdtemp(prefix="wherry-shim-")) / "shim.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(built), str(SOURCE)], check=True)
    return built


class Page:
    """What the test and the program say to each other; one for each start of a program."""

    def __init__(self, path: Path, root: Path, *, log: Path | None = None) -> None:
        """Make the page; calls below `root` are seen once `armed` is set."""
        path.write_bytes(bytes(4096))
        self._map(path, log)
        self.watch(root)

    def _map(self, path: Path, log: Path | None) -> None:
        self._path = path
        self._log = log
        with path.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), 4096)

    @classmethod
    def of_this_process(cls) -> Page:
        """The page that this process was started with."""
        page = cls.__new__(cls)
        page._map(Path(os.environ["WHERRY_SHIM_PAGE"]), None)
        return page

    def watch(self, root: Path, pattern: bytes = b"") -> None:
        """See what is below a folder; count towards a kill from where a pattern is written."""
        encoded = str(root.resolve()).encode()
        assert len(encoded) < _ROOT_BYTES
        assert len(pattern) < _PATTERN_BYTES
        start = _PATTERN_AT + _PATTERN_BYTES
        self._memory[_PATTERN_AT:start] = pattern.ljust(_PATTERN_BYTES, b"\0")
        self._memory[start : start + _ROOT_BYTES] = encoded.ljust(_ROOT_BYTES, b"\0")

    def set(self, **values: int) -> None:
        """Set fields of the page."""
        for name, value in values.items():
            struct.pack_into("<Q", self._memory, 8 * _FIELDS.index(name), value)

    def get(self, name: str) -> int:
        """One field of the page."""
        return int(struct.unpack_from("<Q", self._memory, 8 * _FIELDS.index(name))[0])

    def environment(self) -> dict[str, str]:
        """What a program must be started with."""
        log = {"WHERRY_SHIM_LOG": str(self._log)} if self._log else {}
        return {"LD_PRELOAD": str(shim()), "WHERRY_SHIM_PAGE": str(self._path)} | log


@dataclass(frozen=True)
class Call:
    """One call that changed something.

    Attributes:
        kind: C created, W wrote, T set the size (to `offset`), S synced, R renamed,
            U removed, D made a folder, L linked, Y made a symbolic link (to `data`).
        path: full, below no symbolic link.
        other: the new name, of R and L.
        file: the inode of C, W, T and S.
        offset: of W; the size of T.
        data: of W and Y.
    """

    kind: str
    path: Path
    other: Path
    file: int
    offset: int
    data: bytes


def read_log(path: Path) -> list[Call]:
    """Every call in its order; the last may be cut off where the program was killed."""
    return list(_calls(path.read_bytes()))


def _calls(text: bytes) -> Iterator[Call]:
    at = 0
    while at + _HEAD.size <= len(text):
        kind, first, second, size, file, offset = _HEAD.unpack_from(text, at)
        at += _HEAD.size
        path, other = text[at : at + first], text[at + first : at + first + second]
        at += first + second
        data = text[at : at + size]
        at += size
        if at > len(text):
            return
        yield Call(chr(kind), Path(os.fsdecode(path)), Path(os.fsdecode(other)), file, offset, data)
