"""The gates: values in, decisions out. No process, no clock."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as students_t
from support_fleet import window

from wherry.gates import student
from wherry.gates.evidence import (
    Pair,
    Side,
    Span,
    baseline,
    collect,
    corrected_psi,
    differences,
)
from wherry.gates.judge import Inputs, judge_gates, together
from wherry.gates.permute import least_chance, upper_tail
from wherry.gates.rules import COMPARED, GATES, Rules
from wherry.gates.spending import OBRIEN_FLEMING, POCOCK, SPENDINGS, at_look, spent
from wherry_contract.psi import psi

OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64

# --- how error is spent ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "share", "expected"),
    [
        # values of the two functions at 5 % in all: Lan and DeMets 1983, table of section 3
        pytest.param(POCOCK, 0.2, 0.01477, id="pocock, a fifth"),
        pytest.param(POCOCK, 0.5, 0.03101, id="pocock, half"),
        pytest.param(OBRIEN_FLEMING, 0.5, 0.00557, id="obrien-fleming, half"),
        pytest.param(OBRIEN_FLEMING, 1.0, 0.05, id="all of it at the end"),
    ],
)
def test_what_may_be_spent(kind: str, share: float, expected: float) -> None:
    assert spent(0.05, share, kind) == pytest.approx(expected, abs=5e-5)


@given(st.floats(1e-6, 0.5), st.integers(1, 20), st.sampled_from(SPENDINGS))
def test_looks_spend_all_of_it_and_no_more(error: float, looks: int, kind: str) -> None:
    parts = [at_look(error, look, looks, kind) for look in range(1, looks + 1)]
    assert all(part >= 0 for part in parts)
    assert sum(parts) == pytest.approx(error)


# --- the permutation test -------------------------------------------------------------------


def array(*values: float) -> Any:
    """Numbers of equal weight."""
    return np.array([(value, 1.0) for value in values], np.float64)


@pytest.mark.parametrize(
    ("canary", "control", "expected"),
    [
        pytest.param(array(9, 8), array(1, 2, 3), 1 / 10, id="the most extreme of ten choices"),
        pytest.param(array(1, 2), array(3, 8, 9), 1.0, id="the least extreme"),
        pytest.param(array(1, 1), array(1, 1, 1), 1.0, id="all alike"),
        pytest.param(array(3), array(1, 2, 3, 4), 3 / 5, id="ties count"),
    ],
)
def test_all_choices_of_few_devices_are_counted(canary: Any, control: Any, expected: float) -> None:
    assert upper_tail(canary, control, 1) == pytest.approx(expected)


def test_random_choices_come_near_the_count_of_all() -> None:
    chance = np.random.default_rng(3)
    canary, control = array(*chance.normal(0.8, 1, 4)), array(*chance.normal(0, 1, 16))
    values = np.concatenate([canary, control])[:, 0]
    sums = [values[list(some)].sum() for some in itertools.combinations(range(20), 4)]  # 4,845
    exact = float(np.mean(np.array(sums) >= canary[:, 0].sum() - 1e-9))
    assert upper_tail(canary, control, 1) == pytest.approx(exact)
    many = np.concatenate([control, array(*chance.normal(0, 1, 10))])
    first, second = upper_tail(canary, many, 1), upper_tail(canary, many, 2)
    assert first == pytest.approx(second, rel=0.6)
    assert upper_tail(canary, many, 1) == first


@pytest.mark.parametrize("spread", ["normal", "heavy"])
def test_no_difference_is_found_as_seldom_as_stated(spread: str) -> None:
    chance = np.random.default_rng(5)
    found = 0
    for place in range(200):
        draw = chance.standard_t(2, 60) if spread == "heavy" else chance.normal(0, 1, 60)
        # devices with much traffic differ less, and weigh more
        weights = chance.uniform(0.1, 1, 60)
        both = np.stack([draw / weights, weights], axis=1)
        found += upper_tail(both[:10], both[10:], place, 0.05) <= 0.05
    assert found <= 20  # 10 are expected; 21 or more come in one of a thousand


def test_what_so_few_devices_can_show_at_all() -> None:
    assert least_chance(1, 3) == 1 / 4
    assert least_chance(50, 500) == pytest.approx(1 / 20_001)
    assert least_chance(50, 500, 1e-5) == pytest.approx(1 / 200_001)


# --- from windows to numbers ----------------------------------------------------------------


def side(rows: int = 1000, *, at: int = 20, spread: int = 8, **more: Any) -> Side:
    """A span of traffic; scores lie evenly in `spread` bins from `at` on."""
    found = Side(rows=rows, **({"flagged": rows // 20} | more))
    found.scores[at : at + spread] = rows // spread
    found.latency[10] = rows
    found.memory[20] = 50
    found.edges = "e"
    found.features = {"AMOUNT": np.array([rows // 2, rows // 2, 0, 0])}
    return found


def slower() -> Side:
    """A span whose latencies are four times as long."""
    found = side()
    found.latency[:] = 0
    found.latency[14] = 1000
    return found


def moved() -> Side:
    """A span whose inputs moved."""
    found = side()
    found.features = {"AMOUNT": np.array([100, 900, 0, 0])}
    return found


@pytest.mark.parametrize(
    ("after", "name", "low", "high"),
    [
        pytest.param(side(failed=10), "errors", 0.009, 0.010, id="ten of 1,010 fail"),
        pytest.param(side(fallback=10), "errors", 0.01, 0.01, id="the rule answers ten"),
        pytest.param(side(at=24), "scores", 4, 4, id="scores four bins higher"),
        pytest.param(side(at=24), "shape", 0.5, 99, id="and so of another shape"),
        pytest.param(side(), "shape", -0.05, 0, id="the same shape, corrected for chance"),
        pytest.param(side(flagged=500), "declines", 9, 9, id="half are flagged, of a twentieth"),
        pytest.param(slower(), "latency", 2, 2, id="four times as slow is two doublings"),
        pytest.param(side(), "memory", 0, 0, id="the same memory"),
        pytest.param(moved(), "drift", 0.5, 2, id="inputs moved"),
    ],
)
def test_what_changed_on_a_device(after: Side, name: str, low: float, high: float) -> None:
    pairs = {"a": Pair(side(), after)}
    found = differences(pairs, baseline(pairs.values()), 100)
    assert low - 1e-6 <= found[name][0][0] <= high + 1e-6
    assert set(found) <= set(COMPARED)


def test_a_device_whose_rows_all_fail_counts_where_that_is_asked() -> None:
    pairs = {"a": Pair(side(), side()), "b": Pair(side(), side(0, failed=900))}
    found = differences(pairs, baseline(pairs.values()), 100)
    assert [value for value, _ in found["errors"]] == [0.0, 1.0]
    assert {len(found[name]) for name in found if name != "errors"} == {1}


def test_a_device_with_few_rows_does_not_count() -> None:
    pairs = {"a": Pair(side(), side(80)), "b": Pair(side(), side(800))}
    numbers = differences(pairs, baseline(pairs.values()), 100)["scores"]
    assert [weight for _, weight in numbers] == [pytest.approx(444.4 / 744.4, abs=1e-3)]


def test_the_psi_is_the_contracts() -> None:
    before, after = [30, 50, 20, 40], [10, 60, 40, 30]
    expected = psi(before, after) - 3 * (1 / 140 + 1 / 140)
    assert corrected_psi(np.array(before), np.array(after)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("split", "bundle", "opened", "expected"),
    [
        pytest.param(0.0, OLD, 50, "before", id="canary: the old model scored"),
        pytest.param(0.0, NEW, 50, "after", id="canary: the new one did"),
        pytest.param(0.0, OLD, 5, "", id="too long ago"),
        pytest.param(100.0, OLD, 50, "before", id="control: before the split"),
        pytest.param(100.0, OLD, 95, "", id="control: across it"),
        pytest.param(100.0, OLD, 100, "after", id="control: after it"),
        pytest.param(100.0, NEW, 100, "", id="control, but it has the new bundle"),
    ],
)
def test_which_windows_are_before_and_after(
    split: float, bundle: str, opened: float, expected: str
) -> None:
    span = Span(NEW, split, since=20.0)
    item = window("a", 1, bundle=bundle, opened=opened, closed=opened + 10)
    assert span.side(item) == expected
    pair = collect([("a", item), ("stranger", item)], {"a": span})["a"]
    assert {"before": pair.before.rows, "after": pair.after.rows, "": 0}[expected] in (0, 10)


# --- what gates say -------------------------------------------------------------------------


def inputs(shift: float = 0.0, *, canary: int = 20, control: int = 200, **more: Any) -> Inputs:
    """Devices whose numbers spread a little, the canary's shifted by so many limits."""
    chance = np.random.default_rng(11)
    values = {
        name: (
            [(GATES[name].limit * (shift + x), 0.5) for x in chance.normal(0, 0.3, canary)],
            [(GATES[name].limit * x, 0.5) for x in chance.normal(0, 0.3, control)],
        )
        for name in COMPARED
    }
    made = Inputs(
        look=1,
        canary={name: found[0] for name, found in values.items()},
        control={name: found[1] for name, found in values.items()},
        seed="s",
    )
    return replace(made, **more)


