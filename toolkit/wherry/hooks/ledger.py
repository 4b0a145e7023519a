"""What was told to whom, on the medium before and after it is told."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from wherry.documents import Moment, from_document, to_document
from wherry.files import write_durably
from wherry_contract.errors import SetupError
from wherry_contract.wire import Domain, canonical, parse_json

_LIMIT_BYTES: Final = 16 * 2**20
_DOMAIN: Final = Domain(SetupError, "H02", "H02", "H02", "H02")


@dataclass(frozen=True)
class Line:
    """One cause and one hook.

    Attributes:
        cause: its id.
        bundle: the model.
        hook: its name.
        begun_at: when it was first tried.
        done_at: when it was taken; 0 before.
        tries: how often it was tried.
        outcome: what came of the latest try.
    """

    cause: str
    bundle: str
    hook: str
    begun_at: Moment
    done_at: Moment = 0.0
    tries: int = 0
    outcome: str = ""


@dataclass(frozen=True)
class _Book:
    lines: tuple[Line, ...] = ()


class Ledger:
    """Reads and writes a file."""

    def __init__(self, path: Path) -> None:
        """Open it; a file that is not there holds nothing.

        Raises:
            SetupError: H02.
        """
        self._path = path
        self._lines: dict[tuple[str, str], Line] = {}
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise SetupError("H02", f"{path}: {error.strerror}") from error
        document = parse_json(data, limit=_LIMIT_BYTES, what=path.name, domain=_DOMAIN)
        try:
            lines = from_document(_Book, document, path.name).lines
        except ValueError as error:
            raise SetupError("H02", str(error)) from error
        self._lines = {(line.cause, line.hook): line for line in lines}

    @property
    def lines(self) -> tuple[Line, ...]:
        """Every line, by time."""
        return tuple(sorted(self._lines.values(), key=lambda line: (line.begun_at, line.hook)))

    def line(self, cause: str, hook: str) -> Line | None:
        """What is known of one cause and one hook."""
        return self._lines.get((cause, hook))

    def keep(self, causes: AbstractSet[str]) -> None:
        """Forget every other cause; the file follows with the next line."""
        self._lines = {key: line for key, line in self._lines.items() if key[0] in causes}

    def begin(self, cause: str, bundle: str, hook: str, now: float) -> Line | None:
        """Note that somebody is about to be told; nothing if that was done before.

        Raises:
            StoreError: D01 or D06; then nobody must be told.
        """
        line = self._lines.get((cause, hook)) or Line(cause, bundle, hook, now)
        if line.done_at:
            return None
        line = replace(line, tries=line.tries + 1)
        self._put(line)
        return line

    def end(self, line: Line, outcome: str, *, done_at: float = 0.0) -> Line:
        """Note what came of it.

        Raises:
            StoreError: D01 or D06; it will be told again, under the same id.
        """
        line = replace(line, outcome=outcome, done_at=done_at)
        self._put(line)
        return line

    def _put(self, line: Line) -> None:
        lines = self._lines | {(line.cause, line.hook): line}
        document = {"schema": "wherry/retraining/1"} | to_document(_Book(tuple(lines.values())))
        write_durably(self._path, canonical(document), mode=0o600)
        self._lines = lines
