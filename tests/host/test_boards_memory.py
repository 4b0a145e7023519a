"""Whole emulated machines: the archive they start from, what their consoles say, and one that boots."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest

from wherry.boards.archive import Entry, pack
from wherry.boards.guest_memory import MARK
from wherry.boards.machine import Job, boot, prepare, read_report
from wherry.boards.overlay import overlay, pins_of
from wherry.boards.recipe import recipe_of
from wherry.boards.root import create
from wherry.bundle_view import unpack
from wherry.profiles import FOLDER, load_board

BUNDLE = Path(__file__).parents[2] / "contract" / "vectors" / "fraud-mini.wherry"
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
TOOLS = ("qemu-system-aarch64", "qemu-aarch64", "mke2fs", "apt-get")
needs_machine = pytest.mark.skipif(
    not all(shutil.which(name, path=PATH) for name in TOOLS),
    reason="needs QEMU's machines: apt install qemu-system-arm",
)
GOOD = '{"read_again": 0, "resident_mib": 60, "total_mib": 200}'


def test_an_archive_has_the_form_that_the_kernel_reads() -> None:
    files = [Entry("bin"), Entry("bin/sh", b"#!", executable=True), Entry("note", b"12345")]
    data = gzip.decompress(pack(files))
    assert pack(files) == pack(files)
    found, place = {}, 0
    while True:
        head = data[place : place + 110]
        assert head[:6] == b"070701"
        mode, size, length = (int(head[at : at + 8], 16) for at in (14, 54, 94))
        name = data[place + 110 : place + 110 + length - 1].decode()
        place = (place + 110 + length + 3) & ~3
        if name == "TRAILER!!!":
            break
        found[name] = (oct(mode), data[place : place + size])
        place = (place + size + 3) & ~3
    assert found == {
        "bin": ("0o40755", b""),
        "bin/sh": ("0o100755", b"#!"),
        "note": ("0o100644", b"12345"),
    }


@pytest.mark.parametrize(
    ("console", "verdict"),
    [
        pytest.param(f"Linux\n{MARK}{GOOD}\n", "runs", id="all is well"),
        pytest.param(
            f'{MARK}{{"read_again": 9000, "resident_mib": 60}}', "thrashes", id="lives off the card"
        ),
        pytest.param(f'{MARK}{{"failed": "no"}}', "does not run: no", id="says that it failed"),
        pytest.param("x oom-kill: python", "does not run: out of memory", id="killed"),
        pytest.param("Kernel panic", "does not run: no report: Kernel panic", id="does not boot"),
    ],
)
def test_a_console_says_how_a_boot_went(console: str, verdict: str) -> None:
    assert read_report(128, console).verdict == verdict


@needs_machine
@pytest.mark.slow
def test_the_agent_installs_a_bundle_and_scores_on_an_emulated_machine(tmp_path: Path) -> None:
    board = load_board("pi3", FOLDER)
    recipe, pin = recipe_of(board), pins_of(board)[0]
    place = create(recipe, print).place
    parts, layout = unpack(BUNDLE)
    job = Job(parts, layout, pin.name, overlay(pin, recipe, print))
    machine = prepare(tmp_path, job, place, recipe, print)
    look = boot(machine, 256)
    assert look.verdict == "runs", look
    assert 20 < look.report["bare_mib"] < look.report["resident_mib"] < 200
