"""Floors as values: what is refused, what raises them, and that reading them back loses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_agent.trust.tuf_floors import Floor, Floors
from wherry_agent.trust.tuf_store import MetadataStore, peek_floors
from wherry_contract.errors import TrustError

# few plain ones, so that what is drawn twice is often the same
NAMES = st.sampled_from(["fraud", "churn"]) | st.text(
    st.characters(codec="utf-8"), min_size=1, max_size=20
)
KEYS = st.sampled_from(["", "a" * 64, "b" * 64])
FLOOR = st.builds(Floor, st.floats(0, 4e9).map(float), KEYS)
FLOORS = st.builds(
    Floors,
    versions=st.dictionaries(NAMES, FLOOR, max_size=5),
    counters=st.dictionaries(NAMES, st.integers(0, 2**53 - 1), max_size=5),
    signed=FLOOR,
    told=FLOOR,
    fleet_keys=st.sampled_from(["", "sha256:" + "0" * 64]),
    extra=st.just({"later": [1]}),
)


@given(FLOORS)
def test_reading_back_loses_nothing(floors: Floors) -> None:
    assert Floors.from_dict(json.loads(json.dumps(floors.to_dict()))) == floors


@given(FLOORS, NAMES, st.integers(1, 2**31))
def test_what_was_seen_is_never_gone_below(floors: Floors, role: str, version: int) -> None:
    former = floors.versions.get(role)
    keys = former.keys if former else "a" * 64
    after = floors.seen({role: version}, keys)
    assert after.versions[role].least >= max(version, former.least if former else 0)
    with pytest.raises(TrustError, match="T13"):
        after.check(role, version - 1, keys)
    after.check(role, int(after.versions[role].least) + 1, keys)


@given(FLOORS, NAMES, st.integers(0, 2**53 - 1))
def test_a_release_counter_s_floor_only_rises(floors: Floors, family: str, counter: int) -> None:
    after = floors.at_least(family, counter)
    assert after.counters[family] == max(counter, floors.counters.get(family, 0))


MOMENTS = [(5.0, 9.0, 9.0), (9.0, 5.0, 9.0), (5.0, 5.0, 5.0)]


@pytest.mark.parametrize(("first", "second", "least"), MOMENTS)
def test_time_only_goes_on_while_the_keys_are_the_same(
    first: float, second: float, least: float
) -> None:
    signed = Floors().signed_at(first, "k").signed_at(second, "k")
    told = Floors().told_at(first, "k").told_at(second, "k")
    assert (signed.clock, told.clock) == (least, least)
    assert signed.signed_at(1.0, "another").clock == 1.0
    assert told.told_at(1.0, "another").clock == 1.0


@pytest.mark.parametrize(("signed", "told"), [(5.0, 9.0), (9.0, 5.0)])
def test_the_later_of_both_times_counts(signed: float, told: float) -> None:
    assert Floors().signed_at(signed, "k").told_at(told, "t").clock == 9.0


def test_a_floor_of_one_family_is_not_that_of_another() -> None:
    floors = Floors().at_least("fraud", 5).at_least("churn", 2).at_least("fraud", 3)
    assert floors.counters == {"fraud": 5, "churn": 2}


def test_new_keys_begin_anew() -> None:
    floors = Floors().seen({"timestamp": 2**31}, "old")
    floors.check("timestamp", 1, "new")
    assert floors.seen({"timestamp": 1}, "new").versions["timestamp"] == Floor(1, "new")
    assert floors.signed_at(9e9, "old").signed_at(5.0, "new").clock == 5.0


def test_a_snapshot_lists_every_role_that_one_before_it_did() -> None:
    floors = Floors().seen({"targets": 2, "models/fraud": 3}, "k").seen({"root": 4}, "")
    floors.check_all({"targets": 2, "models/fraud": 3, "models/churn": 1}, "k", ("root",))
    floors.check_all({"targets": 1}, "another", ("root",))
    for listed in ({"targets": 2}, {"targets": 1, "models/fraud": 3}):
        with pytest.raises(TrustError, match="T13"):
            floors.check_all(listed, "k", ("root",))


def test_a_teller_that_is_listed_no_more_is_forgotten() -> None:
    floors = Floors().told_at(7.0, "t")
    assert floors.without_teller(["t", "u"]).clock == 7.0
    assert floors.without_teller(["u"]).clock == 0.0


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"schema": "wherry/trust-floors/2"},
        {"schema": "wherry/trust-floors/1", "versions": []},
        {"schema": "wherry/trust-floors/1", "versions": {"root": 1}},
        {"schema": "wherry/trust-floors/1", "counters": {"fraud": "x"}},
        {"schema": "wherry/trust-floors/1", "counters": {"fraud": -1}},
    ],
)
def test_floors_that_are_not_ours(document: dict[str, object]) -> None:
    with pytest.raises(TrustError):
        Floors.from_dict(document)


def test_one_torn_file_of_the_two_loses_at_most_the_last_step(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    store.save_floors(Floors().seen({"root": 1}, ""))
    store.save_floors(store.floors.seen({"root": 2}, ""))
    newest = max(tmp_path.glob("floors.?"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-5])
    assert peek_floors(tmp_path).versions["root"].least == 1
    assert MetadataStore(tmp_path).floors.versions["root"].least == 1


def test_the_same_floors_cost_no_write(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    store.save_floors(Floors().seen({"root": 1}, ""))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("floors.?")}
    store.save_floors(replace(store.floors))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("floors.?")} == before
