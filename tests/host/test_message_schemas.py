"""Schemas and AsyncAPI document: up to date, official, and no stricter than the readers."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from support import ROOT, Mosquitto, wait_for
from support_agent import make_bundle, order_for, running_depot, signed_order
from support_app import Fleet, agent_process
from support_fleet import wherry

from wherry import __version__
from wherry.watch.schemas import asyncapi, documents, schema_of
from wherry_contract.errors import MessageError
from wherry_contract.messages import (
    Ack,
    Event,
    Presence,
    State,
    unwrap_assignment,
    unwrap_command,
)
from wherry_contract.topics import DOWN, UP
from wherry_contract.window import Window

HERE = ROOT / "contract" / "schemas"
READERS: Mapping[str, Callable[[bytes], Any]] = {
    "state": State.from_bytes,
    "presence": Presence.from_bytes,
    "window": Window.from_bytes,
    "event": Event.from_bytes,
    "ack": Ack.from_bytes,
}
EXAMPLES = {
    channel: json.loads(
        (ROOT / "contract" / "vectors" / "messages" / f"{channel}.json").read_text()
    )
    for channel in (*READERS, "assignment")
}
SCHEMAS = {channel: Draft7Validator(schema_of(channel)) for channel in (*UP, *DOWN)}


def test_what_is_checked_in_is_what_the_command_writes(tmp_path: Path) -> None:
    wherry(tmp_path, "watch", "schemas", "-o", str(tmp_path / "out"))
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    kept = {path.name: path.read_text() for path in HERE.iterdir()}
    assert written == kept == documents(__version__), "run: make docs"


def test_the_asyncapi_document_is_one_by_the_official_schema() -> None:
    packed = (ROOT / "tests" / "host" / "data" / "asyncapi-3.0.0.schema.json.gz").read_bytes()
    official = Draft7Validator(json.loads(gzip.decompress(packed)))
    found = asyncapi(__version__)
    official.validate(found)
    broken = copy.deepcopy(found)
    broken["operations"]["window"]["action"] = "publish"  # a word of AsyncAPI 2
    assert not official.is_valid(broken)


@pytest.mark.parametrize("channel", SCHEMAS)
def test_schemas_are_schemas_and_every_reference_leads_somewhere(channel: str) -> None:
    Draft7Validator.check_schema(schema_of(channel))
    document = asyncapi(__version__)
    for link in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place: Any = document
        for part in link.split("/"):
            place = place[part]
    assert document["channels"][channel]["address"].endswith(f"/{channel}")


@pytest.mark.parametrize("channel", EXAMPLES)
def test_the_specifications_examples_are_valid(channel: str) -> None:
    SCHEMAS[channel].validate(EXAMPLES[channel])


@pytest.mark.parametrize(
    ("channel", "kind"), [("state", State), ("presence", Presence), ("window", Window),
                          ("event", Event), ("ack", Ack)],
)  # fmt: skip
def test_a_schema_names_every_field_that_the_reader_knows(channel: str, kind: Any) -> None:
    known = {item.name for item in fields(kind)} - {"extra"}
    if "place" in known:
        known = known - {"place"} | {"device", "spool", "seq", "oldest"}
    assert set(schema_of(channel)["properties"]) == known | {"schema"}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document; of a list its first item."""
    found = [path] if path else []
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value[:1])) if isinstance(value, list) else []
    return found + [leaf for key, item in items for leaf in leaves(item, (*path, key))]


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at one place; without it if that is `...`."""
    found = copy.deepcopy(document)
    place = found
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return found


ODD = st.one_of(
    st.sampled_from([..., None, True, "", 0, -1, 1, 1.5, 2**53, [], {}, [[1, 2]], "a" * 5000, "é"]),
    st.text(max_size=8),
    st.integers(),
    st.lists(st.integers(-1, 3), max_size=66),
    st.dictionaries(st.text(max_size=4), st.integers(-1, 3), max_size=3),
)


@given(st.sampled_from(sorted(READERS)), st.integers(0, 10_000), ODD)
@example("window", 3, 1.5)
def test_a_reader_takes_nothing_that_its_schema_refuses(channel: str, at: int, odd: Any) -> None:
    places = leaves(EXAMPLES[channel])
    document = changed(EXAMPLES[channel], places[at % len(places)], odd)
    try:
        READERS[channel](json.dumps(document).encode())
    except MessageError:
        return
    SCHEMAS[channel].validate(document)


@pytest.mark.parametrize(
    ("channel", "path", "value"),
    [
        ("state", ("device",), "Shop 1"),
        ("state", ("session",), "5e55"),
        ("state", ("agent",), ...),
        ("state", ("active",), "c"),
        ("state", ("reported_at",), "2026-11-24"),
        ("state", ("labels",), {"site": 7}),
        ("presence", ("online",), "yes"),
        ("presence", ("schema",), "wherry/presence/2+json"),
        ("event", ("severity",), "fatal"),
        ("event", ("text",), "x" * 2001),
        ("event", ("seq",), 0),
        ("event", ("answer",), {"ask": "logs"}),
        ("window", ("edges",), "sha256:0"),
        ("window", ("rows",), -1),
        ("window", ("scores",), [0] * 63),
        ("window", ("reason",), "bored"),
        ("window", ("errors",), {"not a name": 1}),
        ("window", ("memory",), [1]),
        ("window", ("features",), {"A": {"below": 1}}),
        ("ack", ("stored",), [[1, 2, 3]]),
        ("ack", ("stored",), [[0, 2]]),
    ],
)
def test_what_a_reader_refuses_field_by_field_its_schema_refuses(
    channel: str, path: tuple[str, ...], value: Any
) -> None:
    document = changed(EXAMPLES[channel], path, value)
    assert not SCHEMAS[channel].is_valid(document)
    with pytest.raises(MessageError):
        READERS[channel](json.dumps(document).encode())


def test_all_that_a_real_agent_says_and_hears_is_valid(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    made = make_bundle("1.0.0")
    with (
        running_depot(tmp_path / "depot", made) as depot,
        Fleet(mosquitto) as fleet,
        agent_process(
            tmp_path / "agent", broker=mosquitto.url, depot=depot.url, window_rows=20
        ) as agent,
    ):
        agent.start()
        fleet.order(signed_order(order_for(made.digest, 1)))
        wait_for(lambda: agent.ask()[0] == 200, seconds=40, what=agent.log)
        for _ in range(45):
            agent.ask()
        agent.ask({"AMOUNT": "x"})
        wait_for(lambda: len(fleet.windows) >= 2 and fleet.events, what=agent.log)
        agent.stop()
        heard = [(channel, payload) for channel, payload in fleet.heard if payload]
    assert {channel for channel, _ in heard} == {*UP, "assignment", "ack"}
    for channel, payload in heard:
        SCHEMAS[channel].validate(json.loads(payload))
    envelope = json.loads(next(payload for channel, payload in heard if channel == "assignment"))
    assert unwrap_assignment(json.dumps(envelope).encode())
    asked = envelope | {"schema": "wherry/command/1+dsse"}
    assert unwrap_command(json.dumps(asked).encode())
    assert not SCHEMAS["command"].is_valid(asked)  # an assignment's payload is no command's
