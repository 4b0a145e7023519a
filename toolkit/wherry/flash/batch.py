"""A provisioning file: many terminals, all looked at before the first is written, and a record.

The record says of each terminal what was done. It is written before and after each, so an
interrupted batch goes on where it stopped, with the claim codes that it had made.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from wherry.files import write_durably
from wherry_contract.errors import SetupError
from wherry_contract.wire import Domain, Fields, canonical

from .terminal import Terminal

LIMIT_BYTES: Final = 16 * 2**20
RECORD: Final = "wherry/flash-record/1"
COLUMNS: Final = (
    "device", "to", "family", "site", "group", "labels", "listen", "claim", "url", "papers", "first",
)  # fmt: skip
_LABELS: Final = ("site", "group")
_MOST_SHOWN: Final = 50
_DOMAIN: Final = Domain(SetupError, "H17", "H17", "H17", "H17")
_PRIVATE: Final = 0o600


@dataclass(frozen=True)
class Row:
    """A terminal of the file, and the line or number where it stands."""

    where: str
    terminal: Terminal


def read_batch(path: Path, usual: Terminal) -> list[Row]:
    """Read a provisioning file, CSV or TOML (``[[terminal]]``), and look at every row.

    Args:
        path: of the file; paths in it are taken from its folder.
        usual: what a row has that says nothing else.

    Raises:
        SetupError: H02 it cannot be read, H17 with every bad row in the detail.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    if len(data) > LIMIT_BYTES:
        raise SetupError("H17", f"{path.name} has more than {LIMIT_BYTES} bytes")
    rows, problems = [], []
    for where, fields in _tables(data, path):
        try:
            rows.append(Row(where, _terminal(fields, where, path.parent, usual)))
        except SetupError as error:
            problems.append(f"{where}: {error.detail}")
    problems += _problems(rows)
    if not rows and not problems:
        problems = ["it has no terminals"]
    if problems:
        more = len(problems) - _MOST_SHOWN
        shown = [*problems[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise SetupError("H17", "\n        ".join([f"{path.name}:", *shown]))
    return rows


def _tables(data: bytes, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
        if path.suffix == ".toml":
            document = Fields(tomllib.loads(text), path.name, _DOMAIN)
            tables = document.items("terminal", limit=1_000_000)
            if document.rest():
                raise SetupError("H17", f"{path.name}: {min(document.rest())[:64]} is unknown")
            for number, table in enumerate(tables, 1):
                yield f"terminal {number}", table if isinstance(table, dict) else {}
            return
        reader = csv.DictReader(io.StringIO(text), restkey="more cells than columns", strict=True)
        for found in reader:
            filled = {name: value for name, value in found.items() if value not in (None, "")}
            yield f"line {reader.line_num}", filled
    except (ValueError, csv.Error) as error:
        raise SetupError("H17", f"{path.name}: {error}") from error


def _terminal(table: Mapping[str, Any], where: str, folder: Path, usual: Terminal) -> Terminal:
    unknown = sorted(set(table) - set(COLUMNS))
    if unknown:
        raise SetupError("H17", f"{unknown[0][:64]} is unknown; known are {', '.join(COLUMNS)}")
    fields = Fields(table, where, _DOMAIN)
    labels = _labels(fields.mapping("labels")) if _is_table(table) else _pairs(fields)
    labels |= {name: table[name] for name in _LABELS if name in table and fields.text(name)}
    papers, first = fields.text("papers", ""), fields.text("first", "")
    own = bool(papers or table.get("claim"))
    device, to = fields.text("device", ""), fields.text("to", "")
    return replace(
        usual,
        device=device,
        to=_place(to or usual.to, device, folder, own=bool(to)),
        family=fields.text("family", "" if own else usual.family),
        labels=labels or ({} if own else usual.labels),
        listen=fields.text("listen", usual.listen),
        claim=fields.text("claim", ""),
        url=fields.text("url", usual.url),
        papers=folder / papers if papers else None,
        first=folder / first if first else usual.first,
    )


def _is_table(table: Mapping[str, Any]) -> bool:
    return isinstance(table.get("labels"), dict)


def _labels(found: Mapping[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in found.values()):
        raise SetupError("H17", "labels should be words by name")
    return dict(found)


def _pairs(fields: Fields) -> dict[str, str]:
    """Labels in a cell: ``site=paris;group=a``."""
    found = {}
    for pair in filter(None, fields.text("labels", "").split(";")):
        name, equals, value = pair.strip().partition("=")
        if not (name and equals and value):
            raise SetupError("H17", f"labels {pair[:64]!r} should be like site=paris;lane=3")
        found[name] = value
    return found


def _place(to: str, device: str, folder: Path, *, own: bool) -> str:
    """Where a row goes: as it says, or a folder of its own in the one that all share."""
    if to.startswith("ssh://") or not to:
        return to
    return str(folder / to) if own else str(Path(to) / device)


def _problems(rows: Sequence[Row]) -> Iterator[str]:
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        item = row.terminal
        problem = item.problem()
        if problem:
            yield f"{row.where}: {problem}"
        for what, value in (("device", item.device), ("claim", item.claim), ("to", item.to)):
            if value and (what, value) in seen:
                yield f"{row.where}: {what} {value[:80]} stands at {seen[what, value]} too"
            seen.setdefault((what, value), row.where)


@dataclass(frozen=True)
class Entry:
    """What became of one terminal.

    Attributes:
        row: digest of what the file says of it; a row that was changed is done anew.
        state: ``begun``, ``done`` or ``failed``.
        claim: the code that was made for it, until it is done.
        url: where that code is good.
        folder: on the board.
        kit: likewise.
        error: why it failed.
    """

    device: str
    to: str
    row: str
    state: str
    claim: str = ""
    url: str = ""
    folder: str = ""
    kit: str = ""
    error: str = ""

    def told(self) -> dict[str, str]:
        """The JSON form, without its claim code."""
        return {name: text for name, text in vars(self).items() if name not in ("claim", "row")}


class Record:
    """The record of a batch, in a file of its own."""

    def __init__(self, path: Path) -> None:
        """Read it, if it is there.

        Raises:
            SetupError: H17, it is something else.
        """
        self.path = path
        self.entries: dict[str, Entry] = {}
        if not path.exists():
            return
        try:
            document = Fields(json.loads(path.read_bytes()), path.name, _DOMAIN)
            document.choice("schema", (RECORD,))
            found = [Entry(**item) for item in document.items("terminals", limit=1_000_000)]
        except (OSError, ValueError, TypeError, SetupError) as error:
            cure = "name another file with --record, or remove it to begin anew"
            detail = f"{path.name} is no record of a batch: {error}"
            raise SetupError("H17", detail, cure=cure) from error
        self.entries = {item.device: item for item in found}

    def of(self, terminal: Terminal) -> Entry | None:
        """What is known of a terminal, unless the file says something else of it by now."""
        found = self.entries.get(terminal.device)
        return found if found and found.row == row_digest(terminal) else None

    def put(self, entry: Entry) -> None:
        """Remember an entry; it is on the medium when this returns.

        Raises:
            StoreError: D01 or D06.
        """
        self.entries[entry.device] = entry
        document = {"schema": RECORD, "terminals": [vars(item) for item in self.entries.values()]}
        text = json.dumps(document, indent=1) + "\n"
        write_durably(self.path, text.encode(), mode=_PRIVATE)  # it may hold claim codes


def row_digest(terminal: Terminal) -> str:
    """What a row says, in sixteen digits."""
    said = {name: str(value) for name, value in vars(terminal).items()}
    said["labels"] = json.dumps(dict(terminal.labels), sort_keys=True)
    return hashlib.sha256(canonical(said)).hexdigest()[:16]
