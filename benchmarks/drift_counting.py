"""What counting drift costs on a device, beside two ways that one would think of first.

    python benchmarks/drift_counting.py [--features 30] [--rows 20000] [--json FILE]

Counting means: for each feature, which slot of the reference profile a value falls into.
The ways do exactly the same work, on the same rows, and must find the same counts:

- ours, buffered: the agent's `Counter`, given one row at a time as payments come (what it
  costs in life: times, latency, scores, flags and all)
- ours, unbuffered: its kernel `SlotCounter`, one row at a time
- ours, the kernel on blocks of 256 rows
- bisect: plain Python, `bisect_left` for each value, one row at a time
- numpy.histogram: for each feature, once for each block of 256 rows

Besides, what goes with it: how long one flush takes, the bytes of one window in our two forms
and as others would write the same counts (msgpack and cbor2 if they are installed), and the
time of one durable `Outbox.add` on the disk under the temporary folder. Figures are CPU time,
the median of rounds that take turns, so that a busy machine slows all alike; the result is the
ratio.
"""

from __future__ import annotations

import argparse
import importlib
import json
import lzma
import os
import platform
import statistics
import tempfile
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from wherry_agent import __version__
from wherry_agent.link.outbox import Outbox
from wherry_agent.serving.counter import BLOCK_ROWS, Counter
from wherry_agent.serving.inference import Answers
from wherry_contract.compact import write_window
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


Rows = list[RawMatrix]
"""Each of shape (1, features), as a request brings it."""


def by_counter(manifest: Manifest, profile: ReferenceProfile, rows: Rows) -> list[list[int]]:
    """The agent's way, one row at a time."""
    counter = Counter("sha256:" + "0" * 64, manifest, profile)
    score = np.array([0.01])
    answers = Answers(score, score >= 0.5, score_bins(score))
    for row in rows:
        counter.add(row, answers, NOW, 50.0)
    return [list(item.slots) for item in counter.close("rows").features.values()]


def one_by_one(manifest: Manifest, profile: ReferenceProfile, rows: Rows) -> list[list[int]]:
    """The kernel alone, one row at a time."""
    slots = profile.counter(manifest.input)
    counts = slots.zeros()
    for row in rows:
        slots.add(counts, row)
    return [list(item.slots) for item in slots.split(counts)]


def by_slots(manifest: Manifest, profile: ReferenceProfile, raw: RawMatrix) -> list[list[int]]:
    """The kernel alone, on blocks."""
    slots = profile.counter(manifest.input)
    counts = slots.zeros()
    for start in range(0, len(raw), BLOCK):
        slots.add(counts, raw[start : start + BLOCK])
    return [list(item.slots) for item in slots.split(counts)]


def by_bisect(manifest: Manifest, profile: ReferenceProfile, rows: Rows) -> list[list[int]]:
    """Plain Python: one bisection for each value."""
    edges = [list(item.edges) for item in profile.features]
    lows = [feature.minimum or 0.0 for feature in manifest.input.features]
    counts = [[0] * (len(inner) + 4) for inner in edges]
    for row in rows:
        for place, value in enumerate(row[0].tolist()):
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


OURS = "ours, buffered (Counter)"
UNBUFFERED = "ours, unbuffered (SlotCounter, row by row)"
KERNEL = "ours, the kernel on blocks (SlotCounter)"
BISECT = "plain Python, bisect for each value"
HISTOGRAM = "numpy.histogram for each feature"


