"""Business metrics against scikit-learn, and card precision against the book's own code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from wherry.metrics import auc, average_precision, card_precision_at, measure, recall_at


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes and scores with many ties."""
    rows = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    labels[:2] = [True, False]
    cells = st.sampled_from([0.0, 0.1, 0.5, 0.5 + 1e-12, 1.0])
    return labels, np.array(draw(st.lists(cells, min_size=rows, max_size=rows)))


@given(labelled())
def test_they_agree_with_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    ours = average_precision(labels, scores)
    assert ours == pytest.approx(average_precision_score(labels, scores))


@given(labelled(), st.floats(0, 1))
def test_recall_of_tied_rows_is_the_mean_over_their_orders(
    case: tuple[np.ndarray, np.ndarray], share: float
) -> None:
    labels, scores = case
    count = int(share * len(labels))
    edge = np.sort(scores)[::-1][count - 1] if count else np.inf
    above, tied = scores > edge, scores == edge
    chance = (count - above.sum()) / max(1, tied.sum())
    wanted = (labels[above].sum() + labels[tied].sum() * chance) / labels.sum()
    assert recall_at(labels, scores, count / len(labels)) == pytest.approx(wanted)


ROWS = [
    # day, card, score, fraud
    (0, 1, 0.9, True),
    (0, 2, 0.8, False),
    (0, 1, 0.1, False),
    (0, 3, 0.7, True),
    (1, 1, 0.9, True),  # detected on day 0: blocked
    (1, 2, 0.8, True),
    (1, 3, 0.7, False),
    (2, 2, 0.9, True),  # detected on day 1: blocked
    (2, 3, 0.2, False),
    (2, 3, 0.9, False),
    (2, 4, 0.1, True),  # the card's row of the day is not the fraud of card 3
]


@pytest.mark.parametrize(
    ("k", "wanted"),
    [
        (1, np.mean([1, 1, 0])),
        (2, np.mean([1 / 2, 1 / 2, 1 / 2])),
        (100, np.mean([2 / 100, 1 / 100, 1 / 100])),
    ],
)
def test_card_precision_blocks_what_was_detected(k: int, wanted: float) -> None:
    days, cards, scores, fraud = (np.array(column) for column in zip(*ROWS, strict=True))
    assert card_precision_at(fraud, scores, cards, days, k) == pytest.approx(wanted)


def _by_the_book(rows: list[tuple[int, int, float, bool]], k: int) -> float:
    """Chapter 4 of the Handbook, written out: group by card, sort, head, extend the list."""
    detected: list[int] = []
    found = []
    for day in sorted({row[0] for row in rows}):
        cards: dict[int, tuple[float, bool]] = {}
        for row_day, card, score, fraud in rows:
            if row_day == day and card not in detected:
                best, seen = cards.get(card, (-1.0, False))
                cards[card] = (max(best, score), seen or fraud)
        head = sorted(cards, key=lambda card: (-cards[card][0], card))[:k]
        hits = [card for card in head if cards[card][1]]
        found.append(len(hits) / k)
        detected += hits
    return sum(found) / len(found)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 9), st.floats(0, 1), st.booleans()),
        min_size=1,
        max_size=80,
    ),
    st.integers(1, 8),
)
def test_card_precision_is_the_books(rows: list[tuple[int, int, float, bool]], k: int) -> None:
    days, cards, scores, fraud = (np.array(column) for column in zip(*rows, strict=True))
    found = card_precision_at(fraud, scores, cards, days, k)
    assert found == pytest.approx(_by_the_book(rows, k))


def test_measure_leaves_out_what_it_cannot_know() -> None:
    labels, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.2, 0.1])
    found = measure(labels, scores, 0.5, cards=None, days=None)
    assert found.card_precision_100 is None
    assert "card_precision_100" not in found.to_dict()
    assert (found.flagged, found.precision, found.recall) == (0.5, 0.5, 0.5)
    nothing = measure(labels, scores, 0.95, cards=None, days=None)
    assert (nothing.flagged, nothing.precision, nothing.recall) == (0, 0, 0)
