"""The gate: where the threshold lies, what counts, what the budgets say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wherry.data import Rows
from wherry.gate import BudgetExceededError, GateReport, judge, operating_threshold
from wherry.project import Gates, Threshold
from wherry_contract.errors import SetupError

Scores = NDArray[np.float64]
RANKED = np.linspace(0.01, 0.99, 100)
LABELS = np.arange(100) % 2 == 1


def _rows(labels: NDArray[np.bool_] | None = LABELS) -> Rows:
    return Rows(RANKED.reshape(-1, 1), labels, None, None, "sha256:")


def _judge(
    bundle: Any, *, budgets: Gates | None = None, edges: Scores | None = None, **more: Any
) -> GateReport:
    classes = {"clean": RANKED.reshape(-1, 1)}
    if edges is not None:
        classes["missing f0"] = edges.reshape(-1, 1)
    return judge(
        lambda raw: raw[:, 0],
        bundle,
        classes,
        check=more.pop("check", _rows()),
        threshold=0.5,
        budgets=budgets or Gates(0, 0, 0.002),
        **more,
    )


@pytest.mark.parametrize(
    ("share", "flagged"), [(0.01, 1), (0.1, 10), (0.5, 50), (0.001, 1), (0.99, 99)]
)
def test_the_threshold_flags_the_share_and_stands_between_scores(
    share: float, flagged: int
) -> None:
    found = operating_threshold(Threshold(None, share, ""), RANKED)
    assert np.count_nonzero(found <= RANKED) == flagged
    assert np.abs(RANKED - found).min() == pytest.approx(0.99 / 99 / 2, rel=0.02)


def test_ties_are_flagged_together() -> None:
    scores = np.array([0.1] * 90 + [0.7] * 10)
    found = operating_threshold(Threshold(None, 0.02, ""), scores)
    assert found == pytest.approx(0.4)


def test_a_share_that_no_score_parts_is_refused() -> None:
    with pytest.raises(SetupError) as caught:
        operating_threshold(Threshold(None, 0.02, ""), np.full(50, 0.3))
    assert caught.value.code == "H01"


def test_a_given_threshold_is_left_as_it_is() -> None:
    assert operating_threshold(Threshold(0.37, None, ""), RANKED) == 0.37


def test_the_same_scores_pass() -> None:
    report = _judge(lambda raw: raw[:, 0])
    assert report.failures == ()
    assert (report.flips, report.edge_flips) == (0, 0)
    assert report.metrics["source"] == report.metrics["bundle"]


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (Gates(2, 0, 1.0), ()),
        (Gates(1, 0, 1.0), ("2 decisions flip on check rows, the budget is 1",)),
    ],
)
def test_flips_on_check_rows(budgets: Gates, words: tuple[str, ...]) -> None:
    moved = _judge(lambda raw: raw[:, 0] + 0.02, budgets=budgets)
    assert moved.flips == 2
    assert moved.failures == words


def test_made_rows_are_counted_apart() -> None:
    edges = np.array([0.499, 0.2])
    report = _judge(lambda raw: np.where(raw[:, 0] == 0.499, 0.5, raw[:, 0]), edges=edges)
    assert (report.flips, report.edge_flips) == (0, 1)
    assert report.failures == ("1 decisions flip on rows made to be hard, the budget is 0",)


def test_a_business_metric_may_drop_within_its_budget_only() -> None:
    def shuffled(raw: NDArray[np.float64]) -> Scores:
        # decisions stay, the order within them is turned round
        scores = raw[:, 0]
        return np.where(scores >= 0.5, 1.49 - scores, 0.49 - scores)

    assert any("auc drops" in line for line in _judge(shuffled).failures)
    assert _judge(shuffled, budgets=Gates(0, 0, 1.0)).failures == ()


def test_scores_that_are_no_numbers_flip_and_are_null_in_json() -> None:
    report = _judge(lambda raw: np.where(raw[:, 0] > 0.98, np.nan, raw[:, 0]), check=_rows(None))
    assert report.flips == 2
    assert report.to_dict()["classes"]["clean"]["largest"] is None


def test_without_labels_there_are_no_metrics() -> None:
    report = _judge(lambda raw: raw[:, 0], check=_rows(None))
    assert report.metrics == {}
    assert report.failures == ()


def test_the_heuristic_stands_beside() -> None:
    report = _judge(lambda raw: raw[:, 0], heuristic=LABELS)
    assert report.metrics["heuristic"].auc == 1.0
    assert report.metrics["heuristic"].recall == 1.0


def test_the_error_says_every_budget_and_exits_with_1() -> None:
    report = _judge(lambda raw: raw[:, 0] * 0, check=_rows())
    error = BudgetExceededError(report)
    assert error.exit_code == 1
    assert error.code == "Q01"
    assert "decisions flip" in error.detail
    assert "auc drops" in error.detail
