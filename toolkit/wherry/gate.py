"""The gate before packing: does the bundle decide as the source model does?

Decisions that flip at the operating threshold are counted, apart on rows as they come and
on rows made to be hard, and business metrics of source, bundle and heuristic stand side by
side. The budgets are the project's; a bundle that exceeds one is not packed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import GateError, SetupError
from wherry_contract.features import RawMatrix
from wherry_convert.parity import Difference, between_scores, compare
from wherry_convert.quantize import Quantized

from .data import Rows
from .metrics import Scores, measure
from .output import Threshold
from .own_metric import Judged, OwnFigures
from .project import Gates
from .worth import Worth, measure_classes, measure_values

CLEAN: Final = "clean"
HEURISTIC: Final = "heuristic"
_SMALLER: Final = (
    "name a [quantize] method with smaller differences, as float16, or raise the budget on purpose"
)

Scorer = Callable[[RawMatrix], NDArray[np.float64]]


@dataclass(frozen=True)
class GateReport:
    """What was compared, and what the budgets say to it.

    Attributes:
        threshold: the operating threshold.
        classes: source against bundle, by class of rows; ``clean`` are the check rows.
        metrics: on the check rows, of ``source``, ``bundle`` and ``heuristic``; empty
            without labels.
        budgets: what was allowed.
        scores: float64, shape (check rows,) or (check rows, classes), of ``source`` and
            ``bundle``.
        own: what the project's own metric gave; None without.
    """

    threshold: float
    classes: Mapping[str, Difference]
    metrics: Mapping[str, Worth]
    budgets: Gates
    scores: Mapping[str, Scores] = field(default_factory=dict, compare=False, repr=False)
    own: OwnFigures | None = None

    @property
    def decided_by(self) -> str:
        """The threshold in words, or that there is none."""
        found = self.scores.get("source")
        if found is None or found.ndim == 1:
            return f"threshold {self.threshold:.9g}"
        least = f" of at least {self.threshold:.9g}" if self.threshold > 0 else ""
        return f"decided: the likeliest class{least}"

    @property
    def flips(self) -> int:
        """Decisions on the check rows that flip."""
        return self.classes[CLEAN].flips

    @property
    def edge_flips(self) -> int:
        """Decisions on made rows that flip."""
        return sum(found.flips for name, found in self.classes.items() if name != CLEAN)

    @property
    def failures(self) -> tuple[str, ...]:
        """Each budget that is exceeded, in words; empty if the gate is passed."""
        found = []
        for what, flips, budget in (
            ("check rows", self.flips, self.budgets.flips),
            ("rows made to be hard", self.edge_flips, self.budgets.edge_flips),
        ):
            if flips > budget:
                found.append(f"{flips} decisions flip on {what}, the budget is {budget}")
        own = self.own.failure if self.own else ""
        return (*found, *self._drops(), *filter(None, [own]))

    def _drops(self) -> tuple[str, ...]:
        if not self.metrics:
            return ()
        bundle = self.metrics["bundle"].ranked()
        drops = {
            name: value - bundle[name] for name, value in self.metrics["source"].ranked().items()
        }
        budget = self.budgets.metric_drop
        return tuple(
            f"{name} drops by {drop:.4f}, the budget is {budget:g}"
            for name, drop in drops.items()
            if not drop <= budget
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; a difference that is infinite stands as null."""
        classes = {
            name: asdict(found) | {"largest": found.largest if np.isfinite(found.largest) else None}
            for name, found in self.classes.items()
        }
        return {
            "passed": not self.failures,
            "failures": list(self.failures),
            "threshold": self.threshold,
            "flips": self.flips,
            "edge_flips": self.edge_flips,
            "budgets": asdict(self.budgets),
            "classes": classes,
            "metrics": {name: found.to_dict() for name, found in self.metrics.items()},
        } | ({"own_metric": self.own.to_dict()} if self.own else {})


class BudgetExceededError(GateError):
    """A budget is exceeded; the report says which.

    Args:
        report: what was compared.
        quantized: the search for a smaller net that led there; None without.
    """

    def __init__(self, report: GateReport, quantized: Quantized | None = None) -> None:
        cure = "" if quantized is None else _SMALLER
        super().__init__("Q01", "; ".join(report.failures), cure=cure)
        self.report = report
        self.quantized = quantized


def operating_threshold(wanted: Threshold, scores: Scores) -> float:
    """The score from which on a row is flagged.

    Args:
        wanted: a score, or the share of rows to flag.
        scores: float64, shape (rows,), of the source model on the reference rows.

    Raises:
        SetupError: H01, so many rows share a score that the share would flag all of them.
    """
    if wanted.score is not None:
        return wanted.score
    share = wanted.flag_share or 0.0
    highest = np.sort(scores)[::-1]
    edge = float(highest[max(1, round(share * len(scores))) - 1])
    if edge == highest[-1]:
        detail = f"flag_share = {share:g}, but no score parts that few rows from the others"
        raise SetupError("H01", detail, cure="give a threshold, or train a model that ranks")
    return between_scores(scores, edge)


def judge(
    source: Scorer,
    bundle: Scorer,
    classes: Mapping[str, RawMatrix],
    *,
    check: Rows,
    threshold: float,
    budgets: Gates,
    heuristic: NDArray[np.bool_] | None = None,
    own: Callable[[Judged], OwnFigures] | None = None,
    names: Sequence[str] = (),
) -> GateReport:
    """Compare source model and bundle.

    Args:
        source: scores raw rows as the source model does.
        bundle: scores raw rows as a device does.
        classes: rows by class; ``clean`` must be the check rows.
        check: the check rows, with labels, cards and days where the project names them.
        threshold: the operating threshold.
        budgets: what may differ.
        heuristic: bool, shape (check rows,), what the fallback rule flags.
        own: the project's own metric, on the check rows.
        names: of the classes, if the decision is between several.
    """
    found: dict[str, Difference] = {}
    scores: dict[str, Scores] = {}
    for name, rows in classes.items():
        ours, theirs = source(rows), bundle(rows)
        found[name] = compare(ours, theirs, threshold)
        if name == CLEAN:
            scores = {"source": ours, "bundle": theirs}
    judged = {name: (given, threshold) for name, given in scores.items()}
    # a rule's flags are no values
    if heuristic is not None and (check.labels is None or check.labels.dtype == np.bool_):
        judged[HEURISTIC] = (heuristic.astype(np.float64), 0.5)
    metrics: dict[str, Worth] = {}
    if check.labels is not None:
        metrics = {name: _measured(check, *given, names) for name, given in judged.items()}
    return GateReport(threshold, found, metrics, budgets, scores, own(judged) if own else None)


def _measured(check: Rows, scores: Scores, threshold: float, names: Sequence[str]) -> Worth:
    assert check.labels is not None  # noqa: S101 - the caller asked
    if names:
        return measure_classes(check.labels, scores, threshold, names)
    if check.labels.dtype != np.bool_:
        return measure_values(check.labels, scores)
    return measure(check.labels, scores, threshold, cards=check.cards, days=check.days)
