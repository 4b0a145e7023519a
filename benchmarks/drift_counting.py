"""What counting drift costs on a device, beside two ways that one would think of first.

    python benchmarks/drift_counting.py [--features 30] [--rows 20000] [--json FILE]

Counting means: for each feature, which slot of the reference profile a value falls into.
Three ways do exactly the same work, on the same rows, and must find the same counts:

- ours: the agent's `Counter`, given one row at a time as payments come (what it costs in
  life: times, latency, scores, flags and all), and its kernel `SlotCounter` on blocks
- bisect: plain Python, `bisect_left` for each value, one row at a time
- numpy.histogram: for each feature, once for each block of 256 rows

Besides, what goes with it: the bytes of one window as JSON, and the time of one durable
`Outbox.add` on the disk under the temporary folder. Every figure is the median of rounds
that take turns, so that a busy machine slows all alike; the result is the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wherry_agent import __version__
from wherry_agent.inference import Answers
from wherry_agent.outbox import Outbox
from wherry_agent.scoring import Counter
from wherry_contract.encoder import Encoder
from wherry_contract.features import Feature, InputContract, RawMatrix
from wherry_contract.histograms import score_bins
from wherry_contract.manifest import BoardNeeds, Manifest, Output, RuntimeNeeds, Soak
from wherry_contract.messages import Place
from wherry_contract.profile import ReferenceProfile, build_profile

BLOCK = 256
ROUNDS = 7
NOW = 1.8e9


def make(features: int, rows: int) -> tuple[Manifest, ReferenceProfile, RawMatrix, RawMatrix]:
    """A contract of numbers with amounts, counts and gaps, its profile, and rows to count."""
    chance = np.random.default_rng(7)
    contract = InputContract(
        "bench",
        1,
        tuple(Feature(f"X{place}", minimum=0.0, missing="allow") for place in range(features)),
    )

    def draw(count: int) -> RawMatrix:
        raw = np.round(chance.lognormal(3.0, 1.0, (count, features)), 2)
        raw[:, ::3] = chance.poisson(4.0, raw[:, ::3].shape)
        raw[chance.random(raw.shape) < 0.02] = np.nan
        raw[chance.random(raw.shape) < 0.01] = -1.0
        return raw

    reference = draw(10_000)
    profile = build_profile(contract, reference, chance.beta(0.5, 20, 10_000), 0.5)
    manifest = Manifest(
        "bench",
        "1",
        "bench",
        RuntimeNeeds("onnxruntime", "", 8, {"": 13}, ()),
        BoardNeeds(),
        contract,
        Encoder(contract),
        Output("score", -1, 0.5),
        Soak(),
        None,
        {},
    )
    return manifest, profile, reference, draw(rows)


def by_counter(manifest: Manifest, profile: ReferenceProfile, raw: RawMatrix) -> list[list[int]]:
    """The agent's way, one row at a time."""
    counter = Counter("sha256:" + "0" * 64, manifest, profile)
    score = np.array([0.01])
    answers = Answers(score, score >= 0.5, score_bins(score))
    for row in raw:
        counter.add(row[np.newaxis], answers, NOW, 50.0)
    return [
        [item.below, *item.bins, item.above, item.missing]
        for item in counter.close("rows").features.values()
    ]


def by_slots(manifest: Manifest, profile: ReferenceProfile, raw: RawMatrix) -> list[list[int]]:
    """The kernel alone, on blocks."""
    slots = profile.counter(manifest.input)
    counts = slots.zeros()
    for start in range(0, len(raw), BLOCK):
        slots.add(counts, raw[start : start + BLOCK])
    return [[c.below, *c.bins, c.above, c.missing] for c in slots.split(counts)]


def by_bisect(manifest: Manifest, profile: ReferenceProfile, raw: RawMatrix) -> list[list[int]]:
    """Plain Python: one bisection for each value."""
    edges = [list(item.edges) for item in profile.features]
    lows = [feature.minimum or 0.0 for feature in manifest.input.features]
    counts = [[0] * (len(inner) + 4) for inner in edges]
    for row in raw:
        for place, value in enumerate(row.tolist()):
            cells = counts[place]
            if value != value:  # noqa: PLR0124 - NaN
                cells[-1] += 1
            elif value < lows[place]:
                cells[0] += 1
            else:
                cells[bisect_left(edges[place], value) + 1] += 1
    return counts


