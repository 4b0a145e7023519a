"""A provisioning file: every bad row is told before anything is written; a batch goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_agent import make_bundle
from support_flash import BOARD, make_card, tree
from support_fleet import Server, running_server

from wherry.flash.batch import Row, read_batch
from wherry.flash.terminal import Terminal
from wherry_contract.errors import SetupError
from wherry_contract.identity import ClaimCode

CODES = [ClaimCode.new(b"an authority").text for _ in range(3)]
USUAL = Terminal("", "/cards", family="fraud", labels={"site": "paris"})


def read(folder: Path, text: str, name: str = "terminals.csv") -> list[Row]:
    path = folder / name
    path.write_text(text)
    return read_batch(path, USUAL)


def test_rows_of_a_table(tmp_path: Path) -> None:
    text = (
        "device,to,site,group,labels,family,claim,url\n"
        "till-1,,,,,,,\n"
        "till-2,card,lyon,a,lane=3;floor=1,loans,,\n"
        f"till-3,ssh://root@10.0.0.7,,,,,{CODES[0]},https://h/enrol\n"
    )
    one, two, three = (row.terminal for row in read(tmp_path, text))
    assert (one.device, one.to, one.family, one.labels) == (
        "till-1",
        "/cards/till-1",
        "fraud",
        {"site": "paris"},
    )
    assert two.labels == {"site": "lyon", "group": "a", "lane": "3", "floor": "1"}
    assert (two.to, two.family) == (str(tmp_path / "card"), "loans")
    assert (three.claim, three.family, three.labels) == (CODES[0], "", {})


def test_the_same_as_toml(tmp_path: Path) -> None:
    text = '[[terminal]]\ndevice = "till-1"\nsite = "lyon"\nlabels = { lane = "3" }\n'
    (row,) = read(tmp_path, text, "terminals.toml")
    assert row.terminal == replace(
        USUAL, device="till-1", to="/cards/till-1", labels={"site": "lyon", "lane": "3"}
    )


BAD = f"""device,to,site,labels,claim,url,papers,family
till-1,,,,,,,
Till 2,,,,,,,
till-1,/elsewhere,,,,,,
till-4,,,lane,,,,
till-5,,,,ABCDE,https://h/enrol,,
till-6,,paris,,{CODES[0]},https://h/enrol,,
till-7,,,,{CODES[1]},,,
till-8,,,,{CODES[2]},https://h/enrol,,
till-9,,,,{CODES[2]},https://h/enrol,,
till-10,,,,,,nowhere,
till-11,,,,,,,,too,many
"""
SAID = {
    "line 3": "lower-case",
    "line 4": "device till-1 stands at line 2 too",
    "line 5": "like site=paris",
    "line 6": "I01",
    "line 7": "labels come with",
    "line 8": "where it enrols",
    "line 10": "stands at line 9 too",
    "line 11": "H02",
    "line 12": "more cells than columns",
}


def test_every_bad_row_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="H17") as caught:
        read(tmp_path, BAD)
    lines = caught.value.detail.splitlines()[1:]
    told = dict(line.strip().split(": ", 1) for line in lines)
    for where, words in SAID.items():
        assert words in told[where]
    assert set(told) == set(SAID)


FILES: dict[str, tuple[str, str, str]] = {
    "a column that nobody knows": ("t.csv", "device,claimm\ntill-1,x\n", "claimm is unknown"),
    "no terminals": ("t.csv", "device\n", "it has no terminals"),
    "no TOML": ("t.toml", "[[terminal]\n", "t.toml"),
    "a table that nobody knows": ("t.toml", "terminal = []\nx = 1\n", "x is unknown"),
    "no tables": ("t.toml", "terminal = [1]\n", "no id"),
    "an open quote": ("t.csv", 'device\n"till\n', "t.csv"),
    "a number for a word": ("t.toml", "[[terminal]]\ndevice = 7\n", "device should be"),
}


@pytest.mark.parametrize(("name", "text", "said"), FILES.values(), ids=FILES.keys())
def test_files_that_are_none(name: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="H17") as caught:
        read(tmp_path, text, name)
    assert said in caught.value.detail


# --- against a server -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("fleet") / "data") as running:
        yield running


def flash(*words: object) -> list[str]:
    command = [sys.executable, "-m", "wherry", "flash", "--board", BOARD, "--yes", "--json"]
    return [*command, *map(str, words)]


def run(server: Server, *words: object) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        flash(*words),
        env=os.environ | {"WHERRY_HOME": str(server.data)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_nothing_is_written_if_a_row_is_bad(server: Server, tmp_path: Path) -> None:
    card = make_card(tmp_path / "till-1")
    before = tree(card)
    (tmp_path / "t.csv").write_text("device\ntill-1\nTill 2\n")
    code, _, said = run(server, tmp_path, "--batch", tmp_path / "t.csv", "--family", "fraud")
    assert (code, "error[H17]" in said, "line 3" in said) == (3, True, True)
    assert tree(card) == before
    assert server.client.get("claims")["claims"] == []


def test_a_batch_goes_on_after_a_failure_and_after_a_kill(server: Server, tmp_path: Path) -> None:
    """The second card is not there at first; then the whole command is killed in the middle."""
    names = ["till-1", "till-2", "till-3"]
    cards = tmp_path / "cards"
    for name in (names[0], names[2]):
        make_card(cards / name)
    batch, record = tmp_path / "t.csv", tmp_path / "t.record.json"
    batch.write_text("device,site\n" + "".join(f"{name},{name}\n" for name in names))
    words = (cards, "--batch", batch, "--family", "fraud", "--listen", "127.0.0.1:8600")
    code, found, said = run(server, *words)
    # an error within a batch stands further to the right, all of its lines
    assert "\n  error[H16]: the board cannot be flashed\n    why:  " in said
    states = {item["device"]: item["state"] for item in found["terminals"]}
    assert (code, states) == (3, {"till-1": "done", "till-2": "failed", "till-3": "done"})
    first = tree(cards / "till-1")
    assert 'device = "till-1"' in _claim(cards / "till-1")
    make_card(cards / "till-2")
    with subprocess.Popen(
        flash(*words),
        env=os.environ | {"WHERRY_HOME": str(server.data)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        place = cards / "till-2" / "opt" / "wherry" / ".new"
        wait_for(place.exists, what="the second card to be written")
        os.killpg(process.pid, signal.SIGKILL)
    assert not (cards / "till-2/var/lib/wherry/current").exists()
    code, found, said = run(server, *words)
    assert code == 0, said
    assert [item["state"] for item in found["terminals"]] == ["done"] * 3
    assert tree(cards / "till-1") == first
    # one code for each, whatever happened in between; and none is left in the record
    claims = server.client.get("claims")["claims"]
    assert sorted(item["device"] for item in claims) == names
    assert {item["labels"]["site"] for item in claims} == set(names)
    assert not any(item["claim"] for item in json.loads(record.read_text())["terminals"])
    assert record.stat().st_mode & 0o777 == 0o600
    code, found, said = run(server, *words)
    assert (code, "0 of 3 terminals" in said) == (0, True)


def _claim(card: Path) -> str:
    return (card / "var/lib/wherry/current/claim.toml").read_text()


# --- a flashed board lives ------------------------------------------------------------------


def test_a_flashed_board_enrols_by_itself_and_serves_its_first_bundle(tmp_path: Path) -> None:
    """Its own files under this machine's processor: the server comes after the board."""
    bundle = make_bundle("1.0.0")
    (tmp_path / "fraud.wherry").write_bytes(bundle.to_tar())
    data = tmp_path / "fleet"
    with running_server(data, pinned=True) as server:
        card = make_card(tmp_path / "card")
        batch = tmp_path / "t.toml"
        batch.write_text(
            f'[[terminal]]\ndevice = "till-9"\nto = "{card}"\nfirst = "fraud.wherry"\n'
            'labels = { site = "paris" }\nlisten = "127.0.0.1:0"\n'
        )
        code, _, said = run(server, "--batch", batch, "--family", "fraud")
        assert code == 0, said
        home = card / "var/lib/wherry/current"
        server.stop()
        log = tmp_path / "agent.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "wherry_agent", "run", "--config", str(home / "agent.toml")],
                env=os.environ | {"PYTHONPATH": str(card / "opt/wherry/current/agent")},
                cwd="/",
                stdout=stream,
                stderr=stream,
            )
        try:
            wait_for(lambda: "not enrolled yet" in log.read_text(), what=log.read_text)
            server.start()
            wait_for(lambda: _serves(server, bundle.digest), seconds=60, what=log.read_text)
        finally:
            process.terminate()
            assert process.wait(30) == 0, log.read_text()
        left = {path.name for path in home.iterdir()}
        assert {"agent.toml", "device.key", "device.pem", "fleet-ca.pem", "state"} <= left
        assert not left & {"claim.toml", "first"}
        row = server.client.get("devices/till-9")
        assert row["labels"] == {"site": "paris"}
        rollouts = {item["rollout"] for item in row["events"] if item["rollout"]}
        assert rollouts == {f"first-{bundle.digest.partition(':')[2][:12]}"}


def _serves(server: Server, digest: str) -> bool:
    found = server.client.get("devices")["devices"]
    return any(item["online"] and (item["state"] or {}).get("bundle") == digest for item in found)
