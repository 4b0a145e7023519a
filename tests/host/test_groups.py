"""Groups of devices, in the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_fleet import open_store

from wherry_contract.errors import RolloutError


def test_devices_go_in_and_out_and_the_group_goes(tmp_path: Path) -> None:
    with open_store(tmp_path, "a", "b", "c") as store:
        groups = store.groups
        groups.create("pilot", 1.0)
        groups.create("pilot", 2.0)  # it is there: nothing to do
        groups.create("early", 3.0)
        assert groups.put("pilot", ["a", "b", "a"]) == 2
        assert groups.put("pilot", ["b", "c"]) == 1
        assert groups.put("early", ["a"]) == 1
        assert [(row.name, row.devices, row.made_at) for row in groups.list()] == [
            ("early", 1, 3.0),
            ("pilot", 3, 1.0),
        ]
        assert groups.members() == {"a": ("early", "pilot"), "b": ("pilot",), "c": ("pilot",)}
        assert groups.take("pilot", ["b", "nobody"]) == 1
        groups.remove("pilot")
        assert groups.members() == {"a": ("early",)}
        assert len(store.devices()) == 3


@pytest.mark.parametrize(
    ("code", "name", "devices"),
    [("R13", "nothing", ["a"]), ("R07", "pilot", ["a", "ghost"])],
    ids=["no such group", "no such device"],
)
def test_what_is_not_there_is_said_and_nothing_changed(
    tmp_path: Path, code: str, name: str, devices: list[str]
) -> None:
    with open_store(tmp_path, "a") as store:
        store.groups.create("pilot", 1.0)
        with pytest.raises(RolloutError) as caught:
            store.groups.put(name, devices)
        assert caught.value.code == code
        assert not store.groups.members()


@pytest.mark.parametrize("name", ["", "Pilot", "a b", "x" * 64, "a/b"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with open_store(tmp_path) as store, pytest.raises(RolloutError) as caught:
        store.groups.create(name, 1.0)
    assert caught.value.code == "R06"
