"""Runs in an emulated machine: installs a bundle, runs the real agent, scores, and reports.

It is started as a file by the machine's first process. What it prints is one line of JSON
after a mark, so that it is found among the kernel's own words.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MARK = "WHERRY-REPORT "
PORT = 8600
JOB = Path("/opt/wherry/job")
ROWS = 300
READY_SECONDS = 240.0


def main() -> None:
    """Do the job, and say what came of it."""
    try:
        report = run()
    except Exception as error:  # noqa: BLE001 - a report that something failed is an answer, too
        report = {"failed": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.write(f"\n{MARK}{json.dumps(report)}\n")
    sys.stdout.flush()


def run() -> dict[str, Any]:
    """Run the agent and look at its memory and at what the kernel had to read again."""
    asked = json.loads((JOB / "job.json").read_text())
    bare = _bare(asked["modules"])
    agent = [sys.executable, "-m", "wherry_agent"]
    config = ["--config", str(JOB / "agent.toml")]
    done = subprocess.run(
        [*agent, "install", *config, str(JOB / "bundle.wherry")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"install: {done.stderr.strip()[-300:]}")
    start = time.monotonic()
    with subprocess.Popen([*agent, "run", *config], stderr=subprocess.DEVNULL) as process:
        _wait(process)
        before = _read_again()
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        for place in range(ROWS):
            body = json.dumps({"rows": [asked["rows"][place % len(asked["rows"])]]})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/v2/models/{asked['model']}/infer", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"HTTP {answer.status}")
        after = _read_again()
        resident, peak = _resident(process.pid)
        process.terminate()
    return {
        "bare_mib": bare,
        "resident_mib": resident,
        "peak_mib": peak,
        "seconds": round(time.monotonic() - start, 1),
        "read_again": after - before,
        "total_mib": _total(),
    }


def _wait(process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the agent does not become ready")


def _bare(modules: list[str]) -> float:
    """Resident memory of an interpreter that has only imported what the agent cannot do without."""
    code = f"import {', '.join(modules)}; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return _field(done.stdout, "VmRSS")


def _resident(pid: int) -> tuple[float, float]:
    text = Path(f"/proc/{pid}/status").read_text()
    return _field(text, "VmRSS"), _field(text, "VmHWM")


def _field(text: str, name: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return round(int(line.split()[1]) / 1024, 1)


def _total() -> float:
    return _field(Path("/proc/meminfo").read_text(), "MemTotal")


def _read_again() -> int:
    """Pages that had been thrown out and were needed again: what thrashing is made of."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts["workingset_refault_file"])


if __name__ == "__main__":
    main()
