"""How well each model does, span by span: estimated from its scores, and as labels show. Pure.

Days are added up until fifty positives are to be expected; such a span is estimated by itself.
Labels that came for its days are held against the estimate. Labels of too few positives wait for
those of later spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import numpy as np

from wherry_contract.calibration import Calibration
from wherry_contract.histograms import SCORE_BINS

from .concept import Labels, Test, against, realised
from .estimate import LEAST_POSITIVES, Belief, flagged_bins
from .quality import Performance, Quality, Verdict
from .rowmath import Floats
from .subjects import Reference
from .sums import Sums
from .view import DAY, Policy

CHANGED: Final = 0.01  # p of a span whose labels speak against the calibration
_MATERIAL: Final = 0.01  # that recall or precision must have moved by, beside it
_TIMES, _OF = 2, 3
ASSUMPTION: Final = (
    "assumes that a score still means the same chance as among the labelled check rows;"
    " blind to concept drift until labels come"
)
DECLINED: Final = "declined payments yield no label: where none came, the estimate stands"


@dataclass(eq=False)
class Answers:
    """What a model answered in some days: rows by score bin, and how many were flagged.

    Attributes:
        scores: shape (64,).
        flagged: of the rows of windows in which the model answered all ...
        judged: ... and how many those were.
    """

    scores: Floats = field(default_factory=lambda: np.zeros(SCORE_BINS))
    flagged: float = 0.0
    judged: float = 0.0

    def __add__(self, other: Answers) -> Answers:
        return Answers(
            self.scores + other.scores, self.flagged + other.flagged, self.judged + other.judged
        )

    def caught(self, threshold: float) -> Floats:
        """Flagged rows by score bin; where the rule answered too, as if it had not."""
        rows = float(self.scores.sum())
        share = self.flagged / self.judged if self.judged else 0.0
        return flagged_bins(self.scores, rows * share, threshold)


@dataclass(frozen=True, eq=False)
class ByDay:
    """Answers by bundle and day; `length` is of a day, or of a longer bucket, in seconds."""

    length: float
    answers: Mapping[str, Mapping[float, Answers]]


def answers_of(sums: Sums, references: Mapping[str, Reference], policy: Policy) -> ByDay:
    """What each model answered on each day, or in each bucket where those are longer.

    Args:
        sums: of the devices that are looked at.
        references: by bundle; others' answers are left out.
        policy: says how long a bucket is.
    """
    length = max(DAY, policy.bucket_seconds)
    found: dict[str, dict[float, Answers]] = {}
    for start, groups in sums.items():
        for group, row in groups.items():
            if group.bundle not in references:  # features, or a pair
                continue
            scores = row[:SCORE_BINS].astype(np.float64)
            more = Answers(scores, float(row[SCORE_BINS]), float(row[SCORE_BINS:].sum()))
            days, day = found.setdefault(group.bundle, {}), _bucket(start, length)
            days[day] = days[day] + more if day in days else more
    return ByDay(length, found)


def perform(
    answers: ByDay,
    labels: Mapping[str, Mapping[float, Labels]],
    references: Mapping[str, Reference],
) -> tuple[Performance, ...]:
    """How well each model did, by bundle and time.

    Models that decide between classes or give a value have no such figures and are left out.

    Args:
        answers: see `answers_of`.
        labels: by bundle and start of the day that was answered on, UTC.
        references: by bundle.
    """
    found: list[Performance] = []
    for bundle, days in answers.answers.items():
        reference = references[bundle]
        if reference.output.classes or reference.output.edges:
            continue
        mine: dict[float, Labels] = {}
        for day, counts in labels.get(bundle, {}).items():
            start = _bucket(day, answers.length)
            mine[start] = mine[start] + counts if start in mine else counts
        found += _Judge(bundle, reference, answers.length).all(days, mine)
    return tuple(sorted(found, key=lambda item: (item.opened, item.bundle)))


def _bucket(moment: float, length: float) -> float:
    return Policy(bucket_seconds=length).bucket(moment)


class _Judge:
    """One model's spans, one after the other."""

    def __init__(self, bundle: str, reference: Reference, length: float) -> None:
        self._bundle = bundle
        self._calibration = reference.profile.calibration
        self._threshold = reference.output.threshold
        self._length = length
        self._past: list[bool] = []  # whether labels spoke against it

    def all(
        self, days: Mapping[float, Answers], labels: Mapping[float, Labels]
    ) -> list[Performance]:
        calibration = self._calibration
        if calibration is None or sum(calibration.positives) < LEAST_POSITIVES:
            return [self._unknown(days)]
        belief, found = belief_of(calibration), list[Performance]()
        span, waiting = _Span(), _Span()
        for start in sorted(days):
            span = span.with_day(start, days[start], labels.get(start))
            if belief.expected(span.answers.scores) < LEAST_POSITIVES:
                continue
            done, waiting = self._span(calibration, span, waiting.then(span))
            found.append(done)
            span = _Span()
        if span.starts:
            found.append(self._short(span, belief.expected(span.answers.scores)))
        return found

    def _unknown(self, days: Mapping[float, Answers]) -> Performance:
        calibration = self._calibration
        some = sum(calibration.positives) if calibration else 0
        rule = (
            f"its check rows hold {some} positives, {LEAST_POSITIVES} are needed"
            if calibration
            else "it was built without labels: name the label in [data] of its project"
        )
        whole = _Span(tuple(sorted(days)))
        rows = int(sum(day.scores.sum() for day in days.values()))
        return self._row(whole, rows, 0.0, Verdict.UNKNOWN, rule)

    def _short(self, span: _Span, expected: float) -> Performance:
        rule = f"{expected:.0f} positives are to be expected, {LEAST_POSITIVES} are needed"
        rows = int(span.answers.scores.sum())
        return self._row(span, rows, expected, Verdict.WAITING, rule)

    def _row(
        self, span: _Span, rows: int, expected: float, verdict: Verdict, rule: str
    ) -> Performance:
        first, last = span.starts[0], span.starts[-1] + self._length
        return Performance(self._bundle, first, last, rows, expected, verdict, rule)

    def _span(
        self, calibration: Calibration, span: _Span, labelled: _Span
    ) -> tuple[Performance, _Span]:
        """What is known of a span, and what of it waits for more labels."""
        belief = belief_of(calibration)
        rows = int(span.answers.scores.sum())
        row = replace(
            self._row(
                span,
                rows,
                belief.expected(span.answers.scores),
                Verdict.ESTIMATED,
                ASSUMPTION,
            ),
            estimated=_estimated(calibration, *span.counts(self._threshold)),
        )
        if belief.expected(labelled.labels.rows) < LEAST_POSITIVES:
            return replace(row, labels=labelled.labels.counted), labelled
        test = against(belief, labelled.labels)
        scores, flagged = (np.array(part) for part in labelled.counts(self._threshold))
        fact = realised(belief, labelled.labels, scores, flagged)
        guess = _estimated(calibration, *labelled.counts(self._threshold))
        verdict, rule = self._verdict(test, fact, guess)
        return (
            replace(
                row,
                verdict=verdict,
                rule=rule,
                labels=labelled.labels.counted,
                positives=labelled.labels.hits,
                since=labelled.starts[0],
                covered=_covered(scores, labelled.labels),
                realised=fact,
                ratio=test.ratio,
                p=test.p,
            ),
            _Span(),
        )

    def _verdict(self, test: Test, fact: Quality, guess: Quality) -> tuple[Verdict, str]:
        pairs = (
            (fact.recall_decile, guess.recall_decile),
            (fact.precision_decile, guess.precision_decile),
        )
        moved = any(
            abs(a.value - b.value) >= _MATERIAL and (a.low > b.high or a.high < b.low)
            for a, b in pairs
            if a and b
        )
        self._past.append(test.p < CHANGED and moved)
        raised = sum(self._past[-_OF:])
        what = (
            f"{test.ratio.value:.2f} positives for each that was to be expected"
            f" ({test.ratio.low:.2f} to {test.ratio.high:.2f}), p {test.p:.2g}"
        )
        if not raised:
            return Verdict.CONFIRMED, f"{what}; {DECLINED}"
        verdict = Verdict.CONCEPT if raised >= _TIMES else Verdict.WATCH
        return verdict, f"{what}; against the estimate in {raised} of the last {_OF}; {DECLINED}"