def counting(features: int, rows: int) -> dict[str, float]:
    """Microseconds a row for each way, after all agreed on the counts."""
    manifest, profile, _, raw = make(features, rows)
    single = list(raw[:, np.newaxis])
    ways: dict[str, Callable[[], list[list[int]]]] = {
        OURS: lambda: by_counter(manifest, profile, single),
        UNBUFFERED: lambda: one_by_one(manifest, profile, single),
        KERNEL: lambda: by_slots(manifest, profile, raw),
        BISECT: lambda: by_bisect(manifest, profile, single),
        HISTOGRAM: lambda: by_histogram(manifest, profile, raw),
    }
    wanted = ways[BISECT]()
    for name, way in ways.items():
        if way() != wanted:
            raise SystemExit(f"{name} counts otherwise: the comparison is worth nothing")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append((time.process_time() - start) / rows * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def flush_stall(features: int, flushes: int = 200) -> tuple[float, float]:
    """Median and 95 % quantile of a flush of a full block, in microseconds of CPU time."""
    manifest, profile, _, raw = make(features, BLOCK_ROWS)
    counter = Counter("sha256:" + "0" * 64, manifest, profile)
    score = np.array([0.01])
    answers = Answers(score, score >= 0.5, score_bins(score))
    times = []
    for _ in range(flushes):
        for row in raw:
            counter.add(row[np.newaxis], answers, NOW, 50.0)
        start = time.process_time()
        counter.flush()
        times.append((time.process_time() - start) * 1e6)
    return statistics.median(times), float(np.quantile(times, 0.95))


def window_bytes(features: int, rows: int) -> dict[str, int]:
    """Bytes of one window, by how it is written."""
    manifest, profile, _, raw = make(features, rows)
    counter = Counter("sha256:" + "0" * 64, manifest, profile)
    scores = np.random.default_rng(1).beta(0.5, 20, rows)
    for row, score in zip(raw, scores, strict=True):
        one = np.array([score])
        counter.add(row[np.newaxis], Answers(one, one >= 0.5, score_bins(one)), NOW, 50.0)
    window = counter.close("rows").window(Place("shop-1", "0" * 16, 123, 120))
    text = window.to_bytes()
    document = json.loads(text)
    found = {
        "compact": len(write_window(window, profile) or b""),
        "json": len(text),
        "json, zlib 9": len(zlib.compress(text, 9)),
        "json, lzma": len(lzma.compress(text, format=lzma.FORMAT_ALONE)),
    }
    for name, write in (("msgpack", "packb"), ("cbor2", "dumps")):
        with suppress(ImportError):
            packed = getattr(importlib.import_module(name), write)(document)
            found |= {name: len(packed), f"{name}, zlib 9": len(zlib.compress(packed, 9))}
    return found


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
    sizes = {str(count): window_bytes(features, count) for count in (100, 1000, 10_000)}
    median, slow = outbox_cost(sizes["1000"]["json"])
    stall, long_stall = flush_stall(features)
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
        "bisect_over_ours": round(times[BISECT] / times[OURS], 2),
        "histogram_over_kernel": round(times[HISTOGRAM] / times[KERNEL], 2),
        "bisect_over_unbuffered": round(times[BISECT] / times[UNBUFFERED], 2),
        "flush_us": {"rows": BLOCK_ROWS, "median": round(stall), "p95": round(long_stall)},
        "window_bytes": sizes,
        "outbox_add_us": {"median": round(median), "p95": round(slow)},
    }


def show(found: dict[str, Any]) -> None:
    """For people."""
    print(f"machine   {found['machine']}")
    print("versions ", ", ".join(f"{name} {text}" for name, text in found["versions"].items()))
    print(f"load      {found['features']} features, {found['rows']} rows, median of {ROUNDS}\n")
    for name, value in found["us_a_row"].items():
        print(f"  {value:8.2f} us a row   {name}")
    print(f"\nbisect / ours, buffered:            {found['bisect_over_ours']:.2f}")
    print(f"bisect / ours, unbuffered:          {found['bisect_over_unbuffered']:.2f}")
    print(f"numpy.histogram / ours, on blocks:  {found['histogram_over_kernel']:.2f}")
    flush = found["flush_us"]
    print(f"a flush of {flush['rows']} rows: {flush['median']} us, p95 {flush['p95']} us")
    for rows, sizes in found["window_bytes"].items():
        said = ", ".join(f"{name} {size}" for name, size in sizes.items())
        print(f"one window of {rows} rows, bytes: {said}")
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
