"""The same bundle by every way: one state, one history.

A real server with TUF and mutual TLS, a real mosquitto, a real registry behind TLS and a
password, real agents. A row is a device and the ways by which its bundle comes, one after
the other: what has begun is killed in the middle of the download, and the next goes on.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from support import wait_for
from support_agent import make_bundle
from support_app import agent_command, run_agent_command
from support_fleet import FAMILY, Server, running_server, wherry
from support_identity import Fleet
from support_registry import running_registry, write_credentials

from wherry.identity.authority import make_request
from wherry_agent.config import load_config
from wherry_agent.status import read_status
from wherry_agent.store import BlobStore
from wherry_contract.delta import read_deltas
from wherry_contract.manifest import Soak
from wherry_contract.oci import OciManifest

CARD: Final = b"".join(b"row %d of a long card\n" % n for n in range(20_000))
SOAK: Final = Soak(rows=0, seconds=0, longest_seconds=60)
NEW: Final = make_bundle("1.0.0", card=CARD, soak=SOAK)
NEXT: Final = make_bundle("1.1.0", card=CARD[:-5] + b"ends\n", soak=SOAK)
LARGE: Final = OciManifest.from_bytes(NEW.layout.manifest).layer("model-card.md")
WAYS: Final = [
    ("depot",),
    ("registry",),
    ("stick",),
    ("depot", "registry"),
    ("depot", "stick"),
]
SLOW: Final = "fetch_bytes_per_second = 50000\n"  # of the 448,890 of the card
KEYS: Final = [w for n in ("models-1", "models-2", "targets-1", "targets-2") for w in ("--key", n)]


@dataclass
class Scene:
    """What all rows share."""

    server: Server
    bundle: Path
    registry: str


class Till:
    """A device: enrolled, and run with one source of bundles or another."""

    def __init__(self, scene: Scene, ways: Sequence[str]) -> None:
        self.name = "-".join(ways)
        self.ways = ways
        self._scene = scene
        self.folder = scene.server.data.parent / self.name
        self.config = self.folder / "agent.toml"
        self.process: subprocess.Popen[bytes] | None = None
        key, csr = make_request()
        # a stick's order is no rollout's, and takes the place of one that is under way
        ends = "network" if ways[-1] != "stick" else "stick" if len(ways) > 1 else "nothing"
        labels = {"rollout": ends}
        order = {"device": self.name, "family": FAMILY, "labels": labels, "csr": csr}
        files = scene.server.client.post("devices", order | {"listen": "127.0.0.1:0"})["files"]
        self.folder.mkdir()
        (self.folder / "device.key").write_bytes(key)
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self._plain = self.config.read_text()

    def start(self, way: str, limits: str = "") -> None:
        """Run the agent with one source."""
        registry = self._scene.registry if way == "registry" else ""
        self.config.write_text(
            f"{self._plain}\n[limits]\nreconnect_seconds = 1\n{limits}{registry}"
        )
        with (self.folder / "log").open("ab") as log:
            words = agent_command("run", "--config", str(self.config))
            self.process = subprocess.Popen(words, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def is_half_way(self) -> bool:
        """Whether some of the large part has come, and not all of it."""
        part = BlobStore(self.folder / "state").part(LARGE.digest)
        return part.exists() and 0 < part.stat().st_size < LARGE.size

    @property
    def status(self) -> dict[str, Any]:
        """What its state folder says."""
        return read_status(load_config(self.config))

    def is_done(self) -> bool:
        """Whether the bundle is committed."""
        found = self.status
        slot = found["slots"][found["active"]] if found["active"] else {"trust": ""}
        return (found["phase"], slot["trust"]) == ("idle", "good")

    def install(self) -> None:
        """Carry a stick there."""
        stick = self.folder / "stick"
        data = self._scene.server.data
        wherry(data, "export", str(stick), str(self._scene.bundle), "--device", self.name)
        done = run_agent_command("install", str(stick), "--config", str(self.config))
        assert done.returncode == 0, done.stderr

    def history(self) -> list[tuple[str, ...]]:
        """What the host knows of the order that was carried out: each event once, sorted.

        Two facts of one moment may come in either order. What came to be offered after an
        order that it replaced says so, and is left out.
        """
        events = self._scene.server.client.get("events", device=self.name, limit=1000)["events"]
        last = next((item["rollout"] for item in events if item["outcome"] == "committed"), "")
        return sorted(
            (
                item["code"],
                item["severity"],
                re.sub(r"[0-9]+", "N", item["text"]),  # the probe's microseconds
                item["bundle"],
                item["outcome"],
            )
            for item in events
            if last and item["rollout"] == last and item["code"] != "update.offered"
        )


def run_all(scene: Scene, tills: Sequence[Till], stack: ExitStack) -> None:
    """Let every row's bundle come by its ways."""
    mixed = [till for till in tills if len(till.ways) > 1]
    for till in tills:
        stack.callback(till.kill)
        if till.ways[0] != "stick":
            till.start(till.ways[0], SLOW if till in mixed else "")
    for ends in ("network", "stick"):
        words = ["--select", f"rollout={ends}", "--waves", "100%", "--yes"]
        wherry(scene.server.data, "push", str(scene.bundle), *words)
    for till in mixed:
        wait_for(till.is_half_way, seconds=60, what=(till.folder / "log").read_text)
        till.kill()
        assert till.is_half_way()
    for till in tills:
        if till.ways[-1] == "stick":
            till.install()
            till.start("depot")
        elif till in mixed:
            till.start(till.ways[-1])
    for till in tills:
        wait_for(till.is_done, seconds=60, what=(till.folder / "log").read_text)
        wait_for(lambda one=till: ended(one.history()), seconds=60, what=till.name)