@dataclass(frozen=True, eq=False)
class _Span:
    """Days that are looked at together."""

    starts: tuple[float, ...] = ()
    answers: Answers = field(default_factory=Answers)
    labels: Labels = field(default_factory=Labels)

    def with_day(self, start: float, answers: Answers, labels: Labels | None) -> _Span:
        more = self.labels + labels if labels else self.labels
        return _Span((*self.starts, start), self.answers + answers, more)

    def then(self, other: _Span) -> _Span:
        """Both; days without labels at the beginning are of no use."""
        if not self.labels.counted:
            return other
        return _Span(
            self.starts + other.starts, self.answers + other.answers, self.labels + other.labels
        )

    def counts(self, threshold: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Rows by score bin, and how many of them were flagged."""
        caught = self.answers.caught(threshold)
        return tuple(self.answers.scores.tolist()), tuple(caught.tolist())


def _covered(scores: Floats, labels: Labels) -> float:
    return float(scores[labels.rows > 0].sum() / max(1.0, scores.sum()))


# history is looked at again and again, and its figures never change
@lru_cache(32)
def belief_of(calibration: Calibration) -> Belief:
    """What a calibration lets believe."""
    return Belief.of(calibration)


@lru_cache(4096)
def _estimated(
    calibration: Calibration, scores: Sequence[float], flagged: Sequence[float]
) -> Quality:
    return belief_of(calibration).quality(np.array(scores), np.array(flagged))


def latest(found: Sequence[Performance]) -> tuple[Performance, ...]:
    """Of each model its latest estimate, and the latest that labels were held against.

    The estimate stands while newer rows gather; where there is none, what there is.
    """
    kept: dict[tuple[str, bool], Performance] = {}
    for item in found:
        if item.estimated or not kept.get((item.bundle, False), item).estimated:
            kept[item.bundle, False] = item
        if item.realised:
            kept[item.bundle, True] = item
    chosen = dict.fromkeys(id(item) for item in kept.values())
    return tuple(item for item in found if id(item) in chosen)


def concept_drift(found: Iterable[Performance]) -> tuple[Performance, ...]:
    """Models whose latest labels speak against their estimate, each by its latest span."""
    last = {item.bundle: item for item in found if item.realised}
    return tuple(item for item in last.values() if item.verdict == Verdict.CONCEPT)
