"""The planner: who goes when, what devices' words mean, what follows. No process, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_fleet import FAMILY, state

from wherry.outcomes import SILENT
from wherry.rows import DeviceRow, Exposure, RolloutRow
from wherry.server.rollout import (
    Look,
    Policy,
    Report,
    judge,
    settle,
    way_back,
)
from wherry.server.verdict import TABLE, E
from wherry.server.waves import Candidate, plan_waves, shares_of, wave_ends
from wherry_contract.errors import RolloutError
from wherry_contract.shadow import ShadowCounts
from wherry_contract.states import RolloutState as R

KEY = "k" * 64
OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64
NOW = 10_000.0

# --- who goes when --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "devices", "ends"),
    [
        pytest.param(["1", "100%"], 3, (1, 3), id="canary of one, then all"),
        pytest.param(["1", "100%"], 1, (1,), id="one device is one wave"),
        pytest.param(["1%", "10%", "100%"], 200, (2, 20, 200), id="shares"),
        pytest.param(["1%", "100%"], 10, (1, 10), id="a share reaches at least one"),
        pytest.param(["5"], 8, (5, 8), id="all come last in any case"),
        pytest.param(["50", "60"], 10, (10,), id="more than there are"),
        pytest.param(["5", "100%"], 2, (2,), id="a count beyond, then all"),
        pytest.param([], 4, (4,), id="no waves: all at once"),
    ],
)
def test_ends_of_waves(shares: list[str], devices: int, ends: tuple[int, ...]) -> None:
    assert wave_ends(shares, devices) == ends


@pytest.mark.parametrize(
    "shares",
    [["0"], ["-1"], ["x"], ["101%"], ["nan%"], ["inf%"], ["5", "2"], ["50", "20"], ["9" * 999]],
)
def test_waves_that_make_no_sense(shares: list[str]) -> None:
    with pytest.raises(RolloutError) as caught:
        wave_ends(shares, 10)
    assert caught.value.code == "R06"


candidates = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), st.sampled_from("abc"), min_size=1
).map(lambda found: [Candidate(name, {"site": site}) for name, site in found.items()])
some_shares = st.lists(st.integers(1, 100), max_size=4).map(
    lambda found: [f"{share}%" for share in sorted(found)]
)


@given(candidates, some_shares, st.randoms())
def test_waves_share_everybody_out_whatever_the_order(
    found: list[Candidate], shares: list[str], chance: Any
) -> None:
    waves = plan_waves(found, shares, "seed")
    flat = [name for wave in waves for name in wave]
    assert sorted(flat) == sorted(item.device for item in found)
    assert all(waves)
    chance.shuffle(found)
    assert plan_waves(found, shares, "seed") == waves
    assert [n for wave in plan_waves(found, [], "seed") for n in wave] == flat


@pytest.mark.parametrize("first", [1, 10, 37, 100, 500])
def test_every_beginning_has_its_share_of_every_board_site_and_group(first: int) -> None:
    """hawkbit#1086: groups in the order of creation, so that one is a single cellular uplink."""
    found = [
        Candidate(
            f"d{n}",
            {"board": f"b{n % 3}", "site": f"s{n // 25}"},
            groups=("pilot",) if n % 10 == 0 else (),
        )
        for n in range(1000)
    ]
    for seed in ("a", "b", "c"):
        reached = set(plan_waves(found, [str(first)], seed)[0])
        assert len(reached) == first
        for name in ("board", "site"):
            for value in {item.labels[name] for item in found}:
                of = [item.device for item in found if item.labels[name] == value]
                seats = len(reached.intersection(of))
                # a site is in three places of the line, one for each board
                limit = 2 if name == "board" else 4
                assert abs(seats - first * len(of) / 1000) <= limit, (seed, value)


