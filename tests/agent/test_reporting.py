"""How windows go up: compact, several at once, at a rate; and that nothing else goes with them."""

from __future__ import annotations

import http.client
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import Mosquitto, wait_for
from support_agent import DEVICE, agent_config, make_bundle, order_for, running_depot, signed_order
from support_app import AgentProcess, Fleet, agent_process

from wherry_agent.config import load_config
from wherry_agent.link.outbox import Message
from wherry_agent.link.reporting import Dispatcher, Reporting
from wherry_contract.compact import MAGIC, is_compact, split_windows
from wherry_contract.errors import SetupError
from wherry_contract.states import UpdateState as S

MADE = make_bundle(category=True)


def message(seq: int, *, compact: bool = True, size: int = 100) -> Message:
    """A window of so many bytes."""
    return Message(seq, "window", (MAGIC if compact else b"{ ") + bytes(size - 2))


def sent(
    dispatcher: Dispatcher, windows: list[Message], at: float, **more: bool
) -> list[list[int]]:
    """Sequences by group."""
    return [[item.seq for item in group] for group in dispatcher.ready(windows, at, **more)]


COMPACT = [message(seq) for seq in range(1, 8)]
MIXED = [message(seq, compact=seq not in (3, 4)) for seq in range(1, 8)]


@pytest.mark.parametrize(
    ("batch", "windows", "at", "wanted"),
    [
        pytest.param(1, COMPACT[:3], [0.0], [[[1], [2], [3]]], id="one by one"),
        pytest.param(3, COMPACT, [0.0], [[[1, 2, 3], [4, 5, 6]]], id="the seventh waits"),
        pytest.param(3, COMPACT[:2], [0, 599, 600], [[], [], [[1, 2]]], id="but not for ever"),
        pytest.param(3, MIXED, [0.0, 600.0], [[], [[1, 2], [3], [4], [5, 6, 7]]], id="json alone"),
    ],
)
def test_batches(
    batch: int, windows: list[Message], at: list[float], wanted: list[list[list[int]]]
) -> None:
    dispatcher = Dispatcher(Reporting("compact", batch, 10.0), 0.0)
    assert [sent(dispatcher, windows, now) for now in at] == wanted


def test_who_leaves_waits_for_no_other() -> None:
    assert sent(Dispatcher(Reporting("compact", 9), 0.0), COMPACT, 0.0, hurry=True) == [
        [1, 2, 3, 4, 5, 6, 7]
    ]


def test_a_rate_holds_over_any_time() -> None:
    dispatcher = Dispatcher(Reporting(bytes_per_hour=300), 0.0)
    windows, moments = [message(seq, compact=False) for seq in range(1, 40)], []
    for minute in range(0, 600, 5):
        groups = dispatcher.ready(windows, minute * 60.0)
        moments += [minute] * len(groups)
        del windows[: len(groups)]
    assert moments[:4] == [0, 0, 0, 20]  # an hour's worth at once, then one each 20 minutes
    assert {after - before for before, after in pairwise(moments[2:])} == {20}


def test_what_is_larger_than_the_rate_still_goes() -> None:
    dispatcher = Dispatcher(Reporting(bytes_per_hour=100), 0.0)
    large = message(1, compact=False, size=5000)
    assert [bool(dispatcher.ready([large], now)) for now in (0.0, 1800.0, 3600.0)] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "setting",
    [
        'encoding = "xml"',
        "batch_windows = 4",
        'encoding = "compact"\nbatch_windows = 65',
        'encoding = "compact"\nbatch_minutes = 0',
        "bytes_per_hour = -1",
        "bites_per_hour = 1",
    ],
)
def test_settings_that_are_wrong(setting: str, tmp_path: Path) -> None:
    agent_config(tmp_path)
    path = tmp_path / "agent.toml"
    path.write_text(path.read_text() + f"[reporting]\n{setting}\n")
    with pytest.raises(SetupError, match="H08"):
        load_config(path)


# --- on a real broker -----------------------------------------------------------------------

PLANTED = ("PLANTEDCATEGORY", "PLANTEDCOLUMN", "PLANTEDID", "PLANTEDTYPE", "PLANTEDPATH")
AMOUNT, WILD = 31337.125, 987654321.5  # the second is beyond every bin
ORDINARY = {"AMOUNT": 20.0, "NIGHTS": 1.0, "RISK": 0.5, "KIND": "food"}


def planted_numbers() -> list[bytes]:
    """As text and as the bits of floats, either way round."""
    found = []
    for value in (AMOUNT, WILD):
        found += [str(value).encode(), str(int(value)).encode()]
        found += [struct.pack(form, value) for form in ("<d", ">d", "<f", ">f")]
    return found


def ask(agent: AgentProcess, path: str, document: Any) -> None:
    client = http.client.HTTPConnection(*agent.address, timeout=10)
    client.request("POST", path, json.dumps(document))
    client.getresponse().read()
    client.close()


@pytest.mark.parametrize(
    "reporting",
    [
        pytest.param('encoding = "json"', id="json"),
        pytest.param('encoding = "compact", batch_windows = 3', id="compact"),
    ],
)
def test_nothing_but_counts_leaves(reporting: str, tmp_path: Path, mosquitto: Mosquitto) -> None:
    """All that an agent publishes in its life, searched for what was planted in its requests."""
    settings = {"reporting": reporting, "window_rows": 20, "labels": {"site": "paris"}}
    with (
        running_depot(tmp_path / "depot", MADE) as depot,
        Fleet(mosquitto, known=[MADE]) as fleet,
        agent_process(tmp_path / "a", broker=mosquitto.url, depot=depot.url, **settings) as agent,
    ):
        agent.start()
        fleet.order(signed_order(order_for(MADE.digest, 1)))
        wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
        infer = "/v2/models/fraud/infer"
        rows: list[dict[str, Any]] = [
            ORDINARY | {"AMOUNT": AMOUNT},
            ORDINARY | {"AMOUNT": WILD},
            ORDINARY | {"KIND": PLANTED[0]},
        ]
        for _ in range(20):
            for row in rows:
                ask(agent, infer, {"id": PLANTED[2], "rows": [row]})
        for bad in ({PLANTED[1]: AMOUNT}, {"AMOUNT": PLANTED[3]}, {"AMOUNT": float("nan")}):
            ask(agent, infer, {"id": PLANTED[2], "rows": [ORDINARY | bad]})
        ask(agent, f"/v2/models/{PLANTED[4]}/infer", {"rows": rows})
        ask(agent, infer, PLANTED[3])
        wait_for(lambda: agent.phase == S.IDLE, what=agent.log)
        assert agent.stop() == 0
        wait_for(lambda: fleet.rows == 60, what=lambda: str(fleet.rows))
        heard = [payload for _, payload in fleet.heard]
        windows = [payload for channel, payload in fleet.heard if channel == "window"]
    counted = fleet.windows.values()
    assert sum(item.features["KIND"].below for item in counted) == 20  # it was counted, unnamed
    assert sum(item.features["AMOUNT"].above for item in counted) == 20
    assert sum(sum(item.errors.values()) for item in counted) >= 4
    needles = [*(text.encode() for text in PLANTED), *planted_numbers()]
    found = [(needle, item[:60]) for needle in needles for item in heard if needle in item]
    assert found == []
    assert any(DEVICE.encode() in item for item in heard)  # the search finds what is there
    if "compact" in reporting:
        assert all(is_compact(item) for item in windows)
        assert max(len(split_windows(item)) for item in windows) == 3
