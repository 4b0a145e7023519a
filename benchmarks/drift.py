"""Wherry's drift monitor beside other tools, on one table, and alone on a large fleet.

    python benchmarks/drift.py

30 features (24 numbers, 6 categories), 100,000 rows of reference; 40,000 rows without drift and
40,000 in which 11 features moved, in windows of 250, 1,000 and 10,000. Each peer runs in an
environment of its own, made once under `.cache/benchmarks/venvs` (about 3 GB in all), called as
its documentation says. A peer that is not installed, or fails, has a row that says so.
`--alone` leaves the peers out, `--only NAME` takes one of them. With NannyML's own estimate of
recall without labels (CBPE) Wherry's is compared in one process, on the same scores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import ROOT, print_machine
from common.drift_data import CATEGORIES, LEVELS, MOVED, NUMBERS, SIZES, make_table
from common.estimate_data import make_scores
from common.venvs import MEBI, InstallFailedError, environment, installed_sizes
from drift_counting import make

from wherry.cli.output import table
from wherry.monitor import ALERTS, FleetView, Policy, Reference, Tally, Watch
from wherry.monitor.rules import level
from wherry.rows import StoredWindow
from wherry_agent.serving.counter import Counter
from wherry_agent.serving.inference import Answers
from wherry_contract.compact import write_window
from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS, score_bins
from wherry_contract.messages import Place
from wherry_contract.profile import build_profile
from wherry_contract.window import Window

PEERS: Final = {
    "datasketches": ("datasketches==5.2.0", "numpy>=2,<3"),
    "river": ("river==0.26.1",),
    # with numpy 2 and pandas 2.3 it does not import
    "whylogs": ("whylogs[viz]==1.6.4", "numpy<2", "pandas<2.3"),
    # with pandas 3 it does not import
    "evidently": ("evidently==0.7.23", "pandas<3"),
    # it imports statsmodels and does not ask for it
    "nannyml": ("nannyml==0.13.1", "statsmodels"),
}
HEADS: Final = (
    "tool", "us a row", "bytes 250", "1,000", "10,000", "peak MiB", "installed MiB", "cpu s",
)  # fmt: skip
CALLS: Final = (
    "tool", "n", "windows", "false a window", "windows with any", "found of 11", "false beside",
)  # fmt: skip
ESTIMATES: Final = (
    "recall in the top tenth", "true", "tool", "bias", "rms error", "interval holds it", "ms a chunk",
)  # fmt: skip
BUNDLE: Final = "sha256:" + "b" * 64
DAY: Final = 86_400.0
START: Final = 1_532_304_000.0


class Ours:
    """The device's counter and the host's judgement."""

    def __init__(self, rows: Mapping[str, Any]) -> None:
        numbers = [Feature(f"f{i}", missing="allow") for i in range(NUMBERS)]
        names = tuple(f"c{i}" for i in range(LEVELS))
        kinds = [
            Feature(f"f{i}", "category", categories=names, unseen="allow")
            for i in range(NUMBERS, NUMBERS + CATEGORIES)
        ]
        self.contract = InputContract("bench", 1, (*numbers, *kinds))
        self.rows = {name: self._coded(raw) for name, raw in rows.items()}
        self.rng = np.random.default_rng(3)
        raw = self.rows["reference"]
        self.profile = build_profile(self.contract, raw, self.rng.beta(0.5, 20, len(raw)), 0.2)
        self.references = {BUNDLE: Reference(self.profile, self.contract)}
        self.counter = self.profile.counter(self.contract)

    @staticmethod
    def _coded(raw: Any) -> Any:
        found = raw.copy()
        found[:, NUMBERS:][found[:, NUMBERS:] == LEVELS] = -1.0  # a level that nobody listed
        return found

    def window(self, raw: Any, day: int, device: str = "bank", seq: int = 1) -> StoredWindow:
        """Rows as one window of a day."""
        slots = self.counter.zeros()
        self.counter.add(slots, raw)
        scores = self.rng.beta(0.5, 20, len(raw))
        window = Window(
            place=Place(device, "0" * 16, seq, 1),
            bundle=BUNDLE,
            edges=self.profile.edges_id,
            opened=START + day * DAY + 30_000,
            closed=START + day * DAY + 60_000,
            rows=len(raw),
            flagged=int((scores >= 0.2).sum()),
            fallback=0,
            errors={},
            features=dict(zip(self.contract.names, self.counter.split(slots), strict=True)),
            scores=tuple(np.bincount(score_bins(scores), minlength=SCORE_BINS).tolist()),
            latency=tuple(
                np.bincount(self.rng.integers(14, 22, len(raw)), minlength=LATENCY_BINS).tolist()
            ),
            reason="rows",
        )
        return StoredWindow(device, {}, window.closed, window)

    def view(self, kind: str, size: int) -> FleetView:
        """All windows of the rows of a kind, judged one after the other against the reference."""
        rows = self.rows[kind]
        tally = Tally(self.references, DAY)
        for day in range(len(rows) // size):
            part = rows[day * size : (day + 1) * size]
            tally.add([self.window(part, day, seq=day + 1)])
        return Watch(self.references, tally, Policy()).look(brief=True)


def our_calls(ours: Ours) -> Iterator[list[str]]:
    """What is called drifted: by one window's test, with materiality, and in two of three."""
    moved = {f"f{i}" for i in MOVED}
    for size in SIZES:
        every = {kind: _called(ours.view(kind, size)) for kind in ("null", "drifted")}
        for name in ("changed", "raised", "alert"):
            null = [step[name] for step in every["null"]]
            # an alert needs two windows
            loud = [step[name] for step in every["drifted"][2 * (name == "alert") :]]
            yield [
                f"Wherry: {name}",
                f"{size:,}",
                str(len(null)),
                f"{statistics.mean(map(len, null)):.3f}",
                f"{statistics.mean(bool(x) for x in null):.3f}",
                f"{statistics.mean(len(x & moved) for x in loud):.2f}",
                f"{statistics.mean(len(x - moved) for x in loud):.2f}",
            ]


