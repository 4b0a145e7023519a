"""When a drift will have become too large: a date with an interval, or "not determined". Pure.

A steady shift of the inputs makes the PSI grow with the square of time. So the bias-corrected PSI of
whole weeks is fitted by k (t - s)^2 after a start s and by nothing before it, over all starts, by
weighted least squares; the weight is that of a PSI under drift (Yurdakul and Naranjo 2020). The
interval is the set of all dates whose start and k are not significantly worse than the best. Where
drift is not so steady, neighbouring weeks lie on the same side of the fit: then they say less than as
many independent ones, and the interval is wider by it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from .compare import Spread
from .quality import Forecast, Outlook
from .rowmath import Floats, Row
from .subjects import Group, Subject
from .sums import Sums
from .view import DAY, WEEK, Policy

LEAST_WEEKS: Final = 6
_AFTER: Final = 3  # weeks that must lie behind the start of a drift
_BEFORE: Final = 8  # weeks before the lowest that are looked at, too
_SMOOTH: Final = 3
_CHI2_95: Final = 3.84
_MOST_ALIKE: Final = 0.9  # that neighbouring weeks are taken to be; a few weeks cannot tell
_SURE: Final = (
    16.0  # that it grows at all: all starts were tried, so a chance of 1 in 1,000 is not enough
)


@dataclass(frozen=True, eq=False)
class Series:
    """A PSI over time.

    Attributes:
        times: middles of weeks, Unix seconds, shape (weeks,).
        values: bias-corrected PSI.
        freedom: how many slots were compared, less one.
        scale: 1/n + 1/m, shape (weeks,).
    """

    times: Floats
    values: Floats
    freedom: int
    scale: Floats

    def spread(self, truth: Floats) -> Floats:
        """The variance of the values if their true ones were these."""
        noise = 2 * self.freedom * self.scale**2
        return np.asarray(noise + 4 * np.maximum(truth, 0.0) * self.scale, np.float64)

    def recent(self) -> Series:
        """From shortly before the last time that the PSI was lowest: what was before is another drift."""
        smooth = np.convolve(self.values, np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
        lowest = int(np.argmin(smooth[: -_AFTER or None]))
        kept = slice(max(0, lowest - _BEFORE), None)
        return Series(self.times[kept], self.values[kept], self.freedom, self.scale[kept])


def series(subject: Subject, rows: Mapping[float, Row], length: float) -> Series:
    """The PSI of a subject's whole weeks.

    Args:
        subject: its first test is a spread.
        rows: counts by start of the week, int64, shape (slots,).
        length: of a week, or of a longer bucket, seconds.
    """
    test, starts = subject.tests[0], sorted(rows)
    assert isinstance(test, Spread)  # noqa: S101 - the caller looked
    actual = np.array([rows[start] for start in starts])
    expected = np.repeat(subject.reference[None], len(starts), axis=0)
    found = test.figures(expected, actual, np.ones(len(starts)))
    there = ~np.isnan(found.p)
    scale = 1 / np.maximum(1, found.n) + 1 / np.maximum(1, found.m)
    values = found.value - test.freedom * scale
    times = np.array(starts, np.float64) + length / 2
    return Series(times[there], values[there], test.freedom, scale[there])


def forecast(found: Series, limit: float, length: float) -> Forecast:
    """When the PSI will have grown to a limit.

    Args:
        found: by time.
        limit: of the PSI.
        length: of a week, or of a longer bucket, seconds.
    """
    weeks = len(found.times)
    if weeks < LEAST_WEEKS:
        return _open(found, limit, f"{weeks} whole weeks, {LEAST_WEEKS} are needed")
    last = float(found.values[-1])
    if last >= limit:
        crossed = int(np.argmax(found.values >= limit))
        moment = float(found.times[crossed])
        rule = f"the PSI has been {last:.3f}"
        return Forecast("", "", Outlook.PAST, limit, last, weeks, rule, moment, moment, moment)
    part = found.recent()
    fit = _Fit(part, length)
    if not fit.grows:
        return _open(found, limit, fit.why)
    early, best, late = fit.crossing(limit)
    now = float(part.times[-1])
    horizon = float(2 * now - part.times[0])
    if best <= now:
        return _open(found, limit, "it should have been reached before now, and is not")
    if best > horizon or late == math.inf:
        return _open(found, limit, "it grows, but too slowly or too unevenly for a date")
    rule = f"k t^2 since {fit.weeks_ago(length)} weeks, {limit:g} is the limit"
    return Forecast(
        "", "", Outlook.DUE, limit, last, weeks, rule, early, best, late, since=fit.start
    )


def _open(found: Series, limit: float, why: str) -> Forecast:
    last = float(found.values[-1]) if len(found.values) else 0.0
    return Forecast("", "", Outlook.OPEN, limit, last, len(found.times), why)


class _Fit:
    """k (t - s)^2 by weighted least squares, for each start s."""

    def __init__(self, found: Series, length: float) -> None:
        t, y = (found.times - found.times[-1]) / length, found.values
        self._unit, self._last = length, float(found.times[-1])
        self._starts = np.arange(2 * t[0] - 1, -_AFTER + 0.1, 0.25)  # may lie before the first week
        x = np.maximum(0.0, t[None, :] - self._starts[:, None]) ** 2
        weight = 1 / found.spread(y)
        best = self._solve(x, y, weight)
        # a value that is low by chance would weigh too much: the weight is that of the fit
        weight = 1 / found.spread(self._k[best] * x[best])
        best = self._solve(x, y, weight)
        self._best, least = best, float(self._rss[best])
        fit = self._k[best] * x[best]
        self._alike = _alike((y - fit) / np.sqrt(found.spread(fit)))
        self._scale = max(
            1.0, least / max(1, len(t) - 2)
        )  # weeks differ more than chance makes them
        flat = float((weight * y**2).sum())
        step = _step(t, y, weight)
        self.grows = bool(self._k[best] > 0 and flat - least > _SURE * self._scale)
        self.why = "it does not grow"
        if self.grows and step - least < _CHI2_95 * self._scale:
            self.grows, self.why = False, "it may as well have jumped and stay"

    def _solve(self, x: Floats, y: Floats, weight: Floats) -> int:
        """Fit k for each start; which start fits best."""
        self._a = (weight * x**2).sum(axis=1)
        self._k = np.maximum(0.0, (weight * x * y).sum(axis=1) / self._a)
        self._rss = (weight * (y - self._k[:, None] * x) ** 2).sum(axis=1)
        return int(np.argmin(np.where(self._k > 0, self._rss, np.inf)))

    @property
    def start(self) -> float:
        """When the drift began, by the best fit."""
        return self._last + float(self._starts[self._best]) * self._unit

    def weeks_ago(self, length: float) -> str:
        """How long ago that was, from the last week's middle."""
        return f"{-float(self._starts[self._best]) * length / WEEK:.0f}"

    def crossing(self, limit: float) -> tuple[float, float, float]:
        """The earliest, best and latest date; the latest is infinite if k may be nothing."""
        cut = self._rss[self._best] + _CHI2_95 * self._scale * self._alike
        among = self._rss <= cut
        half = np.sqrt(np.maximum(0.0, cut - self._rss[among]) / self._a[among])
        starts, k = self._starts[among], self._k[among]
        with np.errstate(divide="ignore"):
            early = starts + np.sqrt(limit / (k + half))
            late = starts + np.where(
                k > half, np.sqrt(limit / np.maximum(k - half, 1e-300)), np.inf
            )
        best = self._starts[self._best] + math.sqrt(limit / self._k[self._best])
        ends = (float(early.min()), best, float(late.max()))
        return tuple(self._last + end * self._unit for end in ends)  # type: ignore[return-value] # three


