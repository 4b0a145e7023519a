"""What tests of TFLite share: random forests with a plain walk beside them, and a second runtime.

tflite-runtime 2.14 wants numpy below 2 and so an environment of its own. It is made once
under `.cache/` (or where ``WHERRY_ENVS`` says); `make test-frameworks` makes it beforehand.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support import ROOT

from wherry_convert.forest import Forest, Tree

ENVIRONMENTS = Path(os.environ.get("WHERRY_ENVS", ROOT / ".cache" / "envs"))
# the extra agent-tflite, so that the whole agent runs there
PINS = ("tflite-runtime==2.14.0", "numpy<2", "h11", "paho-mqtt>=2.1", "securesystemslib>=1.3")
CHILD = """
import sys, numpy as np
from wherry_convert.tflite_scoring import TfliteRunner, interpreter_kind
assert interpreter_kind()[0] == "tflite-runtime"
with np.load(sys.argv[1]) as given:
    count = len(given) // 2
    out = {
        f"s{k}": TfliteRunner(given[f"m{k}"].tobytes(), 1, sys.argv[3]).run(given[f"x{k}"])
        for k in range(count)
    }
np.savez(sys.argv[2], **out)
"""


def old_runtime() -> Path:
    """The Python of an environment with tflite-runtime 2.14; it is made if it is not there."""
    folder = ENVIRONMENTS / "tflite-2.14"
    python, done = folder / "bin" / "python", folder / ".done"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != str(PINS):
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS]
            made = subprocess.run(pip, capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"tflite-runtime 2.14 cannot be had here: {made.stderr[-200:]}")
            done.write_text(str(PINS))
    return python


def score_in(
    python: Path,
    pairs: Sequence[tuple[bytes, NDArray[np.float32]]],
    folder: Path,
    tensor: str = "score",
) -> list[NDArray[np.float64]]:
    """What models make of rows under another Python's runtime."""
    given, out = folder / "given.npz", folder / "out.npz"
    cells = {f"m{k}": np.frombuffer(model, np.uint8) for k, (model, _) in enumerate(pairs)}
    np.savez(given, **cells, **{f"x{k}": rows for k, (_, rows) in enumerate(pairs)})
    path = os.pathsep.join(str(ROOT / part) for part in ("contract", "converters"))
    subprocess.run([python, "-c", CHILD, given, out, tensor], check=True, env={"PYTHONPATH": path})
    with np.load(out) as found:
        return [found[f"s{k}"] for k in range(len(pairs))]


def random_tree(
    make: np.random.Generator, leaves: int, features: int, cuts: Sequence[float]
) -> Tree:
    """A tree that is grown at random, leaves with a whole number each; deep as often as wide."""
    feature, cut, left, right, value = [0], [0.0], [-1], [-1], [0.0]
    gaps, open_ends = [False], [0]
    deep = make.random() < 0.5
    while len(open_ends) < leaves:
        node = open_ends.pop(-1 if deep else int(make.integers(len(open_ends))))
        feature[node], cut[node] = int(make.integers(features)), float(make.choice(cuts))
        gaps[node] = bool(make.random() < 0.5)
        left[node], right[node] = len(feature), len(feature) + 1
        for _ in range(2):
            open_ends.append(len(feature))
            for cells, empty in ((feature, 0), (cut, 0.0), (left, -1), (right, -1), (gaps, False)):
                cells.append(empty)  # type: ignore[attr-defined]  # lists of several types
            value.append(float(make.integers(-(2**18), 2**18)))
    return Tree(
        *map(np.array, (feature, cut, left, right, gaps, value)),
    )


def walk(forest: Forest, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sums of a forest, row by row and tree by tree, as its words say."""
    total = np.zeros(len(rows))
    for tree in forest.trees:
        for place, row in enumerate(rows):
            node = 0
            while tree.left[node] != -1:
                asked = row[tree.feature[node]]
                left = tree.missing_left[node] if np.isnan(asked) else asked <= tree.cut[node]
                node = int(tree.left[node] if left else tree.right[node])
            total[place] += tree.value[node]
    return forest.base + total / forest.divisor