def _called(view: FleetView) -> list[dict[str, set[str]]]:
    """For each window the features that are called drifted, by what is asked for."""
    policy, steps = Policy(), dict[float, dict[str, set[str]]]()
    for cell in view.cells:
        e = cell.evidence
        if cell.device or e is None or not cell.subject[1:].isdigit():
            continue
        said = steps.setdefault(cell.opened, {"changed": set(), "raised": set(), "alert": set()})
        if e.q <= policy.fdr:
            said["changed"].add(cell.subject)
        if level(e.q, e.p_warn, e.p_act, policy) != "stable":
            said["raised"].add(cell.subject)
        if cell.decision in ALERTS:
            said["alert"].add(cell.subject)
    return [steps[start] for start in sorted(steps)]


def our_costs(ours: Ours) -> list[str]:
    """Microseconds a row as the agent counts them, bytes as it sends them."""
    manifest, profile, _, rows = make(NUMBERS + CATEGORIES, 10_000)
    one = np.array([0.1])
    answers, rounds = Answers(one, one >= 0.2, score_bins(one)), []
    for turn in range(5):
        counter = Counter(BUNDLE, manifest, profile)
        part = rows[turn * 2000 : (turn + 1) * 2000]
        began = time.process_time()
        for row in part:
            counter.add(row[np.newaxis], answers, START, 100.0)
        counter.flush()
        rounds.append((time.process_time() - began) / len(part) * 1e6)
    raw = ours.rows["null"]
    sizes = [len(write_window(ours.window(raw[:n], 0).window, ours.profile) or b"") for n in SIZES]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        "Wherry",
        f"{statistics.median(rounds):.2f}",
        *(f"{size:,}" for size in sizes),
        f"{peak:.0f}",
        installed("wherry", (str(ROOT),)),
        "",
    ]


def installed(name: str, packages: tuple[str, ...]) -> str:
    """MiB that pip brings."""
    try:
        return (
            f"{sum(installed_sizes(environment(f'drift-{name}', packages)).values()) / MEBI:,.0f}"
        )
    except InstallFailedError as error:
        return str(error)


