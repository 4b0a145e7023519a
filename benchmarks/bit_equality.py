"""Are scores the same to the last bit on x86-64, on 64-bit ARM and on 32-bit ARM?

    python benchmarks/bit_equality.py

The agent's own sessions score the same rows of the same files here and on emulated boards,
under the same version of a runtime; Debian 13's onnxruntime 1.21 is held against 1.27 here. It prints
the table of docs/boards.md: outputs that differ, the largest difference, decisions that flip.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from common.bit_models import ROWS, Case, cases
from numpy.typing import NDArray

from wherry.boards.agent import lay_out_agent
from wherry.boards.emulator import run_python
from wherry.boards.overlay import Pin, overlay
from wherry.boards.recipe import recipe_of
from wherry.boards.root import create, mirror
from wherry.profiles import FOLDER, load_board
from wherry.runtimes import RUNTIMES

_SECONDS: Final = 900.0
_TILE: Final = 0.9  # of scores: the threshold stands in the widest gap near it
_CHILD: Final = """
import pickle, sys
import numpy as np
from wherry_agent.serving.runtime import open_session
from wherry_contract.manifest import Output, RuntimeNeeds
with open(sys.argv[1], "rb") as stream:
    given = pickle.load(stream)
found = {}
for name, (model, needs, tensor, column, rows) in given.items():
    session = open_session(model, RuntimeNeeds(**needs), Output(tensor, column, 0.5))
    rows = np.array(rows, np.float32)
    found[name] = np.concatenate([session.score(row[np.newaxis]) for row in rows])
np.savez(sys.argv[2], **found)
"""


@dataclass(frozen=True)
class Column:
    """A board with a runtime, and the version here that it is held against."""

    board: str
    runtime: Pin
    against: Pin


_ORT: Final = Pin("onnxruntime", "1.27.0")
_OLD: Final = Pin("tflite-runtime", "2.14.0")
_NEW: Final = Pin("ai-edge-litert", "2.3.0")
COLUMNS: Final = (
    Column("pi3", _ORT, _ORT),
    Column("pi5", _ORT, _ORT),
    Column("pos-armv7-debian13", Pin("onnxruntime", "1.21"), _ORT),
    Column("pi3", _OLD, _OLD),
    Column("pos-armv7", _OLD, _OLD),
    Column("pi3", _NEW, _NEW),
)
Scores = dict[str, NDArray[np.float64]]


def request(found: Sequence[Case], pin: Pin, folder: Path) -> Path:
    """The models that a runtime runs, for a child."""
    kind = "onnxruntime" if pin.name == "onnxruntime" else "tflite"
    given = {
        item.name: (
            item.made.model,
            {"kind": kind, "version": "", "ir": 8, "opsets": {}, "operators": ()},
            item.made.tensor,
            item.made.column,
            item.rows,
        )
        for item in found
        if item.kind == kind
    }
    path = folder / f"{kind}.pickle"
    # protocol and arrays that numpy 1 reads, too
    path.write_bytes(pickle.dumps({key: (*v[:4], v[4].tolist()) for key, v in given.items()}, 4))
    return path


def scores_here(pin: Pin, given: Path, agent: Path, folder: Path) -> Scores:
    """Under an environment of `wherry doctor --install runtimes`."""
    (runtime,) = [item for item in RUNTIMES if (item.name, item.version) == (pin.name, pin.version)]
    if runtime.python is None:
        raise SystemExit(f"no environment has {pin}; run: wherry doctor --install runtimes")
    out = folder / f"here-{pin.name}.npz"
    settings = dict(os.environ) | {"PYTHONPATH": str(agent), "ORT_DISABLE_TELEMETRY": "1"}
    command = [str(runtime.python), "-c", _CHILD, str(given), str(out)]
    subprocess.run(command, env=settings, check=True, timeout=_SECONDS)
    return _loaded(out)


def scores_there(column: Column, given: Path, agent: Path, folder: Path) -> Scores:
    """On an emulated board."""
    recipe = recipe_of(load_board(column.board, FOLDER), mirror())
    place = create(recipe, _tell).place
    runtime = overlay(column.runtime, recipe, _tell)
    out = folder / f"{column.board}-{column.runtime.name}.npz"
    done = run_python(
        place, ["-c", _CHILD, str(given), str(out)], overlays=[runtime, agent], seconds=_SECONDS
    )
    if done.returncode:
        raise SystemExit(f"{column.board}: {done.stderr.decode()[-1000:]}")
    return _loaded(out)


def _loaded(path: Path) -> Scores:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def _tell(words: str) -> None:
    print(words, file=sys.stderr)


def threshold(scores: NDArray[np.float64]) -> float:
    """In the middle of the widest gap between the scores near the tile, as a build puts it."""
    ordered = np.unique(scores)
    near = ordered[int(len(ordered) * (_TILE - 0.02)) : int(len(ordered) * (_TILE + 0.02)) + 2]
    place = int(np.argmax(np.diff(near)))
    return float(near[place : place + 2].mean())


def words(here: NDArray[np.float64], there: NDArray[np.float64]) -> str:
    """A cell of the table."""
    differ = int((here != there).sum())
    if not differ:
        return "the same"
    cut = threshold(here)
    flips = int(((here >= cut) != (there >= cut)).sum())
    return f"{differ}, {np.abs(here - there).max():.1g}, {flips}"


def main() -> None:
    """Print the table."""
    found = list(cases())
    here: dict[Pin, Scores] = {}
    cells: dict[tuple[str, Column], str] = {}
    with tempfile.TemporaryDirectory(prefix="wherry-bits-") as name:
        folder = Path(name)
        agent = folder / "agent"
        lay_out_agent(agent)
        for column in COLUMNS:
            _tell(f"{column.board}, {column.runtime}")
            given = request(found, column.runtime, folder)
            if column.against not in here:
                here[column.against] = scores_here(column.against, given, agent, folder)
            there = scores_there(column, given, agent, folder)
            for model, scores in there.items():
                cells[model, column] = words(here[column.against][model], scores)
    _print_table(list(dict.fromkeys(item.name for item in found)), cells)


def _print_table(models: Sequence[str], cells: dict[tuple[str, Column], Any]) -> None:
    heads = [f"{column.board}, {column.runtime}" for column in COLUMNS]
    print(f"{ROWS} rows; outputs that differ from x86-64, largest difference, flips\n")
    print(f"| model | {' | '.join(heads)} |")
    print(f"|---|{'---|' * len(heads)}")
    for model in models:
        row = [cells.get((model, column), "") for column in COLUMNS]
        print(f"| {model} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
