"""What is judged: each feature, the model's scores, and what it flags. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import SCORE_BINS
from wherry_contract.messages import Window
from wherry_contract.profile import LEAST_SHARE, FeatureCounts, FeatureProfile, ReferenceProfile

from .compare import Row, Share, Spread, equal_groups, join_neighbours, join_rare
from .view import Kind

SCORE: Final = "score"
FLAGGED: Final = "flagged"
_SCORE_GROUPS: Final = 10


@dataclass(frozen=True)
class Reference:
    """What a bundle says that its model was trained on."""

    profile: ReferenceProfile
    contract: InputContract


@dataclass(frozen=True, order=True)
class Key:
    """Names a subject: rows of one key add up, and no others.

    Attributes:
        edges: that were counted against.
        name: of the feature; ``score`` or ``flagged`` for the model's answers.
        bundle: for the model's answers, which belong to it; "" for a feature, whose counts
            do not depend on the model.
    """

    edges: str
    name: str
    bundle: str = ""


@dataclass(frozen=True, eq=False)
class Subject:
    """One key with its reference and its tests.

    Attributes:
        reference: int64, shape (slots,).
        tests: the spread first.
        weekly: whether only whole weeks can be compared.
    """

    key: Key
    reference: Row
    tests: tuple[Spread | Share, ...]
    weekly: bool = False

    @property
    def needed(self) -> int:
        """Rows without which nothing is said."""
        return max((test.needed for test in self.tests), default=0)


def feature_row(counts: FeatureCounts) -> Row:
    """The slots of a feature as one row: below, bins, above, missing."""
    return np.array([counts.below, *counts.bins, counts.above, counts.missing], np.int64)


def window_rows(window: Window) -> dict[Key, Row]:
    """Everything in a window that is judged.

    The model's scores do not hold what the rule answered; what was flagged is taken only
    from windows in which the model answered all.
    """
    edges, bundle = window.edges, window.bundle
    found = {Key(edges, name): feature_row(counts) for name, counts in window.features.items()}
    found[Key(edges, SCORE, bundle)] = np.array(window.scores, np.int64)
    if not window.fallback:
        flagged = [window.flagged, window.rows - window.flagged]
        found[Key(edges, FLAGGED, bundle)] = np.array(flagged, np.int64)
    return found


def feature_subjects(reference: Reference) -> list[Subject]:
    """A subject for each feature of an input contract."""
    edges = reference.profile.edges_id
    pairs = zip(reference.profile.features, reference.contract.features, strict=True)
    return [
        Subject(
            Key(edges, feature.name),
            feature_row(profile.counts),
            (_spread(profile, feature), *_shares(feature)),
            weekly=feature.period == "week",
        )
        for profile, feature in pairs
    ]


def answer_subjects(reference: Reference, bundle: str) -> list[Subject]:
    """Subjects for one model's scores and flags; none if its profile holds no scores."""
    profile, edges = reference.profile, reference.profile.edges_id
    scored = sum(profile.scores)
    if not scored:
        return []
    group = equal_groups(profile.scores, _SCORE_GROUPS)
    flagged = [profile.flagged, scored - profile.flagged]
    return [
        Subject(
            Key(edges, SCORE, bundle),
            np.array(profile.scores, np.int64),
            (Spread(Kind.SCORE, group, _score_labels(group)),),
        ),
        Subject(
            Key(edges, FLAGGED, bundle),
            np.array(flagged, np.int64),
            (Share(Kind.FLAGGED, (0,)),),
        ),
    ]


def _spread(profile: FeatureProfile, feature: Feature) -> Spread:
    """Bins join others until each holds 0.5 % of the reference.

    Below, above, missing and unseen take part if they hold as much; else they have only
    tests of their own, and one odd row does not raise a PSI.
    """
    counts = profile.counts
    least = LEAST_SHARE * counts.rows
    join = join_rare if feature.dtype == "category" else join_neighbours
    bins = join(counts.bins, least)
    names = _bin_labels(profile, feature)
    texts = [
        _joined([names[i] for i, place in enumerate(bins) if place == number])
        for number in range(max(bins, default=-1) + 1)
    ]
    group = [-1, *bins, -1, -1]
    ends = (
        (0, counts.below, "unseen" if feature.dtype == "category" else "below the minimum"),
        (-2, counts.above, "above the maximum"),
        (-1, counts.missing, "missing"),
    )
    for place, count, text in ends:
        if count and count >= least:
            group[place] = len(texts)
            texts.append(text)
    return Spread(Kind.SHAPE, tuple(group), tuple(texts))


def _shares(feature: Feature) -> tuple[Share, ...]:
    if feature.dtype == "category":
        return (Share(Kind.MISSING, (-1,)), Share(Kind.UNSEEN, (0,)))
    return (Share(Kind.MISSING, (-1,)), Share(Kind.RANGE, (0, -2)))


def _bin_labels(profile: FeatureProfile, feature: Feature) -> list[str]:
    if feature.dtype == "category":
        return list(feature.categories)
    ends = [f"{edge:.4g}" for edge in profile.edges]
    if not ends:
        return ["any value"]
    middle = [f"{a} to {b}" for a, b in pairwise(ends)]
    return [f"up to {ends[0]}", *middle, f"over {ends[-1]}"]


def _joined(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{names[0]} and {len(names) - 1} more" if names else ""


def _score_labels(group: Sequence[int]) -> tuple[str, ...]:
    labels = []
    for number in range(max(group) + 1):
        places = [place for place in range(SCORE_BINS) if group[place] == number]
        low, high = _probability(places[0]), _probability(places[-1] + 1)
        labels.append(f"{low:.2g} to {high:.2g}")
    return tuple(labels)


def _probability(edge: int) -> float:
    """The probability at the lower edge of a score bin."""
    if edge in (0, SCORE_BINS):
        return float(edge == SCORE_BINS)
    return float(1 / (1 + np.exp(8 - edge / 4)))
