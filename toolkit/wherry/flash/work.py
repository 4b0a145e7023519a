"""Flashing one board: look at it, say what would be done, do it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry.boards.overlay import Pin
from wherry.boards.recipe import Recipe
from wherry_contract.errors import SetupError

from .carry import Way, run_script
from .kit import Kit
from .terminal import Folder

_SLACK_KIB: Final = 16 * 1024


@dataclass(frozen=True)
class Survey:
    """What a board is and has.

    Attributes:
        root: of its file system, with links followed.
        places: where we write, likewise.
        user: as whom we would write; 0 for root.
        python: its ``python3`` is a link to this; "" if that is unknown.
        architecture: as Debian calls it; "" if that is unknown.
        missing: packages that the agent needs and it lacks.
        kit: in use; "" for none.
        device: the device's folder in use; "" for none.
        has_kit: whether it has the kit that we would bring.
        has_device: whether it has that folder.
        free_kib: room.
    """

    root: str
    places: tuple[str, ...]
    user: int
    python: str
    architecture: str
    missing: tuple[str, ...]
    kit: str
    device: str
    has_kit: bool
    has_device: bool
    free_kib: int


def read_survey(text: str) -> Survey:
    """Read what `survey.sh` printed. Pure.

    Raises:
        SetupError: H16, it is something else.
    """
    pairs = [line.partition("=")[::2] for line in text.splitlines() if "=" in line]
    one = dict(pairs)
    try:
        return Survey(
            root=one["root"],
            places=tuple(value for name, value in pairs if name == "place"),
            user=int(one["user"]),
            python=one["python"].rpartition("/")[2],
            architecture=one.get("architecture", ""),
            missing=tuple(value for name, value in pairs if name == "missing"),
            kit=one["current_kit"],
            device=one["current_device"],
            has_kit="has_kit" in one,
            has_device="has_device" in one,
            free_kib=int(one["free"]),
        )
    except (KeyError, ValueError) as error:
        raise SetupError("H16", f"the board answered something else: {text[:200]!r}") from error


def look_at(way: Way, recipe: Recipe, kit_key: str, folder: Folder) -> Survey:
    """Look at a board; it must be one that a kit of this recipe is for.

    The kit need not be made yet: what is wrong with a board is told before anything is fetched.

    Raises:
        SetupError: H16.
    """
    arguments = [way.root, kit_key, folder.name, *recipe.emulation.packages]
    found = read_survey(run_script(way, "survey.sh", arguments))
    check(way, found, recipe, 0)
    return found


def check(way: Way, found: Survey, recipe: Recipe, kit_kib: int) -> None:
    """Refuse a board that cannot be flashed.

    Raises:
        SetupError: H16.
    """
    why = refusal(found, recipe, kit_kib)
    if why:
        raise SetupError("H16", f"{way.words}: {why[0]}", cure=why[1])


def refusal(found: Survey, recipe: Recipe, kit_kib: int) -> tuple[str, str] | None:
    """Why a board is not flashed, and what to do; None if it may be. Pure."""
    python, packages = f"python{recipe.emulation.python}", " ".join(found.missing)
    inside = found.root.rstrip("/") + "/"
    table = (
        (
            all(f"{place}/".startswith(inside) for place in found.places),
            "a link there leads out of the card",
            "mend the card's links",
        ),
        (
            found.architecture in ("", recipe.architecture),
            f"it is {found.architecture}, the board {recipe.board} is {recipe.architecture}",
            "name the board that it is: `wherry board list`",
        ),
        (found.python, "it has no /usr/bin/python3", "write Debian with python3 on it first"),
        (
            found.python == python,
            f"it has {found.python}, the board's wheels are for {python}",
            "use the Debian of the board's profile: `wherry board show`",
        ),
        (not found.missing, f"it lacks {packages}", f"on the board: apt-get install {packages}"),
        (
            found.has_kit or found.free_kib >= kit_kib + _SLACK_KIB,
            f"{found.free_kib // 1024} MiB are free, the agent takes {kit_kib // 1024}",
            "make room there",
        ),
    )
    return next(((words, cure) for right, words, cure in table if not right), None)


@dataclass(frozen=True)
class Plan:
    """What would be done.

    Attributes:
        way: to the board.
        pin: its runtime.
        start: whether the agent is restarted.
    """

    way: Way
    board: str
    pin: Pin
    kit: Kit
    folder: Folder
    survey: Survey
    start: bool

    @property
    def size(self) -> int:
        """Bytes that would go."""
        kit = 0 if self.survey.has_kit else self.kit.size
        return kit + (0 if self.survey.has_device else len(self.folder.to_tar()))

    @property
    def done(self) -> bool:
        """Whether the board is already as it should be."""
        wanted = (self.kit.key, self.folder.name)
        return (self.survey.kit, self.survey.device) == wanted and not self.size

    def lines(self) -> Iterator[str]:
        """For a person."""
        here, wanted = self.survey, self.folder
        yield f"{self.way.words}: {self.board}, {self.pin}"
        if self.done:
            yield "  it is already as it should be"
            return
        word = "is there" if here.has_kit else f"{self.kit.size / 2**20:.0f} MiB"
        yield f"  agent   /opt/wherry/{self.kit.key} ({word})"
        word = (
            "is there, and stays as it is" if here.has_device else ", ".join(sorted(wanted.files))
        )
        yield f"  device  /var/lib/wherry/{wanted.name} ({word})"
        if here.device and here.device != wanted.name:
            yield f"  instead of {here.device}, whose folder stays and is not used any more"
        if here.user != 0 and not self.way.sudo:
            yield "  WARNING: not as root, so files will be an ordinary user's; for a trial only"
        if self.start:
            yield "  and wherry-agent is started anew"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "to": self.way.words,
            "board": self.board,
            "runtime": str(self.pin),
            "kit": self.kit.key,
            "folder": self.folder.name,
            "files": sorted(self.folder.files),
            "bytes": self.size,
            "already": self.done,
        }


def carry_out(plan: Plan, step: Callable[[int], None] = lambda _: None) -> None:
    """Write what is planned; killed anywhere, it leaves the old or the new in use.

    Raises:
        SetupError: H16.
    """
    device = b"" if plan.survey.has_device else plan.folder.to_tar()
    kit = 0 if plan.survey.has_kit else plan.kit.size
    arguments = [plan.way.root, plan.kit.key, plan.folder.name, str(kit), str(len(device))]
    with plan.kit.file.open("rb") as stream:
        feed = [stream] if kit else []
        run_script(
            plan.way,
            "place.sh",
            [*arguments, "yes" if plan.start else "no"],
            [*feed, io.BytesIO(device)],
            step,
        )


def is_root_of_a_running_board(way: Way) -> bool:
    """Whether what is flashed is up, so that its agent can be started."""
    return way.remote and Path(way.root) == Path("/")
