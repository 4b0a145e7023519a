"""The judgement's rules, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_monitor import (
    DAY,
)

from wherry.monitor import Decision, Policy, judge
from wherry.monitor.compare import equal_groups, join_neighbours, join_rare
from wherry.monitor.rowmath import adjust, apportion
from wherry.monitor.rules import decide, level
from wherry_contract.errors import RolloutError
from wherry_contract.stats import false_discovery

S, W, A = Decision.STABLE, Decision.WARN, Decision.ACT


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        pytest.param([S], "stable", id="never raised"),
        pytest.param([A], "watch", id="first sight, however far"),
        pytest.param([S, S, W], "watch", id="first sight after quiet"),
        pytest.param([W, S, W], "warn", id="two of three, not in a row"),
        pytest.param([A, W], "warn", id="act once, warn once: both reached warn"),
        pytest.param([A, S, A], "act", id="act twice"),
        pytest.param([A, A, S], "act", id="quiet again, but two of three still"),
        pytest.param([A, S, S], "stable", id="one of three is over"),
        pytest.param([A, A, S, S, S], "stable", id="what is older is forgotten"),
    ],
)
def test_two_of_three(levels: list[Decision], found: str) -> None:
    assert decide(levels, Policy()) == found


@pytest.mark.parametrize(
    ("q", "p_warn", "p_act", "found"),
    [
        pytest.param(0.001, 0.001, 0.001, A, id="changed and far over both limits"),
        pytest.param(0.001, 0.001, 0.2, W, id="certainly over the lower limit alone"),
        pytest.param(0.001, 0.2, 0.9, S, id="changed, but not material: a trifle at large n"),
        pytest.param(0.06, 0.001, 0.001, S, id="material, but it may be chance"),
        pytest.param(0.05, 0.01, 0.01, A, id="the limits belong to it"),
    ],
)
def test_changed_and_material(q: float, p_warn: float, p_act: float, found: Decision) -> None:
    assert level(q, p_warn, p_act, Policy()) == found


@given(st.lists(st.floats(0, 1), max_size=30), st.sampled_from([0.01, 0.05, 0.3]))
def test_adjusted_chances_say_what_benjamini_and_hochberg_say(
    chances: list[float], rate: float
) -> None:
    # a hair to either side, since the two divide in another order
    found = [q <= rate * (1 + 1e-9) for q in adjust(np.array(chances))]
    assert found == false_discovery(chances, rate * (1 + 1e-9))


@pytest.mark.parametrize(
    ("counts", "least", "groups"),
    [
        pytest.param([10, 10, 10], 5, (0, 1, 2), id="each is enough"),
        pytest.param([1, 9, 10], 5, (0, 0, 1), id="the first needs the next"),
        pytest.param([10, 10, 1], 5, (0, 1, 1), id="the last needs the one before"),
        pytest.param([1, 1, 1], 5, (0, 0, 0), id="all together are not enough"),
        pytest.param([0, 30, 0, 0], 5, (0, 0, 0, 0), id="one value"),
    ],
)
def test_bins_join_their_neighbours(
    counts: list[int], least: float, groups: tuple[int, ...]
) -> None:
    assert join_neighbours(counts, least) == groups


@pytest.mark.parametrize(
    ("counts", "least", "groups"),
    [
        pytest.param([10, 20, 30], 5, (0, 1, 2), id="none is rare"),
        pytest.param([10, 3, 30, 4], 5, (0, 2, 1, 2), id="the rare are one group"),
        pytest.param([10, 1, 30], 5, (0, 0, 1), id="too rare even so: with the smallest"),
        pytest.param([1, 1], 5, (0, 0), id="all are rare"),
    ],
)
def test_rare_categories_join(counts: list[int], least: float, groups: tuple[int, ...]) -> None:
    assert join_rare(counts, least) == groups


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=64).filter(any))
def test_score_groups_are_ten_at_most_and_none_is_empty(counts: list[int]) -> None:
    groups = equal_groups(counts, 10)
    assert len(groups) == len(counts)
    assert list(groups) == sorted(groups)
    content = np.bincount(groups, counts)
    assert len(content) <= 10
    assert content.min() > 0
    if len(content) > 1:
        assert content.min() >= 0.005 * sum(counts)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=14), st.integers(0, 500))
def test_a_prior_has_its_rows_and_the_fleets_shares(counts: list[int], number: int) -> None:
    (found,) = apportion(np.array([counts], np.int64), number)
    total = sum(counts)
    assert found.sum() == (number if total else 0)
    if total:
        assert np.abs(found - np.array(counts) * number / total).max() < 1


@pytest.mark.parametrize("seconds", [0.0, 59.0, 5 * DAY, 8 * DAY])
def test_buckets_fit_into_weeks(seconds: float) -> None:
    with pytest.raises(RolloutError) as caught:
        judge({}, [], Policy(bucket_seconds=seconds))
    assert caught.value.code == "R06"
