"""The example's stream: raw rows that the contract takes, and a drift that adds up."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from support import ROOT

from wherry.project import load_project
from wherry_contract.when import to_seconds

EXAMPLE = ROOT / "examples" / "fraud_terminals"
AVERAGES = {days: f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW" for days in (1, 7, 30)}


@pytest.fixture(scope="module")
def stream() -> Iterator[ModuleType]:
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield importlib.import_module("stream")
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("stream", "make_data"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def payments(stream: ModuleType) -> list[Any]:
    return list(stream.payments())


def test_rows_are_what_the_contract_asks_for(payments: list[Any]) -> None:
    contract = load_project(EXAMPLE / "project.toml").input
    raw = contract.matrix([payment.row for payment in payments])
    assert raw.shape == (14_192, 15)
    for place, feature in enumerate(contract.features):
        assert feature.minimum is not None
        assert feature.maximum is not None
        assert raw[:, place].min() >= feature.minimum
        assert raw[:, place].max() <= feature.maximum


def test_in_time_order(stream: ModuleType, payments: list[Any]) -> None:
    assert [payment.at for payment in payments] == sorted(payment.at for payment in payments)
    days = [day for day, _ in stream.by_day(payments)]
    assert days == [f"2018-07-{day}" for day in range(22, 32)]
    assert sum(len(part) for part in stream.by_chain(payments).values()) == len(payments)


def test_shift_moves_amounts_there_and_then_only(stream: ModuleType, payments: list[Any]) -> None:
    moved = stream.shifted(payments, chain="birch")
    for before, after in zip(payments, moved, strict=True):
        there = before.chain == "birch" and before.at >= stream.SHIFT_SINCE
        ratio = stream.LEVA if there else 1.0
        assert after.row["TX_AMOUNT"] == before.row["TX_AMOUNT"] * ratio
        changed = {name for name in before.row if before.row[name] != after.row[name]}
        assert changed <= {"TX_AMOUNT", *AVERAGES.values()}
        assert (before.chain, before.at, before.fraud) == (after.chain, after.at, after.fraud)


def test_shifted_averages_are_those_of_the_shifted_amounts(
    stream: ModuleType, payments: list[Any]
) -> None:
    """A day's average is recomputed by hand for customers whose whole day is in the stream."""
    moved = stream.shifted(payments, chain="birch")
    checked = 0
    for place, payment in enumerate(moved):
        if payment.at < stream.SHIFT_SINCE:
            continue
        window = [
            other
            for other in moved[max(0, place - 2500) : place + 1]
            if other.card == payment.card and payment.at - 86_400 < other.at <= payment.at
        ]
        complete = len(window) == payment.row["CUSTOMER_ID_NB_TX_1DAY_WINDOW"]
        if complete and any(other.chain == "birch" for other in window):
            mean = sum(other.row["TX_AMOUNT"] for other in window) / len(window)
            assert payment.row[AVERAGES[1]] == pytest.approx(mean, abs=1e-9)
            checked += 1
    assert checked > 100


def test_a_shift_of_factor_one_changes_nothing(stream: ModuleType, payments: list[Any]) -> None:
    assert stream.shifted(payments, chain="coral", factor=1.0) == payments


def test_the_command_writes_one_payment_a_line(stream: ModuleType, payments: list[Any]) -> None:
    command = [sys.executable, str(EXAMPLE / "stream.py"), "--shift", "birch"]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    assert len(lines) == len(payments)
    last = json.loads(lines[-1])
    wanted = stream.shifted(payments, chain="birch")[-1]
    assert last["rows"] == [wanted.row]
    assert to_seconds(last["parameters"]["at"]) == wanted.at
