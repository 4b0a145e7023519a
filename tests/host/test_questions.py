"""`wherry device ask`, end to end: a real server, mosquitto with certificates, a real agent."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_agent import FAMILY, make_bundle
from support_fleet import Server, running_server, wherry

from wherry.cli.output import tree
from wherry.server.questions import MOST_OPEN
from wherry_agent.config import load_config
from wherry_agent.status import read_status
from wherry_contract.errors import WherryError
from wherry_contract.manifest import Soak

KEYS = [w for name in ("models-1", "models-2", "targets-1", "targets-2") for w in ("--key", name)]
MADE = make_bundle(soak=Soak(rows=0, seconds=0, longest_seconds=60, error_share=0.01))
SECRET = "4111111111111111"
TILL = "till-1"


class Agent:
    """A device that is this machine, enrolled, with its agent as a process."""

    def __init__(self, server: Server, name: str) -> None:
        self.folder = server.data.parent / name
        out = ("--listen", "127.0.0.1:0", "--out", str(self.folder))
        wherry(server.data, "device", "add", name, "--family", FAMILY, *out)
        path = self.folder / "agent.toml"
        path.write_text(path.read_text() + "\n[limits]\nreconnect_seconds = 1.0\n")
        self.config = load_config(path)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "wherry_agent", "run", "--config", str(self.config.file)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """Cut its power."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def status(self) -> dict[str, Any]:
        """As `wherry-agent status` reads it."""
        return read_status(self.config)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("ask") / "data"
    with running_server(data, "--broker", "mosquitto") as found:
        yield found


@pytest.fixture(scope="module")
def agent(server: Server) -> Iterator[Agent]:
    """It serves a bundle that was published and pushed."""
    found = Agent(server, TILL)
    path = server.data / "fraud.wherry"
    path.write_bytes(MADE.to_tar())
    wherry(server.data, "publish", str(path), *KEYS)
    found.start()
    try:
        wherry(server.data, "push", str(path), "--yes", "--soak", "0s", "--waves", "100%", "--wait")
        yield found
    finally:
        found.kill()


def ask(server: Server, *what: str, ok: int = 0) -> dict[str, Any]:
    """Ask, and read the answer."""
    said = wherry(server.data, "device", "ask", TILL, *what, "--json", ok=ok).stdout
    found: dict[str, Any] = json.loads(said)
    assert found["schema"] == "wherry/question/1"
    return found


def is_online(server: Server) -> bool:
    return bool(server.client.get(f"devices/{TILL}")["online"])


def scored(agent: Agent, body: str) -> int:
    """Have a row scored; its status."""
    host, _, port = agent.status()["listening"].rpartition(":")
    client = http.client.HTTPConnection(host, int(port), timeout=10)
    client.request("POST", "/v2/models/fraud/infer", body)
    status = client.getresponse().status
    client.close()
    return status


def test_a_self_test_s_document_comes_back(server: Server, agent: Agent) -> None:
    assert agent
    found = ask(server, "self-test")
    assert (found["outcome"], found["document"]["well"]) == ("done", True)
    checks = {check["name"]: check["detail"] for check in found["document"]["checks"]}
    assert checks["active bundle"].startswith("fraud 1.0.0 gives the right scores")
    assert "identity" in checks


def test_a_snapshot_is_what_status_prints(server: Server, agent: Agent) -> None:
    found, here = ask(server, "snapshot")["document"], agent.status()
    assert found.keys() == here.keys()
    for name in ("device", "slots", "sequences", "trust", "identity", "pid", "listening"):
        assert found[name] == here[name]


def test_a_snapshot_is_told_in_words() -> None:
    slots = {"a": {"trust": "good", "held": True}, "b": None}
    document = {"slots": slots, "sequences": [{"key": "k", "last": 7}], "labels": {}, "ends": []}
    assert list(tree(document | {"features": ["x", "y"]})) == [
        "slots:", "  a:", "    trust: good", "    held: yes", "  b: none",
        "sequences:", "  1:", "    key: k", "    last: 7", "labels: none", "ends: none",
        "features: x, y",
    ]  # fmt: skip


