"""What is judged: each feature, the model's scores, and what it flags. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import SCORE_BINS
from wherry_contract.manifest import Output
from wherry_contract.profile import LEAST_SHARE, FeatureProfile, PairProfile, ReferenceProfile
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

from .compare import Share, Spread, equal_groups, join_neighbours, join_rare
from .rowmath import Row
from .view import Kind

SCORE: Final = "score"
FLAGGED: Final = "flagged"
CLASSES: Final = "classes"
_SCORE_GROUPS: Final = 10
_LEAST_CELL: Final = 0.02  # a cell of a pair that stands alone holds at least this share
_PROBABILITY: Final = Output("score", -1, 0.5)


@dataclass(frozen=True)
class Reference:
    """What a bundle says that its model was trained on, and what it answers."""

    profile: ReferenceProfile
    contract: InputContract
    output: Output = _PROBABILITY


@dataclass(frozen=True, order=True)
class Group:
    """Names counts that lie side by side in one row and add up with those of the same group.

    Attributes:
        edges: that were counted against.
        bundle: for the model's answers, which belong to it; "" for the features, whose counts
            do not depend on the model; for a pair its name, since which pairs are counted may
            differ between models of the same edges.
    """

    edges: str
    bundle: str


@dataclass(frozen=True, order=True)
class Key:
    """Names a subject: rows of one key add up, and no others.

    Attributes:
        edges: that were counted against.
        name: of the feature; ``score``, ``flagged`` or ``classes`` for the model's answers.
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
        first: where its counts begin in the row of its group.
        weekly: whether only whole weeks can be compared.
        edges: inner edges of the bins of values.
    """

    key: Key
    reference: Row
    tests: tuple[Spread | Share, ...]
    first: int
    weekly: bool = False
    edges: tuple[float, ...] = ()

    @property
    def group(self) -> Group:
        """Whose row holds its counts."""
        pair = self.tests[0].kind == Kind.PAIR
        return Group(self.key.edges, self.key.name if pair else self.key.bundle)

    @property
    def columns(self) -> slice:
        """Where in that row they lie."""
        return slice(self.first, self.first + len(self.reference))

    @property
    def needed(self) -> int:
        """Rows without which nothing is said."""
        return max((test.needed for test in self.tests), default=0)


def feature_row(counts: FeatureCounts) -> Row:
    """The slots of a feature as one row: below, bins, above, missing."""
    return np.array(_slots(counts), np.int64)


def _slots(counts: FeatureCounts) -> list[int]:
    return [counts.below, *counts.bins, counts.above, counts.missing]


def window_rows(window: Window, reference: Reference) -> dict[Group, Row]:
    """Everything in a window that is judged, as one row of counts for each group.

    The model's scores do not hold what the rule answered; what was flagged is taken only
    from windows in which the model answered all.

    Args:
        window: counted against the edges of the reference.
        reference: of its bundle.
    """
    features = window.features
    counts: list[int] = []
    for item in reference.profile.features:
        counts += _slots(features[item.name])
    answers = [*window.scores]
    if window.classes:
        answers += window.classes
    elif window.fallback:
        answers += (0, 0)
    else:
        answers += (window.flagged, window.rows - window.flagged)
    found = {
        Group(window.edges, ""): np.array(counts, np.int64),
        Group(window.edges, window.bundle): np.array(answers, np.int64),
    }
    for name, cells in window.pairs.items():
        found[Group(window.edges, name)] = np.array(cells, np.int64)
    return found


def feature_subjects(reference: Reference) -> list[Subject]:
    """A subject for each feature of an input contract."""
    edges, found, first = reference.profile.edges_id, list[Subject](), 0
    pairs = zip(reference.profile.features, reference.contract.features, strict=True)
    for profile, feature in pairs:
        row = feature_row(profile.counts)
        tests: tuple[Spread | Share, ...] = (_spread(profile, feature), *_shares(feature))
        weekly = feature.period == "week"
        found.append(Subject(Key(edges, feature.name), row, tests, first, weekly))
        first += len(row)
    return found + [_pair_subject(reference, pair) for pair in reference.profile.pairs]


def _pair_subject(reference: Reference, pair: PairProfile) -> Subject:
    """Two features together; cells that are rare in the reference share a group.

    It is judged like a feature by whole weeks if the week moves one of the two.
    """
    profile, contract = reference.profile, reference.contract
    names = {item.name: item for item in contract.features}
    slots = {item.name: _slot_labels(item, names[item.name]) for item in profile.features}
    first, second = pair.features
    labels = [f"{first} {a}, {second} {b}" for a in slots[first] for b in slots[second]]
    group = join_rare(pair.counts, _LEAST_CELL * sum(pair.counts))
    often = dict[int, str]()
    for place in set(group):
        mine = [labels[i] for i, other in enumerate(group) if other == place]
        often[place] = mine[0] if len(mine) == 1 else f"the rest ({len(mine)} cells)"
    texts = tuple(often[place] for place in range(max(group) + 1))
    weekly = any(names[name].period == "week" for name in pair.features)
    test = Spread(Kind.PAIR, group, texts)
    key = Key(profile.edges_id, pair.name)
    return Subject(key, np.array(pair.counts, np.int64), (test,), 0, weekly)


def _slot_labels(profile: FeatureProfile, feature: Feature) -> list[str]:
    category = feature.dtype == "category"
    low = "unseen" if category else "below the minimum"
    return [low, *_bin_labels(profile, feature), "above the maximum", "missing"]


def answer_subjects(reference: Reference, bundle: str) -> list[Subject]:
    """Subjects for one model's scores, and flags or classes; none without reference scores."""
    profile, edges = reference.profile, reference.profile.edges_id
    scored = sum(profile.scores)
    if not scored:
        return []
    group, output = equal_groups(profile.scores, _SCORE_GROUPS), reference.output
    scores = Subject(
        Key(edges, SCORE, bundle),
        np.array(profile.scores, np.int64),
        (Spread(Kind.SCORE, group, _score_labels(group, output.edges)),),
        0,
        edges=output.edges,
    )
    if profile.classes:
        return [scores, _class_subject(reference, bundle)]
    flagged = np.array([profile.flagged, scored - profile.flagged], np.int64)
    share = Share(Kind.FLAGGED, (0,))
    return [scores, Subject(Key(edges, FLAGGED, bundle), flagged, (share,), SCORE_BINS)]


