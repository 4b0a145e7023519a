"""What benchmarks share: the machine, the example's bundle and rows, and fair timing.

Peers run in one process and in turns: each round times each of them once, so that a busy
machine slows all alike. Ratios are taken within a round; a result is the median round.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from wherry_contract.bundle import Parts, read_bundle

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLE: Final = ROOT / "examples" / "fraud_terminals"
ROUNDS: Final = 21


def print_machine(*distributions: str) -> None:
    """What the figures were measured on."""
    print(f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.platform()}")
    found = " ".join(f"{name} {version(name)}" for name in distributions)
    print(f"Python {platform.python_version()} {found}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'} ({platform.machine()})"


def train_example() -> None:
    """Make the example's models if they are not there."""
    if not (EXAMPLE / "build" / "gradient_boosting.skops").exists():
        print("training the example's models, once", file=sys.stderr)
        command = [sys.executable, str(EXAMPLE / "train.py")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def example_bundle(project: str, folder: Path) -> Path:
    """Build the example's bundle, unsigned, and return its file."""
    from wherry.build import build
    from wherry.project import load_project

    train_example()
    loaded = load_project(EXAMPLE / project)
    return build(loaded, out=folder / f"{loaded.name}-{loaded.version}.wherry").path


def example_parts(project: str) -> Parts:
    """What is in the example's bundle."""
    with tempfile.TemporaryDirectory() as folder:
        return read_bundle(example_bundle(project, Path(folder)))


def example_rows(count: int) -> list[dict[str, Any]]:
    """Payments of the example's stream, as an application sends them."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        import stream

        return [payment.row for payment in stream.payments()[:count]]
    finally:
        sys.path.remove(str(EXAMPLE))


@dataclass(frozen=True)
class Timing:
    """Of one entry: microseconds a row, for each round."""

    microseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median round."""
        return statistics.median(self.microseconds)

    def ratio(self, other: Timing) -> float:
        """How many times as long as the other; the median of the rounds' own ratios."""
        pairs = zip(self.microseconds, other.microseconds, strict=True)
        return statistics.median(a / b for a, b in pairs)


def race(entries: Mapping[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, Timing]:
    """Time entries in turns.

    Args:
        entries: each handles some rows when called, and returns how many.
        rounds: how often each is timed; one more round before goes unmeasured.
    """
    found: dict[str, list[float]] = {name: [] for name in entries}
    listed = list(entries.items())
    for place in range(rounds + 1):
        first = place % len(listed)  # so that nobody always follows the same one
        for name, handle in listed[first:] + listed[:first]:
            began = time.perf_counter()
            rows = handle()
            taken = (time.perf_counter() - began) / rows * 1e6
            if place:
                found[name].append(taken)
    return {name: Timing(tuple(taken)) for name, taken in found.items()}


def print_race(timings: Mapping[str, Timing], base: str) -> None:
    """A table: microseconds a row, its range, and the ratio to the base entry."""
    width = max(map(len, timings))
    print(f"{'':{width}}  us/row  [least .. most]      ratio")
    for name, timing in timings.items():
        low, high = min(timing.microseconds), max(timing.microseconds)
        ratio = timing.ratio(timings[base])
        print(f"{name:{width}} {timing.median:7.2f}  [{low:7.2f} ..{high:7.2f}]  {ratio:7.2f}")


def turns(rows: Sequence[Any], handle: Callable[[Any], object]) -> Callable[[], int]:
    """An entry that handles each of `rows` by itself."""

    def run() -> int:
        for row in rows:
            handle(row)
        return len(rows)

    return run