def test_logs_hold_what_the_agent_did_and_nothing_of_a_customer_s(
    server: Server, agent: Agent
) -> None:
    rows = {"rows": [{"AMOUNT": SECRET, "NIGHTS": 1, "RISK": 1}], "id": f"id-{SECRET}"}
    assert scored(agent, json.dumps(rows)) == 400
    assert scored(agent, SECRET) == 400
    good = {"rows": [{"AMOUNT": int(SECRET) / 1e10, "NIGHTS": 1, "RISK": 1}], "id": f"id-{SECRET}"}
    assert scored(agent, json.dumps(good)) == 200
    found = ask(server, "logs", "--lines", "500")
    text = "\n".join(found["document"]["lines"])
    assert "INFO serving on 127.0.0.1:" in text
    assert "update.committed" in text
    assert SECRET not in json.dumps(found)
    assert ask(server, "logs", "--lines", "1")["document"]["lines"] != []


def test_a_device_that_is_away_is_asked_when_it_comes_back(server: Server, agent: Agent) -> None:
    agent.kill()
    wait_for(lambda: not is_online(server), what="the will")
    done = wherry(server.data, "device", "ask", TILL, "snapshot", "--wait", "0s", ok=3)
    assert f"{TILL} is away" in done.stderr
    assert "L12" in done.stderr
    listed = json.loads(wherry(server.data, "device", "answers", TILL, "--json").stdout)
    number = str(listed["questions"][-1]["id"])
    assert "none yet" in wherry(server.data, "device", "answers", TILL, number).stdout
    agent.start()
    wait_for(lambda: server.client.get(f"questions/{number}")["answered_at"], what="the answer")
    assert f"device: {TILL}" in wherry(server.data, "device", "answers", TILL, number).stdout


def test_a_bundle_that_went_bad_is_an_answer_and_the_exit_code_is_1(
    server: Server, agent: Agent
) -> None:
    model = max((agent.config.state_dir / "blobs" / "sha256").iterdir(), key=_is_model)
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        found = ask(server, "self-test", ok=1)
    finally:
        model.write_bytes(whole)
    wrong = [check["name"] for check in found["document"]["checks"] if not check["well"]]
    assert wrong == ["active bundle"]


def _is_model(path: Path) -> bool:
    return b"MatMul" in path.read_bytes() and b"regression" in path.read_bytes()


def test_every_question_was_answered_exactly_once(server: Server, agent: Agent) -> None:
    assert agent
    questions = server.client.get(f"devices/{TILL}/questions")["questions"]
    events = server.client.get("events", device=TILL, limit=1000)["events"]
    answered = [event for event in events if event["code"] == "command.answer"]
    assert all(item["answered_at"] for item in questions)
    assert len(answered) == len(questions) >= 6
    held = agent.status()["outbox"]
    assert held["dropped"] == 0


def test_what_cannot_be_asked(server: Server) -> None:
    wherry(server.data, "device", "ask", "nobody", "logs", ok=3)
    assert "R12" in wherry(server.data, "device", "answers", TILL, "999999", ok=3).stderr
    wherry(server.data, "device", "ask", TILL, "reboot", ok=2)
    for order in ({"ask": "reboot"}, {"ask": "logs", "lines": 9999}, {"ask": "logs", "seconds": 0}):
        with pytest.raises(WherryError, match="R06"):
            server.client.post(f"devices/{TILL}/questions", order)


def test_questions_to_one_who_never_comes_are_bounded(server: Server) -> None:
    out = ("--out", str(server.data.parent / "away"))
    wherry(server.data, "device", "add", "away", "--family", FAMILY, *out)
    for _ in range(MOST_OPEN):
        server.client.post("devices/away/questions", {"ask": "logs"})
    with pytest.raises(WherryError, match="R11"):
        server.client.post("devices/away/questions", {"ask": "logs"})