def _class_subject(reference: Reference, bundle: str) -> Subject:
    """How often each class is decided; those that are rare in the reference share a group."""
    counts = reference.profile.classes
    names = [*reference.output.classes, "undecided"]
    group = join_rare(counts, LEAST_SHARE * sum(counts))
    texts = tuple(
        _joined([names[i] for i, place in enumerate(group) if place == number])
        for number in range(max(group) + 1)
    )
    return Subject(
        Key(reference.profile.edges_id, CLASSES, bundle),
        np.array(counts, np.int64),
        (Spread(Kind.CLASSES, group, texts),),
        SCORE_BINS,
    )


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


def _score_labels(group: Sequence[int], edges: Sequence[float]) -> tuple[str, ...]:
    labels = []
    for number in range(max(group) + 1):
        places = [place for place in range(SCORE_BINS) if group[place] == number]
        if edges:
            low_end = f"from {edges[places[0] - 1]:.4g} " if places[0] else ""
            below = places[-1] < len(edges)
            high_end = f"below {edges[places[-1]]:.4g}" if below else ""
            labels.append((low_end + high_end).strip() or "any value")
            continue
        low, high = _probability(places[0]), _probability(places[-1] + 1)
        labels.append(f"{low:.2g} to {high:.2g}")
    return tuple(labels)


def _probability(edge: int) -> float:
    """The probability at the lower edge of a score bin."""
    if edge in (0, SCORE_BINS):
        return float(edge == SCORE_BINS)
    return float(1 / (1 + np.exp(8 - edge / 4)))
