"""What a shadow costs: the payments beside which it scores, and the board.

    python benchmarks/shadow.py

First the path of a payment, one row at a time and nothing between: the agent's scorer alone, with
a shadow that takes its rows and scores them later (its thread at rest, so that the hook alone is
seen), and as one would write it, the second model scored before the answer. Then at a payment's
cadence, a row each 2 ms, with the shadow's thread at work: what an answer takes at the median and
at the 99th percentile. Last what the shadow itself takes of a core for each row that it scores and
counts, beside the model's bare answer. The shadow is the same model, so that both cost the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from common import example_parts, example_rows, print_machine

from wherry_agent.clock import SystemClock
from wherry_agent.config import Limits
from wherry_agent.serving.inference import Model, load_model
from wherry_agent.serving.scoring import Scorer, Served
from wherry_agent.serving.shadow import Shadow
from wherry_contract.bundle import Parts
from wherry_contract.features import RawMatrix

ROWS = 500
CADENCE_SECONDS = 0.002
PACED_ROWS = 300
ROUNDS = 7
ALONE = "no shadow"
LIMITS = Limits(window_rows=10**9, shadow_cpu_percent=100.0, shadow_mib=10_000.0)


def model(parts: Parts, letter: str) -> Model:
    """The bundle's model, under a digest of its own."""
    return load_model("sha256:" + letter * 64, parts)


class Till:
    """A scorer with payments to be scored, and perhaps a shadow."""

    def __init__(self, parts: Parts, raws: list[RawMatrix], *, shadowed: bool) -> None:
        self.served = Served.by_model(model(parts, "0"))
        self.raws = raws
        self.scorer = Scorer(LIMITS, SystemClock(), lambda _: None)
        self.scorer.swap(self.served)
        self.own = self.new_shadow(parts)
        self.scorer.compare(self.own if shadowed else None)

    @staticmethod
    def new_shadow(parts: Parts) -> Shadow:
        """A shadow that nobody has started."""
        return Shadow(
            model(parts, "1"), LIMITS, SystemClock(), memory=lambda: None, before_mib=None
        )

    def pay(self, raw: RawMatrix) -> None:
        """One payment."""
        self.scorer.answer(raw, self.served, started=time.monotonic(), at=1.5e9)

    def run(self) -> int:
        """All of them, one after the other."""
        for raw in self.raws:
            self.pay(raw)
        return len(self.raws)

    def paced(self) -> tuple[float, float]:
        """Median and 99th percentile of an answer in microseconds, a payment each 2 ms."""
        taken = []
        for place in range(PACED_ROWS):
            time.sleep(CADENCE_SECONDS)
            began = time.perf_counter()
            self.pay(self.raws[place % len(self.raws)])
            taken.append((time.perf_counter() - began) * 1e6)
        cuts = statistics.quantiles(taken, n=100)
        return cuts[49], cuts[98]


def path(parts: Parts, raws: list[RawMatrix]) -> None:
    """The path of a payment."""
    alone, beside = Till(parts, raws, shadowed=False), Till(parts, raws, shadowed=True)
    inline, second = Till(parts, raws, shadowed=False), model(parts, "1")

    def both() -> int:
        for raw in raws:
            inline.pay(raw)
            second.answer(raw)
        return len(raws)

    def offered() -> int:
        rows = beside.run()
        beside.own._queue.clear()  # noqa: SLF001 - the thread is at rest: what waits is not kept
        beside.own._done = beside.own._taken_in  # noqa: SLF001 - likewise
        return rows

    entries: dict[str, Callable[[], int]] = {
        ALONE: alone.run,
        "with a shadow's hook": offered,
        "the second model before the answer": both,
    }
    # processor time of this thread: the machine may be busy with other work
    found: dict[str, list[float]] = {name: [] for name in entries}
    for place in range(2 * ROUNDS + 1):
        for name, run in entries.items():
            began = time.thread_time()
            rows = run()
            if place:
                found[name].append((time.thread_time() - began) / rows * 1e6)
    for name, taken in found.items():
        ratios = sorted(a / b for a, b in zip(taken, found[ALONE], strict=True))
        print(
            f"{name:34} {statistics.median(taken):6.1f} us of a core a row,"
            f" ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def cadence(parts: Parts, raws: list[RawMatrix]) -> None:
    """With the shadow's thread at work."""
    alone, beside = Till(parts, raws, shadowed=False), Till(parts, raws, shadowed=True)
    beside.own.start()
    found: dict[str, list[tuple[float, float]]] = {ALONE: [], "with a shadow": []}
    for _ in range(ROUNDS):
        found[ALONE].append(alone.paced())
        found["with a shadow"].append(beside.paced())
    progress = beside.own.progress
    beside.own.stop()
    for name, taken in found.items():
        middle, tail = (statistics.median(side) for side in zip(*taken, strict=True))
        print(f"{name:16} p50 {middle:7.1f} us, p99 {tail:7.1f} us (median of {ROUNDS} rounds)")
    for place, word in enumerate(("p50", "p99")):
        both = zip(found["with a shadow"], found[ALONE], strict=True)
        ratios = sorted(a[place] / b[place] for a, b in both)
        print(
            f"ratio of {word}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    print(f"rows that the shadow scored meanwhile: {progress.rows} of {ROUNDS * PACED_ROWS}")


def cost(parts: Parts, raws: list[RawMatrix]) -> None:
    """What it takes of a core for each row, processor time of its own thread."""
    bare, till = model(parts, "0"), Till(parts, raws, shadowed=True)
    ratios, each = [], []
    for _ in range(ROUNDS):
        till.run()
        began = time.thread_time()
        till.own.work()
        own = time.thread_time() - began
        began = time.thread_time()
        for raw in raws:
            bare.answer(raw)
        alone = time.thread_time() - began
        ratios.append(own / alone)
        each.append(own / len(raws) * 1e6)
    print(
        f"shadow: {statistics.median(each):.1f} us of a core for a row,"
        f" {statistics.median(ratios):.2f} of the model's bare answer"
        f" ({min(ratios):.2f} to {max(ratios):.2f}, {ROUNDS} rounds)"
    )


def main() -> None:
    """The command line."""
    print_machine("numpy", "onnxruntime")
    for title, project in (
        ("boosted trees, 150 trees of 15 leaves", "project.toml"),
        ("neural net, int8", "mlp.toml"),
    ):
        parts = example_parts(project)
        needs = replace(parts.manifest.runtime, threads=1)
        parts = replace(parts, manifest=replace(parts.manifest, runtime=needs))
        contract = parts.manifest.input
        raws = [contract.matrix([row]) for row in example_rows(ROWS)]
        print(f"\n{title}; one row a call")
        path(parts, raws)
        cadence(parts, raws)
        cost(parts, raws)


if __name__ == "__main__":
    main()
