"""The Sparkplug bridge: payloads as others read them, and its life against real brokers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from support import ROOT, Mosquitto, wait_for
from support_fleet import Device, enrol, running_devices, running_server, wherry

from wherry.watch.sparkplug import REBIRTH, EdgeNode, Message, Seen, _Payload, wants_rebirth

METRICS = {"flag": True, "no": False, "count": 3, "none": 0, "share": 1.5, "name": "é", "": ""}
GOLDEN = json.loads((ROOT / "tests" / "host" / "data" / "sparkplug.json").read_text())


def story(node: EdgeNode) -> list[Message]:
    """A life with every kind of message."""
    till = Seen("till-1", online=True, metrics=METRICS)
    fuller = Seen("till-1", online=True, metrics=METRICS | {"count": 4})
    return [
        node.connecting(1.7e9),
        *node.birth(1.7e9, [till, Seen("till-2", online=False, metrics=METRICS)]),
        *node.update(1.7e9 + 1, [fuller]),
        *node.update(1.7e9 + 2, []),
    ]


def test_the_codec_of_npm_reads_what_is_written() -> None:
    """`sparkplug.json` holds what sparkplug-payload 1.0.3 decoded; see README.md beside it."""
    found = story(EdgeNode("shops", "wherry"))
    assert [topic for topic, _ in found] == [item["topic"] for item in GOLDEN["messages"]]
    assert [payload.hex() for _, payload in found] == [item["hex"] for item in GOLDEN["messages"]]
    will, birth, device, data, death = (item["decoded"] for item in GOLDEN["messages"])
    assert "seq" not in will
    assert [item["seq"] for item in (birth, device, data, death)] == [0, 1, 2, 3]
    assert {item["name"]: item["value"] for item in device["metrics"]} == METRICS
    assert [(item["name"], item["value"]) for item in data["metrics"]] == [("count", 4)]
    assert [item["type"] for item in device["metrics"]] == [
        "Boolean", "Boolean", "Int64", "Int64", "Double", "String", "String",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        pytest.param(bytes.fromhex(GOLDEN["rebirth"]), True, id="as npm's codec writes it"),
        pytest.param(b"", False, id="nothing"),
        pytest.param(b"\xff\xff", False, id="no payload"),
        pytest.param(b'{"metrics": []}', False, id="JSON"),
    ],
)
def test_only_a_rebirth_is_obeyed(payload: bytes, wanted: bool) -> None:  # noqa: FBT001 - a row
    assert wants_rebirth(payload) == wanted


def numbers(messages: list[Message]) -> list[int]:
    return [int(_Payload.FromString(payload).seq) for _, payload in messages]


@given(st.lists(st.sets(st.integers(0, 4), max_size=5), max_size=120))
def test_sequences_have_no_gap_and_nobody_speaks_unborn(days: list[set[int]]) -> None:
    node = EdgeNode("g", "n")
    node.connecting(0.0)
    found = node.birth(0.0, [])
    for day, there in enumerate(days):
        devices = [Seen(f"d{n}", online=True, metrics={"day": day}) for n in sorted(there)]
        found += node.update(float(day), devices)
    assert all(after == (before + 1) % 256 for before, after in pairwise(numbers(found)))
    alive = set()
    for topic, _ in found[1:]:
        kind, device = topic.split("/")[2], topic.split("/")[-1]
        assert (kind == "DBIRTH") == (device not in alive)
        alive = alive - {device} if kind == "DDEATH" else alive | {device}
    assert alive == {f"d{n}" for n in (days[-1] if days else set())}


def test_each_connection_has_its_number() -> None:
    node = EdgeNode("g", "n")
    said = [_Payload.FromString(node.connecting(0.0)[1]).metrics[0].long_value for _ in range(258)]
    assert said == [*range(256), 0, 1]


class Scada:
    """Who listens to everything on the other broker."""

    def __init__(self, broker: Mosquitto) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, "scada")
        self.client.on_connect = lambda client, *_: client.subscribe("spBv1.0/#", 1)
        self.client.on_message = lambda _c, _d, message: self.heard.append(
            (message.topic.removeprefix("spBv1.0/shops/"), _Payload.FromString(message.payload))
        )
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()

    def topics(self) -> list[str]:
        """What came, by topic."""
        return [topic for topic, _ in list(self.heard)]

    def close(self) -> None:
        """Go."""
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def bridge(data: Path, broker: Mosquitto) -> Iterator[subprocess.Popen[bytes]]:
    """`wherry watch sparkplug` for the length of a block."""
    words = ["watch", "sparkplug", "--to", broker.url, "--group", "shops", "--interval", "0.2s"]
    with (data / "bridge.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "wherry", *words],
            env=os.environ | {"WHERRY_HOME": str(data)},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_births_deaths_and_rebirth_by_real_brokers(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with running_server(tmp_path / "data") as server:
        tills = [Device(enrol(server, f"till-{n}")) for n in (1, 2)]
        scada = Scada(mosquitto)
        with running_devices(*tills), bridge(server.data, mosquitto) as process:
            node, till = "NBIRTH/wherry", "DBIRTH/wherry/till-1"
            born = {node, till, "DBIRTH/wherry/till-2"}
            wait_for(lambda: born <= set(scada.topics()), what=lambda: str(scada.topics()))
            assert scada.topics()[0] == node
            told = [item for _, payload in scada.heard for item in payload.metrics]
            assert "idle" in [x.string_value for x in told if x.name == "Update/Phase"]
            tills[1].stop()
            wait_for(lambda: scada.topics()[-1] == "DDEATH/wherry/till-2", what="a death")
            scada.client.publish("spBv1.0/shops/NCMD/wherry", bytes.fromhex(GOLDEN["rebirth"]))
            wait_for(lambda: scada.topics()[-2:] == [node, till], what="a rebirth")
            assert [payload.seq for _, payload in scada.heard[-2:]] == [0, 1]
            assert REBIRTH in [item.name for item in scada.heard[-2][1].metrics]
            process.kill()
            wait_for(lambda: scada.topics()[-1] == "NDEATH/wherry", what="the will")
            assert scada.heard[-1][1].metrics[0].long_value == 0
        scada.close()


def test_names_that_are_no_level_of_a_topic_are_refused(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", pinned=True) as server:
        words = ["watch", "sparkplug", "--to", "mqtt://127.0.0.1:9", "--group"]
        assert "H08" in wherry(server.data, *words, "a/b", ok=3).stderr
        assert "L01" in wherry(server.data, *words, "shops", ok=3).stderr