def _alike(left: Floats) -> float:
    """How many neighbouring weeks say no more than one, from what a fit leaves of each.

    For a series whose neighbours correlate by r, a mean of n is worth n (1 - r)/(1 + r).
    """
    whole = float((left**2).sum())
    r = float((left[1:] * left[:-1]).sum()) / whole if whole else 0.0
    r = min(_MOST_ALIKE, max(0.0, r))
    return (1 + r) / (1 - r)


def _step(t: Floats, y: Floats, weight: Floats) -> float:
    """The least sum of squares of a PSI that jumps once and stays."""
    sums = []
    for place in range(len(t)):
        level = max(0.0, float((weight * y)[place:].sum() / weight[place:].sum()))
        guess = np.where(np.arange(len(t)) >= place, level, 0.0)
        sums.append(float((weight * (y - guess) ** 2).sum()))
    return min(sums)


# --- of a fleet ------------------------------------------------------------------------------


def forecasts(sums: Sums, subjects: Iterable[Subject], policy: Policy) -> tuple[Forecast, ...]:
    """For the scores of each model and for each feature: when it reaches the limit to act.

    Only whole weeks count, those with rows on as many days as any week has.

    Args:
        sums: of the devices that are looked at.
        subjects: what is judged.
        policy: its `act` is the limit.
    """
    length = max(WEEK, policy.bucket_seconds)
    weeks, found = _whole_weeks(sums, policy, length), list[Forecast]()
    rows: dict[Group, dict[float, Row]] = defaultdict(dict)
    for week, starts in weeks.items():
        for start in starts:
            for group, row in sums[start].items():
                before = rows[group].get(week)
                rows[group][week] = row if before is None else before + row
    for subject in subjects:
        mine = rows.get(subject.group)
        if mine and isinstance(subject.tests[0], Spread):
            counts = {start: row[subject.columns] for start, row in mine.items()}
            said = forecast(series(subject, counts, length), policy.act, length)
            found.append(said.named(subject.key.name, subject.key.bundle))
    return tuple(sorted(found, key=lambda item: (not item.bundle, item.subject)))


def _whole_weeks(sums: Sums, policy: Policy, length: float) -> dict[float, list[float]]:
    """Buckets by week; weeks with fewer days than others are left out."""
    week = Policy(bucket_seconds=length)
    found: dict[float, list[float]] = defaultdict(list)
    for start in sorted(sums):
        found[week.bucket(start)].append(start)
    if policy.bucket_seconds >= WEEK:
        return found
    days = {start: {at // DAY for at in parts} for start, parts in found.items()}
    most = max((len(there) for there in days.values()), default=0)
    return {start: found[start] for start in found if len(days[start]) == most}
