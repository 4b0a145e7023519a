"""What Wherry weighs: on disk, in memory, on the wire.

    python benchmarks/sizes.py [--venvs DIR]

Installs [agent] and [host] (with [sklearn]) into clean environments, by pip; runs an agent
with the example's model there and holds its memory against a bare interpreter that has
ONNX Runtime imported, and one that also holds the same model; counts the bytes of a
bundle and of one window of 1,000 payments.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from common import EXAMPLE, ROOT, example_rows, print_machine, train_example
from common.venvs import MEBI, installed_sizes

from wherry_agent.clock import SystemClock
from wherry_agent.config import Limits
from wherry_agent.serving.counter import Tally
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_contract.bundle import Bundle, open_bundle
from wherry_contract.messages import Place

EXTRAS: Final = {
    "agent": "agent",
    "agent, TFLite": "agent-tflite",
    "host": "host",
    "host, to train": "sklearn",
}
PATIENCE_SECONDS: Final = 30.0
SCORED: Final = 2000
_HOLD: Final = "import sys; print('ready', flush=True); sys.stdin.read()"
_LOAD: Final = (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import onnxruntime; "
    "options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1; "
)


# --- disk -------------------------------------------------------------------------------


def make_venv(extra: str, folder: Path) -> Path:
    """A clean environment with one extra; in an existing one only Wherry is installed anew."""
    place = folder / extra
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    if (place / "done").exists():
        again = ["install", "--force-reinstall", "--no-deps", str(ROOT)]
        subprocess.run([*pip, *again], check=True)
    else:
        print(f"installing [{extra}] into a clean environment", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([*pip, "install", f"{ROOT}[{extra}]"], check=True)
        (place / "done").touch()
    return place


def print_installed(name: str, venv: Path) -> None:
    """One line: the whole, and the largest parts."""
    sizes = installed_sizes(venv)
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    parts = ", ".join(f"{part} {size / MEBI:.1f}" for part, size in largest)
    ours = sum(size for part, size in sizes.items() if part.startswith("wherry"))
    total = sum(sizes.values())
    print(
        f"  [{name}]{'':{16 - len(name)}} {total / MEBI:7.1f} MiB; ours {ours / MEBI:.2f}; {parts}"
    )


# --- memory -----------------------------------------------------------------------------


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB", text, re.MULTILINE))
    return int(found["Rss"]) / 1024, int(found["Pss"]) / 1024


@contextmanager
def holding(python: Path, code: str) -> Iterator[int]:
    """An interpreter that ran `code` and waits; its process id."""
    process = subprocess.Popen(
        [str(python), "-c", code + _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        if process.stdout:
            process.stdout.readline()
        yield process.pid
    finally:
        process.communicate()


@contextmanager
def running_broker(folder: Path) -> Iterator[str]:
    """A broker as `wherry serve` starts it; the URL for one device."""
    from wherry.broker import Accounts, Supervised, find_engine

    accounts = Accounts(b"benchmark", "bench", ["bench"])
    broker = Supervised(find_engine(), folder / "broker", "127.0.0.1", _free_port())
    broker.write(accounts)
    broker.start()
    try:
        yield f"mqtt://bench:{accounts.password('bench')}@127.0.0.1:{broker.address.port}"
    finally:
        broker.stop()


@contextmanager
def running_agent(
    venv: Path, bundle: Path, public: Path, folder: Path, broker_url: str
) -> Iterator[tuple[int, int]]:
    """An agent on a real broker that serves the bundle; its process id and its port."""
    from wherry.bundle_view import trusting
    from wherry.keys import read_public

    port, program = _free_port(), venv / "bin" / "wherry-agent"
    (folder / "trust.json").write_bytes(trusting([read_public(public)], "fraud").to_bytes())
    settings = folder / "agent.toml"
    settings.write_text(
        'device = "bench"\nfleet = "bench"\nfamily = "fraud"\n'
        f'[broker]\nurl = "{broker_url}"\n'
        f'[serving]\nlisten = "127.0.0.1:{port}"\n'
    )
    install = [str(program), "install", str(bundle), "--config", str(settings)]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = folder / "agent.log"
    with log.open("wb") as stream:
        command = [str(program), "run", "--config", str(settings)]
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        _wait(lambda: _is_ready(port), log)
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/v2/health/ready"
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait(look: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"the agent does not get ready:\n{log.read_text()}")
        time.sleep(0.1)


def score(port: int, rows: int) -> None:
    """Send payments, one a request, over one connection."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port)
    for row in example_rows(rows):
        connection.request("POST", "/v2/models/fraud/infer", json.dumps({"rows": [row]}))
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the agent said {text!r}")
    connection.close()