def ended(history: Sequence[tuple[str, ...]]) -> bool:
    """Whether the whole of it has come."""
    return {"update.committed", "update.report"} <= {item[0] for item in history}


@pytest.fixture(scope="module")
def tills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Till]]:
    """Every row, carried out."""
    folder = tmp_path_factory.mktemp("ways")
    bundle, authority = folder / "fraud.wherry", folder / "registry.pem"
    bundle.write_bytes(NEW.to_tar())
    with ExitStack() as stack:
        fleet = Fleet(folder / "other")
        authority.write_text(fleet.authority.pem)
        tls = (fleet.certificate, fleet.key)
        registry = stack.enter_context(running_registry(folder / "oci", tls=tls, htpasswd=True))
        login = write_credentials(folder / "login.json", registry.netloc)
        server = stack.enter_context(
            running_server(folder / "data", "--broker", "mosquitto", pinned=False)
        )
        words = ["--registry-auth", str(login), "--registry-authority", str(authority)]
        words += ["--registry", registry.url, *KEYS]
        wherry(server.data, "publish", str(bundle), *words)
        lines = [
            f'[registry]\nurl = "{registry.url}"\nfallback = false',
            f'credentials = "{login}"\nauthority = "{authority}"\n',
        ]
        scene = Scene(server, bundle, "\n".join(lines))
        found = [Till(scene, ways) for ways in WAYS]
        run_all(scene, found, stack)
        yield {till.name: till for till in found}


@pytest.mark.parametrize("ways", WAYS[1:], ids="-".join)
def test_it_ends_in_the_same_state_and_the_same_history(
    tills: dict[str, Till], ways: tuple[str, ...]
) -> None:
    till, first = tills["-".join(ways)], tills["depot"]
    assert comparable(till.status) == comparable(first.status)
    assert till.status["slots"][till.status["active"]]["digest"] == NEW.digest
    assert till.history() == first.history()
    steps = ("admit", "fetch", "verify", "stage", "probe", "switch", "soak", "commit", "report")
    # `whole`: nothing was here that a delta could have begun with
    wanted = sorted(f"update.{step}" for step in (*steps, "whole", "committed"))
    assert [item[0] for item in till.history()] == wanted
    served = till._scene.server.client.get(f"devices/{till.name}")["state"]
    assert (served["bundle"], served["trust"], served["phase"]) == (NEW.digest, "good", "idle")


def comparable(status: dict[str, Any]) -> dict[str, Any]:
    """A status without what names the device, its order, and the list that was seen last."""
    named = {"device", "pid", "listening", "rollout", "sequences", "identity", "outbox"}
    found = {key: value for key, value in status.items() if key not in named}
    found["update"] = {k: v for k, v in (found["update"] or {}).items() if k != "rollout"}
    trust = found["trust"]
    found["trust"] = [trust["kind"], trust["embedded_root"], trust["floors"]["counters"]]
    return found


def test_what_had_come_was_not_fetched_again(tills: dict[str, Till]) -> None:
    """What goes on where another has stopped asks for the rest alone, and says so to nobody."""
    for name, till in tills.items():
        update = till.status["update"]
        assert update is None or update["retries"] == 0, name
    log = (tills["depot-registry"].folder / "log").read_text()
    assert "update.depot" not in log


def test_the_next_release_gets_its_delta_from_what_the_server_says_they_run(
    tills: dict[str, Till], tmp_path: Path
) -> None:
    server = next(iter(tills.values()))._scene.server
    path = tmp_path / "next.wherry"
    path.write_bytes(NEXT.to_tar())
    where = ["--server", server.facts["url"], "--token-file", str(server.data / "token")]
    words = ["publish", str(path), *KEYS[:4], "--data", str(server.data), "--json", *where]
    verdicts = json.loads(wherry(tmp_path, *words).stdout)["deltas"]
    assert [(v["name"], v["source"], v["kept"]) for v in verdicts] == [
        ("model-card.md", NEW.digest, True)
    ]
    listed = server.data / "depot" / f"deltas/{NEXT.digest[7:]}.json"
    assert read_deltas(listed.read_bytes())[0].size == verdicts[0]["delta"]
