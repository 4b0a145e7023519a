"""Programs that are started for a while; none outlives who started them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wherry.leash import leashed
from wherry_contract.errors import SetupError

_PATIENCE_SECONDS: Final = 10.0
_LOG_SHOWN: Final = 400  # characters


class Children:
    """Started programs, each with a log of its own."""

    def __init__(self, folder: Path) -> None:
        """Take the folder for their logs."""
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a program in a session of its own, so that Ctrl-C reaches us alone."""
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                leashed(arguments), stdout=log, stderr=log, start_new_session=True, env=environment
            )
        self._running.append((name, process))

    def pid(self, name: str) -> int | None:
        """A program's process; None once it has ended."""
        process = dict(self._running)[name]
        return process.pid if process.poll() is None else None

    def last_words(self, name: str) -> str:
        """The end of a program's log."""
        return " ".join(self._log(name).read_text(errors="replace").split())[-_LOG_SHOWN:]

    def memory_mib(self, name: str) -> float:
        """Resident memory of a program, MiB."""
        status = Path(f"/proc/{dict(self._running)[name].pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def wait(self, name: str, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until a program is ready.

        Raises:
            SetupError: H05, it ended, or did not get ready in time.
        """
        end = time.monotonic() + seconds
        process = dict(self._running)[name]
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                text = f"{name}: {self.last_words(name)}"
                raise SetupError("H05", text, cure=f"see {self._log(name)}")
            time.sleep(0.05)

    def stop(self, *names: str) -> None:
        """End all, or those that are named, the last first: politely, then not."""
        running = [item for item in reversed(self._running) if not names or item[0] in names]
        try:
            for _, process in running:
                process.terminate()
            end = time.monotonic() + _PATIENCE_SECONDS
            for _, process in running:
                process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # the rest are killed below
        finally:
            for _, process in running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self._running = [item for item in self._running if item not in running]


@contextmanager
def children(folder: Path) -> Iterator[Children]:
    """Programs for the length of a block, whatever ends it."""
    started = Children(folder)
    try:
        yield started
    finally:
        started.stop()
