"""Commands of `wherry` under the shim, quickly: a process that forks one for each (faults/victim.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support_shim import Call, Page, read_log

KILLED = -9


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; -9 if it was killed.
        count: calls that changed something.
        asked: calls that could have failed.
        failed: calls that did.
        said: stdout and stderr.
    """

    code: int
    count: int
    asked: int
    failed: int
    said: str


class Victims:
    """Runs commands one after the other."""

    def __init__(self, folder: Path, page: Page, process: subprocess.Popen[str]) -> None:
        self.page = page
        self.said = folder / "said"
        self._log = folder / "log"
        self._process = process
        self._pid = 0

    def run(self, words: Sequence[str], root: Path, **page: int) -> Ended:
        """Run one command to its end; what it does below a folder is seen.

        Args:
            words: the command's, without `wherry`.
            root: the folder.
            page: `kill_at`, `fail_at` and so on, as support_shim.py has them.
        """
        self.start(words, root, **page)
        return self.end()

    def start(self, words: Sequence[str], root: Path, **page: int) -> None:
        """Start one command."""
        self._log.write_bytes(b"")  # it is only ever appended to
        self.said.write_bytes(b"")
        asked = {"words": list(words), "root": str(root), "page": page, "said": str(self.said)}
        self._pid = self._ask(asked)["pid"]

    @property
    def alive(self) -> bool:
        """Whether the command that was started still runs."""
        state = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._pid, which)

    def end(self) -> Ended:
        """Wait for its end."""
        return Ended(**self._ask({}), said=self.said.read_text())

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def calls(self) -> list[Call]:
        """What the last command did."""
        return read_log(self._log)


@contextmanager
def running_victims(folder: Path) -> Iterator[Victims]:
    """What runs them, for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(folder / "page", folder, log=folder / "log")
    program = Path(__file__).parent / "faults" / "victim.py"
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | page.environment(),
    ) as process:
        try:
            yield Victims(folder, page, process)
        finally:
            process.terminate()