def by_histogram(manifest: Manifest, profile: ReferenceProfile, raw: RawMatrix) -> list[list[int]]:
    """numpy.histogram for each feature of each block; its bins are closed on the left."""
    # bins of (a, b] are bins of [a, b) on the negated axis, so both ways agree on every edge
    frames = [np.array([-np.inf, *(-np.array(f.edges))[::-1], np.inf]) for f in profile.features]
    lows = [feature.minimum or 0.0 for feature in manifest.input.features]
    counts = [np.zeros(len(frame) - 1 + 3, np.int64) for frame in frames]
    for start in range(0, len(raw), BLOCK):
        block = raw[start : start + BLOCK]
        for place, frame in enumerate(frames):
            column = block[:, place]
            gaps = np.isnan(column)
            below = column < lows[place]
            found, _ = np.histogram(-column[~gaps & ~below], frame)
            cells = counts[place]
            cells[1:-2] += found[::-1]
            cells[0] += np.count_nonzero(below)
            cells[-1] += np.count_nonzero(gaps)
    return [cells.tolist() for cells in counts]


WAYS: dict[str, Callable[[Manifest, ReferenceProfile, RawMatrix], list[list[int]]]] = {
    "ours, one row at a time (Counter)": by_counter,
    "ours, the kernel on blocks (SlotCounter)": by_slots,
    "plain Python, bisect for each value": by_bisect,
    "numpy.histogram for each feature": by_histogram,
}


def counting(features: int, rows: int) -> dict[str, float]:
    """Microseconds a row for each way, after all agreed on the counts."""
    manifest, profile, _, raw = make(features, rows)
    counts = {name: way(manifest, profile, raw[: rows // 4]) for name, way in WAYS.items()}
    wanted = next(iter(counts.values()))
    for name, found in counts.items():
        if found != wanted:
            raise SystemExit(f"{name} counts otherwise: the comparison is worth nothing")
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            start = time.perf_counter()
            way(manifest, profile, raw)
            times[name].append((time.perf_counter() - start) / rows * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def window_bytes(features: int, rows: int = 1000) -> tuple[int, int]:
    """Bytes of one window as JSON, and of the same deflated."""
    manifest, profile, _, raw = make(features, rows)
    counter = Counter("sha256:" + "0" * 64, manifest, profile)
    scores = np.random.default_rng(1).beta(0.5, 20, rows)
    for row, score in zip(raw, scores, strict=True):
        one = np.array([score])
        counter.add(row[np.newaxis], Answers(one, one >= 0.5, score_bins(one)), NOW, 50.0)
    window = counter.close("rows").window(Place("shop-1", "0" * 16, 123, 120))
    return len(window.to_bytes()), len(zlib.compress(window.to_bytes(), 9))


def outbox_cost(size: int, count: int = 300) -> tuple[float, float]:
    """Median and 95 % quantile of one durable add, in microseconds."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        box = Outbox(Path(folder), "shop-1", mib=64, days=30)
        for _ in range(count):
            start = time.perf_counter()
            box.add("window", lambda _: bytes(size), now=NOW)
            times.append((time.perf_counter() - start) * 1e6)
        box.close()
    return statistics.median(times), float(np.quantile(times, 0.95))


def measure(features: int, rows: int) -> dict[str, Any]:
    """Everything, as one document."""
    times = counting(features, rows)
    ours = times["ours, one row at a time (Counter)"]
    kernel = times["ours, the kernel on blocks (SlotCounter)"]
    sizes = {str(count): window_bytes(count) for count in (15, 30)}
    median, slow = outbox_cost(sizes["30"][0])
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "versions": {
            "wherry": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "features": features,
        "rows": rows,
        "rounds": ROUNDS,
        "us_a_row": {name: round(value, 3) for name, value in times.items()},
        "bisect_over_ours": round(times["plain Python, bisect for each value"] / ours, 2),
        "histogram_over_kernel": round(times["numpy.histogram for each feature"] / kernel, 2),
        "window_bytes": {count: found[0] for count, found in sizes.items()},
        "window_bytes_deflated": {count: found[1] for count, found in sizes.items()},
        "outbox_add_us": {"median": round(median), "p95": round(slow)},
    }


def show(found: dict[str, Any]) -> None:
    """For people."""
    print(f"machine   {found['machine']}")
    print("versions ", ", ".join(f"{name} {text}" for name, text in found["versions"].items()))
    print(f"load      {found['features']} features, {found['rows']} rows, median of {ROUNDS}\n")
    for name, value in found["us_a_row"].items():
        print(f"  {value:8.2f} us a row   {name}")
    print(f"\nbisect / ours, row by row:          {found['bisect_over_ours']:.2f}")
    print(f"numpy.histogram / ours, on blocks:  {found['histogram_over_kernel']:.2f}")
    for count, size in found["window_bytes"].items():
        deflated = found["window_bytes_deflated"][count]
        print(f"one window of 1,000 rows, {count} features: {size} bytes ({deflated} deflated)")
    cost = found["outbox_add_us"]
    print(f"one durable Outbox.add: {cost['median']} us, p95 {cost['p95']} us")


def main() -> None:
    """Measure, show, and write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    wanted = parser.parse_args()
    found = measure(wanted.features, wanted.rows)
    show(found)
    if wanted.json:
        wanted.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
