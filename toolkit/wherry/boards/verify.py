"""Does a bundle do on a board's CPU what it did where it was made?

The agent's own probe runs there, under QEMU, with each runtime version that both the board
and the bundle name. What became of it is one of `VERDICTS`, each with its cure.
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
from wherry_contract.bundle import Layout
from wherry_contract.errors import CODES, SetupError
from wherry_contract.manifest import Manifest
from wherry_contract.versions import in_range

from .agent import lay_out_agent
from .emulator import Place, run_python
from .overlay import Pin, overlay, pins_of
from .recipe import Recipe

PROBE_SECONDS: Final = 240.0  # emulated: a tenth to a fortieth of this machine's speed
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
SLOW: Final = "too slow to judge"
REFUSED: Final = "refused"
GOOD: Final = frozenset({EXACT, CLOSE})

VERDICTS: Final = MappingProxyType(
    {
        EXACT: "",
        CLOSE: "",
        WRONG: "do not ship it to this board with this runtime; build it for another",
        ILLEGAL: "this runtime is not made for this CPU; put another version on the board",
        CRASHED: "look at what it said; try another version of the runtime",
        NO_WHEEL: "build it for a runtime that the board has: `wherry board show`",
        OPERATOR: "build it for this board: name it in [target] boards",
        MEMORY: "use a smaller model, or a board with more memory",
        SLOW: "nothing is known: try it on a real board",
        REFUSED: "see the code in docs/cli.md",
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
    place: Place,
    recipe: Recipe,
    pins: Sequence[Pin],
    progress: Progress,
) -> list[Verdict]:
    """Run the golden vectors on the board under each runtime.

    Args:
        layout: of the bundle.
        place: the board's environment.
        recipe: what it was made of.
        pins: see `pins_for`.
        progress: is told each step in words.

    Raises:
        SetupError: H03, H06 or H15: it could not be tried.
    """
    if not pins:
        return [Verdict("none", NO_WHEEL, detail="the board has no runtime that the bundle claims")]
    with tempfile.TemporaryDirectory(prefix="wherry-board-") as folder:
        store, agent = Path(folder, "store"), Path(folder, "agent")
        lay_out(layout, store)
        lay_out_agent(agent)
        found = []
        for pin in pins:
            progress(f"golden vectors on {place.board} ({place.cpu}) under {pin}")
            request = {
                "store": str(store),
                "digest": layout.digest,
                "mib": PROBE_MIB,
                "seconds": PROBE_SECONDS,
            }
            try:
                runtime = overlay(pin, recipe, progress)
            except SetupError as error:
                if error.code != "H15":
                    raise
                found.append(Verdict(str(pin), NO_WHEEL, detail=error.detail))
                continue
            found.append(_probe(pin, place, [runtime, agent], request))
        return found


def _probe(pin: Pin, place: Place, overlays: Sequence[Path], request: Mapping[str, Any]) -> Verdict:
    asked = dict(request) | {"parent": os.getpid()}
    try:
        done = run_python(
            place,
            ["-W", "ignore", "-m", "wherry_agent.probe"],
            overlays=overlays,
            seconds=PROBE_SECONDS,
            stdin=json.dumps(asked).encode(),
        )
    except subprocess.TimeoutExpired:
        return Verdict(str(pin), SLOW, detail=f"no answer in {PROBE_SECONDS:.0f} s")
    return judge(str(pin), done.returncode, done.stdout, done.stderr)


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