def test_small_sites_are_reached_as_often_as_large_ones() -> None:
    """One large site and 300 of one device each: a canary of 1 % is not the large site alone."""
    found = [Candidate(f"l{n}", {"site": "large"}) for n in range(300)]
    found += [Candidate(f"s{n}", {"site": f"s{n}"}) for n in range(300)]
    first = plan_waves(found, ["20"], "seed")[0]
    assert abs(sum(name.startswith("l") for name in first) - 10) <= 2


def test_what_a_plan_says_of_each_stratum_adds_up() -> None:
    found = [Candidate(f"d{n}", {"site": "ab"[n % 2]}) for n in range(10)]
    waves = plan_waves(found, ["2", "100%"], "seed")
    assert shares_of(found, waves) == [(("", "a", ""), (1, 4)), (("", "b", ""), (1, 4))]


def test_who_is_away_comes_last() -> None:
    found = [Candidate("a", {}, away=True), Candidate("b", {}), Candidate("c", {}, away=True)]
    assert plan_waves(found, ["1"], "seed")[0] == ("b",)


def test_another_seed_is_another_order() -> None:
    found = [Candidate(f"d{place}", {}) for place in range(50)]
    assert plan_waves(found, [], "one") != plan_waves(found, [], "two")


# --- what a device's words mean -------------------------------------------------------------


def row(name: str = "a", *, online: bool = True, seen_at: float = NOW, **said: Any) -> DeviceRow:
    """A device as the store knows it; without `said` it has never reported."""
    return DeviceRow(
        name, FAMILY, {}, 1.0, online, "1" * 16, seen_at, state(name, **said) if said else None
    )


def look(*rows: DeviceRow, **more: Any) -> Look:
    """What is known now."""
    values: dict[str, Any] = {"now": NOW, "listening_since": 0.0, "keyid": KEY, "reports": {}}
    return Look(devices={item.device: item for item in rows}, **(values | more))


OFFERED = Exposure("a", 0, OLD, offered_at=NOW - 100, sequence=5)
RUNS_NEW = {"bundle": NEW, "trust": "good", "phase": "idle", "sequences": {KEY: 5}}
SOAKS = {"bundle": NEW, "trust": "unproven", "phase": "soak", "sequences": {KEY: 5}}
LONG = NOW - 5000


@pytest.mark.parametrize(
    ("known", "report", "outcome"),
    [
        pytest.param(row(), None, "", id="never heard of"),
        pytest.param(row(**RUNS_NEW), None, "committed", id="serves it, proven"),
        pytest.param(row(**SOAKS), None, "", id="soaks"),
        pytest.param(row(**SOAKS), Report("committed"), "", id="says committed, not seen yet"),
        pytest.param(row(**(RUNS_NEW | {"fallback": True})), None, "", id="the rule answers"),
        pytest.param(row(**(RUNS_NEW | {"bundle": OLD})), Report("committed"), "", id="serves old"),
        pytest.param(row(**SOAKS), Report("refused", "P01"), "refused", id="refused"),
        pytest.param(row(**SOAKS), Report("reverted", "U06"), "reverted", id="reverted"),
        pytest.param(row(**RUNS_NEW), Report("reverted", "U06"), "reverted", id="bad news first"),
        pytest.param(row(**SOAKS), Report("reverted", "U02"), "withdrawn", id="replaced: neutral"),
        pytest.param(row(online=False, seen_at=LONG, **SOAKS), None, SILENT, id="silent in soak"),
        pytest.param(row(online=False, seen_at=NOW - 10, **SOAKS), None, "", id="away for 10 s"),
        pytest.param(row(online=True, seen_at=LONG, **SOAKS), None, "", id="online: not silent"),
        pytest.param(
            row(online=False, seen_at=LONG, **(SOAKS | {"phase": "fetch"})),
            None,
            "",
            id="silent before its switch",
        ),
        pytest.param(
            row(online=False, seen_at=LONG, **(SOAKS | {"sequences": {KEY: 4}})),
            None,
            "",
            id="silent, but in an earlier order's soak",
        ),
    ],
)
def test_what_a_device_means(known: DeviceRow, report: Report | None, outcome: str) -> None:
    seen = look(known, reports={"a": report} if report else {})
    long_ago = replace(OFFERED, offered_at=LONG)
    assert settle(long_ago, NEW, seen, 900.0).outcome == outcome


