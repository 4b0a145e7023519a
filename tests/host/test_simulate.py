"""Rollouts on modelled devices, by the real planner and gates: what good and bad models come to."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
from click.testing import CliRunner

from wherry.cli.simulate import simulate as command
from wherry.gates.rules import Rules
from wherry.server.explain import replay
from wherry.server.rollout import Policy
from wherry.simulate.links import Habits, Links
from wherry.simulate.run import Outcomes, Scene, simulate
from wherry.simulate.shops import MODELS, Shops

POLICY = Policy(
    shares=("1%", "10%", "50%", "100%"),
    soak_rows=0,
    soak_seconds=1800,
    quorum=0.95,
    gates=Rules().to_dict(),
)
SCENE = Scene(1000, policy=POLICY, limit=86_400.0)
BAD = [name for name in MODELS if name != "same"]


@cache
def played(model: str, seed: int) -> Outcomes:
    """One rollout of a thousand devices."""
    return simulate(replace(SCENE, model=model, seed=seed))


@pytest.mark.parametrize("model", BAD)
def test_a_bad_model_ends_in_the_canary(model: str) -> None:
    found = played(model, 1)
    assert found.state == "reverted", found.reason
    assert found.reason.startswith("gate: ")
    assert found.exposed <= 10  # one in a hundred
    check_replay(found)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_model_that_makes_no_difference_is_not_aborted(seed: int) -> None:
    found = played("same", seed)
    assert found.state in ("done", "hold"), found.reason
    check_replay(found)


@pytest.mark.long
def test_300_models_that_make_no_difference_are_not_aborted() -> None:
    ends = [played("same", seed).state for seed in range(300)]
    assert set(ends) <= {"done", "hold", "wave"}


@pytest.mark.long
@pytest.mark.parametrize("model", BAD)
def test_each_bad_model_ends_in_the_canary_whatever_the_shops(model: str) -> None:
    for seed in range(20):
        found = played(model, seed)
        assert (found.state, found.exposed <= 10) == ("reverted", True), (seed, found.reason)


def check_replay(found: Outcomes) -> None:
    """Every decision comes out the same again, and so it does after the store."""
    assert found.decisions
    for step in found.decisions:
        assert replay(step).same, replay(step).differs
        stored = replace(step, figures=json.loads(json.dumps(dict(step.figures))))
        assert replay(stored).same, replay(stored).differs


def test_the_same_seed_is_the_same_run() -> None:
    small = replace(SCENE, devices=60, policy=replace(POLICY, shares=("10%", "100%"), gates={}))
    assert simulate(small) == simulate(small)
    assert simulate(small) != simulate(replace(small, seed=2))


def test_who_is_absent_holds_nobody_up_and_is_not_reached() -> None:
    habits = Habits(flaky=0.0, absent=0.1)
    policy = replace(POLICY, shares=("10%", "100%"), gates={})
    found = simulate(replace(SCENE, devices=200, policy=policy, habits=habits))
    assert found.state == "done"
    assert found.reached["50"]
    assert found.reached["95"] is None
    assert found.exposed < 200


def test_devices_that_refuse_end_a_rollout_unless_they_may() -> None:
    habits = Habits(flaky=0.0, absent=0.0, refusing=0.02)
    policy = replace(POLICY, shares=("1", "100%"), gates={}, quorum=1.0)
    scene = replace(SCENE, devices=200, policy=policy, habits=habits)
    assert simulate(scene).state == "reverted"
    assert simulate(replace(scene, policy=replace(policy, max_failures=20))).state == "done"


def test_who_is_switched_off_for_the_night_in_a_soak_is_silent() -> None:
    """A failure, as the house has it: a till that does not come back looks the same."""
    policy = replace(POLICY, shares=("50%", "100%"), gates={})
    habits = Habits(flaky=0.0, absent=0.0, nightly=1.0)
    scene = replace(SCENE, devices=100, policy=policy, habits=habits)
    assert simulate(scene).state == "reverted"
    patient = replace(policy, silent_seconds=12 * 3600.0)
    assert simulate(replace(scene, policy=patient)).state == "done"


@pytest.mark.parametrize("device", range(0, 40, 7))
def test_a_line_comes_and_goes_as_it_says(device: int) -> None:
    links = Links(40, Habits(flaky=0.5, nightly=0.3, absent=0.1), 1)
    for at in (0.0, 1234.0, 90_000.0):
        change, up = links.next_change(device, at), links.is_up(device, at)
        if change < 1e12:
            assert links.is_up(device, change - 1.0) is up
            assert links.is_up(device, change + 1.0) is not up
        assert links.next_up(device, at) >= at


def test_the_same_span_is_the_same_traffic() -> None:
    shops = Shops(3, 1)
    first, second = (shops.traffic(1, 2.0, 5.0, MODELS["same"]) for _ in range(2))
    assert (first.scores == second.scores).all()
    slow = shops.traffic(1, 2.0, 5.0, MODELS["slow"])
    assert (slow.scores == first.scores).all()
    assert (slow.latency != first.latency).any()


def test_what_the_command_says() -> None:
    arguments = ["--devices", "100", "--waves", "1,100%", "--json"]
    found = CliRunner().invoke(command, arguments)
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert document["schema"] == "wherry/simulation/1"
    assert document["state"] == "done"
    assert document["reached_seconds"]["50"] > 1800
    assert document["fetched_bytes"] == document["exposed_devices"] * 500_000
