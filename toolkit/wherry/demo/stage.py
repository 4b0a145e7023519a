"""What the demo's chapters share: the folder, the programs, the commands, the promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wherry.children import Children
from wherry_contract.errors import SetupError

if TYPE_CHECKING:
    from wherry.boards.agent import BoardAgent

_COMMAND_SECONDS: Final = 300.0
_EMULATED: Final = 10.0
_SHOWN: Final = 1500  # characters of what a failed command said


@dataclass(frozen=True)
class Check:
    """Something that the demo promises, and what was seen of it."""

    name: str
    passed: bool
    seen: str


@dataclass
class Stage:
    """One run of the demo.

    Attributes:
        example: the folder of the example.
        folder: where everything of this run goes.
        report: where the report goes.
        broker: as `wherry serve` takes it.
        programs: what was started.
        say: talks to the person.
        progress: shows long work; yields a function that takes steps.
        board: the agents' board, where it is emulated; None for this machine.
        checks: what was promised so far, and seen.
    """

    example: Path
    folder: Path
    report: Path
    broker: str
    programs: Children
    say: Callable[[str], None]
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    board: BoardAgent | None = None
    checks: list[Check] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def fleet(self) -> Path:
        """The data folder of the server and of every command."""
        return self.folder / "fleet"

    def chapter(self, title: str) -> None:
        """Begin a chapter, with the seconds gone by."""
        self.say(f"\n{time.monotonic() - self.began:4.0f} s  {title}")

    def check(self, name: str, *, passed: bool, seen: str) -> None:
        """Hold a promise against what was seen."""
        self.checks.append(Check(name, passed, seen))
        self.say(f"    {'yes' if passed else 'NO '}  {name}: {seen}")

    @property
    def environment(self) -> dict[str, str]:
        """What programs of this run are started with."""
        return dict(os.environ) | {"WHERRY_HOME": str(self.fleet)}

    def start_agent(self, name: str, config: Path) -> None:
        """Start an agent, on the board if there is one."""
        arguments = ["run", "--config", str(config)]
        if self.board:
            self.programs.start(name, self.board.command(*arguments), self.board.environment)
        else:
            command = [sys.executable, "-m", "wherry_agent", *arguments]
            self.programs.start(name, command, self.environment)

    def memory_mib(self, name: str) -> float:
        """Resident memory of an agent, MiB, without the emulator's."""
        if self.board is None:
            return self.programs.memory_mib(name)
        from wherry.boards.resident import resident_mib

        return resident_mib(self.programs.pid(name) or 0, self.board.place.program)

    @property
    def patience(self) -> float:
        """How many times longer than usual something may take."""
        return _EMULATED if self.board else 1.0

    def run(
        self, arguments: Sequence[str], *, codes: tuple[int, ...] = (0,)
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, as a user would, and return what it said.

        Raises:
            SetupError: H05, it ended with none of `codes`.
        """
        done = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS * self.patience,
            check=False,
            env=self.environment,
        )
        if done.returncode not in codes:
            text = (done.stderr.strip() or done.stdout.strip())[-_SHOWN:]
            raise SetupError("H05", f"{' '.join(arguments)} ended with {done.returncode}: {text}")
        return done

    def wherry(
        self, *arguments: str, codes: tuple[int, ...] = (0,)
    ) -> subprocess.CompletedProcess[str]:
        """Run `wherry`, showing the command."""
        shown = " ".join(_short(word) for word in arguments if word != "--json")
        self.say(f"    $ wherry {shown}")
        return self.run([sys.executable, "-m", "wherry", *arguments], codes=codes)

    def ask(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run a `wherry` command and read its JSON."""
        found: Mapping[str, Any] = json.loads(self.wherry(*arguments, "--json", codes=codes).stdout)
        return dict(found)


def _short(argument: str) -> str:
    """Paths as seen from here."""
    path, here = Path(argument), Path.cwd()
    if path.is_absolute() and path.is_relative_to(here):
        return str(path.relative_to(here))
    return argument