@pytest.mark.parametrize("since", [None, NOW - 10], ids=["not connected", "only just connected"])
def test_nobody_is_silent_while_nobody_listens(since: float | None) -> None:
    silent = row(online=False, seen_at=LONG, **SOAKS)
    offered = replace(OFFERED, offered_at=LONG)
    assert settle(offered, NEW, look(silent), 900.0).outcome == SILENT
    assert settle(offered, NEW, look(silent, listening_since=since), 900.0).outcome == ""


def test_what_has_settled_stays() -> None:
    done = replace(OFFERED, outcome="refused", settled_at=1.0)
    assert settle(done, NEW, look(row(**RUNS_NEW)), 900.0) == done


def test_what_was_not_offered_has_no_outcome() -> None:
    assert settle(Exposure("a", 1), NEW, look(row(**RUNS_NEW)), 900.0).outcome == ""


# --- what follows ---------------------------------------------------------------------------


def rollout(*devices: Exposure, at: R = R.CANARY, wave: int = 0, **more: Any) -> RolloutRow:
    """A rollout in some state."""
    values: dict[str, Any] = {"policy": Policy(max_failures=1).to_dict(), "waves": 2}
    return RolloutRow(
        id="r1",
        bundle=NEW,
        name="fraud",
        version="2",
        family=FAMILY,
        state=str(at),
        wave=wave,
        select={},
        created_at=1.0,
        changed_at=1.0,
        devices=devices,
        **(values | more),
    )


def part(name: str, outcome: str = "", *, wave: int = 0, at: float = NOW - 100) -> Exposure:
    """A device that was given the order."""
    return Exposure(name, wave, OLD, offered_at=at, sequence=5, outcome=outcome)


FETCHES = {"bundle": OLD, "phase": "fetch", "sequences": {KEY: 5}}