def print_memory(venv: Path, bundle: Path, public: Path, model: Path) -> None:
    """The agent beside bare interpreters."""
    python = venv / "bin" / "python"
    peers = {
        "python": "",
        "python, onnxruntime imported": _LOAD,
        "the same with the model loaded": _LOAD
        + f"session = onnxruntime.InferenceSession({str(model)!r}, options); ",
    }
    found: dict[str, tuple[float, float]] = {}
    for name, code in peers.items():
        with holding(python, code) as pid:
            found[name] = memory_mib(pid)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_broker(Path(folder)) as url,
        running_agent(venv, bundle, public, Path(folder), url) as (pid, port),
    ):
        found["wherry-agent, ready"] = memory_mib(pid)
        score(port, SCORED)
        found[f"wherry-agent, after {SCORED} payments"] = memory_mib(pid)
    base = found["python, onnxruntime imported"][0]
    for name, (resident, proportional) in found.items():
        print(
            f"  {name:36} {resident:6.1f} MiB resident, {proportional:6.1f} proportional,"
            f" ratio {resident / base:.2f}"
        )


# --- wire -------------------------------------------------------------------------------


def window_bytes(bundle: Bundle, rows: int = 1000) -> bytes:
    """One window of the example's payments, as it goes to the broker."""
    closed: list[Tally] = []
    scorer = Scorer(Limits(window_rows=rows), SystemClock(), closed.append)
    served = Served.by_model(load_model(bundle.digest, bundle.parts()))
    scorer.swap(served)
    for row in example_rows(rows):
        raw = served.manifest.input.matrix([row])
        scorer.answer(raw, served, started=time.monotonic(), at=time.time())
    (tally,) = closed
    return tally.window(Place("till-0001", "0" * 16, 1, 1)).to_bytes()


def print_wire(bundle_file: Path) -> None:
    """Bytes of a bundle and of a window."""
    with bundle_file.open("rb") as stream:
        bundle = open_bundle(stream)
        payload = window_bytes(bundle)
        model = len(bundle.parts().model)
    size = bundle_file.stat().st_size
    packed = len(gzip.compress(payload, mtime=0))
    print(f"  {bundle_file.name}: {size:,} bytes, of which model {model:,}")
    print(f"    its window of 1,000 payments: {len(payload):,} bytes of JSON ({packed:,} by gzip)")


def make_bundles(folder: Path) -> tuple[dict[str, Path], Path]:
    """Both bundles of the example, signed with a key made here, and the public key."""
    from wherry.build import build
    from wherry.keys import generate, load_signer, public_path
    from wherry.project import load_project

    train_example()
    key = folder / "bench.key"
    generate(key)
    found = {}
    for name in ("project.toml", "mlp.toml"):
        project = load_project(EXAMPLE / name)
        out = folder / f"{project.name}-{project.version}.wherry"
        found[name] = build(project, out=out, signers=[load_signer(key)]).path
    return found, public_path(key)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venvs", type=Path, help="keep the environments here, and use them again")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)
    print_machine("numpy", "onnxruntime", "paho-mqtt")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundles, public = make_bundles(folder)
        print("bytes")
        for path in bundles.values():
            print_wire(path)
        venvs = {name: make_venv(x, arguments.venvs or folder) for name, x in EXTRAS.items()}
        print("installed, without pip and setuptools")
        for name, venv in venvs.items():
            print_installed(name, venv)
        print("memory, in the environment of [agent]")
        with bundles["project.toml"].open("rb") as stream:
            model = folder / "model.onnx"
            model.write_bytes(open_bundle(stream).parts().model)
        print_memory(venvs["agent"], bundles["project.toml"], public, model)


if __name__ == "__main__":
    main()
