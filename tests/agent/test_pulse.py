"""What the service manager is told, over a real socket: an agent that hangs stops feeding."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wait_for
from support_agent import make_bundle, order_for, running_depot, signed_order
from support_app import AgentProcess, Fleet, agent_process
from support_device import HandClock

import wherry_agent
from wherry_agent.config import Limits
from wherry_agent.pulse import Notifier, Pulse, Watchdog, answers
from wherry_agent.serving.server import Hooks, HttpServer
from wherry_agent.serving.service import Call, Reply

FIRST = make_bundle("1.0.0")
SECOND = make_bundle("2.0.0", bias=-2.9, counter=2)
ALIVE, READY, STOPPING = "WATCHDOG=1", "READY=1", "STOPPING=1"


class Manager:
    """The end of systemd: a datagram socket, and what was said to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                self.heard.append(self._socket.recv(4096).decode())
            except TimeoutError:
                continue

    def environment(self, seconds: float) -> dict[str, str]:
        """What a service is started with."""
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(int(seconds * 1e6))}

    def count(self, line: str) -> int:
        """How often something was said."""
        return self.heard.count(line)

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.close()


def test_an_agent_tells_of_its_life(tmp_path: Path, manager: Manager) -> None:
    with agent_process(tmp_path / "agent") as agent:
        agent.start(environment=manager.environment(3))
        wait_for(lambda: manager.count(ALIVE) >= 2, what=agent.log)
        assert manager.heard[:2] == [
            READY,
            f"STATUS=serving on {':'.join(map(str, agent.address))}",
        ]
        assert agent.stop() == 0
    wait_for(lambda: STOPPING in manager.heard)
    assert manager.count(READY) == manager.count(STOPPING) == 1
    assert manager.heard[-1] == STOPPING


def _hang_all(agent: AgentProcess) -> None:
    assert agent.process
    agent.process.send_signal(signal.SIGSTOP)


def test_a_process_that_hangs_feeds_no_watchdog(tmp_path: Path, manager: Manager) -> None:
    with agent_process(tmp_path / "agent") as agent:
        agent.start(environment=manager.environment(1.5))
        wait_for(lambda: manager.count(ALIVE), what=agent.log)
        _hang_all(agent)
        time.sleep(0.2)  # what it said before
        before = manager.count(ALIVE)
        time.sleep(1.5)
        assert manager.count(ALIVE) == before


def test_a_loop_of_updates_that_hangs_feeds_no_watchdog(
    tmp_path: Path, manager: Manager, mosquitto: object
) -> None:
    """The depot's file never ends: reading a pipe that nobody writes to hangs for real."""
    with (
        running_depot(tmp_path / "depot", FIRST, SECOND) as depot,
        Fleet(mosquitto) as fleet,  # type: ignore[arg-type]
        agent_process(
            tmp_path / "agent",
            broker=mosquitto.url,
            depot=depot.url,
            stuck_update_seconds=2,  # type: ignore[attr-defined]
        ) as agent,
    ):
        pipe = agent.state_dir / "blobs" / "sha256" / SECOND.digest.partition(":")[2]
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)
        agent.start(environment=manager.environment(1.5))
        wait_for(lambda: manager.count(ALIVE), what=agent.log)
        fleet.order(signed_order(order_for(SECOND.digest, 1)))
        wait_for(lambda: agent.phase not in ("", "idle"), what=agent.log)
        said = len(manager.heard)  # a busy machine may have been late before
        wait_for(lambda: any("updates hang" in line for line in manager.heard[said:]))
        before = manager.count(ALIVE)
        time.sleep(1.5)
        assert manager.count(ALIVE) == before
        assert agent.process
        assert agent.process.poll() is None  # it serves on until it is restarted


# --- the parts ------------------------------------------------------------------------------


def test_a_request_that_gets_no_answer_is_overdue() -> None:
    leave = threading.Event()

    def hang(_: Call) -> Reply:
        leave.wait(30)
        return Reply(200, b"{}")

    server = HttpServer("127.0.0.1:0", Limits(), Hooks(hang, lambda _: None, lambda _: None))
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    try:
        asking = threading.Thread(target=answers, args=(server.address, 30), daemon=True)
        asking.start()
        wait_for(lambda: server.overdue(0.0))
        assert not server.overdue(60.0)
        leave.set()
        asking.join()
        wait_for(lambda: not server.overdue(0.0))
    finally:
        leave.set()
        server.stop(1)


def _fine(_: Pulse, __: HandClock) -> None:
    pass


def _late(pulse: Pulse, clock: HandClock) -> None:
    pulse.watch("updates", 10)
    clock.pass_by(10.1)


def _in_time(pulse: Pulse, clock: HandClock) -> None:
    pulse.watch("updates", 10)
    clock.pass_by(9)
    pulse.beat("updates")
    clock.pass_by(9)