@pytest.mark.parametrize(
    ("given_row", "rows", "event", "figures"),
    [
        pytest.param(rollout(part("a")), [row("a")], E.WAITING, {"open": 1}, id="not taken yet"),
        pytest.param(
            rollout(part("a", "committed")), [row("a")], E.PASSED, {"committed": 1}, id="canary did"
        ),
        pytest.param(
            rollout(part("a", "committed"), waves=1), [row("a")], E.FINISHED, {}, id="the only wave"
        ),
        pytest.param(
            rollout(part("a", "refused"), part("b", "committed")),
            [row("a"), row("b")],
            E.FAILED,
            {"failed": 1, "allowed_failures": 0},
            id="in a canary nothing may fail, whatever was allowed",
        ),
        pytest.param(
            rollout(part("a", SILENT), part("b")), [row("b")], E.FAILED, {}, id="silence is failure"
        ),
        pytest.param(
            rollout(
                part("c", "reverted", wave=1), part("d", "committed", wave=1), at=R.WAVE, wave=1
            ),
            [row("c"), row("d")],
            E.FINISHED,
            {"failed": 1, "allowed_failures": 1},
            id="a later wave may have what was allowed",
        ),
        pytest.param(
            rollout(part("c", "reverted", wave=1), part("d", "refused", wave=1), at=R.WAVE, wave=1),
            [row("c"), row("d")],
            E.FAILED,
            {"failed": 2},
            id="and no more",
        ),
        pytest.param(
            rollout(part("a", "committed"), part("b")),
            [row("a"), row("b", online=False)],
            E.PASSED,
            {"committed": 1, "away": 1},
            id="away before it took the order: neutral",
        ),
        pytest.param(
            rollout(part("a", "committed"), part("b")),
            [row("a"), row("b", online=False, **FETCHES)],
            E.WAITING,
            {"open": 1},
            id="away after it took the order: awaited",
        ),
        pytest.param(
            rollout(part("a", "committed"), part("b", at=LONG)),
            [row("a"), row("b", online=False, seen_at=LONG, **FETCHES)],
            E.UNDECIDED,
            {"open": 1},
            id="and for long, before its switch: undecided",
        ),
        pytest.param(
            rollout(part("a", "committed"), part("b", at=LONG)),
            [row("a"), row("b", online=True, seen_at=LONG, **FETCHES)],
            E.WAITING,
            {"open": 1},
            id="likewise, but it is there: awaited",
        ),
        pytest.param(
            rollout(part("a")), [row("a", online=False)], E.WAITING, {"away": 1}, id="all are away"
        ),
        pytest.param(
            rollout(part("a", "withdrawn")), [row("a")], E.WAITING, {"replaced": 1}, id="replaced"
        ),
        pytest.param(
            rollout(part("a", at=1.0), policy=Policy(hold_seconds=60).to_dict()),
            [row("a", **SOAKS)],
            E.UNDECIDED,
            {"open": 1},
            id="too long without an end: undecided",
        ),
        pytest.param(
            rollout(part("a"), stopped="wrong file"), [row("a")], E.STOPPED, {}, id="an operator"
        ),
        pytest.param(
            rollout(part("a", "reverted"), stopped="x", at=R.ABORTED),
            [row("a")],
            E.RETURNING,
            {"exposed": 1, "back": 0},
            id="aborted: orders back are due",
        ),
        pytest.param(rollout(at=R.ABORTED), [], E.RETURNED, {"exposed": 0}, id="nobody exposed"),
        pytest.param(
            rollout(replace(part("a"), reverted_at=1.0, sequence=6), at=R.REVERTING),
            [row("a", bundle=OLD, sequences={KEY: 5})],
            E.RETURNING,
            {"back": 0},
            id="the order back is not echoed",
        ),
        pytest.param(
            rollout(replace(part("a"), reverted_at=1.0, sequence=6), at=R.REVERTING),
            [row("a", bundle=OLD, sequences={KEY: 6}, phase="idle")],
            E.RETURNED,
            {"back": 1, "still_on_it": 0},
            id="back",
        ),
        pytest.param(
            rollout(replace(part("a"), reverted_at=1.0, sequence=6), at=R.REVERTING),
            [row("a", online=False, bundle=NEW, sequences={KEY: 5})],
            E.RETURNED,
            {"away": 1, "still_on_it": 1},
            id="away: its order waits for it, and it is said that it is still on it",
        ),
        pytest.param(
            rollout(replace(part("a"), reverted_at=NOW - 10, sequence=6), at=R.REVERTING),
            [row("a", **(RUNS_NEW | {"sequences": {KEY: 6}}))],
            E.RETURNING,
            {"back": 0, "kept": 0, "still_on_it": 1},
            id="has the order back and serves the bundle still: not back",
        ),
        pytest.param(
            rollout(replace(part("a"), reverted_at=1.0, sequence=6), at=R.REVERTING),
            [row("a", **(RUNS_NEW | {"sequences": {KEY: 6}}))],
            E.RETURNED,
            {"back": 0, "kept": 1},
            id="likewise after a long time: it cannot, and a new rollout may help it",
        ),
        pytest.param(
            rollout(replace(part("a"), previous="", reverted_at=NOW, sequence=6), at=R.REVERTING),
            [row("a", **(RUNS_NEW | {"sequences": {KEY: 6}}))],
            E.RETURNED,
            {"back": 0, "kept": 1, "still_on_it": 1},
            id="there was no bundle before: it keeps this one, and that is said",
        ),
    ],
)
def test_what_follows(
    given_row: RolloutRow, rows: list[DeviceRow], event: E, figures: dict[str, int]
) -> None:
    verdict = judge(given_row, look(*rows))
    assert verdict.event == event, verdict
    assert {name: verdict.figures[name] for name in figures} == figures
    assert verdict.reason


