"""Rollouts that are judged by gates and steered by people: a played fleet, the real store.

Complaints about other systems are named where a test pins that ours does otherwise.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_fleet import state
from support_play import NEW, OLD, Play, playing

from wherry.gates.rules import Rules
from wherry.rows import PASS, PAUSE, RESUME, Decision
from wherry.server.explain import replay
from wherry.server.intake import Batch
from wherry.server.orders import VALID_SECONDS
from wherry.server.rollout import Policy
from wherry_contract.errors import RolloutError

GATED: dict[str, Any] = {
    "shares": ("6", "50%", "100%"),
    "gates": Rules(names=("errors", "scores", "latency"), looks=3).to_dict(),
}


def check_replay(play: Play, name: str) -> None:
    """Every decision that was stored comes out the same when it is made again."""
    steps = play.rollout(name).decisions
    assert steps
    assert {step.at: replay(step).differs for step in steps} == {step.at: () for step in steps}
    assert all(replay(step).same for step in steps)


def test_a_model_that_makes_no_difference_reaches_everybody(tmp_path: Path) -> None:
    with playing(tmp_path) as play:
        play.tick()
        name = play.push(**GATED)
        row = play.until(name, "done", "hold", "aborted")
        assert row.state == "done", row.decisions
        assert [step.event for step in row.decisions if step.event != "looked"] == [
            "passed",
            "passed",
            "finished",
        ]
        looks = [step for step in row.decisions if "gates" in step.figures]
        assert {step.figures["wave"] for step in looks} == {0, 1}  # the last has no control
        check_replay(play, name)


def test_a_model_that_decides_otherwise_ends_in_the_canary(tmp_path: Path) -> None:
    with playing(tmp_path) as play:
        for till in play.tills.values():
            till.shift = 4.0  # one in log-odds, on every device: it loads and runs well
        play.tick()
        name = play.push(**GATED)
        row = play.until(name, "reverted")
        assert [step.after for step in row.decisions] == ["aborted", "reverting", "reverted"]
        assert "gate: mean score" in row.decisions[0].reason
        assert sum(bool(item.offered_at) for item in row.devices) == 6
        assert {till.bundle for till in play.tills.values()} == {OLD.digest}
        check_replay(play, name)


def test_gates_without_traffic_hold_and_a_person_may_go_past(tmp_path: Path) -> None:
    """hawkbit#1208: users want to force the next group; here with a reason, wave by wave."""
    with playing(tmp_path) as play:
        play.quiet = True
        name = play.push(**GATED)
        row = play.until(name, "hold", "done")
        assert row.state == "hold"
        assert "undecided after 3 looks" in row.decisions[-1].reason
        for _ in range(5):
            play.tick()
        assert play.rollout(name).state == "hold"  # it never passes by itself
        with pytest.raises(RolloutError) as caught:
            play.steering.say(name, PASS, "another wave", 1)
        assert caught.value.code == "R14"
        play.steering.say(name, PASS, "sites were closed", 0)
        play.tick()
        row = play.rollout(name)
        assert (row.state, row.wave) == ("wave", 1)
        assert "an operator went past the gates: sites were closed" in row.decisions[-1].reason
        check_replay(play, name)


def test_who_went_away_is_not_waited_for_without_a_word(tmp_path: Path) -> None:
    """Five are needed, and four can come: the gates are undecided, and the rollout says so."""
    with playing(tmp_path) as play:
        name = play.push(**GATED | {"shares": ("5", "50%", "100%")})
        away = play.rollout(name).devices[2].device
        play.tills[away].online = False
        row = play.until(name, "hold", "done")
        assert row.state == "hold"
        assert "4 and 35 devices have counted enough, 5 and 20" in row.decisions[-1].reason
        check_replay(play, name)


def test_a_canary_that_fails_every_row_is_not_left_out(tmp_path: Path) -> None:
    """They score next to nothing, so that only the rows that failed can say it."""
    with playing(tmp_path) as play:
        play.tick()
        name = play.push(**GATED | {"shares": ("10", "50%", "100%")})
        for item in play.rollout(name).devices[:5]:
            play.tills[item.device].failing = True
        row = play.until(name, "reverted", "wave", "hold")
        assert row.state == "reverted"
        assert "gate: rows that failed" in row.decisions[0].reason
        check_replay(play, name)


def test_nobody_goes_past_a_canary_that_has_not_begun(tmp_path: Path) -> None:
    """The shadow wave has the number of the canary; a word of then would count for it."""
    with playing(tmp_path) as play:
        row = play.office.start(NEW.digest, {}, Policy(**GATED | {"shadow_rows": 200}))
        with pytest.raises(RolloutError) as caught:
            play.steering.say(row.id, PASS, "go on", 0)
        assert caught.value.code == "R14"


