"""What tests of neighbouring versions share: an earlier Wherry as modules, and its processes."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, wait_for
from support_app import ROW
from support_fleet import trust_keys
from support_tflite import ENVIRONMENTS

from wherry.client import Client

RELEASES = ROOT / "tests" / "compat" / "releases"
# until there is a release: the first whole state of the tree in which devices enrol over TLS
EARLIEST = "09bd6408b08cdb3cf30db9ce2e98cd0f8d22071a"


@dataclass(frozen=True)
class Version:
    """A Wherry to run.

    Attributes:
        name: for people.
        modules: its folder of modules; "" for today's.
    """

    name: str
    modules: str = ""

    def environment(self, **more: str) -> dict[str, str]:
        """What its processes are started with."""
        path = os.pathsep.join(filter(None, [self.modules, os.environ.get("PYTHONPATH", "")]))
        return os.environ | {"PYTHONPATH": path, "COLUMNS": "200"} | more

    def run(self, *words: str, **more: str) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", *words],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{self.name} {words}: {done.stdout}{done.stderr}"
        return done.stdout


TODAY = Version("today")


def previous() -> Version:
    """The newest release, or what stands for it; skips where neither can be had."""
    wheels = sorted(RELEASES.glob("wherry-*.whl"), key=lambda path: _numbers(path.name))
    with _alone():
        return _unpacked(wheels[-1]) if wheels else _earliest()


def _numbers(name: str) -> list[int]:
    return [int(part) for part in name.split("-")[1].split(".") if part.isdigit()]


@contextmanager
def _alone() -> Iterator[None]:
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpacked(wheel: Path) -> Version:
    folder = ENVIRONMENTS / wheel.stem
    if not folder.exists():
        _unpack(wheel, folder)
    return Version(wheel.name, str(folder))


def _unpack(wheel: Path, folder: Path) -> None:
    half = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(half, ignore_errors=True)
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(half)
    half.rename(folder)


def _earliest() -> Version:
    folder = ENVIRONMENTS / f"wherry-{EARLIEST[:12]}"
    if not folder.exists():
        git = ["git", "-C", str(ROOT)]
        known = subprocess.run([*git, "cat-file", "-e", EARLIEST], capture_output=True, check=False)
        if known.returncode:
            pytest.skip(
                f"no release is here, and the history of this clone ends after {EARLIEST[:12]}"
            )
        source = folder.with_name(f"{folder.name}.source")
        wheels = folder.with_name(f"{folder.name}.wheels")
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        packed = subprocess.run([*git, "archive", EARLIEST], capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", str(source)], input=packed.stdout, check=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
        subprocess.run([*pip, "--no-deps", "--wheel-dir", wheels, source], check=True)
        _unpack(*wheels.glob("*.whl"), folder)
    return Version(EARLIEST[:12], str(folder))


# --- processes ------------------------------------------------------------------------------


class Host:
    """A version's server, asked by its own commands."""

    def __init__(self, version: Version, data: Path) -> None:
        self.version = version
        self.data = data
        trust_keys(data)
        help_ = version.run("wherry", "serve", "--help")
        pinned = ["--pinned"] if "--pinned" in help_ else []  # before, every fleet was like that
        with (data / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wherry", "serve", "--data", str(data), *pinned],
                env=version.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for((data / "server.json").exists, what=(data / "log").read_text)

    def run(self, *words: str) -> str:
        """Run one of its commands."""
        return self.version.run("wherry", *words, WHERRY_HOME=str(self.data))

    def device(self, name: str) -> dict[str, Any]:
        """What it knows of a device."""
        return self.client.get(f"devices/{name}")

    @property
    def client(self) -> Client:
        """Today's client: operators' HTTP is the same over versions too."""
        facts = json.loads((self.data / "server.json").read_text())
        return Client(facts["url"], (self.data / "token").read_text())

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)


class Agent:
    """One device folder, run by one version of the agent after the other."""

    def __init__(self, folder: Path, name: str, host: Host, version: Version) -> None:
        self.folder = folder
        self.name = name
        claim = json.loads(
            host.run("device", "claim", "--family", "fraud", "--device", name, "--json")
        )
        words = ["enroll", "--url", claim["url"], "--claim", claim["codes"][0], "--device", name]
        version.run("wherry_agent", *words, "--listen", "127.0.0.1:0", "--into", str(folder))

    @contextmanager
    def running(self, version: Version) -> Iterator[None]:
        """Its agent, for the length of a block; it ends in order."""
        config, log = self.folder / "agent.toml", self.folder / "log"
        (self.folder / "state" / "listening").unlink(missing_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "wherry_agent", "run", "--config", str(config)],
                env=version.environment(),
                stdout=stream,
                stderr=stream,
            )
        try:
            wait_for((self.folder / "state" / "listening").exists, what=log.read_text)
            yield
            process.terminate()
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def status(self, version: Version) -> dict[str, Any]:
        """What its folder says, to a version."""
        config = str(self.folder / "agent.toml")
        found: dict[str, Any] = json.loads(
            version.run("wherry_agent", "status", "--json", "--config", config)
        )
        return found

    def ask(self, rows: int = 1) -> dict[str, Any]:
        """Have rows scored."""
        address, _, port = (self.folder / "state" / "listening").read_text().rpartition(":")
        client = http.client.HTTPConnection(address, int(port), timeout=10)
        client.request("POST", "/v2/models/fraud/infer", json.dumps({"rows": [ROW] * rows}))
        answer: dict[str, Any] = json.loads(client.getresponse().read())
        client.close()
        return answer
