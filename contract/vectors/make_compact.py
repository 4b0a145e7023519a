"""Makes `compact/`: windows in both forms, with the profiles they were counted against.

The standard window is of 30 features of ten bins each, drawn from its own reference. The
other profile and windows hold real counts: of the UCI set "Default of Credit Card Clients"
(Yeh and Lien 2009, CC BY 4.0), 23 columns and seven ratios of them, 19,000 rows of reference,
scored by a logistic regression. Those were counted once and are kept; here they are only
written in the compact form.
"""  # noqa: INP001 - a script, no package

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

from wherry_contract.compact import write_window
from wherry_contract.histograms import latency_bin, memory_bin, score_bins, temperature_bin
from wherry_contract.messages import Place
from wherry_contract.profile import FeatureProfile, PairProfile, ReferenceProfile
from wherry_contract.shadow import COARSE, COARSE_BINS, ShadowCounts
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

FOLDER = Path(__file__).resolve().parent / "compact"
BUNDLE = "sha256:" + "57a7da2d" * 8
ROWS = (1000, 10_000)
REFERENCE = 50_000
THRESHOLD = 0.1
SHADOW = "sha256:" + "5ade0b0e" * 8
NOISE = {"same": 0.0, "other": 0.3}  # log-odds by which a shadow scores otherwise


def share_out(total: int, weights: list[float]) -> list[int]:
    """Whole numbers in the proportion of weights, that add up."""
    ends = [round(total * end / sum(weights)) for end in (0.0, *accumulate(weights))]
    return [end - start for start, end in pairwise(ends)]


def draw(chance: random.Random, weights: list[int], total: int) -> list[int]:
    """As many rows, each with the weights' chances."""
    found = [0] * len(weights)
    for place in chance.choices(range(len(weights)), weights, k=total):
        found[place] += 1
    return found


def scores(chance: random.Random, total: int) -> list[float]:
    """Mostly low ones."""
    return [1 / (1 + math.exp(-chance.gauss(-3.5, 1.5))) for _ in range(total)]


def binned(found: list[int], size: int) -> list[int]:
    """A histogram of bins."""
    return [found.count(place) for place in range(size)]


def profile(pairs: int = 0) -> ReferenceProfile:
    """30 features of ten bins, every third with much in one of them; gaps 1 %, beyond 0.1 %."""
    chance = random.Random(30)  # noqa: S311 - seeded data, no secret
    features = []
    for place in range(30):
        weights = [97.8 / 10] * 10 if place % 3 else [40.0, *[57.8 / 9] * 9]
        below, *bins, above, missing = share_out(REFERENCE, [0.1, *weights, 0.1, 1.0])
        edges = tuple(float(edge) for edge in range(1, 10))
        features.append(
            FeatureProfile(f"X{place}", edges, FeatureCounts(tuple(bins), below, above, missing))
        )
    found = scores(chance, REFERENCE)
    together = []
    for place in range(pairs):
        outer, inner = (features[place + side].counts.slots for side in (0, 1))
        cells = share_out(REFERENCE, [float(a * b) for a in outer for b in inner])
        together.append(PairProfile((f"X{place}", f"X{place + 1}"), tuple(cells)))
    return ReferenceProfile(
        "standard",
        1,
        tuple(features),
        tuple(binned(score_bins(found).tolist(), 64)),
        sum(score >= THRESHOLD for score in found),
        pairs=tuple(together),
    )


def window(reference: ReferenceProfile, rows: int) -> Window:
    """So many rows, drawn from the reference."""
    chance = random.Random(rows)  # noqa: S311 - seeded data, no secret
    features = {}
    for item in reference.features:
        below, *bins, above, missing = draw(chance, list(item.counts.slots), rows)
        features[item.name] = FeatureCounts(tuple(bins), below, above, missing)
    found = scores(chance, rows)
    bins = score_bins(found).tolist()
    flagged = [place for place, score in zip(bins, found, strict=True) if score >= THRESHOLD]
    nearest = int(score_bins([THRESHOLD])[0])
    passed = [place for place, score in zip(bins, found, strict=True) if score < THRESHOLD]
    latency = [latency_bin(chance.lognormvariate(5.2, 0.35)) for _ in range(rows)]
    return Window(
        place=Place("shop-1", "00c0ffee00c0ffee", 4711, 4709),
        bundle=BUNDLE,
        edges=reference.edges_id,
        opened=1_764_547_200.0,
        closed=1_764_550_741.25,
        rows=rows,
        flagged=len(flagged),
        fallback=0,
        errors={"C03": 2},
        features=features,
        scores=tuple(binned(bins, 64)),
        latency=tuple(binned(latency, 40)),
        reason="rows",
        flagged_scores=tuple(binned(flagged, 64)),
        near=sum(place >= nearest - 2 for place in passed),
        memory=tuple(binned([memory_bin(92.0)] * 60, 40)),
        temperature=tuple(binned([temperature_bin(54 + place % 9) for place in range(60)], 32)),
        pairs={pair.name: tuple(draw(chance, list(pair.counts), rows)) for pair in reference.pairs},
    )


def shadowed(found: Window, noise: float) -> Window:
    """The same window with a shadow beside it that scores otherwise by so much."""
    chance = random.Random(found.rows)  # noqa: S311 - seeded data, no secret
    live = [(place - 31.5) / 4 for place, n in enumerate(found.scores) for _ in range(n)]
    other = [score + chance.gauss(0, noise) for score in live]
    scored = score_bins([1 / (1 + math.exp(-score)) for score in other]).tolist()
    was = score_bins([1 / (1 + math.exp(-score)) for score in live]).tolist()
    nearest = int(score_bins([THRESHOLD])[0])
    decisions, joint = [0] * 4, [0] * COARSE_BINS**2
    for before, after in zip(was, scored, strict=True):
        decisions[2 * (before > nearest) + (after > nearest)] += 1
        joint[before // COARSE * COARSE_BINS + after // COARSE] += 1
    took = [latency_bin(chance.lognormvariate(4.2, 0.3)) for _ in live]
    counts = ShadowCounts(
        SHADOW,
        rows=len(live),
        decisions=tuple(decisions),
        scores=tuple(binned(scored, 64)),
        joint=tuple(joint),
        latency=tuple(binned(took, 40)),
        cpu_ms=93,
    )
    return replace(found, shadow=counts)


def every_file() -> dict[str, bytes]:
    """All files of `compact/` by their path."""
    made = profile()
    found = {"standard-profile.json": made.to_bytes()}
    found |= {f"standard-{rows}.json": window(made, rows).to_bytes() for rows in ROWS}
    first = window(made, ROWS[0])
    found |= {
        f"standard-shadow-{name}.json": shadowed(first, noise).to_bytes()
        for name, noise in NOISE.items()
    }
    found |= {path.name: path.read_bytes() for path in FOLDER.glob("credit-*.json")}
    for name, data in list(found.items()):
        if "profile" not in name:
            of = ReferenceProfile.from_bytes(found[name.partition("-")[0] + "-profile.json"])
            body = write_window(Window.from_bytes(data), of)
            found[name.replace(".json", ".bin")] = body or b""
    return {f"compact/{name}": data for name, data in found.items()}