FEEDS: dict[str, tuple[Callable[[Pulse, HandClock], None], int, bool, bool]] = {
    "all is well": (_fine, 0, True, True),
    "a part shows itself in time": (_in_time, 0, True, True),
    "a part is late": (_late, 0, True, False),
    "an answer is overdue": (_fine, 1, True, False),
    "nobody is at the port": (_fine, 0, False, False),
}


@pytest.mark.parametrize(("live", "overdue", "port", "fed"), FEEDS.values(), ids=FEEDS.keys())
def test_when_the_watchdog_is_fed(
    live: Callable[[Pulse, HandClock], None],
    overdue: int,
    port: bool,  # noqa: FBT001 - a column of the table
    fed: bool,  # noqa: FBT001 - likewise
    manager: Manager,
) -> None:
    clock = HandClock()
    pulse = Pulse(clock.monotonic)
    answering = Hooks(lambda _: Reply(200, b"{}"), lambda _: None, lambda _: None)
    server = HttpServer("127.0.0.1:0", Limits(), answering)
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    address = server.address
    if not port:
        server.stop(1)
    live(pulse, clock)
    notifier = Notifier(manager.environment(3), os.getpid())
    watchdog = Watchdog(notifier, pulse, lambda: overdue)
    watchdog.feed(address)
    watchdog.feed(address)  # too soon: nothing is said twice
    wait_for(lambda: manager.heard)
    assert manager.count(ALIVE) == int(fed)
    clock.pass_by(1.1)
    watchdog.feed(address)
    wait_for(lambda: len(manager.heard) == 2)
    server.stop(1)


def test_what_the_service_manager_shows_is_what_is(manager: Manager) -> None:
    """A part was late and came round: the status does not go on saying that it hangs."""
    clock = HandClock()
    pulse = Pulse(clock.monotonic)
    answering = Hooks(lambda _: Reply(200, b"{}"), lambda _: None, lambda _: None)
    server = HttpServer("127.0.0.1:0", Limits(), answering)
    threading.Thread(target=server.run, daemon=True).start()
    watchdog = Watchdog(Notifier(manager.environment(3), os.getpid()), pulse, lambda: 0)
    _late(pulse, clock)
    watchdog.feed(server.address)
    for _ in range(2):
        pulse.beat("updates")
        clock.pass_by(1.1)
        watchdog.feed(server.address)
    wait_for(lambda: len(manager.heard) == 4)
    assert manager.heard == [
        "STATUS=to be restarted: updates hang",
        ALIVE,
        f"STATUS=serving on {server.address}",
        ALIVE,
    ]
    server.stop(1)


SILENT: dict[str, tuple[dict[str, str], bool]] = {
    "no service manager": ({}, False),
    "no watchdog": ({"NOTIFY_SOCKET": "/nowhere"}, False),
    "another process's watchdog": (
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        False,
    ),
    "garbage": ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"}, False),
    "ours": (
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "77"},
        True,
    ),
}


@pytest.mark.parametrize(("environment", "feeds"), SILENT.values(), ids=SILENT.keys())
def test_whose_watchdog_it_is(environment: dict[str, str], feeds: bool) -> None:  # noqa: FBT001 - a column
    notifier = Notifier(environment, 77)
    assert notifier.feed_seconds == (1.0 if feeds else 0.0)
    notifier.ready()  # nobody listens at /nowhere: nothing happens


def test_an_abstract_socket() -> None:
    manager = Manager(f"@wherry-{os.getpid()}")
    Notifier(manager.environment(3), os.getpid()).ready()
    wait_for(lambda: manager.heard == [READY])
    manager.close()


# --- the unit -------------------------------------------------------------------------------

UNIT = Path(wherry_agent.__file__).with_name("wherry-agent.service")


def _analyze(*arguments: str) -> str:
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing; `make test-tools` installs systemd"
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_takes_the_unit_and_has_nothing_to_say(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # the interpreter of the machine that runs the tests, which is not a board
    unit.write_text(UNIT.read_text().replace("/usr/bin/python3", "/bin/sh"))
    assert _analyze("verify", "--man=no", str(unit)) == ""
    # of 100; an unprotected service has 96. What is left: the network, and /proc/cpuinfo
    assert "Overall exposure" in _analyze("security", "--offline=true", "--threshold=20", str(unit))


def test_what_the_unit_promises() -> None:
    lines = set(UNIT.read_text().splitlines())
    promised = {"Type=notify", "DynamicUser=yes", "ProtectSystem=strict", "StateDirectory=wherry"}
    promised |= {"NoNewPrivileges=yes", "Restart=always", "RestartSec=30s", "MemoryMax=75%"}
    assert promised <= lines