def test_paused_nobody_gets_an_order_and_resumed_it_goes_on(tmp_path: Path) -> None:
    with playing(tmp_path, 8) as play:
        name = play.push(shares=("2", "100%"))
        play.steering.say(name, PAUSE, "sale weekend", 0)
        play.steering.say(name, PAUSE, "said twice", 0)  # two operators at once
        for _ in range(3):
            play.tick()
        row = play.rollout(name)
        assert (row.state, [item.why for item in row.words]) == ("paused", ["sale weekend"])
        assert not any(item.offered_at for item in row.devices)
        play.steering.say(name, RESUME, "over", 0)
        assert play.until(name, "done").state == "done"
        check_replay(play, name)


def test_paused_a_failure_still_takes_everybody_back(tmp_path: Path) -> None:
    with playing(tmp_path, 8) as play:
        for till in play.tills.values():
            till.ends = "reverted"
        name = play.push(shares=("2", "100%"))
        play.driver.look()  # the canary has its order
        play.steering.say(name, PAUSE, "wait", 0)
        assert play.until(name, "reverted").state == "reverted"
        check_replay(play, name)


def test_two_operators_one_aborts_and_one_resumes(tmp_path: Path) -> None:
    """The end stands, in whichever order they are quick."""
    with playing(tmp_path, 8) as play:
        name = play.push(shares=("2", "100%"))
        play.tick()
        play.office.abort(name, "wrong file")
        with pytest.raises(RolloutError) as caught:
            play.steering.say(name, RESUME, "looks fine", 0)
        assert caught.value.code == "R09"
        row = play.until(name, "reverted")
        assert row.stopped == "wrong file"
        assert {till.bundle for till in play.tills.values()} == {OLD.digest}


@pytest.mark.parametrize(("quorum", "ends"), [(0.8, "done"), (1.0, "canary")])
def test_stragglers_do_not_hold_a_wave_with_a_quorum(
    tmp_path: Path, quorum: float, ends: str
) -> None:
    """hawkbit#1208, greengrass#807: one device that is stuck blocks all others."""
    with playing(tmp_path, 10) as play:
        name = play.push(shares=("5", "100%"), quorum=quorum)
        stuck = play.rollout(name).devices[0].device
        play.tills[stuck].ends = "stuck"
        row = play.until(name, "done", "hold", most=5)
        assert row.state == ends
        if row.decisions:
            assert "1 stragglers" in row.decisions[0].reason
            check_replay(play, name)


def test_undo_is_an_ordinary_rollout_of_what_ran_before(tmp_path: Path) -> None:
    with playing(tmp_path, 8) as play:
        name = play.push(shares=("2", "100%"))
        with pytest.raises(RolloutError) as caught:
            play.steering.undo(name)
        assert caught.value.code == "R03"
        play.until(name, "done")
        play.tills["till-003"].bundle = "sha256:" + "7" * 64  # went on to another one since
        play.tick()
        undo = play.steering.undo(name)
        assert (undo.bundle, len(undo.devices), undo.others) == (OLD.digest, 7, 0)
        second = play.steering.start(undo, play_policy("1", "100%")).id
        row = play.until(second, "done")
        assert (row.state, row.bundle, len(row.devices)) == ("done", OLD.digest, 7)
        on_old = {name for name, till in play.tills.items() if till.bundle == OLD.digest}
        assert on_old == set(play.tills) - {"till-003"}


def play_policy(*shares: str) -> Any:
    """A policy of these waves."""
    return Policy(shares=shares)


def test_what_ran_nothing_before_cannot_be_undone(tmp_path: Path) -> None:
    with playing(tmp_path, 4) as play:
        for till in play.tills.values():
            till.bundle = ""
        name = play.push(shares=("1", "100%"))
        play.until(name, "done")
        with pytest.raises(RolloutError) as caught:
            play.steering.undo(name)
        assert caught.value.code == "R15"


# --- nothing lost ---------------------------------------------------------------------------


def test_a_bundle_that_vanished_from_the_depot_holds_and_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    with playing(tmp_path, 8) as play:
        name = play.push(shares=("2", "100%"))
        blobs, aside = tmp_path / "depot" / "blobs", tmp_path / "aside"
        shutil.move(blobs, aside)
        play.tick()
        row = play.rollout(name)
        assert row.state == "hold"
        assert "not in the depot" in row.decisions[-1].reason
        assert not any(item.offered_at for item in row.devices)
        shutil.move(aside, blobs)
        assert play.until(name, "done").state == "done"
        check_replay(play, name)


def killed(play: Play) -> None:
    """The server is killed, and another one begins."""
    play.restart()


def clock_ahead(play: Play) -> None:
    """Somebody sets the clock three days ahead."""
    play.wall += 3 * 86_400


def clock_back(play: Play) -> None:
    """And back again."""
    play.wall -= 3 * 86_400