def test_a_soak_that_says_undecided_holds_and_goes_on_when_it_has_decided() -> None:
    waits = rollout(part("a"))
    verdict = judge(waits, look(row("a", **SOAKS), undecided=frozenset({"a"})))
    assert TABLE[R.CANARY, verdict.event] == R.HOLD
    held = rollout(part("a", "committed"), at=R.HOLD)
    verdict = judge(held, look(row("a"), undecided=frozenset({"a"})))
    assert TABLE[R.HOLD, verdict.event] == R.WAVE


# --- a shadow wave before the canary --------------------------------------------------------

COUNTS = ShadowCounts(NEW, 100, decisions=(88, 4, 2, 6), scores=(100, *(0,) * 63))


def shadow_part(name: str, outcome: str = "", *, wave: int = 0) -> Exposure:
    """A device that was given the order to be a shadow of what serves; others: see `part`."""
    return Exposure(name, wave, sequence=0 if wave else 5, outcome=outcome)


def shadows(*devices: Exposure, at: R = R.SHADOW, now: float = NOW) -> RolloutRow:
    policy = Policy(shadow_rows=100, shadow_seconds=60, hold_seconds=NOW)
    return replace(rollout(*devices, at=at, policy=policy.to_dict()), created_at=now - 60)


TRIES = {"bundle": OLD, "phase": "shadow", "sequences": {KEY: 5}}
SHADOWED = {"shadowed": frozenset({"a", "b"})}


@pytest.mark.parametrize(
    ("given_row", "rows", "said", "event", "figures"),
    [
        pytest.param(
            shadows(shadow_part("a"), shadow_part("w", wave=1)),
            [row("a", **TRIES)], {"shadows": {"a": COUNTS}}, E.WAITING,
            {"open": 1, "shadowed": 0, "shadow_rows": 100, "differing": 6, "share": 0.06},
            id="under way, and what is known so far is said",
        ),
        pytest.param(
            shadows(shadow_part("a"), shadow_part("b")),
            [row("a", **TRIES), row("b", **TRIES)], {"shadowed": frozenset({"a"})}, E.WAITING,
            {"open": 1, "shadowed": 1}, id="one of two has scored enough",
        ),
        pytest.param(
            shadows(shadow_part("a"), shadow_part("b"), shadow_part("w", wave=1)),
            [row("a", **TRIES), row("b", **TRIES)], SHADOWED, E.SHADOWED, {"open": 0},
            id="both have: the canary begins",
        ),
        pytest.param(
            shadows(shadow_part("a"), shadow_part("b")),
            [row("a", **TRIES), row("b", online=False)], {"shadowed": frozenset({"a"})},
            E.SHADOWED, {"open": 0, "away": 1}, id="who is away is neutral",
        ),
        pytest.param(
            shadows(shadow_part("a"), shadow_part("b")),
            [row("a", online=False), row("b", online=False)], {}, E.WAITING, {"away": 2},
            id="but somebody must have scored",
        ),
        pytest.param(
            shadows(shadow_part("a"), shadow_part("b", "refused")),
            [row("a", **TRIES), row("b", **TRIES)], SHADOWED, E.FAILED, {"failed": 1},
            id="one was refused, as it failed live rows",
        ),
        pytest.param(
            shadows(shadow_part("a"), shadow_part("b")),
            [row("a", **TRIES), row("b", **TRIES)],
            SHADOWED | {"shadows_off": {"b": "cpu: 80 % of a core"}}, E.UNDECIDED, {"shadowed": 2},
            id="one was switched off: undecided",
        ),
        pytest.param(
            shadows(shadow_part("a", "committed")), [row("a", **RUNS_NEW)], {}, E.SHADOWED, {},
            id="it runs it already",
        ),
        pytest.param(
            shadows(shadow_part("a"), now=-60.0), [row("a", **TRIES)], {}, E.UNDECIDED, {},
            id="too little traffic for too long",
        ),
        pytest.param(
            shadows(shadow_part("a"), at=R.HOLD), [row("a", **TRIES)], SHADOWED, E.SHADOWED, {},
            id="what was held goes on to the canary",
        ),
        pytest.param(
            shadows(shadow_part("a"), at=R.REVERTING), [row("a", **TRIES)], {}, E.RETURNING, {},
            id="a shadow is called back too",
        ),
    ],
)  # fmt: skip
def test_what_follows_in_the_shadow(
    given_row: RolloutRow,
    rows: list[DeviceRow],
    said: dict[str, Any],
    event: E,
    figures: dict[str, Any],
) -> None:
    verdict = judge(given_row, look(*rows, **said))
    assert verdict.event == event, verdict
    assert {name: verdict.figures[name] for name in figures} == figures
    assert TABLE[R(given_row.state), verdict.event]


