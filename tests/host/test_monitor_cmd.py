"""`wherry monitor` and `wherry report` against a real server, broker and light devices."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_fleet import running_server, wherry
from support_monitor import Fleet
from support_town import Town, running_town

from wherry_contract.messages import Event
from wherry_contract.wire import sha256_digest


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Three shops that run a bundle and have sent two quiet days."""
    with running_town(tmp_path_factory.mktemp("town")) as found:
        yield found


def test_the_story_of_a_drift(town: Town, tmp_path: Path) -> None:
    data = town.server.data
    quiet = wherry(data, "monitor")
    assert quiet.stdout.startswith("STABLE: 3 devices are quiet; nothing has drifted.\n")
    assert "6 windows; payments of 2018-07-23 to 2018-07-24, UTC" in quiet.stdout
    for day in range(2, 5):
        town.day(day, doubled="till-2" if day > 2 else "")
    town.await_stored()

    loud = wherry(data, "monitor", ok=1)
    assert "error[Q03]: the model drifted" in loud.stderr
    assert "till-2: AMOUNT" in loud.stderr
    first, *_ = loud.stdout.splitlines()
    assert first.startswith("ACT: At till-2, AMOUNT")
    assert "have moved since 2018-07-26." in first
    assert "Quiet: till-1 and till-3." in first
    (line,) = [x for x in loud.stdout.splitlines() if x.startswith("till-2 ") and " AMOUNT " in x]
    assert "2018-07-27" in line
    assert "act: changed (q <1e-9)" in line
    assert "NIGHTS" not in loud.stderr

    elsewhere = wherry(data, "monitor", "--select", "site=lyon")
    assert elsewhere.stdout.startswith("STABLE: 1 device is quiet")
    found = json.loads(wherry(data, "monitor", "--json", ok=1).stdout)
    assert found["schema"] == "wherry/monitor/1"
    assert found["newest"] == "2018-07-28T00:00:00.000Z"
    standing = [cell for cell in found["cells"] if cell["current"] and cell["device"] == "till-2"]
    assert {c["subject"] for c in standing if c["decision"] == "act"} >= {"AMOUNT", "score"}
    short = json.loads(wherry(data, "monitor", "--json", "--since", "1d", ok=1).stdout)
    assert 0 < len(short["cells"]) < len(found["cells"])
    weekly = wherry(data, "monitor", "--bucket", "7d").stdout
    assert "2018-07-23 to 2018-07-29" in weekly
    assert len(wherry(data, "monitor", "--all", ok=1).stdout.splitlines()) > 50
    sites = wherry(data, "monitor", "--by", "site", "--same-hours", ok=1).stdout
    wrong = wherry(data, "monitor", "--by", "town", ok=3).stderr
    assert "no device has the label town; there are site" in wrong
    assert any(x.startswith("site=paris ") and " AMOUNT " in x for x in sites.splitlines())
    assert not any(x.startswith("site=lyon ") and " AMOUNT " in x for x in sites.splitlines())
    refused = wherry(data, "monitor", "--bucket", "5d", ok=3)
    assert "R06" in refused.stderr

    shop = town.shops["till-3"]
    place = shop.place()
    shop.send("event", Event(place, "D05", "<i>&", 1.7e9).to_bytes(), place.seq)
    town.await_stored()
    page, kept = tmp_path / "report.html", tmp_path / "data.json"
    said = wherry(data, "report", "-o", str(page))
    assert "report.html" in said.stderr
    kept.write_text(wherry(data, "report", "--json").stdout)
    again = tmp_path / "again.html"
    wherry(tmp_path, "report", "--from", str(kept), "-o", str(again))  # no server is asked
    for path in (page, again):
        text = path.read_text()
        assert "At till-2, AMOUNT" in text
        assert "r1-fraud-1-0-0: done" in text
        assert "&lt;i&gt;&amp;" in text
        assert "<i>&" not in text


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("since=x", "R06"),
        ("since=-1", "R06"),
        ("since=nan", "R06"),
        ("bucket=1e400", "R06"),
        ("bucket=400000", "R06"),
        ("select=paris", "R06"),
    ],
)
def test_questions_that_make_no_sense(town: Town, query: str, code: str) -> None:
    name, _, value = query.partition("=")
    for path in ("monitor", "report-data"):
        with pytest.raises(Exception, match=code):
            town.server.client.get(path, **{name: value})


def test_windows_of_a_bundle_that_nobody_pushed_are_named(town: Town) -> None:
    shop = town.shops["till-3"]
    before = town.server.client.get("monitor")["windows"]
    counting = Fleet()
    place = shop.place()
    raw = np.zeros((10, 3))
    counting.send("till-3", 9, raw, bundle=sha256_digest(b"lost"), place=place)
    shop.send("window", counting.windows[-1].window.to_bytes(), place.seq)
    town.await_stored()
    found = town.server.client.get("monitor")
    assert found["windows"] == before
    (refusal,) = found["refusals"]
    assert refusal["reason"] == "the bundle is not in the depot"
    assert (
        "left out: 1 window of till-3, 10 rows"
        in wherry(town.server.data, "monitor", "--select", "site=lyon").stdout
    )


def test_a_fleet_that_has_said_nothing(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        found = wherry(server.data, "monitor")
        assert found.stdout == "NOT ENOUGH DATA: No window has arrived that could be judged.\n"
        wherry(server.data, "report", "-o", str(tmp_path / "empty.html"))
        assert "Not enough data" in (tmp_path / "empty.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["monitor"], "H02", id="no server"),
        pytest.param(["monitor", "--server", "http://127.0.0.1:9"], "H02", id="no token"),
        pytest.param(["report", "--from", "nowhere.json"], "H02", id="no such file"),
    ],
)
def test_where_there_is_nothing_it_says_so(tmp_path: Path, arguments: list[str], code: str) -> None:
    found = wherry(tmp_path, *arguments, ok=3)
    assert code in found.stderr or "H07" in found.stderr
    assert "next:" in found.stderr


@contextmanager
def following(data: Path, *arguments: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """`wherry monitor --watch` for the length of a block."""
    words = [sys.executable, "-m", "wherry", "monitor", "--watch", "--interval", "0.2s", *arguments]
    place = os.environ | {"WHERRY_HOME": str(data), "TERM": "xterm"}
    for name in ("COLUMNS", "LINES"):  # the terminal says how large it is
        place.pop(name, None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    process = subprocess.Popen(words, env=place, text=True, stdin=subprocess.DEVNULL, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_as_json_it_is_a_line_for_each_change_and_outlives_the_server(town: Town) -> None:
    with following(town.server.data, "--json") as process:
        assert process.stdout
        assert process.stderr
        first = json.loads(process.stdout.readline())
        assert first["schema"] == "wherry/monitor/1"
        town.day(7)
        second = json.loads(process.stdout.readline())
        assert second["windows"] > first["windows"]
        town.await_stored()
        town.server.kill()
        assert "L08" in process.stderr.readline()
        town.server.start()
        assert process.stderr.readline() == "the server answers again\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_on_a_terminal_it_is_a_screen(town: Town) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
    with following(town.server.data, stdout=theirs) as process:
        os.close(theirs)
        seen = b""
        while seen.count(b"Ctrl-C ends") < 2:
            seen += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    os.close(ours)
    screen = seen.split(b"\x1b[2J\x1b[1;1H")[1].decode().splitlines()
    assert screen[0].startswith(("STABLE", "ACT", "WATCH", "WARN"))
    assert len(screen) <= 12
    assert max(map(len, screen)) <= 60
