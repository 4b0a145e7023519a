"""What earlier versions left on disk is read, whole, by this one; and the wire's own rules for later ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record import NAMES, device_facts, server_facts
from support_agent import keys, order_for, sign
from support_device import Device
from support_fleet import open_store

from wherry.server.ledger import Ledger
from wherry_agent.config import load_config
from wherry_agent.status import read_status
from wherry_agent.store import StatePair
from wherry_agent.update.record import DeviceRecord
from wherry_contract.assignment import PAYLOAD_TYPE, open_assignment
from wherry_contract.errors import TrustError
from wherry_contract.states import SlotTrust
from wherry_contract.wire import canonical

GOLDEN = sorted((Path(__file__).parent / "golden").iterdir())


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / "golden"))


def facts(golden: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((golden / "facts.json").read_text())
    return found


def lacks(told: Any, found: Any, path: str = "") -> list[str]:
    """Where what is read differs from what was recorded; it may say more, and not less."""
    if isinstance(told, dict) and isinstance(found, dict):
        return [
            words
            for name, item in told.items()
            for words in lacks(item, found.get(name), f"{path}.{name}")
        ]
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        pairs = zip(told, found, strict=True)
        return [w for place, pair in enumerate(pairs) for w in lacks(*pair, f"{path}[{place}]")]
    return [] if told == found else [f"{path}: {told!r} was recorded, {found!r} is read"]


def test_lacks_can_tell() -> None:
    assert lacks({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2, "more": 3}], "c": 4}) == []
    assert lacks({"a": [1]}, {"a": [1, 2]})
    assert lacks({"a": 1}, {})


def test_a_devices_folder(golden: Path) -> None:
    told = facts(golden)["device"]
    # of each start and of each machine
    told["record"]["update"].pop("boots")
    told["record"].pop("runtime")
    with Device(golden / "device") as device:
        device.updater.start()
        found = device_facts(device)
        assert not device.outbox.damaged
        assert lacks(told["record"], found["record"]) == []
        assert found["serves"] == told["serves"]
        assert found["messages"][: len(told["messages"])] == told["messages"]
        # and it goes on: the soak that was under way ends, and is reported once
        device.settle()
        record = device.updater.record
        assert (record.state, record.serving.trust) == ("idle", SlotTrust.GOOD)
        assert record.serving.digest == told["serves"]
        assert [item[1] for item in device.outcomes()] == ["committed", "committed"]


def test_its_status(golden: Path) -> None:
    told = facts(golden)["device"]["record"]
    found = read_status(load_config(golden / "device" / "agent.toml"))
    assert lacks({name: told[name] for name in ("active", "slots", "sequences")}, found) == []
    assert found["outbox"]["waiting"] == len(facts(golden)["device"]["messages"])


def test_a_servers_folder(golden: Path) -> None:
    told = facts(golden)["server"]
    with open_store(golden / "server") as store:
        assert lacks(told, json.loads(json.dumps(server_facts(store)))) == []
        assert isinstance(store.ledger, Ledger)
        assert {row.device for row in store.devices()} == set(NAMES)


# --- one step back: what a later version may have written -----------------------------------


def test_what_a_later_agent_wrote_is_kept_by_this_one(tmp_path: Path) -> None:
    with Device(tmp_path) as device:
        device.updater.start()
        later = device.updater.record.to_dict() | {"learned": {"at": 7}}
        later["slots"]["a"]["proof"] = "x"
        StatePair(device.config.state_dir).save(later)
    with Device(tmp_path) as device:
        device.updater.start()
        assert device.updater.record.extra == {"learned": {"at": 7}}
        assert DeviceRecord.from_dict(device.updater.record.to_dict()) == device.updater.record


@pytest.mark.parametrize(
    ("fields", "understood"),
    [
        ({"colour": "blue"}, True),
        ({"colour": "blue", "must_understand": ["mode"]}, True),
        ({"colour": "blue", "must_understand": ["mode", "colour"]}, False),
        ({"schema": "wherry/assignment/2"}, False),
    ],
    ids=["an optional field", "beside known ones", "one that must be understood", "a later schema"],
)
def test_an_order_of_a_later_host(fields: dict[str, Any], understood: bool) -> None:  # noqa: FBT001 - a column
    """It is refused with a code, or carried out as it was meant; never half understood."""
    order = json.loads(order_for("sha256:" + "0" * 64, 1).to_bytes())
    envelope = sign(canonical(order | fields), PAYLOAD_TYPE, keys().order)
    if understood:
        opened = open_assignment(envelope, keys().root())
        assert opened.extra["colour"] == "blue"
        assert json.loads(replace(opened).to_bytes())["colour"] == "blue"
        return
    with pytest.raises(TrustError, match="T08"):
        open_assignment(envelope, keys().root())