@pytest.mark.parametrize(
    ("given_inputs", "said"),
    [
        pytest.param(inputs(), "passed", id="no difference"),
        pytest.param(inputs(3.0), "failed", id="three times the limit"),
        pytest.param(inputs(0.9), "undecided", id="about at the limit"),
        pytest.param(inputs(canary=3), "undecided", id="too few in the canary"),
        pytest.param(inputs(3.0, canary=3), "undecided", id="too few, whatever they say"),
        pytest.param(inputs(control=10), "undecided", id="too few in the control"),
        pytest.param(inputs(3.0, canary=5), "failed", id="five of 205 are enough for much"),
    ],
)
def test_what_the_gates_say(given_inputs: Inputs, said: str) -> None:
    results = judge_gates(Rules(), given_inputs)
    assert together(results) == said, [item.why for item in results]
    assert [item.name for item in results] == list(COMPARED)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("strict", [False, True])
def test_what_the_canary_cannot_count_holds_nobody_up(name: str, *, strict: bool) -> None:
    """An older agent counts no memory, another contract other inputs; scores are never lacking."""
    made = inputs()
    less = replace(made, canary={key: found for key, found in made.canary.items() if key != name})
    results = {item.name: item.said for item in judge_gates(Rules(strict=strict), less)}
    left_out = name in {"memory", "drift"} and not strict
    assert results[name] == ("not asked" if left_out else "undecided")


