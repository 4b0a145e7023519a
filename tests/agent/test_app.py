"""The whole agent as a process: a real broker, a real depot, real signatures, real ends."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Mosquitto, free_port, wait_for
from support_agent import (
    DEVICE,
    Depot,
    Faults,
    Made,
    agent_config,
    keys,
    make_bundle,
    may_trace,
    order_for,
    running_depot,
    signed_order,
    strace_program,
)
from support_app import ROW, AgentProcess, Fleet, Traffic, agent_process, run_agent_command

from wherry_agent.app import Agent, restart_pause
from wherry_agent.link.outbox import Outbox
from wherry_agent.update.updater import BOOT_BUDGET
from wherry_contract.manifest import Soak
from wherry_contract.messages import State
from wherry_contract.states import UpdateState as S

FIRST = make_bundle("1.0.0")
SECOND = make_bundle("2.0.0", bias=-2.9, counter=2)
BAD = make_bundle("3.0.0", flaw="golden", counter=3)
PATIENT = make_bundle("4.0.0", soak=Soak(rows=5, seconds=3600))


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with running_depot(tmp_path / "depot", FIRST, SECOND, BAD, PATIENT) as running:
        yield running


@pytest.fixture
def fleet(mosquitto: Mosquitto) -> Iterator[Fleet]:
    with Fleet(mosquitto) as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path, mosquitto: Mosquitto, depot: Depot) -> Iterator[AgentProcess]:
    folder = tmp_path / "agent"
    with agent_process(folder, broker=mosquitto.url, depot=depot.url, window_rows=20) as made:
        yield made


def until_good(agent: AgentProcess, digest: str) -> None:
    def look() -> bool:
        return (agent.serving, agent.trust, agent.phase) == (digest, "good", "idle")

    wait_for(look, seconds=40, what=lambda: f"{digest} to be good\n{agent.log()}")


def _blob_of_model(made: Made) -> str:
    blobs = made.layout.blobs.items()
    return next(digest for digest, data in blobs if data == made.parts.model)


def until_past(agent: AgentProcess, state: S) -> None:
    order = list(S)
    wait_for(lambda: order.index(S(agent.phase)) >= order.index(state), what=agent.log)


def test_from_a_signed_order_to_committed_and_back_from_a_bad_one(
    agent: AgentProcess, fleet: Fleet
) -> None:
    agent.start()
    assert agent.ask()[1]["code"] == "S05"
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    with Traffic(agent) as traffic:
        until_good(agent, FIRST.digest)
        fleet.order(signed_order(order_for(SECOND.digest, 2)))
        until_good(agent, SECOND.digest)
        fleet.order(signed_order(order_for(BAD.digest, 3)))
        wait_for(lambda: ("refused", BAD.digest) in fleet.outcomes(), what=agent.log)
        until_good(agent, SECOND.digest)
    assert traffic.failures == []
    assert traffic.bundles == {FIRST.digest, SECOND.digest}
    assert agent.stop() == 0
    wait_for(lambda: not agent.status()["outbox"]["waiting"] or fleet.rows >= traffic.rows)
    assert fleet.rows == traffic.rows
    assert fleet.outcomes() == [
        ("committed", FIRST.digest),
        ("committed", SECOND.digest),
        ("refused", BAD.digest),
    ]
    assert {window.bundle for window in fleet.windows.values()} == {FIRST.digest, SECOND.digest}
    last = fleet.states[-1]
    assert (last.device, last.bundle, last.trust, last.fallback) == (
        DEVICE,
        SECOND.digest,
        "good",
        False,
    )
    assert last.sequences == {keys().order.public_key.keyid: 3}
    wait_for(lambda: not fleet.presence[-1].online)


def test_one_update_survives_a_kill_in_every_state(
    agent: AgentProcess, fleet: Fleet, depot: Depot
) -> None:
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    model = _blob_of_model(FIRST).rpartition(":")[2]
    held = {S.ADMIT: Faults(silent=True), S.FETCH: Faults(silent=True, only=model)}
    counted = 0  # starts that the boot budget will count
    for state in (S.ADMIT, S.FETCH, S.VERIFY, S.STAGE, S.PROBE, S.SWITCH, S.SOAK):
        depot.faults = held.get(state, Faults())
        agent.start()
        until_past(agent, state)
        agent.kill()
        assert agent.phase == state or state not in held
        counted += agent.phase in (S.SWITCH, S.SOAK)
        if counted == BOOT_BUDGET:  # on a starved machine the agent runs ahead of who kills it
            break
    agent.start()
    with Traffic(agent) as traffic:
        until_good(agent, FIRST.digest)
    assert traffic.failures == []
    wait_for(fleet.outcomes)
    agent.kill()
    agent.start()
    until_good(agent, FIRST.digest)
    assert agent.ask()[1]["parameters"]["bundle"] == FIRST.digest
    assert fleet.outcomes() == [("committed", FIRST.digest)]


def test_a_kill_during_the_soak_of_a_second_model_costs_no_answer(
    agent: AgentProcess, fleet: Fleet
) -> None:
    agent.start()
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    with Traffic(agent):
        until_good(agent, FIRST.digest)
    fleet.order(signed_order(order_for(PATIENT.digest, 2)))
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    for _ in range(3):  # the crash loop that the boot budget is for
        agent.kill()
        agent.start()
        assert agent.ask()[0] == 200
    agent.kill()
    agent.start()
    assert agent.ask()[0] == 200
    wait_for(lambda: ("reverted", PATIENT.digest) in fleet.outcomes(), what=agent.log)
    until_good(agent, FIRST.digest)


def test_a_broker_that_is_away_at_the_start_and_in_the_middle(
    agent: AgentProcess, mosquitto: Mosquitto, depot: Depot
) -> None:
    mosquitto.kill()
    agent.start()
    wait_for(lambda: "L01" in agent.log(), what=agent.log)
    mosquitto.start()
    depot.faults = Faults(wait_seconds=0.05, piece_bytes=64, only="blobs/")
    with Fleet(mosquitto) as fleet:
        fleet.order(signed_order(order_for(FIRST.digest, 1)))
        wait_for(lambda: agent.phase == S.FETCH, what=agent.log)
    mosquitto.kill()
    depot.faults = Faults()
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    with Traffic(agent) as traffic:
        until_good(agent, FIRST.digest)
    assert traffic.failures == []
    mosquitto.start()
    with Fleet(mosquitto) as fleet:
        wait_for(lambda: fleet.outcomes() == [("committed", FIRST.digest)], what=agent.log)
        assert agent.stop() == 0
        assert fleet.rows == traffic.rows


def test_windows_stay_until_the_ingest_has_them(
    agent: AgentProcess, mosquitto: Mosquitto, fleet: Fleet
) -> None:
    fleet.acknowledge = False
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    agent.start()
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    for _ in range(5):
        agent.ask(*[ROW] * 20)
    until_good(agent, FIRST.digest)
    wait_for(lambda: len(fleet.windows) == 5, what="five windows")
    seen = fleet.arrivals
    wait_for(lambda: fleet.arrivals > seen + 5, what="what is not acknowledged to come again")
    agent.kill()  # and the broker, which had said PUBACK
    mosquitto.kill()
    held = agent.status()["outbox"]["waiting"]
    assert held >= 5
    mosquitto.start()
    fleet.acknowledge = True
    agent.start()
    wait_for(lambda: agent.status()["outbox"]["waiting"] == 0, what="an empty outbox")
    assert fleet.rows == 100
    assert agent.stop() == 0
    assert fleet.rows == 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_is_orderly(agent: AgentProcess, fleet: Fleet, number: int) -> None:
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    agent.start()
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    agent.ask(ROW, ROW, ROW)
    assert agent.stop(number) == 0
    wait_for(lambda: fleet.rows == 3, what="the last window")
    assert [window.reason for window in fleet.windows.values()] == ["stop"]
    wait_for(lambda: not fleet.presence[-1].online, what="the farewell")
    assert agent.status()["outbox"]["waiting"] == 0
    assert not agent.status()["running"]
    assert "Traceback" not in agent.log()


def test_it_serves_what_is_on_disk_with_no_network_at_all(
    agent: AgentProcess, fleet: Fleet, tmp_path: Path
) -> None:
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    agent.start()
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    with Traffic(agent):
        until_good(agent, FIRST.digest)
    assert agent.stop() == 0
    with agent_process(tmp_path / "agent", broker="", depot="") as alone:
        alone.start()
        status, answer = alone.ask()
        assert (status, answer["parameters"]["bundle"]) == (200, FIRST.digest)
        assert alone.process
        memory = Path(f"/proc/{alone.process.pid}/status").read_text()
        (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", memory)
        assert int(resident) < 128 * 1024  # measured: 67 MiB
        assert alone.stop() == 0


def test_a_model_that_went_bad_on_disk_is_taken_out_of_service(
    agent: AgentProcess, fleet: Fleet
) -> None:
    agent.start()
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    with Traffic(agent):
        until_good(agent, FIRST.digest)
        fleet.order(signed_order(order_for(SECOND.digest, 2)))
        until_good(agent, SECOND.digest)
    assert agent.stop() == 0
    path = agent.state_dir / "blobs" / _blob_of_model(SECOND).replace(":", "/")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    agent.start()
    status, answer = agent.ask()
    assert (status, answer["parameters"]["bundle"]) == (200, FIRST.digest)
    wait_for(lambda: "B04" in fleet.codes(), what=agent.log)


def test_an_outbox_that_the_disk_will_not_have_stops_no_payment(
    agent: AgentProcess, fleet: Fleet
) -> None:
    fleet.order(signed_order(order_for(FIRST.digest, 1)))
    agent.start()
    wait_for(lambda: agent.phase == S.SOAK, what=agent.log)
    with Traffic(agent):
        until_good(agent, FIRST.digest)
    assert agent.stop() == 0
    before = fleet.rows
    for path in agent.state_dir.glob("outbox.db*"):
        path.unlink()
    (agent.state_dir / "outbox.db").mkdir()  # a medium that refuses
    agent.start()
    assert agent.ask(ROW, ROW)[0] == 200
    wait_for(lambda: "D06" in fleet.codes(), what=agent.log)
    assert agent.stop() == 0
    assert fleet.rows == before + 2


def test_two_agents_in_one_folder(agent: AgentProcess) -> None:
    agent.start()
    other = run_agent_command("run", "--config", str(agent.config))
    assert other.returncode == 3
    assert "error[D03]" in other.stderr
    assert "Traceback" not in other.stderr
    assert agent.ask()[0] == 503  # the first one goes on; it has no model yet


def test_two_agents_with_one_id_are_reported(
    agent: AgentProcess, fleet: Fleet, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    agent.start()
    wait_for(lambda: fleet.presence)
    with agent_process(tmp_path / "twin", broker=mosquitto.url) as twin:
        twin.start()
        wait_for(lambda: "G07" in fleet.codes(), what=agent.log)


def test_a_copied_folder_is_told_and_counts_apart(
    agent: AgentProcess, fleet: Fleet, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    agent.start()
    wait_for(lambda: fleet.states, what=agent.log)
    assert agent.stop() == 0
    shutil.copytree(agent.state_dir, tmp_path / "twin" / "state")
    with agent_process(tmp_path / "twin", broker=mosquitto.url) as twin:
        twin.start()
        wait_for(lambda: "agent.copied" in fleet.codes(), what=twin.log)
        assert fleet.states[-1].spool != fleet.states[0].spool
        assert twin.stop() == 0
    agent.start()  # the original goes on as it was
    wait_for(lambda: fleet.states[-1].spool == fleet.states[0].spool, what=agent.log)
    assert fleet.codes().count("agent.copied") == 1


def test_the_port_is_taken(tmp_path: Path) -> None:
    with agent_process(tmp_path / "one", listen=f"127.0.0.1:{free_port()}") as first:
        first.start()
        with agent_process(tmp_path / "two", listen=f"127.0.0.1:{first.address[1]}") as second:
            second.start(ready=False)
            assert second.process
            assert second.process.wait(20) == 3
            assert "error[H11]" in second.log()
            assert "Traceback" not in second.log()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"signer": "other"}, "T02", id="a foreign key"),
        pytest.param({"device": "shop-2"}, "T03", id="another device"),
        pytest.param({"family": "loans"}, "T06", id="another family"),
        pytest.param({"expires": 1.79e9}, "T05", id="expired"),
        pytest.param({"mode": "turbo"}, "U12", id="an unknown mode"),
    ],
)
def test_orders_that_are_refused_reach_upstream(
    agent: AgentProcess, fleet: Fleet, change: dict[str, object], code: str
) -> None:
    signer = keys("theirs").order if change.pop("signer", "") else None
    agent.start()
    fleet.order(signed_order(order_for(FIRST.digest, 1, **change), signer))
    wait_for(lambda: code in fleet.codes(), what=agent.log)
    assert agent.serving == ""


def test_a_crashed_part_is_told_and_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(agent_config(tmp_path, heartbeat_seconds=5))
    runner = threading.Thread(target=agent.run)
    with caplog.at_level(logging.INFO, "wherry"):
        runner.start()
        wait_for((tmp_path / "state" / "listening").exists)
        turns: list[int] = []

        def part() -> None:
            turns.append(1)
            if len(turns) == 1:
                raise ZeroDivisionError("a bug")

        agent._keep("part", part)
        agent.stop()
        runner.join(20)
    assert len(turns) == 2
    assert "part crashed and goes on" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    outbox = Outbox(tmp_path / "state", DEVICE, mib=1, days=1)
    payloads = [json.loads(message.payload) for message in outbox.after(0, 100)]
    outbox.close()
    (told,) = (item["text"] for item in payloads if item["code"] == "agent.crash")
    assert told.startswith("part: ZeroDivisionError < test_app.py:")
    assert "a bug" not in told  # an error's own words may repeat what was scored


PAUSES = [
    ("the first time", 0.0, 0.1, 1.0),
    ("again at once", 1.0, 0.1, 2.0),
    ("no longer than a minute", 60.0, 30.0, 60.0),
    ("anew, after it lived for a while", 60.0, 61.0, 1.0),
]


@pytest.mark.parametrize(
    ("former", "lived", "wanted"), [row[1:] for row in PAUSES], ids=[row[0] for row in PAUSES]
)
def test_the_pause_before_a_part_is_started_again(
    former: float, lived: float, wanted: float
) -> None:
    assert restart_pause(former, lived) == wanted


def test_a_report_needs_no_disk(tmp_path: Path) -> None:
    """The outbox cannot be read any more; the state says so by leaving the figure out."""
    agent = Agent(agent_config(tmp_path))
    runner = threading.Thread(target=agent.run)
    runner.start()
    wait_for((tmp_path / "state" / "listening").exists)
    whole = State.from_bytes(agent._state())
    agent._outbox.close()
    report = State.from_bytes(agent._state())
    agent.stop()
    runner.join(20)
    assert set(whole.extra["outbox"]) == {"waiting", "dropped"}
    assert set(report.extra["outbox"]) == {"dropped"}
    assert report.runtime == whole.runtime


# --- what it connects to ----------------------------------------------------------------

_AUDIT = """
import os, sys
def _look(event, given):
    if event in ("socket.connect", "socket.sendto"):
        family, address = given[0].family.name, given[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        family, address = "NAME", (given[0], given[1] if len(given) > 1 else 0)
    else:
        return
    by = sys._getframe(1).f_code.co_name
    line = f"{address[0]} {address[1]} {by}" if family != "AF_UNIX" else f"{address!r} 0 {by}"
    file = os.open(os.environ["WHERRY_TEST_AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode() + b"\\n")
    os.close(file)
sys.addaudithook(_look)
"""


def test_it_connects_to_nothing_that_was_not_configured(
    tmp_path: Path, mosquitto: Mosquitto, depot: Depot, fleet: Fleet
) -> None:
    """There are two witnesses.

    Python's own audit events in the agent and its children, and the kernel's word (strace),
    which also covers what native libraries do.
    """
    traced = may_trace()
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_AUDIT)
    audit, trace = tmp_path / "audit", tmp_path / "trace"
    before = [strace_program(), "-f", "-qq", "-e", "trace=connect,getsockname", "-o", str(trace)]
    environment = {"PYTHONPATH": str(hook), "WHERRY_TEST_AUDIT": str(audit)}
    folder = tmp_path / "agent"
    settings = {"broker": mosquitto.url, "depot": depot.url, "window_rows": 5}
    with agent_process(folder, before=before * traced, **settings) as agent:
        agent.start(environment=environment)
        fleet.order(signed_order(order_for(FIRST.digest, 1)))
        wait_for(lambda: agent.phase == S.SOAK, seconds=40, what=agent.log)
        with Traffic(agent):
            until_good(agent, FIRST.digest)
        wait_for(lambda: fleet.windows)
        os.kill(agent.status()["pid"], signal.SIGTERM)
        assert agent.process
        assert agent.process.wait(30) == 0
    configured = {
        ("127.0.0.1", str(mosquitto.port)),
        ("127.0.0.1", str(depot.port)),
        ("127.0.0.1", "0"),  # its own serving port, looked up to be bound
    }
    calls = [line.split() for line in audit.read_text().splitlines()]
    # paho wakes its loop through a pair of sockets that it connects with itself
    seen = {(host, port) for host, port, by in calls if by != "_socketpair_compat"}
    assert seen == configured
    if not traced:
        pytest.skip("Python saw nothing else; ptrace is not permitted here, to ask the kernel")
    assert _foreign(trace.read_text(), {port for _, port in configured}) == []


def _foreign(trace: str, ports: set[str]) -> list[str]:
    """Lines of a trace that connect to somewhere else than these ports or a socket of our own."""
    own = set(re.findall(r"getsockname\(.*sin_port=htons\((\d+)\)", trace))
    found = re.findall(r"(connect\(.*?sin6?_port=htons\((\d+)\).*)", trace)
    assert found
    return [line for line, port in found if '"127.0.0.1"' not in line or port not in ports | own]


def test_the_witness_can_see() -> None:
    line = '7 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("1.2.3.4")}, 16) = 0'
    assert _foreign(line, {"443"}) == [line.removeprefix("7 ")]


def test_a_signal_may_come_while_the_agent_waits_for_one(tmp_path: Path) -> None:
    """The handler runs in the thread that it interrupts, inside whatever lock that one holds."""
    agent = Agent(agent_config(tmp_path))
    with agent._stop._cond:
        caller = threading.Thread(target=agent.stop, daemon=True)
        caller.start()
        caller.join(5)
        assert not caller.is_alive()
    assert agent._is_asked()
