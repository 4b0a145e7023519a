"""Boards for tests: the environment, what tests want in it, and what it means if there is none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, emulation_required, emulators_missing, mosquitto_program

from wherry.boards.agent import lay_out_agent
from wherry.boards.emulator import Place
from wherry.boards.overlay import overlay, pins_of
from wherry.boards.recipe import Recipe, recipe_of
from wherry.boards.root import Wanted, alone, create, fetch_packages, folder, install_wheels, mirror
from wherry.profiles import FOLDER, Board, load_board
from wherry_contract.errors import SetupError

_HERE = ROOT / "tests" / "boards"
# of Debian, only for the tests' signers: no wheel of cffi is for 32 bits
_PACKAGES = {"armv7l": ("python3-cffi-backend",)}


def need_boards() -> None:
    """Skip where QEMU is absent, with the reason; in CI the session has not even begun."""
    if missing := emulators_missing():
        pytest.skip(f"boards are not emulated here: no {', '.join(missing)}; apt install qemu-user")


@dataclass(frozen=True)
class Furnished:
    """A board on which pytest runs.

    Attributes:
        place: its environment.
        recipe: what it is made of.
        overlays: folders of modules: the runtime, pytest and its kin, the agent, the host's parts.
    """

    place: Place
    recipe: Recipe
    overlays: tuple[Path, ...]


def board_named(name: str) -> Board:
    """One of the boards that Wherry ships."""
    return load_board(name, FOLDER)


def furnished(name: str, work: Path, progress: Callable[[str], None]) -> Furnished:
    """A board with what the tests want; downloads are kept in the user's cache.

    Args:
        name: of the board.
        work: an empty folder, for a copy of the agent as it would be installed.
        progress: is told each step.
    """
    board = board_named(name)
    recipe = recipe_of(board, mirror())
    try:
        place = create(recipe, progress).place
        with alone(folder() / f"lock-tests-{recipe.machine}", progress):
            runtime = overlay(pins_of(board)[0], recipe, progress)
            kin = _kin(recipe, progress)
    except SetupError as error:
        if emulation_required():
            raise
        pytest.skip(f"no environment of {name} here: {error}")
    agent = work / "agent"
    lay_out_agent(agent)
    ours = (agent, ROOT / "converters", ROOT / "toolkit", _HERE)
    return Furnished(place, recipe, (runtime, *kin, *ours))


def _kin(recipe: Recipe, progress: Callable[[str], None]) -> tuple[Path, ...]:
    lock = _HERE / "locks" / f"{recipe.machine}.txt"
    packages = _PACKAGES.get(recipe.machine, ())
    key = hashlib.sha256(lock.read_bytes() + repr(packages).encode()).hexdigest()[:16]
    home = folder() / f"tests-{recipe.machine}-{key}"
    if not home.exists():
        half = home.with_name(f"{home.name}.new")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        progress(f"fetching pytest and what the tests want for {recipe.machine}")
        install_wheels(recipe, half / "site", lock)
        if packages:
            wanted = Wanted(recipe.architecture, recipe.emulation.suite, recipe.mirror, packages)
            fetch_packages(wanted, half / "apt", half / "root", progress)
            (half / "debian").mkdir()
            for path in (half / "root/usr/lib/python3/dist-packages").glob("_cffi_backend*"):
                path.rename(half / "debian" / path.name)
            shutil.rmtree(half / "root")
            shutil.rmtree(half / "apt")
        half.rename(home)
    return (home / "site", home / "debian") if packages else (home / "site",)


def run_suite(
    board: Furnished, work: Path, tests: list[str], *, minutes: bool = False, seconds: float
) -> dict[str, Any]:
    """Run pytest on a board; returns the report of `on_board`, with what was said as ``log``.

    Args:
        board: the board.
        work: a folder.
        tests: files or folders of tests.
        minutes: those that take long, instead of the others.
        seconds: after which all of it is killed.
    """
    tools = work / "tools"
    tools.mkdir(exist_ok=True)
    # the other end of the wire is this machine's, and by name: the board has no broker
    (tools / "mosquitto").symlink_to(mosquitto_program())
    (tools / "mosquitto_passwd").symlink_to(shutil.which("mosquitto_passwd") or "missing")
    report, log = work / "report.json", work / "log"
    settings = board.place.environment(board.overlays) | {
        "PATH": f"{board.place.programs}:{tools}",
        "PYTHONPYCACHEPREFIX": str(folder() / "tests-bytecode"),
        "OMP_NUM_THREADS": "1",
        "WHERRY_EMULATED": "1",
        "WHERRY_BOARD_REPORT": str(report),
        **({"WHERRY_BOARD_MINUTES": "1"} if minutes else {}),
    }
    pytest_ = ["-m", "pytest", "-p", "on_board", "-p", "no:cacheprovider", "--tb=short", "-q"]
    options = [
        "--durations=25",
        "--continue-on-collection-errors",
        f"--basetemp={work / 'tmp'}",
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [board.place.python, *pytest_, *options, *tests],
            cwd=ROOT,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
    said = log.read_text(errors="replace")
    if not report.exists():
        raise AssertionError(f"no report after {seconds:.0f} s or less:\n{said[-6000:]}")
    found: dict[str, Any] = json.loads(report.read_text())
    return found | {"log": said, "exit": process.returncode}
