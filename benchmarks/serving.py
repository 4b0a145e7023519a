"""One row over HTTP and in process: the agent beside what its users would write instead.

    python benchmarks/serving.py [--rounds 5] [--pin] [--without mlserver]

Each server is a process of its own on a unix socket (MLServer knows TCP alone); all get the same
rows of the example's payments, from the same small client, in turns: A B C A B C. The agent does
what none of the others does: it checks the input contract and counts for drift. Ratios are taken
within a round; a result is the median round. Peers live in environments under .cache.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common import example_bundle, example_rows, print_machine
from common.venvs import InstallFailedError, environment

from wherry_contract.bundle import read_bundle

HERE: Final = Path(__file__).resolve().parent / "servers"
ROWS: Final = 1000
ALONE, APART, TOGETHER = (
    400,
    100,
    800,
)  # requests of a round: in a row, 1 ms apart, on 8 connections
GAP_SECONDS: Final = 0.001
CONNECTIONS: Final = 8
START_SECONDS: Final = 120.0
ECHO, AGENT = "echo in C", "the agent's port"
_RUNTIME: Final = ("onnxruntime>=1.27,<1.29", "numpy<3")
_PLAIN: Final = ("starlette", "fastapi", "uvicorn[standard]", *_RUNTIME)
_MLSERVER: Final = ("mlserver==1.7.1", "uvloop<0.22", "onnxruntime>=1.20,<1.29")


@dataclass(frozen=True)
class Peer:
    """How a server is started and asked.

    Attributes:
        command: what is run.
        address: a path, or a port.
        named: whether it is asked by named rows; else by one tensor.
    """

    command: Sequence[str]
    address: str | int
    named: bool = False
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Found:
    """What was measured of one server; a list has an item for each round."""

    start: float = 0.0
    mib: float = 0.0
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


def peers(folder: Path, bundle: Path, without: Sequence[str]) -> dict[str, Peer]:
    """All that can be had here."""
    found = {}
    compiler = shutil.which("cc")
    if compiler:
        echo = folder / "echo"
        subprocess.run([compiler, "-O2", "-o", str(echo), str(HERE / "echo.c")], check=True)
        found[ECHO] = Peer([str(echo), str(folder / "echo.sock")], str(folder / "echo.sock"))
    port = str(folder / "agent.sock")
    command = [sys.executable, str(HERE / "agent_port.py"), port, str(bundle)]
    found[AGENT] = Peer(command, port, named=True)
    for name, packages, make in (
        ("uvicorn, bare ASGI", _PLAIN, _asgi("bare_asgi")),
        ("uvicorn, Starlette", _PLAIN, _asgi("starlette_app")),
        ("uvicorn, FastAPI", _PLAIN, _asgi("fastapi_app")),
        ("MLServer 1.7.1, TCP", _MLSERVER, _mlserver),
    ):
        if any(word in name.lower() for word in without):
            continue
        try:
            venv = environment("-".join(["serving", packages[0].partition("=")[0]]), packages)
        except InstallFailedError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        found[name] = make(venv, folder)
    return found


def _asgi(module: str) -> Callable[[Path, Path], Peer]:
    def make(venv: Path, folder: Path) -> Peer:
        path = str(folder / f"{module}.sock")
        command = [str(venv / "bin" / "python"), "-m", "uvicorn", f"{module}:app", "--uds", path]
        return Peer([*command, "--log-level", "error"], path)

    return make


def _mlserver(venv: Path, folder: Path) -> Peer:
    place = folder / "mlserver"
    place.mkdir()
    port = _free_port()
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": _free_port(), "parallel_workers": 0,
        "metrics_endpoint": None, "debug": False,
    }  # fmt: skip
    (place / "settings.json").write_text(json.dumps(settings))
    model = {"name": "fraud", "implementation": "mlserver_model.OnnxModel"}
    (place / "model-settings.json").write_text(json.dumps(model))
    return Peer([str(venv / "bin" / "mlserver"), "start", str(place)], port)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# --- the client ---------------------------------------------------------------------------------


def requests(rows: Sequence[Mapping[str, Any]], *, named: bool) -> list[bytes]:
    """The same rows as HTTP requests."""
    made = []
    for row in rows:
        values = [float(value) for value in row.values()]
        tensor = {"name": "input", "datatype": "FP64", "shape": [1, len(values)], "data": values}
        body = json.dumps({"rows": [row]} if named else {"inputs": [tensor]}).encode()
        head = f"POST /v2/models/fraud/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        made.append(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    return made


def connect(address: str | int) -> socket.socket:
    """A connection that waits."""
    if isinstance(address, int):
        client = socket.create_connection(("127.0.0.1", address), 60)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        client = socket.socket(socket.AF_UNIX)
        client.connect(address)
    client.settimeout(None)
    return client


def ask(client: socket.socket, request: bytes) -> None:
    """One request and its whole answer."""
    client.sendall(request)
    read(client)


def read(client: socket.socket) -> None:
    """A whole answer, of status 200."""
    data = client.recv(65_536)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _more(client)
    head = data[:end].lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(data.decode(errors="replace"))
    size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    while len(data) < end + 4 + size:
        data += _more(client)


def _more(client: socket.socket) -> bytes:
    data = client.recv(65_536)
    if not data:
        raise ConnectionError
    return data


def times(client: socket.socket, asked: Sequence[bytes], gap: float = 0.0) -> list[float]:
    """Microseconds of each request."""
    taken = []
    for request in asked:
        if gap:
            time.sleep(gap)
        began = time.perf_counter()
        ask(client, request)
        taken.append((time.perf_counter() - began) * 1e6)
    return taken


def together(address: str | int, asked: Sequence[bytes]) -> float:
    """Requests a second on eight connections, each asking again once it is answered."""
    left = iter(asked)
    with ExitStack() as stack, selectors.DefaultSelector() as poll:
        began = time.perf_counter()
        for _ in range(CONNECTIONS):
            client = stack.enter_context(connect(address))
            client.sendall(next(left))
            poll.register(client, selectors.EVENT_READ, client)
        while poll.get_map():
            for key, _ in poll.select():
                client = key.data
                read(client)
                following = next(left, None)
                if following is None:
                    poll.unregister(client)
                else:
                    client.sendall(following)
        return len(asked) / (time.perf_counter() - began)


# --- the servers --------------------------------------------------------------------------------


@contextmanager
def running(peer: Peer, folder: Path, found: Found, first: bytes) -> Iterator[int]:
    """The process of a server that answers; its id."""
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    settings = os.environ | {"BENCH_MODEL": str(folder), "PYTHONPATH": paths}
    began = time.perf_counter()
    process = subprocess.Popen(
        peer.command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            try:
                with connect(peer.address) as client:
                    ask(client, first)
                break
            except (OSError, RuntimeError):
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    raise
                time.sleep(0.005)
        found.start = time.perf_counter() - began
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(pid: int) -> float:
    """That a process has taken so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """The proportional share of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(all_peers: Mapping[str, Peer], folder: Path, rounds: int) -> dict[str, Found]:
    """Every server in turns."""
    rows = example_rows(ROWS)
    asked = {named: requests(rows, named=named) for named in (True, False)}
    found: dict[str, Found] = {}
    with ExitStack() as stack:
        started: dict[str, int] = {}
        for name, peer in all_peers.items():
            result = Found()
            try:
                pid = stack.enter_context(running(peer, folder, result, asked[peer.named][0]))
            except (OSError, RuntimeError) as error:
                print(f"{name} did not answer: {str(error)[:100]}", file=sys.stderr)
                continue
            found[name] = result
            started[name] = pid
        for turn in range(rounds + 1):
            for name, pid in started.items():
                _round(all_peers[name], pid, asked, found[name], count=turn > 0)
        for name, pid in started.items():
            found[name].mib = memory_mib(pid)
    return found


def _round(
    peer: Peer, pid: int, asked: Mapping[bool, list[bytes]], found: Found,
    *, count: bool,
) -> None:  # fmt: skip
    with connect(peer.address) as client:  # a new one: some close what is idle for seconds
        alone = sorted(times(client, asked[peer.named][:ALONE]))
        apart = times(client, asked[peer.named][ALONE : ALONE + APART], GAP_SECONDS)
    before = cpu_seconds(pid)
    rate = together(peer.address, asked[peer.named][:TOGETHER])
    cpu = (cpu_seconds(pid) - before) / TOGETHER * 1e6
    if count:
        found.p50.append(statistics.median(alone))
        found.p99.append(alone[len(alone) * 99 // 100])
        found.apart.append(statistics.median(apart))
        found.cpu.append(cpu)
        found.rate.append(rate)


def print_table(found: Mapping[str, Found]) -> None:
    """Medians of the rounds, and the ratio of p50 to the agent's, taken within each."""
    print(
        "| server | p50 us | p99 us | p50 us, 1 ms apart | CPU us a request, 8 connections | requests/s, 8 | MiB | first answer s | p50 to the agent's |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    base = found[AGENT].p50
    for name, item in found.items():
        ratios = [a / b for a, b in zip(item.p50, base, strict=True)]
        middle = [
            statistics.median(x) for x in (item.p50, item.p99, item.apart, item.cpu, item.rate)
        ]
        cells = " | ".join(f"{value:,.0f}" for value in middle)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {cells} | {item.mib:.0f} | {item.start:.1f} | {spread} |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pin", action="store_true", help="client and servers on one core")
    parser.add_argument("--without", action="append", default=[], help="a word in a peer's name")
    asked = parser.parse_args()
    print_machine("numpy", "onnxruntime", "h11")
    print(
        f"load {os.getloadavg()[0]:.1f}, {asked.rounds} rounds, {'one core' if asked.pin else 'free'}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = example_bundle("project.toml", folder)
        parts = read_bundle(bundle)
        (folder / "model.onnx").write_bytes(parts.model)
        edges = {
            step.feature: list(step.settings["edges"]) for step in parts.manifest.encoder.steps
        }
        ordered = [edges[name] for name in parts.manifest.input.names]
        (folder / "edges.json").write_text(json.dumps(ordered))
        servers = peers(folder, bundle, asked.without)
        if asked.pin:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print_table(measure(servers, folder, asked.rounds))


if __name__ == "__main__":
    main()
