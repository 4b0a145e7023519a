"""ARM instructions per inference: counted, the same in every run, and no time at all.

QEMU executes the board's instructions and a small plugin counts them. Caches, clocks and
memory are not modelled, so a count says which of two models costs more work, not how long
it takes; only a board's own measurement turns it into milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from wherry.runtimes import lay_out
from wherry_contract.bundle import Layout
from wherry_contract.errors import SetupError

from .agent import lay_out_agent
from .emulator import Place, run_python
from .root import folder

SECONDS: Final = 600.0
HEADS: Final = ("bundle", "runtime", "instructions a row", "most", "times the first")
_HERE: Final = Path(__file__).parent
_SHOWN: Final = 300


@dataclass(frozen=True)
class Count:
    """What one row costs.

    Attributes:
        bundle: its file's name.
        runtime: name and version.
        instructions: median over varied rows.
        most: the dearest row.
        rows: how many different ones were counted.
    """

    bundle: str
    runtime: str
    instructions: int
    most: int
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def plugin() -> Path:
    """The compiled plugin.

    Raises:
        SetupError: H14, there is no compiler here, or it fails.
        OSError: no room or no right.
    """
    source = _HERE / "count.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = folder() / f"count-{digest}.so"
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise SetupError("H14", "no C compiler", cure="run: sudo apt-get install gcc libc6-dev")
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_suffix(".new")
    options = ["-shared", "-fPIC", "-O2", "-fvisibility=hidden"]
    done = subprocess.run(
        [compiler, *options, "-o", str(half), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SetupError("H14", f"the plugin does not compile: {done.stderr.strip()[-_SHOWN:]}")
    half.rename(target)
    return target


def count(name: str, layout: Layout, place: Place, runtime: tuple[str, Path]) -> Count:
    """Count the instructions of one row.

    Args:
        name: of the bundle, for the answer.
        layout: the bundle.
        place: the board.
        runtime: in words, and the folder of its modules.

    Raises:
        SetupError: H14, QEMU takes no plugins here, or the model does not run.
    """
    with tempfile.TemporaryDirectory(prefix="wherry-count-") as where:
        store, agent, out = Path(where, "store"), Path(where, "agent"), Path(where, "counts")
        lay_out(layout, store)
        lay_out_agent(agent)
        done = run_python(
            replace(place, plugin=f"{plugin()},out={out}"),
            [str(_HERE / "guest_count.py")],
            overlays=[runtime[1], agent],
            settings={"PYTHONHASHSEED": "0"},  # else sets are walked in another order each time
            seconds=SECONDS,
            stdin=json.dumps({"store": str(store), "digest": layout.digest}).encode(),
        )
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-_SHOWN:]
            cure = "it wants Debian's dynamic qemu-user, and a bundle that `wherry verify` passes"
            raise SetupError("H14", f"{name} on {place.board}: {said}", cure=cure)
        rows = json.loads(done.stdout)["rows"]
        costs = read_counts(out.read_text().splitlines())
    return Count(name, runtime[0], round(statistics.median(costs)), max(costs), rows)


def read_counts(lines: Iterable[str]) -> list[int]:
    """Instructions between marks 1 and 2, without what a mark costs. Pure.

    Args:
        lines: a mark and the count so far each; marks come as 0, 1, 2 for each row.
    """
    marks = [tuple(map(int, line.split())) for line in lines]
    found = []
    for (zero, start), (one, begin), (two, end) in zip(
        marks[0::3], marks[1::3], marks[2::3], strict=True
    ):
        if (zero, one, two) != (0, 1, 2):
            raise ValueError("the marks are out of order")
        found.append(end - begin - (begin - start))
    return found


def rows(counts: Sequence[Count]) -> list[Sequence[object]]:
    """Rows of a table under `HEADS`."""
    first = counts[0].instructions
    return [
        (
            item.bundle,
            item.runtime,
            f"{item.instructions:,}",
            f"{item.most:,}",
            f"{item.instructions / first:.2f}",
        )
        for item in counts
    ]
