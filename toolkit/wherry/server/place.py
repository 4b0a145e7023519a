"""Which database belongs to a server's data folder: a file in it, or the one that it was told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from wherry.endure import LOG
from wherry.files import write_durably
from wherry_contract.errors import StoreError

from .database import Database
from .engines import make_engine, may_pass

STORE: Final = "store.url"  # in a data folder; it may hold a password
_WAIT_SECONDS: Final = 1.0


def place_of(data: Path) -> Path | str:
    """Where the database of a data folder is: a file, or a URL; it need not be there yet.

    Raises:
        StoreError: D06.
    """
    try:
        url = (data / STORE).read_text().strip() if (data / STORE).exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError("D06", f"{data / STORE}: {error}") from error
    return url or data / "fleet.sqlite"


def open_database(data: Path) -> Database:
    """The database of a server's data folder: the one that it was told, or the file in it.

    Raises:
        StoreError: D01, D06 or D08.
        SetupError: H06 or H08, the URL that is noted there cannot be used.
    """
    return Database(place_of(data))


def keep_place(data: Path, store: str) -> None:
    """Note where the database of a data folder is from now on.

    Args:
        data: the folder.
        store: a URL, ``sqlite`` for the file, "" for what is noted.

    Raises:
        SetupError: H08, it is neither.
        StoreError: D01 or D06.
    """
    if not store:
        return
    if store != "sqlite":
        make_engine(store).dispose()
    write_durably(data / STORE, store.removeprefix("sqlite").encode(), mode=0o600)


def open_patiently(data: Path) -> Database:
    """Open the database of a data folder, and wait for a server that is not there yet.

    Raises:
        StoreError, SetupError: as `open_database`, but for a server that may yet come.
    """
    while True:
        try:
            return open_database(data)
        except StoreError as error:
            if not may_pass(error):
                raise
            LOG.warning("waiting for the database: %s", error.detail)
            time.sleep(_WAIT_SECONDS)
