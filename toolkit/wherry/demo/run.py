"""One run of the demo: a folder, the programs, the story, and what came of its promises."""

from __future__ import annotations

import fcntl
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, TextIO

from wherry.children import children
from wherry_contract.errors import SetupError

from .payments import Stream
from .stage import Check, Stage
from .story import tell

if TYPE_CHECKING:
    from wherry.boards.agent import BoardAgent

_EVERY: Final = 4  # payments of which an emulated board takes one
_MARK: Final = ".wherry-demo"  # only a folder that has it is ever removed


@dataclass(frozen=True)
class Choice:
    """What a run is told.

    Attributes:
        example: the folder of the example.
        folder: where everything of this run goes; that of an earlier run is removed.
        report: where the report goes.
        broker: as `wherry serve` takes it.
        board: where the agents run, emulated; "" for this machine.
        say: talks to the person.
        progress: shows long work.
    """

    example: Path
    folder: Path
    report: Path
    broker: str
    board: str
    say: Callable[[str], None]
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def find_example() -> Path:
    """The example's folder in the source tree that this package was installed from.

    Raises:
        SetupError: H02, it is not there.
    """
    places = [Path(__file__).resolve().parents[3], Path.cwd()]
    for place in places:
        found = place / "examples" / "fraud_terminals"
        if (found / "project.toml").exists():
            return found
    raise SetupError(
        "H02", "examples/fraud_terminals is not here", cure="run it in a clone of the repository"
    )


def run_demo(choice: Choice) -> tuple[Check, ...]:
    """Tell the story; returns the promises and what was seen of them.

    Raises:
        WherryError: a chapter could not be told.
        KeyboardInterrupt: Ctrl-C or SIGTERM; nothing is left running.
    """
    with (
        _alone(choice.folder),
        _sigterm_interrupts(),
        children(choice.folder) as programs,
    ):
        stage = Stage(
            example=choice.example,
            folder=choice.folder.resolve(),
            report=choice.report.resolve(),
            broker=choice.broker,
            programs=programs,
            say=choice.say,
            progress=choice.progress,
            board=_board(choice) if choice.board else None,
        )
        tell(stage, Stream(choice.example, _EVERY if choice.board else 1))
    return tuple(stage.checks)


def _board(choice: Choice) -> BoardAgent:
    """An emulated board with the agent on it, made if it is not there.

    Raises:
        SetupError: H01, H14 or H15.
    """
    from wherry.boards.agent import BoardAgent, lay_out_agent
    from wherry.boards.overlay import overlay, pins_of
    from wherry.boards.recipe import recipe_of
    from wherry.boards.root import create, mirror
    from wherry.profiles import load_board

    board = load_board(choice.board, Path())
    recipe = recipe_of(board, mirror())
    place, pin = create(recipe, choice.say).place, pins_of(board)[0]
    files = choice.folder.resolve() / "agent"
    lay_out_agent(files)
    choice.say(f"the agents run on {board.name}: {board.title}, emulated, under {pin}")
    return BoardAgent(place, overlay(pin, recipe, choice.say), files, pin.name)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder anew, unless a demo runs in it now."""
    mark = folder / _MARK
    if mark.exists():
        with mark.open() as stream:
            _hold(stream, folder)
            _clear(folder)
    else:
        _clear(folder)
    with mark.open() as stream:
        _hold(stream, folder)
        yield


def _hold(stream: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        cure = "wait for it, or choose another --folder"
        raise SetupError("H03", f"a demo runs in {folder} already", cure=cure) from error


def _clear(folder: Path) -> None:
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / _MARK).exists():
                detail = f"{folder} is there and was not made by the demo"
                raise SetupError("H03", detail, cure="choose another --folder")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise SetupError("H03", f"{folder}: {error.strerror}") from error


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
