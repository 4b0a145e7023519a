"""What an agent costs a board: resident memory, the peak of an update, bytes of an idle day.

    python benchmarks/agent_cost.py

Memory is held against a bare process that imported numpy, ssl, paho-mqtt and ONNX Runtime
and loaded the same model. The update runs from a bundle file through the real verifier's
and probe's children, whose peaks are watched. Idle bytes are counted by a relay between the
agent and a real mosquitto, without TLS, at a quick heartbeat, and taken to a day of the
default one.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from common import print_machine
from sizes import holding, make_bundles, memory_mib, running_agent, score

from wherry_agent.config import Limits
from wherry_contract.bundle import open_bundle

RESIDENT_MIB: Final = 8.0
CHILD_MIB: Final = 40.0
PAYMENTS: Final = 2000
HEARTBEAT_SECONDS: Final = 1.0
WATCHED_SECONDS: Final = 15.0
KEEPALIVE_SECONDS: Final = 30
PING_BYTES: Final = 4  # PINGREQ and PINGRESP
_BARE: Final = (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import numpy, ssl, onnxruntime; "
    "import paho.mqtt.client; ssl.create_default_context(); "
    "options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1; "
    "session = onnxruntime.InferenceSession({model!r}, options); "
)


class Relay(threading.Thread):
    """Passes one port on to another and counts."""

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.up = self.down = 0

    def run(self) -> None:
        """Take connections, one thread for each direction."""
        while True:
            near, _ = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, upward in ((near, far, True), (far, near, False)):
                arguments = (source, sink, upward)
                threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:  # noqa: FBT001 - a direction
        with suppress(OSError):
            while piece := source.recv(65536):
                if upward:
                    self.up += len(piece)
                else:
                    self.down += len(piece)
                sink.sendall(piece)


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A plain broker on a free port."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = folder / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield port
    finally:
        process.terminate()
        process.wait()


class Children(threading.Thread):
    """Watches the peak memory of every descendant of this process that runs a module of ours."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, float] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        """Look every few milliseconds; the kernel keeps each process's own peak."""
        while not self.ended.wait(0.002):
            for path in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    self._look(path)

    def _look(self, path: Path) -> None:
        command = (path / "cmdline").read_bytes().split(b"\0")
        if len(command) < 3 or not command[2].startswith(b"wherry_agent."):
            return
        if not _descends(int(path.name)):
            return
        found = re.search(r"VmHWM:\s+(\d+) kB", (path / "status").read_text())
        if found:
            name = command[2].decode()
            self.peaks[name] = max(self.peaks.get(name, 0.0), int(found[1]) / 1024)


def _descends(process: int) -> bool:
    """Whether a process is ours: others on this machine may run the same modules."""
    while process > 1:
        if process == os.getpid():
            return True
        text = Path(f"/proc/{process}/stat").read_text()
        process = int(text.rpartition(")")[2].split()[1])
    return False


def judge(name: str, found: float, most: float) -> bool:
    """One line; whether it is within its bound."""
    print(f"  {name:58} {found:6.1f} MiB, at most {most:.0f}: {'yes' if found <= most else 'NO'}")
    return found <= most


def main() -> int:
    """Print the figures; 1 if one is beyond its bound."""
    print_machine("numpy", "onnxruntime", "paho-mqtt")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundles, public = make_bundles(folder)
        bundle = bundles["project.toml"]
        with bundle.open("rb") as stream:
            model = folder / "model.onnx"
            model.write_bytes(open_bundle(stream).parts().model)
        with holding(Path(sys.executable), _BARE.format(model=str(model))) as pid:
            bare = memory_mib(pid)[0]
        children = Children()
        children.start()
        with mosquitto(folder) as port:
            relay = Relay(port)
            relay.start()
            url = f"mqtt://127.0.0.1:{relay.port}"
            venv = Path(sys.prefix)
            with running_agent(venv, bundle, public, folder, url) as (pid, serving):
                score(serving, PAYMENTS)
                resident = memory_mib(pid)[0]
                children.ended.set()
            heartbeat = idle_bytes(folder, relay)
        print("memory")
        print(f"  bare process with the same libraries and model {bare:10.1f} MiB")
        right = [
            judge(f"the agent after {PAYMENTS} payments, over that", resident - bare, RESIDENT_MIB)
        ]
        weight = model.stat().st_size / 2**20
        for name, peak in sorted(children.peaks.items()):
            over = peak - bare if "probe" in name else peak - weight
            base = "the bare process" if "probe" in name else "the model"
            right.append(judge(f"peak of {name} ({peak:.1f}), over {base}", over, CHILD_MIB))
        print_day(*heartbeat)
    return 0 if all(right) else 1


def idle_bytes(folder: Path, relay: Relay) -> tuple[float, float]:
    """Bytes up and down for one heartbeat of an agent that has nothing else to say."""
    settings = folder / "agent.toml"
    text = settings.read_text() + f"[limits]\nheartbeat_seconds = {HEARTBEAT_SECONDS}\n"
    settings.write_text(text)
    program = Path(sys.prefix) / "bin" / "wherry-agent"
    process = subprocess.Popen(
        [str(program), "run", "--config", str(settings)], stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(5)  # what it says at its start is no idle talk
        before = relay.up, relay.down
        time.sleep(WATCHED_SECONDS)
        beats = WATCHED_SECONDS / HEARTBEAT_SECONDS
        return (relay.up - before[0]) / beats, (relay.down - before[1]) / beats
    finally:
        process.terminate()
        process.wait()


def print_day(up: float, down: float) -> None:
    """A day at the default heartbeat, with the keep-alive's pings between."""
    beats = 86_400 / Limits().heartbeat_seconds
    pings = 86_400 / KEEPALIVE_SECONDS * PING_BYTES
    day = beats * (up + down) + pings
    print("an idle day, MQTT without TLS and TCP's own headers")
    print(
        f"  {up:.0f} bytes up and {down:.0f} down a heartbeat, {beats:.0f} a day; pings {pings:.0f}"
    )
    print(f"  {day / 1000:.0f} kB a day")


if __name__ == "__main__":
    sys.exit(main())