@pytest.mark.parametrize(
    "happens",
    [[killed], [clock_ahead, clock_back], [clock_back]],
    ids=["killed", "there and back", "back"],
)
def test_what_happens_to_the_server_between_any_two_looks_changes_nothing(
    tmp_path: Path, happens: list[Callable[[Play], None]]
) -> None:
    with playing(tmp_path, 8) as play:
        name = play.push(shares=("2", "50%", "100%"))
        for _ in range(12):
            for one in happens:
                one(play)
                play.driver.look()
            play.tick(600)
        row = play.rollout(name)
        assert row.state == "done", row.decisions
        assert {item.outcome for item in row.devices} == {"committed"}
        # nobody was told twice: one order for each device
        assert {till.sequences[play.signer.public.keyid] for till in play.tills.values()} == {1}
        check_replay(play, name)


def test_a_device_that_was_away_converges_on_the_latest_order_alone(tmp_path: Path) -> None:
    """rauc-hawkbit-updater#203: five dead jobs before the live one, a poll for each."""
    with playing(tmp_path, 6) as play:
        away = play.tills["till-002"]
        play.tick()
        away.online = False
        for made in (NEW, OLD, NEW):
            name = play.push(made, shares=("1", "100%"))
            assert play.until(name, "done").state == "done"
        before = dict(away.sequences)
        away.online = True
        play.tick()
        play.tick()
        assert away.bundle == NEW.digest
        assert before == {}
        assert len(away.sequences) == 1  # three were given, the last was taken


def test_orders_that_nobody_took_are_signed_again_before_they_expire(tmp_path: Path) -> None:
    with playing(tmp_path, 6) as play:
        away = [till for name, till in play.tills.items() if name > "till-002"]
        play.tick()
        for till in away:
            till.online = False
        name = play.push(shares=("1", "100%"))
        assert play.until(name, "done").state == "done"
        play.tick(0.6 * VALID_SECONDS)
        orders = play.store.ledger.orders()
        parts = {item.device: item.sequence for item in play.rollout(name).devices}
        assert {device: order.sequence for device, order in orders.items()} == parts
        assert sorted(parts.values()) == [1, 1, 1, 2, 2, 2]
        for till in away:
            till.online = True
        play.tick()
        play.tick()
        assert {till.bundle for till in away} == {NEW.digest}


def test_written_is_not_healthy(tmp_path: Path) -> None:
    """hawkbit#3185: the next group begins when devices have written, not when they are well."""
    with playing(tmp_path, 8) as play:
        for till in play.tills.values():
            till.proven = "unproven"  # it says that it has committed, and soaks still
        name = play.push(shares=("2", "100%"))
        for _ in range(3):
            play.tick()
        row = play.rollout(name)
        assert row.wave == 0
        assert not any(item.offered_at for item in row.devices if item.wave)


def test_a_device_that_dies_after_its_switch_is_a_failure(tmp_path: Path) -> None:
    """hawkbit#693: no time limit, so it stays "running" for ever and is no error."""
    with playing(tmp_path, 8) as play:
        name = play.push(shares=("2", "100%"))
        play.driver.look()
        first = play.rollout(name).devices[0]
        key = play.signer.public.keyid
        gone = state(
            first.device,
            bundle=NEW.digest,
            trust="unproven",
            phase="soak",
            sequences={key: first.sequence},
        )
        play.store.add(Batch(play.wall, states={first.device: gone}))
        play.tills[first.device].online = False
        row = play.until(name, "reverting", "reverted")
        assert row.decisions[0].after == "aborted"
        assert "silent" in row.decisions[0].reason
        check_replay(play, name)


def test_one_device_in_a_hundred_that_lies_aborts_nothing(tmp_path: Path) -> None:
    """It counts as one device, whatever it claims to have counted."""
    with playing(tmp_path) as play:
        play.tick()
        name = play.push(**GATED)
        play.driver.look()
        liar = next(item.device for item in play.rollout(name).devices if item.offered_at)
        play.tills[liar].shift = 40.0
        row = play.until(name, "done", "aborted", "hold")
        assert row.state in ("done", "hold"), row.decisions[-1].reason
        check_replay(play, name)


def test_a_decision_of_an_earlier_version_is_not_called_the_same() -> None:
    old = Decision(1.0, "canary", "passed", "wave", 1, {"devices": 1, "committed": 1}, "x")
    found = replay(old)
    assert not found.same
    assert found.verdict is None


def test_a_decision_that_somebody_changed_is_found(tmp_path: Path) -> None:
    with playing(tmp_path, 4) as play:
        name = play.push(shares=("1", "100%"))
        play.until(name, "done")
        step = play.rollout(name).decisions[0]
        changed = Decision(**(step.__dict__ | {"figures": dict(step.figures) | {"failed": 1}}))
        assert "event" in replay(changed).differs
