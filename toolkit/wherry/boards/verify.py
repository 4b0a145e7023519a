"""Does a bundle do on a board's CPU what it did where it was made?

The agent's own probe runs there, under QEMU, with each runtime version that both the board
and the bundle name. Then its whole life is rehearsed under the first that is good. What
became of it is one of `VERDICTS`, each with its cure.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from wherry.profiles import Board
from wherry.runtimes import PROBE_MIB, lay_out, ranges_of
from wherry_contract.bundle import Layout, Parts
from wherry_contract.errors import CODES, SetupError
from wherry_contract.manifest import Manifest
from wherry_contract.versions import in_range

from . import rehearsal
from .agent import BoardAgent, lay_out_agent
from .contacts import INSTALL
from .emulator import Place, run_python
from .overlay import Pin, overlay, pins_of
from .recipe import Recipe
from .rehearsal import Rehearsal
from .rehearse import Subject, rehearse

SECONDS: Final = 300.0  # for each probe, and for the rehearsal; emulated programs are slow
HEADS: Final = ("runtime", "verdict", "largest difference", "what to do")
_SHOWN: Final = 300
_SIGILL: Final = 4

EXACT: Final = "exact"
CLOSE: Final = "within tolerance"
WRONG: Final = "wrong numbers"
ILLEGAL: Final = "illegal instruction"
CRASHED: Final = "crashed"
NO_WHEEL: Final = "missing wheel"
OPERATOR: Final = "unsupported operator"
MEMORY: Final = "out of memory"
COUNTS: Final = "wrong counts"
HOME: Final = "reports home"
WORKS: Final = "works"
UNWATCHED: Final = "works, not watched"
SLOW: Final = "too slow to judge"
REFUSED: Final = "refused"
GOOD: Final = frozenset({EXACT, CLOSE, WORKS, UNWATCHED})

VERDICTS: Final = MappingProxyType(
    {
        EXACT: "",
        CLOSE: "",
        WORKS: "",
        UNWATCHED: f"whom it speaks to is not known; run: {INSTALL}, and verify again",
        WRONG: "do not ship it to this board with this runtime; build it for another",
        ILLEGAL: "this runtime is not made for this CPU; put another version on the board",
        CRASHED: "look at what it said; try another version of the runtime",
        NO_WHEEL: "build it for a runtime that the board has: `wherry board show`",
        OPERATOR: "build it for this board: name it in [target] boards",
        MEMORY: "use a smaller model, or a board with more memory",
        SLOW: "nothing is known: give it more --patience, or try it on a real board",
        COUNTS: "its windows are not to be trusted; tell us, with the bundle",
        HOME: "put another version of the runtime on the board",
        REFUSED: "see the code in docs/cli.md",
    }
)
# steps of the rehearsal that fail without a code; every other one is "refused"
_BY_STEP: Final = MappingProxyType(
    {
        rehearsal.SCORED: WRONG,
        rehearsal.COUNTED: COUNTS,
        rehearsal.ALONE: HOME,
        rehearsal.ROOM: MEMORY,
    }
)
# codes of the probe -> verdict; every other code is "refused"
_BY_CODE: Final = MappingProxyType(
    {"P01": WRONG, "P02": CRASHED, "P03": SLOW, "P04": OPERATOR, "P05": MEMORY, "H06": NO_WHEEL}
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """What became of a bundle under one runtime of a board.

    Attributes:
        runtime: name and version.
        verdict: one of `VERDICTS`.
        largest_gap: between a score and the recorded one; None if it did not come to that.
        detail: what was said.
    """

    runtime: str
    verdict: str
    largest_gap: float | None = None
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the board may have it."""
        return self.verdict in GOOD

    @property
    def cure(self) -> str:
        """What to do."""
        return VERDICTS[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"good": self.good, "cure": self.cure}


@dataclass(frozen=True)
class Verified:
    """What became of a bundle on a board.

    Attributes:
        board: its name.
        cpu: QEMU's name of its CPU.
        verdicts: the probe's, one for each runtime; behind them the rehearsal's.
        rehearsal: nothing where no probe was good, or none was asked for.
    """

    board: str
    cpu: str
    verdicts: tuple[Verdict, ...]
    rehearsal: Rehearsal | None = None

    @property
    def good(self) -> bool:
        """Whether the board may have it."""
        return all(item.good for item in self.verdicts)

    @property
    def unwatched(self) -> bool:
        """Whether a warning goes with it: nobody could see whom it speaks to."""
        return any(item.verdict == UNWATCHED for item in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "board": self.board,
            "cpu": self.cpu,
            "good": self.good,
            "warnings": [VERDICTS[UNWATCHED]] if self.unwatched else [],
            "verdicts": [item.to_dict() for item in self.verdicts],
            "rehearsal": self.rehearsal.to_dict() if self.rehearsal else None,
        }


@dataclass(frozen=True)
class Ground:
    """A board, and its environment here.

    Attributes:
        board: its profile.
        place: the environment.
        recipe: what it was made of.
    """

    board: Board
    place: Place
    recipe: Recipe


def pins_for(board: Board, manifest: Manifest) -> list[Pin]:
    """The runtimes of a board that a bundle claims. Pure."""
    ranges = ranges_of(manifest.runtime)
    return [
        pin
        for pin in pins_of(board)
        if pin.name in ranges and in_range(pin.version, ranges[pin.name])
    ]


