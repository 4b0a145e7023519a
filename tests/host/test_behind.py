"""Who is behind, by what devices report and what this host knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import wait_for
from support_fleet import Device, running_server, state, wherry

from wherry import __version__
from wherry.behind import Known, behind, known_here

KNOWN = Known("0.3.0", {("aarch64", "onnxruntime"): "1.28.0", ("armv7l", "onnxruntime"): "1.21.0"})
ROWS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "the newest of both": ({"agent": "0.3.0", "runtime_version": "1.28.0"}, ()),
    "an old agent": (
        {"agent": "0.2.9", "runtime_version": "1.28.0"},
        ("agent 0.2.9, known is 0.3.0",),
    ),
    "both old": (
        {"agent": "0.1.0", "runtime_version": "1.9.1"},
        ("agent 0.1.0, known is 0.3.0", "onnxruntime 1.9.1, known is 1.28.0"),
    ),
    "newer than the host": ({"agent": "9.0.0", "runtime_version": "2.0"}, ()),
    "the last one for its architecture": (
        {"agent": "0.3.0", "architecture": "armv7l", "runtime_version": "1.21.0"},
        (),
    ),
    "a runtime that nobody knows": (
        {"agent": "0.3.0", "runtime": "tinyrt", "runtime_version": "0.1"},
        (),
    ),
    "words for versions": ({"agent": "<b>", "runtime_version": "yes"}, ()),
}


@pytest.mark.parametrize(("says", "expected"), ROWS.values(), ids=ROWS.keys())
def test_who_is_behind(says: dict[str, str], expected: tuple[str, ...]) -> None:
    assert behind(state("till-1", **({"architecture": "aarch64"} | says)), KNOWN) == expected


def test_what_this_host_knows() -> None:
    known = known_here()
    assert known.agent == __version__
    assert known.runtimes["aarch64", "onnxruntime"] == "1.28.0"
    assert known.runtimes["armv7l", "tflite-runtime"] == "2.14.0"


def test_the_list_shows_versions_and_who_is_behind(tmp_path: Path) -> None:
    """A device that reports onnxruntime 1.27.0 on x86-64, where 1.28.0 is known."""
    with running_server(tmp_path / "fleet") as server:
        for name in ("till-1", "till-2"):
            words = ["device", "add", name, "--family", "fraud", "--label", f"site={name}"]
            wherry(server.data, *words, "--out", str(tmp_path / name))
        device = Device(tmp_path / "till-1" / "agent.toml")
        device.start()
        try:
            wait_for(lambda: server.client.get("devices/till-1")["state"], what="its report")
        finally:
            device.stop()
        lines = wherry(server.data, "device", "list").stdout.splitlines()
        assert "agent runtime" in " ".join(lines[0].split())
        assert "0.1.0" in lines[1]
        assert "onnxruntime 1.27.0" in lines[1]
        shown = wherry(server.data, "device", "list", "--behind").stdout
        assert "onnxruntime 1.27.0, known is 1.28.0" in shown
        assert "till-2" not in shown  # it never said what it runs
        found = json.loads(wherry(server.data, "device", "list", "--behind", "--json").stdout)
        assert [item["device"] for item in found["devices"]] == ["till-1"]
        report = tmp_path / "report.html"
        wherry(server.data, "report", "--out", str(report))
        assert "onnxruntime 1.27.0, known is 1.28.0" in report.read_text()
