"""Topics, states and every kind of message: round trips, unknown fields, malformed rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_contract import vector

from wherry_contract import states, topics
from wherry_contract.answer import OUTCOMES, Answer
from wherry_contract.errors import MessageError
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS
from wherry_contract.messages import (
    LIMIT_BYTES,
    Ack,
    Event,
    Place,
    Presence,
    State,
    ranges,
    unwrap_assignment,
    wrap_assignment,
)
from wherry_contract.shadow import ShadowCounts
from wherry_contract.slots import FeatureCounts
from wherry_contract.topics import Topic, every_device, parse_topic
from wherry_contract.window import Window

BUNDLE = "sha256:" + "c0de" * 16

READERS: Mapping[str, Callable[[bytes], Any]] = {
    "presence": Presence.from_bytes,
    "state": State.from_bytes,
    "window": Window.from_bytes,
    "window-shadow": Window.from_bytes,
    "event": Event.from_bytes,
    "ack": Ack.from_bytes,
}

SEQ = st.integers(1, 2**53 - 1)
SLUG = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
SPOOL = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
DIGEST = st.just("") | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MOMENT = st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1000)
PLACE = st.builds(Place, SLUG, SPOOL, SEQ, SEQ)
EXTRA = st.dictionaries(st.text("xyz", min_size=4, max_size=6), st.none() | TEXT, max_size=2)

PRESENCE = st.builds(Presence, SLUG, st.booleans(), SPOOL, EXTRA)
STATE = st.builds(
    State,
    device=SLUG,
    agent=TEXT,
    runtime=TEXT,
    runtime_version=TEXT,
    architecture=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    session=SPOOL,
    spool=SPOOL,
    phase=st.sampled_from([state.value for state in states.UpdateState]),
    rollout=TEXT,
    sequences=st.dictionaries(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), SEQ, max_size=2),
    active=st.sampled_from(["", "a", "b"]),
    bundle=DIGEST,
    bundle_name=TEXT,
    bundle_version=TEXT,
    trust=st.sampled_from([trust.value for trust in states.SlotTrust]),
    fallback=st.booleans(),
    started_at=MOMENT,
    reported_at=MOMENT,
    extra=EXTRA,
    commands=st.dictionaries(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), SEQ, max_size=2),
)
EVENT = st.builds(
    Event,
    PLACE,
    TEXT,
    TEXT,
    MOMENT,
    st.sampled_from(["info", "warning", "error"]),
    TEXT,
    DIGEST,
    st.sampled_from(["", *(outcome.value for outcome in states.Outcome)]),
    EXTRA,
    st.none()
    | st.builds(
        Answer,
        st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        SEQ,
        SLUG,
        st.sampled_from(OUTCOMES),
        EXTRA,
        EXTRA,
    ),
)
RANGE = st.tuples(SEQ, SEQ).map(lambda pair: (min(pair), max(pair)))
ACK = st.builds(
    Ack,
    SPOOL,
    st.lists(RANGE, max_size=4).map(tuple),
    st.lists(st.tuples(SEQ, TEXT), max_size=3).map(tuple),
    EXTRA,
)


@st.composite
def windows(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Window:
    """A window whose counts add up, made row by row."""
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, SCORE_BINS)), max_size=20))
    bins, scores, latency = [0] * 4, [0] * (SCORE_BINS + 1), [0] * LATENCY_BINS
    for slot, score in rows:
        bins[slot] += 1
        scores[score] += 1
        latency[slot] += score % 2
    counts = FeatureCounts((bins[0], bins[1]), bins[2], 0, bins[3])
    opened, closed = sorted([draw(MOMENT), draw(MOMENT)])
    return Window(
        place=draw(PLACE),
        bundle=draw(DIGEST),
        edges="sha256:" + "e" * 64,
        opened=opened,
        closed=closed,
        rows=len(rows),
        flagged=draw(st.integers(0, len(rows))),
        fallback=scores[SCORE_BINS],
        errors=draw(st.dictionaries(st.sampled_from(["C03", "S03"]), SEQ)),
        features={"AMOUNT": counts, "X.y-1": counts},
        scores=tuple(scores[:SCORE_BINS]),
        latency=tuple(latency),
        reason=draw(st.sampled_from(["rows", "time", "switch", "stop"])),
        extra=draw(EXTRA),
    )


@given(PRESENCE | STATE | EVENT | ACK | windows())
def test_round_trips(message: Any) -> None:
    payload = message.to_bytes()
    read = type(message).from_bytes(payload)
    assert read == message
    assert read.to_bytes() == payload
    name = type(message).__name__.lower()
    assert payload.startswith(b'{"schema":"wherry/%s/1+json"' % name.encode())


@pytest.mark.parametrize("name", READERS)
def test_golden_messages_are_read_and_written_byte_for_byte(name: str) -> None:
    payload = vector(f"messages/{name}.json")
    assert READERS[name](payload).to_bytes() == payload


@pytest.mark.parametrize("name", READERS)
def test_unknown_fields_survive(name: str) -> None:
    payload = vector(f"messages/{name}.json")[:-1] + b',"x-new":{"a":[1,null]}}'
    read = READERS[name](payload)
    assert read.extra == {"x-new": {"a": [1, None]}}
    assert read.to_bytes() == payload


def with_field(name: str, **change: Any) -> bytes:
    found = json.loads(vector(f"messages/{name}.json"))
    for field, value in change.items():
        if value is ...:
            del found[field]
        else:
            found[field] = value
    return json.dumps(found).encode()


FEATURES = json.loads(vector("messages/window.json"))["features"]
SCORES = json.loads(vector("messages/window.json"))["scores"]
SHADOW = json.loads(vector("messages/window-shadow.json"))["shadow"]
LATENCY = json.loads(vector("messages/window.json"))["latency"]

REQUIRED = {
    "presence": ["device", "online", "session"],
    "state": ["device", "agent", "runtime", "session", "spool", "phase", "started_at"],
    "window": ["device", "spool", "seq", "oldest", "edges", "opened", "rows", "features", "scores", "latency", "reason"],
    "event": ["device", "spool", "seq", "oldest", "code", "at"],
    "ack": ["spool"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "field"), [(n, f) for n, fields in REQUIRED.items() for f in fields]
)
def test_missing_fields(name: str, field: str) -> None:
    with pytest.raises(MessageError, match=rf"G01.*{field} should be there"):
        READERS[name](with_field(name, **{field: ...}))


ANSWER = Answer("a" * 64, 1, "logs", "done", {"lines": []}).to_dict()

MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("presence", {"schema": "wherry/presence/2+json"}, "G03"),
    ("presence", {"schema": "wherry/state/1+json"}, "G01"),
    ("presence", {"schema": ...}, "G01"),
    ("presence", {"device": "Shop"}, "G01"),
    ("presence", {"device": "a/b"}, "G01"),
    ("presence", {"device": "x" * 64}, "G01"),
    ("presence", {"device": 1}, "G01"),
    ("presence", {"online": "yes"}, "G01"),
    ("presence", {"session": "5E55105E55105E55"}, "G01"),
    ("state", {"labels": {"a": 1}}, "G01"),
    ("state", {"labels": []}, "G01"),
    ("state", {"sequences": {"a": True}}, "G01"),
    ("state", {"sequences": {"a": -1}}, "G01"),
    ("state", {"sequences": {"a": 2**63}}, "G01"),
    ("state", {"active": "c"}, "G01"),
    ("state", {"bundle": "latest"}, "G01"),
    ("state", {"fallback": 0}, "G01"),
    ("state", {"started_at": "yesterday"}, "G01"),
    ("state", {"started_at": 1_795_478_400}, "G01"),
    ("state", {"agent": "x" * 65}, "G01"),
    ("event", {"seq": 0}, "G01"),
    ("event", {"seq": 1.5}, "G01"),
    ("event", {"seq": 2**53}, "G01"),
    ("event", {"oldest": -1}, "G01"),
    ("event", {"spool": "x"}, "G01"),
    ("event", {"severity": "fatal"}, "G01"),
    ("event", {"text": "x" * 2001}, "G01"),
    ("event", {"at": "2026-02-30T00:00:00Z"}, "G01"),
    ("event", {"answer": []}, "G01"),
    ("event", {"answer": {"ask": "logs"}}, "G01"),
    ("event", {"answer": ANSWER | {"keyid": "x"}}, "G01"),
    ("event", {"answer": ANSWER | {"sequence": 0}}, "G01"),
    ("event", {"answer": ANSWER | {"outcome": "perhaps"}}, "G01"),
    ("event", {"answer": ANSWER | {"document": "text"}}, "G01"),
    ("event", {"answer": ANSWER | {"document": {"lines": ["x" * 50_000]}}}, "G01"),
    ("state", {"commands": {"a": -1}}, "G01"),
    ("window", {"rows": 6}, "G01"),
    ("window", {"rows": -5}, "G01"),
    ("window", {"rows": 5.0}, "G01"),
    ("window", {"flagged": 6}, "G01"),
    ("window", {"fallback": 1}, "G01"),
    ("window", {"errors": {"C04": -1}}, "G01"),
    ("window", {"errors": {"C04": 2**63}}, "G01"),
    ("window", {"errors": {"a code with spaces": 1}}, "G01"),
    ("window", {"scores": SCORES[:-1]}, "G01"),
    ("window", {"scores": [*SCORES, 0]}, "G01"),
    ("window", {"scores": [1, *SCORES[1:]]}, "G01"),
    ("window", {"scores": [*SCORES[:-1], True]}, "G01"),
    ("window", {"latency": LATENCY[:-1]}, "G01"),
    ("window", {"latency": [*LATENCY[:-1], -1]}, "G01"),
    ("window", {"flagged_scores": SCORES[:-1]}, "G01"),
    ("window", {"flagged_scores": [1, *SCORES[1:]]}, "G01"),
    ("window", {"flagged_scores": SCORES, "near": 1}, "G01"),
    ("window", {"near": -1}, "G01"),
    ("window", {"memory": [1]}, "G01"),
    ("window", {"temperature": [0] * 33}, "G01"),
    ("window", {"pairs": {"AMOUNT*KIND": [4, 0]}}, "G01"),
    ("window", {"pairs": {"AMOUNT*NONE": [5]}}, "G01"),
    ("window", {"pairs": {"AMOUNT": [5]}}, "G01"),
    ("window", {"pairs": {f"AMOUNT*{place}": [5] for place in range(9)}}, "G01"),
    ("window", {"probing": {"repeats": -1}}, "G01"),
    ("window", {"probing": {"two words": 1}}, "G01"),
    ("window", {"shadow": []}, "G01"),
    ("window", {"shadow": {"rows": 0}}, "G01"),
    ("window", {"shadow": SHADOW | {"rows": 4}}, "G01"),
    ("window", {"shadow": SHADOW | {"bundle": ""}}, "G01"),
    ("window", {"shadow": SHADOW | {"decisions": [5]}}, "G01"),
    ("window", {"shadow": SHADOW | {"decisions": [5, 0, 0]}}, "G01"),
    ("window", {"shadow": SHADOW | {"decisions": [0] * 288 + [5]}}, "G01"),
    ("window", {"shadow": SHADOW | {"scores": [5] + [0] * 63}}, "G01"),
    ("window", {"shadow": SHADOW | {"joint": [5] + [0] * 255}}, "G01"),
    ("window", {"shadow": SHADOW | {"joint": SHADOW["joint"][:-1]}}, "G01"),
    ("window", {"shadow": SHADOW | {"latency": []}}, "G01"),
    ("window", {"shadow": SHADOW | {"dropped": -1}}, "G01"),
    ("window", {"shadow": SHADOW | {"off": "whim"}}, "G01"),
    ("window", {"features": []}, "G01"),
    ("window", {"features": {"AMOUNT": [5]}}, "G01"),
    ("window", {"features": {"AMOUNT": {"bins": [4]}}}, "G01"),
    ("window", {"features": {"AMOUNT": {"bins": [4], "missing": 2}}}, "G01"),
    ("window", {"features": {"AMOUNT": {"bins": [6, -1]}}}, "G01"),
    ("window", {"features": {"AMOUNT": {"missing": 5}}}, "G01"),
    ("window", {"features": {"<script>": {"bins": [5]}}}, "G01"),
    ("window", {"features": {"": {"bins": [5]}}}, "G01"),
    ("window", {"features": {"AMOUNT": {"bins": [0] * 5000}}}, "G01"),
    ("window", {"edges": ""}, "G01"),
    ("window", {"edges": "sha256:" + "E" * 64}, "G01"),
    ("window", {"closed": "2026-11-23T23:59:59.999Z"}, "G01"),
    ("window", {"reason": "whim"}, "G01"),
    ("ack", {"stored": [[2, 1]]}, "G01"),
    ("ack", {"stored": [[0, 1]]}, "G01"),
    ("ack", {"stored": [[1, 2**63]]}, "G01"),
    ("ack", {"stored": [[1, 2, 3]]}, "G01"),
    ("ack", {"stored": [1]}, "G01"),
    ("ack", {"stored": [[True, 1]]}, "G01"),
    ("ack", {"stored": [[1, 1]] * 1025}, "G01"),
    ("ack", {"refused": [[1, 2]]}, "G01"),
    ("ack", {"refused": [["1", "G01"]]}, "G01"),
    ("ack", {"refused": {"1": "G01"}}, "G01"),
]


@pytest.mark.parametrize(("name", "change", "code"), MALFORMED)
def test_malformed(name: str, change: dict[str, Any], code: str) -> None:
    with pytest.raises(MessageError) as caught:
        READERS[name](with_field(name, **change))
    assert caught.value.code == code
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "G01"),
        (b"\x00\xff", "G01"),
        (b"null", "G01"),
        (b'{"schema":"wherry/window/1+json","schema":1}', "G01"),
        (b"[" * 100_000, "G02"),
        (b" " * (LIMIT_BYTES + 1), "G02"),
    ],
    ids=["empty", "bytes", "null", "a name twice", "deep", "large"],
)
def test_garbage(name: str, payload: bytes, code: str) -> None:
    with pytest.raises(MessageError) as caught:
        READERS[name](payload)
    assert caught.value.code == code


@given(st.sampled_from(sorted(READERS)), st.integers(0, 700), st.integers(1, 255))
def test_a_changed_byte_is_a_coded_error_or_a_message(name: str, place: int, mask: int) -> None:
    payload = bytearray(vector(f"messages/{name}.json"))
    payload[place % len(payload)] ^= mask
    try:
        read = READERS[name](bytes(payload))
    except MessageError:
        return
    assert READERS[name](read.to_bytes()) == read


def test_what_is_new_in_a_shadow_survives() -> None:
    payload = with_field("window", shadow=SHADOW | {"x-new": [1]})
    read = Window.from_bytes(payload)
    assert read.shadow
    assert read.shadow.extra == {"x-new": [1]}
    assert Window.from_bytes(read.to_bytes()) == read


def test_shadows_add_up() -> None:
    one = Window.from_bytes(vector("messages/window-shadow.json")).shadow
    assert one
    both = one + one
    assert (one.rows, one.differing, one.flips, one.dropped) == (5, 1, (1, 0), 2)
    assert (both.rows, both.differing, both.flips, both.dropped) == (10, 2, (2, 0), 4)
    assert both.coarse == tuple(2 * count for count in one.coarse)
    assert sum(one.live_coarse) == sum(one.coarse) == 5
    for other in (replace(one, bundle=BUNDLE), replace(one, decisions=(0,) * 9)):
        with pytest.raises(ValueError, match="add up"):
            one + other


def test_of_several_classes_a_flip_is_from_none_or_to_none() -> None:
    decisions = (4, 1, 2, 0, 5, 0, 3, 1, 9)  # two classes, and none behind them
    counts = ShadowCounts(BUNDLE, 25, decisions=decisions)
    assert (counts.side, counts.differing, counts.flips) == (3, 7, (4, 2))


def test_latency_counts_requests_and_not_rows() -> None:
    read = Window.from_bytes(vector("messages/window.json"))
    assert (read.rows, sum(read.latency)) == (5, 3)


def test_a_window_of_the_rule_alone_has_no_scores() -> None:
    read = Window.from_bytes(with_field("window", fallback=5, scores=[0] * 64))
    assert (read.fallback, sum(read.scores)) == (5, 0)


def test_an_empty_window_that_only_tells_errors() -> None:
    nothing = {name: {"bins": [0] * len(f["bins"])} for name, f in FEATURES.items()}
    payload = with_field(
        "window", rows=0, flagged=0, scores=[0] * 64, latency=[0] * 40, features=nothing
    )
    assert Window.from_bytes(payload).errors == {"C04": 1}


@given(st.sets(st.integers(1, 60)))
def test_ranges_hold_the_same_sequences(sequences: set[int]) -> None:
    found = ranges([*sequences, *sequences])
    assert {seq for first, last in found for seq in range(first, last + 1)} == sequences
    assert all(right[0] > left[1] + 1 for left, right in zip(found, found[1:], strict=False))  # noqa: RUF007 - tuples


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"{}", "G01"),
        (b'{"schema":"wherry/assignment/1+dsse"}', "G01"),
        (b'{"schema":"wherry/assignment/1+dsse","envelope":[]}', "G01"),
        (b'{"schema":"wherry/assignment/2+dsse","envelope":{}}', "G03"),
        (b'{"schema":"wherry/window/1+json","envelope":{}}', "G01"),
    ],
)
def test_wrapped_assignments_that_are_wrong(payload: bytes, code: str) -> None:
    with pytest.raises(MessageError) as caught:
        unwrap_assignment(payload)
    assert caught.value.code == code


def test_wrapping_an_assignment() -> None:
    envelope = b'{"payload":"e30=","payloadType":"x","signatures":[]}'
    assert unwrap_assignment(wrap_assignment(envelope)) == envelope


# --- topics


@pytest.mark.parametrize("channel", topics.UP + topics.DOWN)
def test_topics_that_are_ours(channel: str) -> None:
    topic = Topic("north", "shop-1", channel)
    assert str(topic) == f"wherry/v1/north/shop-1/{channel}"
    assert parse_topic(str(topic)) == topic


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wherry/v1/north/shop-1",
        "wherry/v1/north/shop-1/window/more",
        "wherry/v1/north/shop-1/secret",
        "wherry/v2/north/shop-1/window",
        "/wherry/v1/north/shop-1/window",
        "wherry/v1/north/+/window",
        "wherry/v1/#",
        "wherry/v1/North/shop-1/window",
        "wherry/v1//shop-1/window",
        "wherry/v1/north/-shop/window",
        "wherry/v1/north/shop.1/window",
        "wherry/v1/north/" + "x" * 64 + "/window",
        "wherry/v1/north/shop-1/window\n",
        "$SYS/broker/uptime",
    ],
)
def test_topics_that_are_not(text: str) -> None:
    with pytest.raises(MessageError, match="G06"):
        parse_topic(text)


def test_a_filter_for_every_device() -> None:
    assert every_device("north", "window") == "wherry/v1/north/+/window"


def test_channels_are_told_apart() -> None:
    assert not set(topics.UP) & set(topics.DOWN)
    assert set(topics.UP + topics.DOWN) >= topics.RETAINED


# --- states: the strings are on the wire and in stores, so they stand here a second time


def test_states_are_stable() -> None:
    assert [state.value for state in states.UpdateState] == [
        "idle",
        "offered",
        "admit",
        "fetch",
        "verify",
        "stage",
        "probe",
        "shadow",
        "switch",
        "soak",
        "commit",
        "discard",
        "revert",
        "verify-revert",
        "report",
    ]
    assert [trust.value for trust in states.SlotTrust] == ["empty", "unproven", "good", "bad"]
    assert [outcome.value for outcome in states.Outcome] == (
        ["committed", "refused", "reverted", "withdrawn"]
    )
    assert [state.value for state in states.RolloutState] == (
        ["shadow", "canary", "wave", "done", "hold", "paused", "aborted", "reverting", "reverted"]
    )


def test_silence_after_the_switch_is_a_failure_and_before_it_is_not() -> None:
    after = states.AFTER_SWITCH
    assert {state.value for state in after} == {
        "switch",
        "soak",
        "commit",
        "revert",
        "verify-revert",
    }


def test_places_are_told_apart_by_all_three() -> None:
    place = Place("shop-1", "0" * 16, 1, 1)
    others = {
        replace(place, device="shop-2"),
        replace(place, spool="1" * 16),
        replace(place, seq=2),
    }
    assert len({place, *others}) == 4