@pytest.mark.parametrize("name", COMPARED)
def test_each_gate_alone_can_fail_a_wave(name: str) -> None:
    well, ill = inputs(), inputs(3.0)
    mixed = replace(well, canary=dict(well.canary) | {name: ill.canary[name]})
    results = judge_gates(Rules(), mixed)
    assert [item.name for item in results if item.said == "failed"] == [name]
    assert together(results) == "failed"


@pytest.mark.parametrize("name", COMPARED)
def test_less_is_bad_only_where_it_is(name: str) -> None:
    said = {item.name: item.said for item in judge_gates(Rules(), inputs(-3.0))}
    assert said[name] == ("failed" if GATES[name].both_ways else "passed")


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        pytest.param((), "undecided", id="asked for, and no shadow data"),
        pytest.param((0.0,) * 4, "undecided", id="too few devices"),
        pytest.param((0.0,) * 20, "passed", id="no decision differs"),
        pytest.param((0.1,) * 20, "failed", id="a tenth differ"),
        pytest.param((0.0, 0.06) * 10, "undecided", id="devices differ too much to say"),
    ],
)
def test_disagreement(shares: tuple[float, ...], said: str) -> None:
    result = judge_gates(Rules(names=("disagreement",)), inputs(shadow=shares))[0]
    assert result.said == said, result.why


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 30, 399])
def test_students_t_is_that_of_scipy(freedom: int) -> None:
    for value in (-9.0, -2.2, -0.3, 0.0, 1.0, 3.2, 50.0):
        expected = float(students_t.cdf(value, freedom))
        assert student.cdf(value, freedom) == pytest.approx(expected, rel=1e-6, abs=1e-13)


def test_few_shadows_pass_a_share_at_the_limit_as_seldom_as_stated() -> None:
    """By the normal distribution, five of them passed it in 9 of 100 cases."""
    chance, rules = np.random.default_rng(4), Rules(names=("disagreement",), looks=1)
    draws = [chance.normal(0.02, 0.02, 5) for _ in range(2000)]
    found = sum(judge_gates(rules, Inputs(1, {}, {}, tuple(d)))[0].said == "passed" for d in draws)
    assert found <= 131  # 100 are expected; 132 or more come in one of a thousand


def test_later_looks_are_allowed_the_rest() -> None:
    rules = Rules(looks=4)
    found = [judge_gates(rules, inputs(look=look))[0].spend for look in range(1, 5)]
    whole = (0.01 / len(COMPARED), 0.05)
    assert [sum(part) for part in zip(*found, strict=True)] == pytest.approx(whole)


@pytest.mark.parametrize("rules", [Rules(waves=4), Rules(confidence=0.999)])
@pytest.mark.parametrize("look", [1, 6])
def test_what_is_plain_fails_however_many_share_the_error(rules: Rules, look: int) -> None:
    """A chance that is counted from 20,000 choices is never below 1 in 20,000."""
    one = replace(rules, names=("scores",))
    strict = replace(one, confidence=1 - (1 - rules.confidence) / len(COMPARED))
    result = judge_gates(strict, inputs(4.0, look=look))[0]
    assert (result.said, result.chance <= result.spend[0]) == ("failed", True)


def test_nothing_to_ask_passes_nothing_wrongly() -> None:
    assert together(judge_gates(Rules(names=()), inputs())) == "passed"
    assert together(()) == "passed"


@settings(max_examples=10, deadline=None)
@given(st.floats(-4, 4), st.integers(1, 3), st.text(max_size=5))
def test_the_same_inputs_say_the_same_after_the_store(shift: float, look: int, seed: str) -> None:
    made = inputs(shift, look=look, seed=seed, control=40)
    rules = Rules()
    again = Inputs.from_dict(json.loads(json.dumps(made.to_dict())))
    stored = Rules.from_dict(json.loads(json.dumps(rules.to_dict())))
    assert judge_gates(stored, again) == judge_gates(rules, made)


def test_limits_may_be_set() -> None:
    assert Rules(limits={"latency": math.log2(3)}).limit("latency") == math.log2(3)
    assert Rules().limit("memory") == GATES["memory"].limit