def test_a_shadow_that_is_refused_is_heard_though_nothing_was_offered() -> None:
    item = shadow_part("a")
    heard = look(row("a", **TRIES), reports={"a": Report("refused", "U15", "3 rows")})
    assert settle(item, NEW, heard, 900.0).outcome == "refused"
    assert settle(replace(item, sequence=0), NEW, heard, 900.0).outcome == ""
    assert way_back([item, replace(item, device="b", sequence=0)]) == [item]


@given(
    st.sampled_from([R.CANARY, R.WAVE, R.HOLD, R.ABORTED, R.REVERTING]),
    st.lists(
        st.tuples(
            st.sampled_from(["", "committed", "refused", "reverted", SILENT, "withdrawn"]),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.integers(0, 1),
        ),
        max_size=5,
    ),
    st.sampled_from(["", "stop"]),
    st.integers(0, 1),
)
def test_the_table_has_a_row_for_whatever_is_said(
    at: R, said: list[tuple[str, bool, bool, bool, int]], stopped: str, wave: int
) -> None:
    exposures, rows = [], []
    for place, (outcome, online, took, back, which) in enumerate(said):
        name = f"d{place}"
        made = part(name, outcome, wave=which)
        exposures.append(replace(made, reverted_at=1.0) if back else made)
        rows.append(row(name, online=online, **(SOAKS if took else {})))
    given_row = rollout(*exposures, at=at, wave=wave, stopped=stopped)
    verdict = judge(given_row, look(*rows, undecided=frozenset({"d0"})))
    assert TABLE[at, verdict.event] in set(R)
    failed = [item for item in exposures if item.wave == wave and item.outcome == "refused"]
    if verdict.event in (E.PASSED, E.FINISHED):
        assert len(failed) <= wave  # none in the canary, one in the wave after it


def test_the_ends_have_no_way_on() -> None:
    assert not [state for state, _ in TABLE if state in (R.DONE, R.REVERTED)]


def test_the_way_back_is_the_way_there_reversed() -> None:
    found = [part("a"), part("b"), replace(part("c"), reverted_at=1.0), Exposure("d", 1)]
    assert [item.device for item in way_back(found)] == ["b", "a"]


def test_a_policy_survives_the_store() -> None:
    policy = Policy(("1%", "100%"), 10, 20, 3, 5.0, 6.0)
    assert Policy.from_dict(policy.to_dict()) == policy


def test_a_last_wave_of_devices_that_are_away_holds_nobody_up() -> None:
    """One was enrolled and never started: the others have proven the bundle, and it converges."""
    found = judge(
        rollout(part("a", "committed"), part("b", wave=1), at=R.WAVE, wave=1, waves=2),
        look(row("a", **RUNS_NEW), row("b", online=False)),
    )
    assert found.event == E.FINISHED
    assert "1 away" in found.reason
