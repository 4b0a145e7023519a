"""Writing so that a pulled plug leaves the old file or the new one, and nothing between."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wherry_contract.errors import SetupError, StoreError, WherryError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file: temporary file, fsync, rename, fsync of the folder.

    Raises:
        StoreError: D01 or D06; what was there is still there.
    """
    try:
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            Path(name).replace(path)
        except BaseException:  # whatever it was, the temporary file goes and the error goes on
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise as_store_error(error, path.name) from error


def read_bounded(path: Path, limit: int, too_large: Callable[[str], WherryError]) -> bytes:
    """Read a file that may not have more than so many bytes.

    Args:
        path: the file.
        limit: bytes.
        too_large: makes the error of a detail.

    Raises:
        SetupError: H02, it cannot be read.
        WherryError: it is too large.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise too_large(f"{path} has more than {limit} bytes")
    return data


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; their names are on the medium as well."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the medium."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_store_error(error: OSError, what: str) -> StoreError:
    """The coded form of an error of the file system."""
    return StoreError("D01" if error.errno in _FULL else "D06", f"{what}: {error.strerror}")
