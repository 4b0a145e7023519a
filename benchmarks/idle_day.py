"""What an idle day costs a metered link: a device of a fleet as it is by default, over mutual TLS.

    python benchmarks/idle_day.py [--minutes 10]

A real `wherry serve` with mosquitto and a TUF root, and a real `wherry-agent` that has
installed the example's bundle and then has nothing to do, with heartbeat and keep-alive as
they are by default. Everything that the device sends and hears passes through relays that
count what TCP carries, and the kernel's count of segments, from which follows what IP
carries. The span is measured in real time and scaled to a day by the number of heartbeats,
which have a jitter, and of pings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common import print_machine
from sizes import make_bundles

from wherry_agent.config import Limits

PATIENCE_SECONDS: Final = 60.0
KEEPALIVE_SECONDS: Final = 30
QUIET_SECONDS: Final = 30.0  # after the rollout
HEADER_BYTES: Final = 52  # IPv4 and TCP with time stamps, of each segment
HEARTBEAT_BYTES: Final = 400  # a burst of more than so many bytes up is no ping
_SEGMENTS_AT: Final = 136  # tcpi_segs_out and tcpi_segs_in in Linux' struct tcp_info
_KEYS: Final = ("models-1", "models-2", "targets-1", "targets-2")
_DAY: Final = 86_400.0


@dataclass
class Counted:
    """What passed a relay.

    Attributes:
        up: (moment, bytes) of each piece from the device, `time.monotonic`.
        down: likewise to it.
        ends: the sockets at the device's side.
    """

    up: list[tuple[float, int]] = field(default_factory=list)
    down: list[tuple[float, int]] = field(default_factory=list)
    ends: list[socket.socket] = field(default_factory=list)

    def segments(self) -> int:
        """Of all connections so far, in both directions."""
        found = 0
        for end in self.ends:
            with suppress(OSError):
                info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                found += sum(struct.unpack_from("<II", info, _SEGMENTS_AT))
        return found


class Relay(threading.Thread):
    """Passes a port of its own on to another and counts; TLS goes through untouched."""

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.counted = Counted()

    def run(self) -> None:
        """Take connections, one thread for each direction."""
        while True:
            near, _ = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            self.counted.ends.append(near)
            for source, sink, notes in (
                (near, far, self.counted.up),
                (far, near, self.counted.down),
            ):
                arguments = (source, sink, notes)
                threading.Thread(target=_pass_on, args=arguments, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, notes: list[tuple[float, int]]) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            notes.append((time.monotonic(), len(piece)))
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


def wherry(data: Path, *words: str) -> str:
    """Run a command against the server; returns what it prints."""
    command = [sys.executable, "-m", "wherry", "-q", *words]
    env = os.environ | {"WHERRY_HOME": str(data)}
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def running(words: Sequence[str], log: Path) -> Iterator[None]:
    """A program for the length of a block."""
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", *words], stdout=stream, stderr=stream)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def wait_for(path: Path, log: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise SystemExit(log.read_text())
        time.sleep(0.1)


def through_relays(config: Path) -> list[Relay]:
    """Let a device's settings lead to relays: broker, depot and enrolment."""
    relays: list[Relay] = []

    def replace(match: re.Match[str]) -> str:
        relay = Relay(int(match[2]))
        relay.start()
        relays.append(relay)
        return f"{match[1]}{relay.port}"

    text = re.sub(r"((?:mqtts|https)://127\.0\.0\.1:)(\d+)", replace, config.read_text())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    config.write_text(f'{text}\n[serving]\nlisten = "127.0.0.1:{port}"\n')
    return relays


def idle(relays: Sequence[Relay], seconds: float) -> None:
    """Watch for a while, and say what that makes in a day."""
    link = relays[0].counted
    segments, began = link.segments(), time.monotonic()
    connections = sum(len(relay.counted.ends) for relay in relays)
    time.sleep(seconds)
    took, segments = time.monotonic() - began, link.segments() - segments
    more = sum(len(relay.counted.ends) for relay in relays) - connections
    others = sum(
        size
        for relay in relays[1:]
        for moment, size in (*relay.counted.up, *relay.counted.down)
        if moment > began
    )
    bursts = gathered([item for item in (*link.up, *link.down) if item[0] > began])
    beats = [size for size in bursts if size > HEARTBEAT_BYTES]
    pings = [size for size in bursts if size <= HEARTBEAT_BYTES]
    print(f"watched {took:.0f} s: {more} new connections, {others} bytes to depot and enrolment")
    for name, sizes in (("heartbeats", beats), ("pings", pings)):
        each = sum(sizes) / max(1, len(sizes))
        print(f"  {len(sizes):3} {name:10} {each:7.0f} bytes each, both ways, with TLS")
    print(f"  {segments:3} segments; {HEADER_BYTES} bytes of headers each")
    wanted = _DAY / Limits().heartbeat_seconds
    silent = _DAY / KEEPALIVE_SECONDS
    a_beat, a_ping = (sum(sizes) / max(1, len(sizes)) for sizes in (beats, pings))
    carried = wanted * a_beat + (silent - wanted) * a_ping
    headers = segments / max(1, len(bursts)) * silent * HEADER_BYTES
    print(f"a day: {wanted:.0f} heartbeats, {silent - wanted:.0f} pings")
    print(
        f"  {carried / 1000:.0f} kB in TCP, TLS included; {(carried + headers) / 1000:.0f} kB in IP"
    )
    plain = sum(bursts) / took * _DAY
    print(f"  (the watched span, times {_DAY / took:.0f}: {plain / 1000:.0f} kB in TCP)")


def gathered(pieces: Sequence[tuple[float, int]]) -> list[int]:
    """Bytes of bursts: pieces with less than two seconds between them."""
    found: list[int] = []
    last = 0.0
    for moment, size in sorted(pieces):
        if moment - last < 2:
            found[-1] += size
        else:
            found.append(size)
        last = moment
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    print_machine("paho-mqtt", "onnxruntime")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = make_bundles(folder)[0]["project.toml"]
        data, device, log = folder / "data", folder / "device", folder / "serve.log"
        serve = ["wherry", "serve", "--data", str(data), "--broker", "mosquitto"]
        with running(serve, log):
            wait_for(data / "server.json", log)
            keys = [word for name in _KEYS for word in ("--key", name)]
            wherry(data, "publish", str(bundle), *keys)
            wherry(data, "device", "add", "bench", "--family", "fraud", "--out", str(device))
            config = device / "agent.toml"
            relays = through_relays(config)
            with running(["wherry_agent", "run", "--config", str(config)], folder / "agent.log"):
                soak = ("--soak", "0s", "--soak-rows", "0")
                wherry(data, "push", str(bundle), *soak, "--yes", "--wait")
                shown = json.loads(wherry(data, "device", "show", "bench", "--json"))
                state = shown["state"]
                print(f"the device runs {state['bundle'][:19]}, {state['phase']}")
                time.sleep(QUIET_SECONDS)
                began = sum(size for _, size in (*relays[0].counted.up, *relays[0].counted.down))
                print(f"until then, its update's reports included: {began} bytes over MQTT")
                idle(relays, 60 * minutes)


if __name__ == "__main__":
    main()