def verify(
    layout: Layout,
    parts: Parts,
    ground: Ground,
    pins: Sequence[Pin],
    progress: Progress,
    *,
    quick: bool = False,
    seconds: float = SECONDS,
) -> Verified:
    """Run the golden vectors on the board under each runtime, and rehearse its life under one.

    Args:
        layout: of the bundle.
        parts: likewise.
        ground: the board.
        pins: see `pins_for`.
        progress: is told each step in words.
        quick: golden vectors alone.
        seconds: after which a probe, or the rehearsal, is given up.

    Raises:
        SetupError: H03, H05, H06 or H15: it could not be tried.
    """
    place = ground.place
    if not pins:
        lacks = Verdict("none", NO_WHEEL, detail="the board has no runtime that the bundle claims")
        return Verified(place.board, place.cpu, (lacks,))
    with tempfile.TemporaryDirectory(prefix="wherry-board-") as folder:
        store, files = Path(folder, "store"), Path(folder, "agent")
        lay_out(layout, store)
        lay_out_agent(files)
        request = {"store": str(store), "digest": layout.digest, "mib": PROBE_MIB}
        found: list[Verdict] = []
        chosen: Subject | None = None
        for pin in pins:
            progress(f"golden vectors on {place.board} ({place.cpu}) under {pin}")
            runtime = _runtime(pin, ground.recipe, progress)
            if isinstance(runtime, Verdict):
                found.append(runtime)
                continue
            agent = BoardAgent(place, runtime, files, pin.name)
            found.append(_probe(pin, agent, request, seconds))
            if found[-1].good and chosen is None:
                chosen = Subject(layout, parts, agent, str(pin), ground.board.memory_mib)
        if chosen is None or quick:
            return Verified(place.board, place.cpu, tuple(found))
        progress(f"the bundle's life on {place.board} under {chosen.runtime}")
        lived = rehearse(chosen, progress, seconds)
        return Verified(place.board, place.cpu, (*found, judge_life(lived)), lived)


def _runtime(pin: Pin, recipe: Recipe, progress: Progress) -> Path | Verdict:
    try:
        return overlay(pin, recipe, progress)
    except SetupError as error:
        if error.code != "H15":
            raise
        return Verdict(str(pin), NO_WHEEL, detail=error.detail)


def _probe(pin: Pin, agent: BoardAgent, request: Mapping[str, Any], seconds: float) -> Verdict:
    asked = dict(request) | {"parent": os.getpid(), "seconds": seconds}
    try:
        done = run_python(
            agent.place,
            ["-W", "ignore", "-m", "wherry_agent.serving.probe"],
            overlays=[agent.runtime, agent.files],
            seconds=seconds,
            stdin=json.dumps(asked).encode(),
        )
    except subprocess.TimeoutExpired:
        return Verdict(str(pin), SLOW, detail=f"no answer in {seconds:.0f} s")
    return judge(str(pin), done.returncode, done.stdout, done.stderr)


def judge_life(lived: Rehearsal) -> Verdict:
    """What a rehearsal's end means. Pure."""
    name, failed = f"{lived.runtime}, whole life", lived.failed
    if failed:
        by_step = _BY_STEP.get(failed.name, REFUSED)
        verdict = _BY_CODE.get(failed.code, by_step)
        return Verdict(name, verdict, detail=f"{failed.name}? {failed.seen}")
    if lived.slow:
        return Verdict(name, SLOW, detail=f"it had not ended after {lived.seconds:.0f} s")
    if lived.unseen:
        return Verdict(name, UNWATCHED, detail=f"{lived.unseen.name}? {lived.unseen.seen}")
    return Verdict(name, WORKS)


def judge(runtime: str, returned: int, output: bytes, errors: bytes) -> Verdict:
    """What a probe's end means. Pure.

    Args:
        runtime: name and version.
        returned: its exit code; negative for the signal that ended it.
        output: what it answered.
        errors: what it said.
    """
    try:
        answer = json.loads(output) if output else None
    except ValueError:
        answer = None
    said = " ".join(errors.decode(errors="replace").split())[-_SHOWN:]
    if returned == -_SIGILL:
        return Verdict(runtime, ILLEGAL, detail=said)
    if returned or not isinstance(answer, dict):
        cause = f"signal {-returned}" if returned < 0 else f"exit {returned}"
        return Verdict(runtime, CRASHED, detail=f"{cause}: {said}")
    error = answer.get("error")
    if error:
        verdict = _BY_CODE.get(error["code"], REFUSED)
        words = f"{error['code']} {CODES[error['code']].title}: {error['detail']}"
        return Verdict(runtime, verdict, detail=words)
    gap = float(answer["largest_gap"])
    return Verdict(runtime, CLOSE if gap else EXACT, gap)


def rows(verdicts: Sequence[Verdict]) -> list[Sequence[object]]:
    """Rows of a table under `HEADS`."""
    return [
        (
            item.runtime,
            item.verdict,
            "" if item.largest_gap is None else f"{item.largest_gap:.2g}",
            f"{item.cure}: {item.detail}" if item.cure else "",
        )
        for item in verdicts
    ]
