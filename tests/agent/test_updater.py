"""The update table, row by row, and what no sequence of events may do to a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support_agent import order_for

from wherry_agent.update.record import DeviceRecord, Slot, Update
from wherry_agent.update.telling import report_fact
from wherry_agent.update.updater import (
    BOOT_BUDGET,
    MODES,
    RETRY_BUDGET,
    RETRY_CEILING_SECONDS,
    TABLE,
    TRANSITION_BUDGET,
    E,
    Result,
    accept,
    begin,
    free_slot,
    is_new,
    judge_offer,
    resume,
    retry_delay,
    stage,
    step,
)
from wherry_contract.errors import TrustError, UpdateError, WherryError
from wherry_contract.states import SlotTrust
from wherry_contract.states import UpdateState as S

OLD, NEW, OTHER = (f"sha256:{letter * 64}" for letter in "abc")
ORDER = order_for(NEW, 7, keyid="k")
EARLY = [S.OFFERED, S.ADMIT, S.FETCH, S.VERIFY, S.STAGE, S.PROBE]
TRIED = [*EARLY, S.SHADOW]
SWITCHED = [S.SWITCH, S.SOAK]


def record_in(state: S, **changes: object) -> DeviceRecord:
    """A device with a good old bundle in slot a, in a state that it can really be in."""
    staged = state in (S.PROBE, S.SHADOW, S.SWITCH, S.SOAK, S.COMMIT, S.REVERT, S.VERIFY_REVERT)
    live = state in (S.SWITCH, S.SOAK, S.COMMIT)
    unwound = {
        S.DISCARD: ("refused", "P01"),
        S.REVERT: ("reverted", "U06"),
        S.VERIFY_REVERT: ("reverted", "U06"),
        S.COMMIT: ("committed", ""),
        S.REPORT: ("committed", ""),
    }
    outcome, code = unwound.get(state, ("", ""))
    trust = SlotTrust.BAD if state in (S.REVERT, S.VERIFY_REVERT) else SlotTrust.UNPROVEN
    update = Update(ORDER, slot="b" if staged else "", outcome=outcome, code=code)
    record = DeviceRecord(
        state=str(state),
        active="b" if live else "a",
        slots={
            "a": Slot(OLD, 1, "m", "1", SlotTrust.GOOD),
            "b": Slot(NEW, 1, "m", "2", trust) if staged else Slot(),
        },
        update=None if state == S.IDLE else update,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def usable(record: DeviceRecord) -> bool:
    """Whether an active slot serves, or a good one is there to be reverted to."""
    return bool(record.active) and record.serving.trust in (SlotTrust.GOOD, SlotTrust.UNPROVEN)


# --- the table ------------------------------------------------------------------------------

ROWS = [
    # before the switch: done goes on, failure and a newer order unwind
    *[(state, E.FAIL, S.DISCARD) for state in TRIED],
    *[(state, E.NEWER, S.DISCARD) for state in TRIED],
    *[(state, E.RETRY, state) for state in EARLY[1:]],
    *zip(EARLY, [E.DONE] * 6, [*EARLY[1:], S.SWITCH], strict=True),
    (S.OFFERED, E.WAIT, S.OFFERED),
    # a shadow is between the probe and the switch, if the order wants one
    (S.PROBE, E.SHADOW, S.SHADOW),
    (S.SHADOW, E.DONE, S.SWITCH),
    (S.SHADOW, E.WAIT, S.SHADOW),
    (S.SHADOW, E.RETRY, S.SHADOW),
    (S.PROBE, E.WAIT, S.PROBE),
    (S.ADMIT, E.WAIT, S.ADMIT),
    (S.FETCH, E.WAIT, S.FETCH),
    # from the switch on: failure takes the model back
    (S.SWITCH, E.DONE, S.SOAK),
    (S.SWITCH, E.RETRY, S.SWITCH),
    (S.SOAK, E.DONE, S.COMMIT),
    (S.SOAK, E.WAIT, S.SOAK),
    (S.SOAK, E.RETRY, S.SOAK),
    *[(state, event, S.REVERT) for state in SWITCHED for event in (E.FAIL, E.NEWER)],
    # unwinding: nothing fails, everything is tried again
    (S.COMMIT, E.DONE, S.REPORT),
    (S.COMMIT, E.RETRY, S.COMMIT),
    (S.DISCARD, E.DONE, S.REPORT),
    (S.DISCARD, E.RETRY, S.DISCARD),
    (S.REVERT, E.DONE, S.VERIFY_REVERT),
    (S.REVERT, E.RETRY, S.REVERT),
    (S.VERIFY_REVERT, E.DONE, S.REPORT),
    (S.VERIFY_REVERT, E.FAIL, S.REPORT),
    (S.VERIFY_REVERT, E.RETRY, S.VERIFY_REVERT),
    (S.REPORT, E.DONE, S.IDLE),
    (S.REPORT, E.RETRY, S.REPORT),
]


@pytest.mark.parametrize(("state", "event", "wanted"), ROWS, ids=str)
def test_row(state: S, event: E, wanted: S) -> None:
    after = step(record_in(state), Result(event, "P01" if event == E.FAIL else "U02"))
    assert after.state == wanted
    assert usable(after) or (state, event) == (S.VERIFY_REVERT, E.FAIL)


def test_the_rows_are_the_table() -> None:
    assert {(state, event): wanted for state, event, wanted in ROWS} == dict(TABLE)


@pytest.mark.parametrize("state", [state for state in S if state != S.IDLE])
def test_every_state_is_reached_and_left(state: S) -> None:
    others = {wanted for (came, _), wanted in TABLE.items() if came != state}
    assert state in others | {S.OFFERED}  # OFFERED is reached by `begin`
    assert _reaches(state, S.IDLE)


def _reaches(start: S, goal: S) -> bool:
    seen, fringe = {start}, [start]
    while fringe:
        state = fringe.pop()
        following = {wanted for (came, _), wanted in TABLE.items() if came == state}
        fringe += following - seen
        seen |= following
    return goal in seen


def test_an_event_that_has_no_row_does_not_pass_quietly() -> None:
    with pytest.raises(KeyError):
        step(record_in(S.REPORT), Result(E.WAIT))


# --- slots ----------------------------------------------------------------------------------


def test_switch_makes_the_new_slot_active_and_commit_makes_it_good() -> None:
    switched = step(record_in(S.PROBE), Result(E.DONE))
    assert (switched.active, switched.serving.trust) == ("b", SlotTrust.UNPROVEN)
    committed = step(step(switched, Result(E.DONE)), Result(E.DONE))
    assert (committed.active, committed.serving.trust) == ("b", SlotTrust.GOOD)
    assert committed.update is not None
    assert committed.update.outcome == "committed"


def test_revert_makes_the_old_slot_active_and_the_new_one_bad() -> None:
    after = step(record_in(S.SOAK), Result(E.FAIL, "U06", "why"))
    assert (after.active, after.slots["b"].trust) == ("a", SlotTrust.BAD)
    assert after.update is not None
    assert (after.update.outcome, after.update.code, after.update.detail) == (
        "reverted",
        "U06",
        "why",
    )


ONLY = {"a": Slot(), "b": Slot(NEW, 1, "m", "2", SlotTrust.UNPROVEN)}


@pytest.mark.parametrize("state", SWITCHED)
def test_the_only_model_serves_on_when_a_newer_order_comes(state: S) -> None:
    after = step(record_in(state, slots=ONLY), Result(E.NEWER, "U02"))
    assert (after.active, after.serving.trust) == ("b", SlotTrust.UNPROVEN)
    assert free_slot(after) == "a"


def test_the_first_cause_stands() -> None:
    after = step(record_in(S.VERIFY_REVERT), Result(E.FAIL, "P01", "the old one fails too"))
    assert after.update is not None
    assert (after.update.outcome, after.update.code) == ("reverted", "U06")
    assert after.denied == ()


def test_a_newer_order_that_fails_goes_back_to_the_model_that_it_interrupted() -> None:
    slots = {"a": Slot(OLD, 1, "m", "1", SlotTrust.UNPROVEN), "b": ONLY["b"]}
    after = step(record_in(S.SOAK, slots=slots), Result(E.FAIL, "U06"))
    assert (after.active, after.slots["b"].trust) == ("a", SlotTrust.BAD)


def test_a_slot_whose_rule_answers_is_not_overwritten() -> None:
    bad = DeviceRecord().with_slot("a", Slot(OLD, 1, "m", "1", SlotTrust.BAD))
    assert free_slot(bad) == "b"


def test_discard_empties_the_staged_slot_and_never_the_active_one() -> None:
    after = step(record_in(S.PROBE), Result(E.FAIL, "P01"))
    assert after.slots["b"] == Slot()
    assert after.serving.digest == OLD


def test_a_discard_spares_the_slot_that_serves() -> None:
    record = record_in(S.FETCH).with_update(slot="a")
    assert step(record, Result(E.FAIL, "P01")).slots["a"] == record.slots["a"]


def test_a_first_install_that_fails_leaves_nothing_active() -> None:
    empty = {"a": Slot(), "b": Slot(NEW, 1, "m", "2", SlotTrust.UNPROVEN)}
    after = step(record_in(S.SOAK, slots=empty), Result(E.FAIL, "U06"))
    assert after.active == ""


GOOD, UNPROVEN, BAD = SlotTrust.GOOD, SlotTrust.UNPROVEN, SlotTrust.BAD
STAGED: list[tuple[str, str, Slot, Slot, str, SlotTrust]] = [
    # case, active, slot a, slot b, where NEW goes, trust there
    ("another stands by", "a", Slot(OLD, 1, trust=GOOD), Slot(OTHER, 1, trust=GOOD), "b", UNPROVEN),
    ("it stands by, good", "a", Slot(OLD, 1, trust=GOOD), Slot(NEW, 1, trust=GOOD), "b", GOOD),
    ("it stands by, bad", "a", Slot(OLD, 1, trust=GOOD), Slot(NEW, 1, trust=BAD), "b", UNPROVEN),
    ("it serves, unproven", "b", Slot(OLD, 1, trust=GOOD), Slot(NEW, 1, trust=UNPROVEN), "b", UNPROVEN),
    ("both have it", "b", Slot(NEW, 1, trust=GOOD), Slot(NEW, 1, trust=UNPROVEN), "b", UNPROVEN),
    ("a rule answers", "", Slot(OLD, 1, trust=BAD), Slot(), "b", UNPROVEN),
    ("a rule of its own", "", Slot(), Slot(NEW, 1, trust=BAD), "b", UNPROVEN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("active", "a", "b", "wanted", "trust"), [r[1:] for r in STAGED], ids=[r[0] for r in STAGED]
)
def test_where_a_bundle_goes(active: str, a: Slot, b: Slot, wanted: str, trust: SlotTrust) -> None:
    before = record_in(S.STAGE, active=active, slots={"a": a, "b": b})
    after = stage(before, Slot(NEW, 1, trust=SlotTrust.UNPROVEN))
    other = "a" if wanted == "b" else "b"
    assert after.update is not None
    assert (after.update.slot, after.slots[wanted]) == (wanted, Slot(NEW, 1, trust=trust))
    assert after.slots[other] == before.slots[other]


def test_what_stood_by_and_is_good_stays_so_until_it_serves() -> None:
    stands = {"a": Slot(OLD, 1, trust=GOOD), "b": Slot(NEW, 1, trust=GOOD)}
    record = record_in(S.PROBE, slots=stands)
    assert step(record, Result(E.NEWER, "U02")).slots == stands
    assert step(record, Result(E.FAIL, "P01")).slots["b"] == Slot()
    assert step(record, Result(E.DONE)).serving == Slot(NEW, 1, trust=UNPROVEN)


@pytest.mark.parametrize("state", SWITCHED)
def test_another_order_for_what_soaks_takes_nothing_back(state: S) -> None:
    again = order_for(NEW, 8, rollout="of-the-server", keyid="k")
    after = step(accept(record_in(state), again), Result(E.NEWER, "U02"))
    assert (after.active, after.serving.digest, after.serving.trust) == ("b", NEW, UNPROVEN)
    assert after.slots["a"].trust == GOOD


@pytest.mark.parametrize(("active", "free"), [("a", "b"), ("b", "a"), ("", "a")])
def test_the_free_slot_never_serves(active: str, free: str) -> None:
    assert free_slot(DeviceRecord(active=active)) == free


# --- budgets --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*TRIED[1:], *SWITCHED])
def test_retries_end(state: S) -> None:
    record = record_in(state)
    for _ in range(RETRY_BUDGET):
        record = step(record, Result(E.RETRY, "L05", "HTTP 500"))
        assert record.state == state
    record = step(record, Result(E.RETRY, "L05", "HTTP 500"))
    assert record.update is not None
    assert record.update.code == "U03"
    assert "L05" in record.update.detail
    assert record.state == (S.REVERT if state in SWITCHED else S.DISCARD)


def test_a_step_forward_gives_new_retries() -> None:
    record = record_in(S.FETCH)
    for _ in range(RETRY_BUDGET):
        record = step(record, Result(E.RETRY, "L05"))
    record = step(record, Result(E.DONE))
    assert record.update is not None
    assert record.update.retries == 0


def test_a_depot_that_is_away_costs_no_retry() -> None:
    record = record_in(S.FETCH)
    for _ in range(2000):
        record = step(record, Result(E.RETRY, "L04"))
    assert record.state == S.FETCH


@pytest.mark.parametrize("state", [S.COMMIT, S.DISCARD, S.REVERT, S.VERIFY_REVERT, S.REPORT])
def test_what_unwinds_is_tried_for_ever(state: S) -> None:
    record = record_in(state)
    for _ in range(3 * RETRY_BUDGET):
        record = step(record, Result(E.RETRY, "D01"))
    assert record.state == state


@pytest.mark.parametrize("state", [*TRIED, *SWITCHED])
@pytest.mark.parametrize("event", [E.DONE, E.FAIL, E.NEWER])
def test_circles_end(state: S, event: E) -> None:
    record = record_in(state).with_update(transitions=TRANSITION_BUDGET)
    after = step(record, Result(event, "P01"))
    assert after.state == (S.REVERT if state in SWITCHED else S.DISCARD)
    assert after.update is not None
    assert after.update.code == ("U04" if event == E.DONE else "P01")


@pytest.mark.parametrize("retries", [0, 1, 5, 10, 11, 1024, 10**6])
def test_waits_have_full_jitter_under_a_ceiling(retries: int) -> None:
    assert retry_delay(retries, 0.0) == 0
    assert retry_delay(retries, 0.999) <= RETRY_CEILING_SECONDS
    assert retry_delay(10, 0.999) == pytest.approx(0.999 * RETRY_CEILING_SECONDS)


# --- restarts -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(S))
def test_a_restart_resumes(state: S) -> None:
    record = record_in(state)
    after = resume(record)
    assert after.state == state
    boots = 1 if state in (S.SHADOW, *SWITCHED) else 0
    assert (after.update.boots if after.update else 0) == boots


@pytest.mark.parametrize("state", SWITCHED)
def test_too_many_starts_during_a_soak_take_the_model_back(state: S) -> None:
    record = record_in(state)
    for _ in range(BOOT_BUDGET):
        record = resume(record)
        assert record.state == state
    record = resume(record)
    assert record.update is not None
    assert (record.state, record.active, record.update.code) == (S.REVERT, "a", "U05")


def test_too_many_starts_during_a_shadow_end_it_and_count_for_no_soak() -> None:
    record = record_in(S.SHADOW)
    for _ in range(BOOT_BUDGET):
        record = resume(record)
    switched = step(record, Result(E.DONE)).update
    assert switched
    assert switched.boots == 0
    record = resume(record)
    assert record.update is not None
    assert (record.state, record.active, record.update.code) == (S.DISCARD, "a", "U05")
    assert record.update.outcome == "refused"


@pytest.mark.parametrize("state", [state for state in S if state not in (S.IDLE, S.REPORT)])
def test_a_state_from_the_future_rolls_back(state: S) -> None:
    record = replace(record_in(state), state="shadow-2")
    after = resume(record)
    live = record.active == "b"
    assert after.state == (S.REVERT if live else S.DISCARD)
    assert after.active == "a"


def test_a_state_from_the_future_takes_back_nothing_that_has_proven_itself() -> None:
    fulfilled = begin(record_in(S.IDLE), replace(ORDER, digest=OLD))
    after = resume(replace(fulfilled, state="report-2"))
    assert after == fulfilled


def test_a_state_without_its_update_rolls_back() -> None:
    record = record_in(S.SOAK, update=None)
    after = resume(record)
    assert (after.state, after.active) == (S.IDLE, "a")


def test_a_rolled_back_state_still_begins_what_waited() -> None:
    after = resume(record_in(S.FETCH, update=None, pending=order_for(OTHER, 9)))
    assert after.update is not None
    assert (after.state, after.update.assignment.digest) == (S.OFFERED, OTHER)


# --- orders ---------------------------------------------------------------------------------

SEQUENCES = [
    ("first", {}, 7, True),
    ("newer", {"k": 6}, 7, True),
    ("the retained message again", {"k": 7}, 7, False),
    ("of another key", {"other": 99}, 7, True),
    ("as far ahead as may be", {"k": 7}, 1_000_007, True),
]


@pytest.mark.parametrize(
    ("known", "sequence", "wanted"), [row[1:] for row in SEQUENCES], ids=[r[0] for r in SEQUENCES]
)
def test_sequences(known: dict[str, int], sequence: int, wanted: bool) -> None:  # noqa: FBT001
    record = DeviceRecord(sequences=known)
    assert is_new(order_for(NEW, sequence, keyid="k"), record, "shop-1") is wanted


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"sequence": 5}, "T04"), ({"device": "shop-2"}, "T03"), ({"sequence": 1_000_007}, "T14")],
)
def test_orders_that_are_not_ours(changes: dict[str, object], code: str) -> None:
    record = DeviceRecord(sequences={"k": 6})
    with pytest.raises(TrustError) as caught:
        is_new(replace(ORDER, **changes), record, "shop-1")  # type: ignore[arg-type]
    assert caught.value.code == code


OFFERS: list[tuple[str, dict[str, object], str]] = [
    ("another family", {"family": "churn"}, "T06"),
    ("expired", {"expires": 99.0}, "T05"),
    ("a mode that nobody knows", {"mode": "turbo"}, "U12"),
    ("a mode without a name", {"mode": ""}, "U12"),
    ("failed here before", {"rollout": "r0"}, "U09"),
]


@pytest.mark.parametrize(("changes", "code"), [r[1:] for r in OFFERS], ids=[r[0] for r in OFFERS])
def test_offers_that_are_refused(changes: dict[str, object], code: str) -> None:
    record = DeviceRecord(denied=(("r0", NEW),))
    for mode in MODES:
        judge_offer(replace(ORDER, mode=mode), record, family="fraud", now=100.0)
    with pytest.raises(WherryError) as caught:
        judge_offer(replace(ORDER, **changes), record, family="fraud", now=100.0)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_a_failure_is_denied_in_its_rollout_only() -> None:
    after = step(record_in(S.PROBE), Result(E.FAIL, "P01"))
    with pytest.raises(UpdateError, match="U09"):
        judge_offer(ORDER, after, family="fraud", now=0)
    judge_offer(replace(ORDER, rollout="another"), after, family="fraud", now=0)


@pytest.mark.parametrize(
    "result", [Result(E.NEWER, "U02"), Result(E.FAIL, "T05")], ids=["superseded", "expired"]
)
def test_what_is_no_fault_of_the_bundle_denies_nothing(result: Result) -> None:
    assert step(record_in(S.FETCH), result).denied == ()


@pytest.mark.parametrize("state", [state for state in S if state != S.IDLE])
def test_a_newer_order_waits_for_the_present_one(state: S) -> None:
    newer = order_for(OTHER, 8, keyid="k")
    record = accept(record_in(state), newer)
    assert (record.state, record.pending, record.sequences) == (state, newer, {"k": 8})
    while record.state != S.OFFERED or record.pending:
        event = E.NEWER if (S(record.state), E.NEWER) in TABLE else E.DONE
        record = step(record, Result(event, "U02"))
        assert usable(record)
    assert record.update is not None
    assert record.update.assignment == newer


@pytest.mark.parametrize("state", [*TRIED, *SWITCHED])
def test_the_same_order_signed_again_changes_nothing_under_way(state: S) -> None:
    again = replace(ORDER, sequence=8, expires=5e9)
    record = accept(record_in(state), again)
    assert record.state == state
    assert record.pending is None
    assert record.update is not None
    assert record.update.assignment == again


def test_a_live_order_for_a_shadow_goes_on_with_it() -> None:
    shadow = replace(ORDER, mode="shadow")
    record = record_in(S.SHADOW).with_update(assignment=shadow)
    live = replace(ORDER, sequence=8)
    record = accept(record, live)
    assert record.update is not None
    assert (record.state, record.pending, record.update.assignment) == (S.SHADOW, None, live)


def test_an_idle_device_begins_at_once() -> None:
    record = accept(record_in(S.IDLE), ORDER)
    assert (record.state, record.rollout) == (S.OFFERED, "r7")


def test_an_order_that_is_fulfilled_goes_to_its_report() -> None:
    record = begin(record_in(S.IDLE), replace(ORDER, digest=OLD))
    assert record.update is not None
    assert (record.state, record.update.outcome) == (S.REPORT, "committed")


@pytest.mark.parametrize(
    ("code", "detail", "told"),
    [
        ("T12", "0f3a of fraud", "the bundle is not listed as released: 0f3a of fraud"),
        ("T12", "", "the bundle is not listed as released"),
        ("", "", "committed"),
    ],
)
def test_what_is_told_of_an_end_says_its_code_once(code: str, detail: str, told: str) -> None:
    fact, _ = report_fact(Update(ORDER, outcome="committed", code=code, detail=detail))
    assert (fact.code, fact.text) == (code or "update.committed", told)


@pytest.mark.parametrize("trust", [SlotTrust.UNPROVEN, SlotTrust.BAD])
def test_a_model_that_has_not_proven_itself_fulfils_no_order(trust: SlotTrust) -> None:
    slots = {"a": Slot(NEW, 1, "m", "2", trust), "b": Slot()}
    assert begin(record_in(S.IDLE, slots=slots), ORDER).state == S.OFFERED


@pytest.mark.parametrize("state", [S.IDLE, S.FETCH, S.SOAK])
def test_a_withdrawn_order_leaves_what_was_committed(state: S) -> None:
    record = accept(record_in(state), order_for("", 8, keyid="k"))
    outcomes = []
    while record.state != S.IDLE:
        event = E.NEWER if (S(record.state), E.NEWER) in TABLE else E.DONE
        if record.state == S.REPORT and record.update:
            outcomes.append(record.update.outcome)
        record = step(record, Result(event, "U02"))
    assert outcomes[-1] == "withdrawn"
    assert record.serving.digest == OLD


# --- any sequence at all --------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.sampled_from([Result(event, "L05") for event in E] + [Result(E.RETRY, "L04")] * 2),
        st.sampled_from(["restart", "newer", "again", "back", "withdraw", "future"]),
    ),
    max_size=120,
)


@settings(max_examples=examples(300), deadline=None)
@given(EVENTS)
def test_a_device_that_had_a_good_model_keeps_one(events: list[Result | str]) -> None:
    """Whatever happens, something serves, unless the old model itself stops passing its probe."""
    record, sequence = record_in(S.IDLE), 7
    for event in events:
        if isinstance(event, Result):
            row = (S(record.state), event.event)
            if row not in TABLE or row == (S.VERIFY_REVERT, E.FAIL):
                continue
            if row == (S.STAGE, E.DONE):
                record = _staged(record)
            record = step(record, event)
        elif event == "restart":
            record = resume(DeviceRecord.from_dict(record.to_dict()))
        elif event == "future":
            record = resume(replace(record, state="of-tomorrow"))
        else:
            sequence += 1
            digests = {
                "newer": f"sha256:{sequence:064x}",
                "again": NEW,
                "back": OLD,
                "withdraw": "",
            }
            digest = digests[event]
            record = accept(record, order_for(digest, sequence, keyid="k"))
        assert usable(record)
        good = [slot for slot in record.slots.values() if slot.trust == SlotTrust.GOOD]
        assert good, "no slot is good"


def _staged(record: DeviceRecord) -> DeviceRecord:
    """What the action of STAGE does to the record."""
    assert record.update is not None
    return stage(record, Slot(record.update.assignment.digest, 1, "m", "x", SlotTrust.UNPROVEN))


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.sampled_from([E.DONE, E.FAIL, E.RETRY, E.NEWER, E.SHADOW]), max_size=30))
def test_every_update_ends(events: list[E]) -> None:
    """After any beginning, an action that always fails or always works leads to IDLE."""
    for last in (E.DONE, E.FAIL):
        record = accept(record_in(S.IDLE), ORDER)
        for event in [*events, *[last] * 60]:
            state = S(record.state)
            if state == S.IDLE:
                break
            row = (state, event) if (state, event) in TABLE else (state, E.DONE)
            if row == (S.STAGE, E.DONE):
                record = _staged(record)
            record = step(record, Result(row[1], "L05"))
        assert record.state == S.IDLE
