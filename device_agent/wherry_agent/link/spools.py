"""Spools: under which name a row of the outbox is known upstream, and whose file it is.

(device, spool, seq) names a message for ever. Two devices that go on from copies of one
outbox would give two messages one name, and the ingest would take the second for the first.
So an outbox remembers which file on which machine it is, and a copy begins a new spool. The
rows of a spool are an era: it begins at some row, and ends where the next begins. What is
in the file when an era ends keeps its names: if the original sends it too, it is the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

from wherry_contract.messages import SPOOL, Ack

Eras = list[tuple[int, str]]  # first row and spool, in order

_LAST_ROW: Final = 2**63 - 1
_MACHINE: Final = (Path("/etc/machine-id"), Path("/sys/firmware/devicetree/base/serial-number"))
_GET_VERSION: Final = 0x80087601  # FS_IOC_GETVERSION: an inode's generation, where it has one
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS era (first INTEGER PRIMARY KEY, spool TEXT NOT NULL)"


def rows_of(eras: Sequence[tuple[int, str]], ack: Ack) -> list[tuple[int, int]]:
    """Ranges of rows that an acknowledgement names; none if its spool is not of these eras."""
    named = [*ack.stored, *((seq, seq) for seq, _ in ack.refused)]
    return [
        (first - 1 + low, min(first - 1 + high, following - 1))
        for (first, spool), (following, _) in pairwise([*eras, (_LAST_ROW, "")])
        if spool == ack.spool
        for low, high in named
    ]


def home_of(path: Path) -> str:
    """Which file on which machine this is, as a digest; a copy is another one.

    Nothing else may have the file open in this process: closing it here would end the
    locks of SQLite's (POSIX).

    Raises:
        OSError: it is not there, and cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        inode = os.fstat(descriptor).st_ino
        generation = _generation(descriptor)
    finally:
        os.close(descriptor)
    told = hashlib.sha256(f"{inode} {generation}".encode())
    for place in _MACHINE:
        with suppress(OSError):  # not every board has each
            told.update(place.read_bytes())
    return told.hexdigest()


def _generation(descriptor: int) -> int:
    """Tells apart two files that had one inode after another; 0 where nothing does."""
    found = bytearray(8)
    with suppress(OSError):
        fcntl.ioctl(descriptor, _GET_VERSION, found)
    return int.from_bytes(found, "little")


def read_eras(database: sqlite3.Connection, *, anew: bool) -> Eras:
    """The eras of an outbox; those that hold nothing any more are forgotten.

    Args:
        database: the outbox's.
        anew: whether the next row begins another spool.

    Raises:
        ValueError: they contradict the rows: the file is damaged.
    """
    database.execute(_SCHEMA)
    found = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'message'").fetchone()
    newest = int(found[0]) if found else 0
    if anew or not database.execute("SELECT 1 FROM era").fetchone():
        add = "INSERT OR REPLACE INTO era VALUES (?, ?)"
        database.execute(add, (newest + 1, secrets.token_hex(8)))
    database.execute(
        "DELETE FROM era WHERE first < (SELECT max(first) FROM era WHERE first <="
        " (SELECT coalesce(min(seq), ?) FROM message))",
        (newest + 1,),
    )
    eras = [
        (int(first), str(spool))
        for first, spool in database.execute("SELECT first, spool FROM era ORDER BY first")
    ]
    if not all(re.fullmatch(SPOOL, spool) for _, spool in eras) or eras[-1][0] > newest + 1:
        raise ValueError(f"spools {eras} with {newest} rows")
    return eras
