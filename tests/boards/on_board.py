"""A plug-in of pytest for runs on an emulated board: what is left out, and a report for the host.

``left_out.toml`` names what does not run here and why; nothing else may be skipped. The report
says what passed and what did not, and for each row of that file whether it still means something.
"""

from __future__ import annotations

import json
import os
import platform
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).with_name("left_out.toml")
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Row:
    """Tests that are left out for one reason.

    Attributes:
        tests: beginnings of pytest's names.
        why: in words.
        minutes: they run in `make test-long` only, since they take too long for `make test`.
        machines: on these; on every one if empty.
    """

    tests: list[str]
    why: str
    minutes: bool = False
    machines: list[str] = field(default_factory=list)


def read_table(machine: str) -> list[Row]:
    """The rows that hold on a machine, as ``uname -m`` says it."""
    with TABLE.open("rb") as stream:
        rows = [Row(**row) for row in tomllib.load(stream)["left_out"]]
    return [row for row in rows if not row.machines or machine in row.machines]


class OnBoard:
    """Leaves out what the table says, and remembers how the rest went."""

    def __init__(self, report: Path, *, minutes: bool) -> None:
        self._rows = read_table(platform.machine())
        self._names = {name: row for row in self._rows for name in row.tests}
        self._report = report
        self._minutes = minutes
        self._seen: dict[str, int] = {}
        self._outcomes: dict[str, str] = {}
        self._skipped: dict[str, str] = {}

    def _row_of(self, name: str) -> Row | None:
        fitting = [start for start in self._names if name.startswith(start)]
        for start in fitting:
            self._seen[start] = self._seen.get(start, 0) + 1
        return self._names[max(fitting, key=len)] if fitting else None

    def _is_seen(self, name: str) -> bool:
        """A test may stand in a file that is left out as a whole."""
        return name in self._seen or name.partition("::")[0] in self._seen

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """A whole file is not even imported: it may want what no board has."""
        if collection_path.suffix != ".py":
            return None
        name = str(collection_path.relative_to(ROOT))
        row = self._names.get(name)
        if row is None or (row.minutes and self._minutes):
            return None
        self._seen[name] = 1
        return True

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Choose: what is for `make test`, or what takes minutes."""
        kept, other = [], []
        for item in items:
            row = self._row_of(item.nodeid)
            wanted = bool(row and row.minutes) == self._minutes and not (row and not row.minutes)
            (kept if wanted else other).append(item)
        items[:] = kept
        config.hook.pytest_deselected(items=other)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported here has failed; one may also skip as a whole."""
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._skipped[report.nodeid] = str(report.longrepr)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember."""
        if report.skipped:
            self._skipped[report.nodeid] = str(report.longrepr[-1])  # type: ignore[index]
        elif report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self) -> None:
        """Write the report."""
        failed = [name for name, outcome in self._outcomes.items() if outcome == "failed"]
        document: dict[str, Any] = {
            "machine": platform.machine(),
            "passed": len(self._outcomes) - len(failed),
            "failed": failed,
            "skipped": self._skipped,
            "left_out": {
                row.why: sum(self._seen.get(n, 0) for n in row.tests) for row in self._rows
            },
            "unused": [name for name in self._names if not self._is_seen(name)],
        }
        self._report.write_text(json.dumps(document, indent=1))


def pytest_configure(config: pytest.Config) -> None:
    """Start."""
    report = Path(os.environ["WHERRY_BOARD_REPORT"])
    minutes = bool(os.environ.get("WHERRY_BOARD_MINUTES"))
    config.pluginmanager.register(OnBoard(report, minutes=minutes), "on-board")
