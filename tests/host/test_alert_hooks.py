"""Alerts are told once, by ways that may fail (test_hooks.py tries the ways themselves)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_fleet import open_store, wherry
from support_monitor import Fleet, rows
from support_town import running_town

from wherry.hooks import Ledger, alerts, tell_alerts
from wherry.hooks.alerts import TRIES
from wherry.monitor import Decision, FleetView, judge
from wherry.server.teller import Teller, Telling
from wherry.server.watching import Watching
from wherry_contract.errors import LinkError, SetupError

NOW = 1.79e9


def drifted() -> FleetView:
    """A fleet whose amounts have grown."""
    fleet = Fleet()
    for day in range(6):
        fleet.send("a", day, rows(fleet.rng, 600, shift=1.6))
    return judge(fleet.references, fleet.windows)


@dataclass
class Friend:
    """Takes what it is told, or not."""

    fails: int = 0
    got: list[tuple[str, bytes]] = field(default_factory=list)

    def send(self, name: str, body: bytes) -> str:
        """See `Way`."""
        self.got.append((name, body))
        if len(self.got) <= self.fails:
            raise LinkError("L14", "away")
        return "took it"


def test_each_alert_is_told_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    view, friend = drifted(), Friend()
    found = alerts(view)
    assert found
    book = tmp_path / "told.json"
    for _ in range(3):  # each time from the medium, as a timer does it
        tell_alerts(found, {"f": friend}, Ledger(book), lambda: NOW)
    assert [name for name, _ in friend.got] == [alert.id for alert in found]
    first = json.loads(friend.got[0][1])
    assert first == found[0].to_dict()
    assert (first["schema"], first["decision"]) == ("wherry/alert/1", "act")
    cell = found[0].cell
    graver = replace(view, cells=(replace(cell, decision=Decision.WARN), replace(cell, since=1.0)))
    ids = {alert.id for alert in alerts(graver)}
    assert len(ids) == 2
    assert found[0].id not in ids
    tell_alerts([], {"f": friend}, Ledger(book), lambda: NOW)
    ledger = Ledger(book)
    tell_alerts(alerts(graver), {"f": friend}, ledger, lambda: NOW)
    assert {line.cause for line in ledger.lines} == ids, "what ended is forgotten"


def test_tries_have_a_budget_and_one_that_is_away_holds_up_nobody(tmp_path: Path) -> None:
    found, away, here = alerts(drifted()), Friend(fails=10_000), Friend()
    assert len(found) > 1
    book = tmp_path / "told.json"
    for number in range(TRIES + 3):
        told = tell_alerts(found, {"away": away, "here": here}, Ledger(book), lambda: NOW)
        if not number:
            assert len(away.got) == 1
            assert len(here.got) == len(found)
    assert sum(name == found[0].id for name, _ in away.got) == TRIES
    assert {item.state for item in told if item.cause == found[0].id} == {"given up", "told before"}


def _heard(path: Path) -> list[dict[str, Any]]:
    """What a hook was told, as far as it is written whole."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def test_a_mistake_in_a_hooks_file_stops_the_start(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.toml"
    hooks.write_text('[[hooks]]\nname = "x"\nkind = "pigeon"\n')
    with open_store(tmp_path) as store, pytest.raises(SetupError, match="H01"):
        Teller(Telling(retrain=hooks), Watching(store), tmp_path)


def test_a_command_gets_a_real_servers_alerts(tmp_path: Path) -> None:
    heard, by_server, hooks = (tmp_path / name for name in ("heard", "by-server", "hooks.toml"))
    program = tmp_path / "hear.py"
    program.write_text(
        "import sys\nwith open(sys.argv[1], 'ab') as out:\n"
        "    out.write(sys.stdin.buffer.read() + b'\\n')\n"
    )
    command = json.dumps([sys.executable, str(program), str(by_server)])
    hooks.write_text(f'[[hooks]]\nname = "page"\nkind = "command"\ncommand = {command}\n')
    told_by = ("--alerts", str(hooks), "--retrain", str(hooks), "--hooks-interval", "1s")
    with running_town(tmp_path, *told_by) as town:
        data, book = town.server.data, ("--ledger", str(tmp_path / "book"))
        words = ["watch", "alerts", "--exec", f"{sys.executable} {program} {heard}", *book]
        assert wherry(data, *words).stdout == "nothing has drifted\n"
        for day in range(2, 5):
            town.day(day, doubled="till-2" if day > 2 else "")
        town.await_stored()
        dry = json.loads(wherry(data, *words, "--dry-run", "--json").stdout)
        assert not heard.exists()
        for _ in range(2):
            wherry(data, *words)
        told = _heard(heard)
        assert told == dry["alerts"]
        # the server has told the same, each once, without being asked
        wait_for(lambda: len(_heard(by_server)) >= len(told), what="the server's own hooks")
        ids = [item["id"] for item in _heard(by_server)]
        assert sorted(ids) == sorted({*ids})
        assert {item["id"] for item in told} <= {*ids}
        assert town.server.client.get("health")["parts"]["hooks"] is True
        assert ("till-2", "AMOUNT", "act") in {
            (item["device"], item["subject"], item["decision"]) for item in told
        }
        failing = wherry(
            data, "watch", "alerts", "--exec", "false", "--ledger", str(tmp_path / "l"), ok=1
        )
        assert "Q07" in failing.stderr
