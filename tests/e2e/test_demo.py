"""The demo as a newcomer runs it, and what is left when it is interrupted: nothing."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import wait_for

_FLEET = """
import sys, time, contextlib
from pathlib import Path
from wherry.children import children
from wherry.demo.payments import Stream
from wherry.demo.run import find_example
from wherry.demo.stage import Stage
from wherry.demo.story import start

folder = Path(sys.argv[1])
with children(folder) as programs:
    example, report = find_example(), folder / "report.html"
    stage = Stage(example, folder, report, "mosquitto", programs, print, None)
    stage.wherry("key", "generate", "release")
    start(stage, Stream(stage.example))
    print("all is running", flush=True)
    time.sleep(600)
"""


def _left(folder: Path) -> list[str]:
    """Processes that were started for this folder, by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
            if str(folder).encode() in environment:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


@dataclass(frozen=True)
class Run:
    """What a run of the demo left."""

    folder: Path
    report: str
    said: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run, to its end."""
    home = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "wherry", "demo"], cwd=home, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(home / "demo-run", (home / "demo-report.html").read_text(), done.stdout)


def test_every_promise_is_kept(finished: Run) -> None:
    kept = re.findall(r"^    yes  ", finished.said, re.MULTILINE)
    assert len(kept) >= 9
    assert "    NO " not in finished.said
    assert re.search(rf"{len(kept)} of {len(kept)} promises kept", finished.said)


def test_the_report_needs_no_network_and_names_what_moved(finished: Run) -> None:
    assert not re.search(r'(?:src|href)="(?:https?:)?//', finished.report)
    assert "<script" not in finished.report
    assert finished.report.count("<svg") >= 4
    for word in ("TX_AMOUNT", "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW", "birch", "P01"):
        assert word in finished.report


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["inspect", "fraud-1.0.0.wherry"], 0),
        (["verify", "fraud-1.0.0.wherry", "--key", "fleet/keys/release.pub.json"], 0),
        (["verify", "fraud-1.1.0.wherry", "--key", "fleet/keys/release.pub.json"], 0),
        (["verify", "fraud-1.1.0.wherry", "--key", "fleet/keys/release.pub.json", "--probe"], 1),
        (["diff", "fraud-1.0.0.wherry", "fraud-1.0.0.wherry"], 0),
        (["diff", "fraud-1.0.0.wherry", "fraud-1.1.0.wherry"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_the_bundles_can_be_looked_into(finished: Run, arguments: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wherry", "bundle", *arguments],
        cwd=finished.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr


_ON_NATS = """
import sys
from pathlib import Path
from wherry.children import children
from wherry.demo.payments import Stream
from wherry.demo.run import find_example
from wherry.demo.stage import Stage
from wherry.demo.story import push, release, start

folder, bundle = Path(sys.argv[1]), Path(sys.argv[2])
with children(folder) as programs:
    example, report = find_example(), folder / "report.html"
    stage = Stage(example, folder, report, "nats", programs, print, None)
    keys = bundle.parent / "fleet" / "keys"
    (stage.fleet / "keys").mkdir(parents=True)
    (stage.fleet / "keys" / "release.pub.json").write_bytes(
        (keys / "release.pub.json").read_bytes()
    )
    stream = Stream(example)
    fleet = start(stage, stream)
    release(stage, bundle)
    push(stage, stream, fleet, bundle)
    sys.exit(0 if all(check.passed for check in stage.checks) else 1)
"""


def test_where_only_pip_is_the_broker_is_nats(finished: Run, tmp_path: Path) -> None:
    bundle = finished.folder / "fraud-1.0.0.wherry"
    done = subprocess.run(
        [sys.executable, "-c", _ON_NATS, str(tmp_path), str(bundle)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every device committed: done" in done.stdout


def test_nothing_is_left_running(finished: Run) -> None:
    assert not _left(finished.folder)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo's programs, all up, under a parent that can be ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FLEET, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if "all is running" in line:
            break
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_no_process_outlives_it(
    running: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    assert len(_left(tmp_path)) >= 5  # the server, its broker, three agents
    running.send_signal(number)
    running.wait(30)
    wait_for(lambda: not _left(tmp_path), what="the end of all programs")


def test_telemetry_can_be_read_by_any_client(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert running.poll() is None
    server: Mapping[str, str] = json.loads((tmp_path / "fleet" / "server.json").read_text())
    done = subprocess.run(
        ["mosquitto_sub", "-L", f"{server['broker']}/wherry/#", "-v", "-C", "6", "-W", "20"],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    messages = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    state = next(text for topic, text in messages.items() if topic.endswith("/state"))
    assert json.loads(state)["schema"] == "wherry/state/1+json"


def test_a_folder_that_it_did_not_make_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "wherry", "demo", "--folder", str(precious)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "H03" in done.stderr
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "demo-run"
    folder.mkdir()
    with (folder / ".wherry-demo").open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        (folder / "agent.log").write_text("of the first")
        done = subprocess.run(
            [sys.executable, "-m", "wherry", "demo"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert "runs in demo-run already" in done.stderr
    assert (folder / "agent.log").exists()