def run_peer(name: str, path: Path) -> dict[str, Any]:
    """One peer in its own environment; its error if it has none of its own figures."""
    try:
        python = environment(f"drift-{name}", PEERS[name]) / "bin" / "python"
    except InstallFailedError as error:
        return {"error": str(error)}
    script = ROOT / "benchmarks" / "common" / "drift_workers.py"
    done = subprocess.run(
        [str(python), str(script), name, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1][:150] if lines else "it ended without a word"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def estimates(path: Path) -> list[list[str]]:
    """Recall without labels, by NannyML and by Wherry, in NannyML's environment."""
    python = environment("drift-nannyml", PEERS["nannyml"]) / "bin" / "python"
    script = ROOT / "benchmarks" / "common" / "estimate_worker.py"
    sources = os.pathsep.join(str(ROOT / name) for name in ("contract", "toolkit"))
    done = subprocess.run(
        [str(python), str(script), str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": sources},
    )
    if done.returncode:
        return [[(done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:150]]]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return [
        [
            case,
            f"{figures['true']:.3f}",
            name,
            f"{figures[name]['bias']:+.4f}",
            f"{figures[name]['rms']:.4f}",
            f"{figures[name]['held']:.0%}",
            f"{figures[name]['ms']:.1f}",
        ]
        for case, figures in found["cases"].items()
        for name in ("wherry", "nannyml")
    ]


def peer_costs(name: str, found: Mapping[str, Any]) -> list[str]:
    """Its row of costs."""
    if "error" in found:
        return [name, found["error"], *[""] * (len(HEADS) - 2)]
    sizes = {int(n): size for n, size in found["bytes"].items()}
    return [
        name,
        f"{found['us_row']:.2f}" if found["us_row"] else "batch only",
        *(f"{sizes[n]:,}" if n in sizes else "-" for n in SIZES),
        str(found["peak_mib"]),
        installed(name, PEERS[name]),
        f"{found['cpu_seconds']:.0f}",
    ]


def peer_calls(name: str, found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Its rows of calls."""
    for size, said in found.get("judged", {}).items():
        yield [
            name,
            f"{int(size):,}",
            str(said["windows"]),
            f"{said['false']:.3f}",
            f"{said['any']:.3f}",
            f"{said['found']:.2f}",
            f"{said['false_beside']:.2f}",
        ]


# --- a fleet --------------------------------------------------------------------------------


def fleet(ours: Ours, devices: int, days: int = 6, rows: int = 400) -> Iterator[str]:
    """How long a tick takes: each device's window of a day is added, then somebody looks."""
    pool = [ours.window(ours.rows["null"][i * rows : (i + 1) * rows], 0).window for i in range(60)]
    tally = Tally(ours.references, DAY)
    watch = Watch(ours.references, tally, Policy())
    for day in range(days):
        today = [_moved(pool[(7 * i + day) % 60], f"d{i:05d}", day) for i in range(devices)]
        began = time.process_time()
        tally.add(today)
        added, began = time.process_time() - began, time.process_time()
        view = watch.look(brief=True)
        looked, began = time.process_time() - began, time.process_time()
        watch.look(brief=True)
        again = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = sum(sum(item.counts.values()) for item in view.standing)
    yield f"{devices:,} devices x 30 features, day {days}: {cells:,} comparisons"
    yield f"  adding {devices:,} windows {added:.2f} s; first look at a new day {looked:.2f} s"
    yield f"  a look when nothing is new {again:.2f} s; peak {peak:.0f} MiB"


def _moved(window: Window, device: str, day: int) -> StoredWindow:
    fields = dict(window.__dict__)
    opened = START + day * DAY + 30_000
    fields |= {
        "place": Place(device, "0" * 16, day + 1, 1),
        "opened": opened,
        "closed": opened + 9000,
    }
    return StoredWindow(device, {}, opened + 9000, Window(**fields))


def false_alerts(ours: Ours, rows: int, devices: int = 10, days: int = 365) -> str:
    """Alerts in a year in which nothing happens, seen by somebody who looks every day."""
    tally = Tally(ours.references, DAY)
    watch, seen = Watch(ours.references, tally, Policy()), set[tuple[str, str, str, float]]()
    pool = ours.rows["null"]
    rng = np.random.default_rng(rows)
    comparisons = 0
    for day in range(days):
        picked = [pool[rng.integers(0, len(pool), rows)] for _ in range(devices)]
        tally.add([ours.window(raw, day, f"d{i}", day + 1) for i, raw in enumerate(picked)])
        view = watch.look(brief=True, since=DAY)
        seen |= {(c.device, c.subject, str(c.kind), c.since) for c in view.alerts}
        comparisons += sum(sum(item.counts.values()) for item in view.standing)
    alone = [item for item in seen if item[0]]
    return (
        f"n = {rows:,}: {len(alone)} alerts at {devices} devices in {days} days,"
        f" {len(alone) / (devices * days / 365):.3f} a device-year;"
        f" {len(seen) - len(alone)} for all together; {comparisons:,} comparisons"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--only", choices=PEERS, help="of the peers, this one alone")
    parser.add_argument("--devices", type=int, default=1000, help="of the large fleet")
    parser.add_argument("--year", action="store_true", help="also a year without drift (minutes)")
    wanted = parser.parse_args()
    print_machine("numpy")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npz"
        make_table(path)
        with np.load(path) as found:
            ours = Ours({name: found[name] for name in found.files})
        chosen: Sequence[str] = [wanted.only] if wanted.only else [] if wanted.alone else [*PEERS]
        costs, calls = [our_costs(ours)], list(our_calls(ours))
        for name in chosen:
            print(f"  {name} ...", file=sys.stderr)
            done = run_peer(name, path)
            costs.append(peer_costs(name, done))
            calls += peer_calls(name, done)
        guesses: list[list[str]] = []
        if "nannyml" in chosen:
            scores = Path(folder) / "scores.npz"
            make_scores(scores)
            guesses = estimates(scores)
    tables = [table(HEADS, costs), table(CALLS, calls)]
    for lines in [*tables, table(ESTIMATES, guesses)] if guesses else tables:
        print("\n".join(["", *lines]))
    print("\n" + "\n".join(fleet(ours, wanted.devices)))
    if wanted.year:
        for rows in (300, 1000):
            print(false_alerts(ours, rows))


if __name__ == "__main__":
    main()
