"""What shadows have counted, added up over devices, with an interval that may be believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wherry.shadows import add_to, interval, sum_up
from wherry_contract.shadow import ShadowCounts

NEW = "sha256:" + "1" * 64


def counts(rows: int, differing: int, bin_: int = 20) -> ShadowCounts:
    """Of one device: so many rows in one score bin, of which the shadow flags some more."""
    scores, joint = [0] * 64, [0] * 256
    scores[bin_], joint[4 * 16 + bin_ // 4] = rows, rows
    decisions = (rows - differing, differing, 0, 0)
    return ShadowCounts(
        NEW, rows, decisions=decisions, scores=tuple(scores), joint=tuple(joint),
        latency=(0,) * 10 + (rows,) + (0,) * 29,
    )  # fmt: skip


def test_no_shadow_has_said_anything() -> None:
    found = sum_up({})
    assert (found.shadow_rows, found.low, found.high, found.psi) == (0, 0.0, 1.0, 0.0)


def test_counts_of_devices_add_up() -> None:
    found = sum_up(
        {"a": counts(100, 3), "b": counts(300, 5), "c": replace(counts(0, 0), dropped=7)}
    )
    assert (found.shadow_devices, found.shadow_rows, found.differing) == (3, 400, 8)
    assert (found.only_shadow, found.only_live, found.dropped) == (8, 0, 7)
    assert found.share == 8 / 400
    assert found.low < found.share < found.high
    assert found.shadow_p95_us == pytest.approx(2**5.5)


def test_psi_is_0_where_both_score_alike_and_large_where_they_do_not() -> None:
    assert sum_up({"a": counts(1000, 0, 17)}).psi == 0
    assert sum_up({"a": counts(1000, 0, 40)}).psi > 5


def test_windows_of_a_device_add_up_and_other_decisions_begin_anew() -> None:
    found: dict[str, ShadowCounts] = {}
    add_to(found, "a", counts(10, 1))
    add_to(found, "a", counts(20, 2))
    assert (found["a"].rows, found["a"].differing) == (30, 3)
    add_to(found, "a", replace(counts(5, 0), decisions=(5, *(0,) * 8)))
    assert found["a"].rows == 5


@pytest.mark.parametrize(
    ("devices", "low", "high"),
    [
        pytest.param([(0, 1000)], 0.0, 0.004, id="none of a thousand is not certainly none"),
        pytest.param([(0, 500), (0, 500)], 0.0, 0.004, id="nor on two devices"),
        pytest.param([(100, 1000)] * 8, 0.09, 0.11, id="eight alike"),
        pytest.param([(0, 1000)] * 4 + [(200, 1000)] * 4, 0.0, 0.2, id="eight that differ: wide"),
        pytest.param([(1, 1)], 0.2, 1.0, id="one row says little"),
    ],
)
def test_intervals(devices: list[tuple[int, int]], low: float, high: float) -> None:
    found = interval(devices)
    assert found[0] == pytest.approx(low, abs=0.012)
    assert found[1] == pytest.approx(high, abs=0.012)


def test_the_interval_holds_what_it_says_where_shops_differ() -> None:
    """Of 95 % intervals from 12 shops with shares of their own, at least 90 % hold the mean."""
    chance = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        shares = chance.beta(2, 38, 12)  # 5 % on average, from shop to shop quite otherwise
        rows = chance.integers(150, 400, 12)
        hits = chance.binomial(rows, shares)
        low, high = interval(list(zip(hits.tolist(), rows.tolist(), strict=True)))
        held += low <= 0.05 <= high
    assert held >= 360
