"""A model of a disk: what a pulled plug may leave of a log of calls.

POSIX promises little: bytes are on the medium once their file was synced, names once their
folder was. What was not synced may be there, be missing, or be there in part. A crash is
modelled as one of `WAYS`; each is something that real file systems do.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support_shim import Call

WAYS = ("kept", "lost", "truncated", "torn")
"""kept: only the process died. lost: neither bytes nor names that were not synced.
truncated: all names, but no byte that was not synced, so that new files are empty.
torn: all names and sizes, but only every other sector of what was not synced."""

Contents = dict[Path, bytes | str | None]
"""Bytes of files, where links lead, nothing for folders."""
_SECTOR = 512


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    waiting: list[tuple[int, bytes]] = field(default_factory=list)  # a size if there is no data

    @classmethod
    def of(cls, data: bytes) -> _File:
        return cls(bytearray(data), data)

    def write(self, offset: int, data: bytes) -> None:
        _write(self.now, offset, data)
        self.waiting.append((offset, data))

    def resize(self, size: int) -> None:
        _resize(self.now, size)
        self.waiting.append((size, b""))

    def sync(self) -> None:
        self.safe = bytes(self.now)
        self.waiting.clear()

    def torn(self) -> bytes:
        found = bytearray(self.safe)
        for offset, data in self.waiting:
            if not data:
                _resize(found, offset)
                continue
            _resize(found, max(len(found), offset + len(data)))
            for start in range(0, len(data), 2 * _SECTOR):
                _write(found, offset + start, data[start : start + _SECTOR])
        return bytes(found)


def _write(into: bytearray, offset: int, data: bytes) -> None:
    if len(into) < offset:
        into.extend(bytes(offset - len(into)))
    into[offset : offset + len(data)] = data


def _resize(into: bytearray, size: int) -> None:
    del into[size:]
    into.extend(bytes(size - len(into)))


class Medium:
    """A folder, rebuilt call by call."""

    def __init__(self, root: Path, *, without: Collection[str] = ()) -> None:
        """Begin with what is in a folder before the first call, all of it safe.

        Args:
            root: the folder.
            without: names directly in it that are not looked at: another program's.
        """
        self._root = root.resolve()
        self._without = frozenset(without)
        self._numbers: dict[int, _File] = {}
        self._names: dict[Path, _File | str | None] = {}  # text: a link to it; None: a folder
        for name, kept in look(self._root, without).items():
            self._names[name] = kept if not isinstance(kept, bytes) else _File.of(kept)
            if isinstance(file := self._names[name], _File):
                self._numbers[(self._root / name).stat().st_ino] = file
        self._safe_names = dict(self._names)

    def apply(self, call: Call) -> None:
        """Do what a call did; what is written to a file that has no name is lost anyway."""
        name = call.path.relative_to(self._root)
        if name.parts[:1] and name.parts[0] in self._without:
            return
        if call.kind in "WTS" and call.path.name.endswith(" (deleted)"):
            return
        if call.kind in "WTS":
            self._change(call, name)
        elif call.kind == "C":
            self._numbers[call.file] = self._names[name] = _File()
        elif call.kind == "D":
            self._names[name] = None
        elif call.kind == "Y":
            self._names[name] = os.fsdecode(call.data)
        elif call.kind == "U":
            self._names.pop(name)
        else:
            self._names[call.other.relative_to(self._root)] = self._names[name]
            if call.kind == "R":
                del self._names[name]

    def _change(self, call: Call, name: Path) -> None:
        if call.kind == "W":
            self._numbers[call.file].write(call.offset, call.data)
        elif call.kind == "T":
            self._numbers[call.file].resize(call.offset)
        else:
            self._sync(call, name)

    def _sync(self, call: Call, name: Path) -> None:
        if name != Path() and self._names.get(name, call) is not None:
            self._numbers[call.file].sync()
            return
        inside = {path for path in (*self._names, *self._safe_names) if path.parent == name}
        for path in inside - {Path()}:
            if path in self._names:
                self._safe_names[path] = self._names[path]
            else:
                del self._safe_names[path]

    def leave(self, way: str, folder: Path) -> None:
        """Write down what a crash leaves now."""
        _write_down(self.left(way), folder)

    def left(self, way: str) -> Contents:
        """What a crash leaves now."""
        names = self._safe_names if way == "lost" else self._names
        found: Contents = {}
        for name, file in sorted(names.items()):
            if name.parent == Path() or found.get(name.parent, "") is None:  # else lost with it
                found[name] = _content(file, way) if isinstance(file, _File) else file
        return found

    def contents(self) -> Contents:
        """Every file, link and folder that is there now, as `look` has it."""
        return {
            name: bytes(file.now) if isinstance(file, _File) else file
            for name, file in self._names.items()
        }


def look(root: Path, without: Collection[str] = ()) -> Contents:
    """What is in a folder."""
    found: Contents = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.name.endswith("-shm") or name.parts[0] in without:
            continue
        found[name] = _kept(path)
    return found


def _kept(path: Path) -> bytes | str | None:
    if path.is_symlink():
        return str(path.readlink())
    return None if path.is_dir() else path.read_bytes()


def _content(file: _File, way: str) -> bytes:
    if way == "kept":
        return bytes(file.now)
    return file.torn() if way == "torn" else file.safe


# --- every crash of a log -------------------------------------------------------------------


@dataclass(frozen=True)
class Replayed:
    """How many crashes were looked at, and how many of them left something different."""

    crashes: int
    different: int

    def __str__(self) -> str:
        return f"{self.crashes} crashes, {self.different} of them different, 0 failures"


def replay(
    before: Medium,
    calls: Sequence[Call],
    folder: Path,
    check: Callable[[int], None],
    *,
    wanted: Callable[[int, str], bool] = lambda _place, _way: True,
    promised: Callable[[int], Hashable] = lambda _place: None,
) -> Replayed:
    """Write down what a crash after each call leaves in each way, and look at it.

    What was looked at already is not looked at again unless more was promised since: a sync
    changes nothing of what was kept, a write nothing of what was lost.

    Args:
        before: the medium before the first call.
        calls: the log.
        folder: where it is written to.
        check: looks at the folder after so many calls; raises where something is wrong.
        wanted: which crashes, by the number of calls before them and the way; all else.
        promised: what must hold after so many calls.
    """
    medium, seen, looked = copy.deepcopy(before), set[tuple[bytes, Hashable]](), 0
    for place in range(len(calls) + 1):
        if place:
            medium.apply(calls[place - 1])
        for way in (way for way in WAYS if wanted(place, way)):
            found, looked = medium.left(way), looked + 1
            mark = (_digest(found), promised(place))
            if mark in seen:
                continue
            seen.add(mark)
            _write_down(found, folder)
            try:
                check(place)
            except Exception as error:
                last = calls[max(0, place - 1)]
                where = f"{way} after call {place}, {last.kind} {last.path}"
                raise AssertionError(where) from error
    return Replayed(looked, len(seen))


def _write_down(found: Contents, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, kept in found.items():
        place = folder / name
        if kept is None:
            place.mkdir()
        elif isinstance(kept, str):
            place.symlink_to(kept)
        else:
            place.write_bytes(kept)


def _digest(found: Contents) -> bytes:
    whole = hashlib.sha256()
    for name, kept in found.items():
        data = kept if isinstance(kept, bytes) else repr(kept).encode()
        whole.update(f"{name}\0{type(kept).__name__}\0{len(data)}\0".encode())
        whole.update(data)
    return whole.digest()
