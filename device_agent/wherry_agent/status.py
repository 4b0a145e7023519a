"""`wherry-agent status`: what a state folder says, read without touching anything in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from wherry_contract.errors import IdentityError, StoreError
from wherry_contract.when import to_text

from .config import AgentConfig
from .identity.certificate import read_certificate
from .serving.listen import LISTENING_FILE
from .store import StatePair
from .trust.tuf_status import read_trust, trust_lines
from .update.record import DeviceRecord, Update

SCHEMA = "wherry/agent-status/1"


def read_status(config: AgentConfig) -> dict[str, Any]:
    """The device's memory as one document.

    Raises:
        StoreError: D06, the folder cannot be read.
        WherryError: the record is not of our making.
    """
    folder = config.state_dir
    document = StatePair(folder).peek()
    record = DeviceRecord.from_dict(document) if document is not None else DeviceRecord()
    process = _holder(folder / "lock")
    return {
        "schema": SCHEMA,
        "device": config.device,
        "fleet": config.fleet,
        "family": config.family,
        "running": process is not None,
        "pid": process,
        "listening": _listening(folder) if process is not None else "",
        "phase": record.state,
        "active": record.active,
        "slots": {name: slot.to_dict() for name, slot in record.slots.items()},
        "rollout": record.rollout,
        "sequences": dict(record.sequences),
        "update": _update(record.update),
        "denied": [list(item) for item in record.denied],
        "runtime": record.runtime,
        "outbox": _outbox(folder / "outbox.db"),
        "trust": read_trust(config),
        "identity": _identity(config),
    }


def _identity(config: AgentConfig) -> dict[str, Any] | None:
    if config.identity is None:
        return None
    try:
        held = read_certificate(config.identity.certificate.read_text())
    except (OSError, UnicodeDecodeError, IdentityError) as error:
        return {"error": str(error)}
    return {"fingerprint": held.fingerprint, "not_after": to_text(held.not_after)}


def _update(update: Update | None) -> dict[str, Any] | None:
    if update is None:
        return None
    return {
        "rollout": update.assignment.rollout,
        "bundle": update.assignment.digest,
        "slot": update.slot,
        "retries": update.retries,
        "outcome": update.outcome,
        "code": update.code,
        "detail": update.detail,
    }


def _listening(folder: Path) -> str:
    try:
        return (folder / LISTENING_FILE).read_text().strip()
    except OSError:
        return ""


def _holder(lock: Path) -> int | None:
    """The process that holds a flock, from /proc/locks: asking for the lock would disturb it."""
    try:
        wanted = lock.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()  # 1: FLOCK ADVISORY WRITE 4711 08:01:131099 0 EOF
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(wanted):
            return int(fields[4])
    return None


def _outbox(path: Path) -> dict[str, int]:
    if not path.exists():
        return {"waiting": 0, "bytes": 0, "dropped": 0}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            waiting, size = database.execute(
                "SELECT count(*), coalesce(sum(length(payload)), 0) FROM message"
            ).fetchone()
            dropped = database.execute("SELECT value FROM fact WHERE name = 'dropped'").fetchone()
    except sqlite3.Error as error:
        raise StoreError("D06", f"outbox: {error}") from error
    return {"waiting": waiting, "bytes": size, "dropped": int(dropped[0]) if dropped else 0}


def status_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person."""
    running = f"running, process {found['pid']}" if found["running"] else "not running"
    yield f"{found['device']} of {found['fleet']}, family {found['family']}: {running}"
    if found["listening"]:
        yield f"  serves on   {found['listening']}"
    for name, slot in found["slots"].items():
        mark = "serves" if name == found["active"] else "stands by"
        what = f"{slot['name']} {slot['version']}, {slot['trust']}, {slot['digest']}"
        yield f"  slot {name}      " + (f"{mark}: {what}" if slot["digest"] else "empty")
    yield f"  update      {found['phase']}" + _of(found["update"])
    yield from trust_lines(found["trust"])
    if identity := found["identity"]:
        known = "error" not in identity
        good = f"key {identity['fingerprint']}, good to {identity['not_after']}" if known else ""
        yield f"  identity    {good or identity['error']}"
    outbox = found["outbox"]
    yield f"  outbox      {outbox['waiting']} waiting, {outbox['dropped']} dropped so far"


def _of(update: Mapping[str, Any] | None) -> str:
    if update is None:
        return ""
    code = f", {update['code']} {update['detail']}" if update["code"] else ""
    return f" of {update['bundle'][:19]} in {update['rollout']}{code}"
