"""What trust costs a device: the verifier's process, its memory, its time, and bytes on the wire.

    python benchmarks/verifier.py [--python PATH] [--releases N]

Admits a bundle through the real process, from a depot on loopback: the first time, when all
metadata is fetched, and again, when nothing has changed. ``--python`` names the interpreter
of another environment, such as one with `wherry[agent]` alone, where signatures are
verified in plain Python.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from common import ROOT, print_machine

TURNS: Final = 9
# getrusage would tell the memory of whoever forked it
PEAK: Final = (
    "sys.stderr.write(next(line.split()[1] for line in open('/proc/self/status')"
    " if line.startswith('VmHWM')))"
)


@contextmanager
def counting_depot(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A static server that notes the size of each body that it sends."""
    sent: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            body = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if path.is_file() else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            sent.append(len(body))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()


def admit(python: str, request: dict[str, Any]) -> tuple[float, float]:
    """One admission; milliseconds, and peak MiB of the process."""
    module = "runpy.run_module('wherry_agent.trust.tuf_trust', run_name='__main__')"
    program = f"import runpy, sys\ntry:\n    {module}\nfinally:\n    {PEAK}\n"
    asked = json.dumps(request | {"parent": os.getpid()}).encode()
    began = time.perf_counter()
    done = subprocess.run(
        [python, "-c", program], input=asked, capture_output=True, check=True, cwd="/"
    )
    took = time.perf_counter() - began
    answer = json.loads(done.stdout)
    if "payload" not in answer:
        raise SystemExit(f"not admitted: {answer}")
    return 1000 * took, int(done.stderr) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--releases", type=int, default=50, help="bundles that the family lists")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))  # the repository that tests make with tuf.api
    from support_agent import make_bundle
    from support_tuf import START, TufRepository

    print_machine("tuf", "securesystemslib")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        repository = TufRepository(folder / "depot")
        made = make_bundle("1.0.0")
        for counter in range(options.releases - 1):
            repository.release(make_bundle(f"0.{counter}.0"), counter)
        repository.release(made, options.releases)
        repository.publish()
        (folder / "root.json").write_bytes(repository.root_file())
        with counting_depot(folder / "depot") as (url, sent):
            request = {
                "task": "admit",
                "family": "fraud",
                "digest": made.digest,
                "size": len(made.layout.manifest),
                "keyid": "",
                "issued_at": START,
                "root": str(folder / "root.json"),
                "now": START + 60,
                "place": {"url": url},
                "identity": None,
            }
            for name in ("first time", "nothing changed"):
                found = []
                for turn in range(TURNS):
                    sent.clear()
                    trust = folder / (f"trust-{turn}" if name == "first time" else "trust-0")
                    found.append(admit(options.python, request | {"folder": str(trust)}))
                times, peaks = zip(*found, strict=True)
                print(
                    f"{name}: median {statistics.median(times):.0f} ms, peak {max(peaks):.1f} MiB,"
                    f" {len(sent)} requests, {sum(sent)} bytes of bodies"
                )
    idle = subprocess.run(
        [options.python, "-c", f"import sys; {PEAK}"], capture_output=True, check=True
    )
    print(f"the interpreter alone: {int(idle.stderr) / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
