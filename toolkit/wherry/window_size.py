"""What a window of a bundle costs on the link: one is drawn from the reference and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from wherry_contract.compact import write_window
from wherry_contract.histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS
from wherry_contract.messages import Place
from wherry_contract.profile import ReferenceProfile
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

ROWS: Final = (1000, 10_000)
_MOMENT: Final = 1_764_547_200.0  # any
_REQUEST_BINS: Final = range(12, 19)  # latencies are spread over a few bins
_LOOKS: Final = 60


@dataclass(frozen=True)
class WindowSize:
    """Bytes of one window.

    Attributes:
        rows: of the window.
        compact: in the compact form.
        json: as JSON.
        pairs: of `compact`, what pairs take.
    """

    rows: int
    compact: int
    json: int
    pairs: int

    def to_dict(self) -> dict[str, int]:
        """The JSON form."""
        return dict(self.__dict__)


def window_sizes(profile: ReferenceProfile, digest: str) -> list[WindowSize]:
    """Bytes of windows of a bundle, as long as traffic is like the reference.

    Args:
        profile: of the bundle.
        digest: of the bundle.
    """
    return [_size(profile, digest, rows) for rows in ROWS]


def _size(profile: ReferenceProfile, digest: str, rows: int) -> WindowSize:
    window = _window(profile, digest, rows)
    alone = replace(profile, pairs=())
    compact = len(write_window(window, profile) or b"")
    single = len(write_window(replace(window, pairs={}), alone) or b"")
    return WindowSize(rows, compact, len(window.to_bytes()), compact - single)


def _window(profile: ReferenceProfile, digest: str, rows: int) -> Window:
    chance = np.random.default_rng(rows)

    def draw(weights: Sequence[int]) -> Any:
        shares = np.array(weights, np.float64) + (0 if any(weights) else 1)
        return tuple(chance.multinomial(rows, shares / shares.sum()).tolist())

    features = {}
    for item in profile.features:
        below, *bins, above, missing = draw(item.counts.slots)
        features[item.name] = FeatureCounts(tuple(bins), below, above, missing)
    scores = draw(profile.scores)
    # whichever of the scores are flagged: it is the upper ones
    split = int(np.searchsorted(np.cumsum(scores[::-1]), rows * _share(profile)))
    flagged = (0,) * (SCORE_BINS - split) + scores[SCORE_BINS - split :]
    return Window(
        place=Place("device-1", "0" * 16, 1000, 999),
        bundle=digest,
        edges=profile.edges_id,
        opened=_MOMENT,
        closed=_MOMENT + 3600,
        rows=rows,
        flagged=sum(flagged),
        fallback=0,
        errors={},
        features=features,
        scores=scores,
        latency=draw([int(place in _REQUEST_BINS) for place in range(LATENCY_BINS)]),
        reason="rows",
        classes=draw(profile.classes) if profile.classes else (),
        flagged_scores=flagged,
        memory=(0,) * (MEMORY_BINS - 14) + (_LOOKS,) + (0,) * 13,
        pairs={pair.name: draw(pair.counts) for pair in profile.pairs},
    )


def _share(profile: ReferenceProfile) -> float:
    return profile.flagged / max(1, sum(profile.scores))
