"""Boards' environments: what they are made of, that they work, and that half of one is none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_build import wherry

from wherry.boards import recipe as recipes
from wherry.boards.count import read_counts
from wherry.boards.doctor import examine
from wherry.boards.emulator import Place, run_python
from wherry.boards.overlay import overlay, pins_of
from wherry.boards.pip_words import pip_words
from wherry.boards.recipe import Recipe, recipe_of
from wherry.boards.root import create, place_on_disk
from wherry.profiles import FOLDER, Board, known_boards, load_board
from wherry_contract.errors import SetupError
from wherry_convert.environments import FOLDER_VARIABLE

PI, TERMINAL = "pi3", "pos-armv7"
EMULATED = [name for name in known_boards() if load_board(name, FOLDER).emulation]
TOOLS = ("qemu-aarch64", "qemu-arm", "apt-get", "dpkg-deb")
needs_qemu = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason="needs QEMU's user mode: apt install qemu-user"
)


def board(name: str) -> Board:
    return load_board(name, FOLDER)


# --- what an environment is made of --------------------------------------------------------


def changed(name: str, **emulation: object) -> Recipe:
    found = board(name)
    assert found.emulation
    return recipe_of(replace(found, emulation=replace(found.emulation, **emulation)))


def with_cpu(cpu: str) -> Recipe:
    return recipe_of(replace(board(PI), cpu=cpu))


def test_whatever_an_environment_is_made_from_names_it_and_a_cpu_does_not() -> None:
    same = recipe_of(board(PI))
    assert changed(PI, packages=("python3",)).key != same.key
    assert changed(PI, suite="trixie").key != same.key
    other_cpu = with_cpu("cortex-a72")
    assert other_cpu.key == same.key
    assert other_cpu.own_key != same.own_key


@pytest.mark.parametrize("name", EMULATED)
def test_every_emulated_board_pins_each_wheel_by_its_digest(name: str) -> None:
    lines = [line for line in recipe_of(board(name)).lock.splitlines() if not line.startswith("#")]
    assert lines
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_pip_is_asked_for_every_tag_since_it_does_not_go_down_to_older_ones() -> None:
    arguments = recipes.pip_arguments(recipe_of(board(TERMINAL)), Path("site"), Path("lock"))
    asked = [arguments[place + 1] for place, word in enumerate(arguments) if word == "--platform"]
    assert asked == [
        "manylinux_2_34_armv7l", "manylinux_2_31_armv7l", "manylinux2014_armv7l",
        "manylinux_2_17_armv7l",
    ]  # fmt: skip
    assert "--require-hashes" in arguments


def test_apt_is_told_its_own_folders_and_whose_signature_counts() -> None:
    recipe = recipe_of(board(PI))
    settings = recipes.apt_settings(Path("/own"), recipe.architecture)
    assert 'Dir::State "/own/state";' in settings
    source = recipes.apt_sources(recipe.architecture, "bookworm", recipe.mirror)
    assert "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in source


NONE = """ERROR: Could not find a version that satisfies x==9 (from versions: 1.15.0, 1.15.1)
ERROR: No matching distribution found for x==9"""
PIP = {
    "no wheel": (NONE, "the package index has no wheel of x==9 for armv7l"),
    "no network": (
        f"WARNING: Retrying (Retry(total=4)) after connection broken\n{NONE}",
        "the package index cannot be reached",
    ),
    "a forged wheel": (
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you\n"
            "    numpy==1.26.4 from https://files.example/numpy.whl:\n        Expected sha256 00"
        ),
        "numpy==1.26.4: its digest is not the one that the list names",
    ),
    "a full disk": (
        "ERROR: Could not install: [Errno 28] No space left on device",
        "there is no room left on the disk",
    ),
    "something else": ("WARNING: a\nERROR: it is\nso", "pip: it is"),
    "no word": ("", "pip: it failed without a word"),
}


@pytest.mark.parametrize(("said", "told"), PIP.values(), ids=PIP.keys())
def test_what_pip_said_is_told_in_a_few_words(said: str, told: str) -> None:
    assert pip_words(said, "armv7l") == told


def test_a_board_that_is_not_emulated_is_refused_with_those_that_are() -> None:
    with pytest.raises(SetupError, match="H14") as raised:
        recipe_of(board("pc-x86-64"))
    assert PI in raised.value.cure


# --- real environments ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def places() -> dict[str, Place]:
    """The environments, made once and kept under the user's cache between runs."""
    return {name: create(recipe_of(board(name)), print).place for name in (PI, TERMINAL)}


PROBE = """
import json, platform, subprocess, sys
try:
    missing = subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout.strip()
except FileNotFoundError:
    missing = "not found"
print(json.dumps({
    "machine": platform.machine(),
    "bits": sys.maxsize.bit_length() + 1,
    "cpu": [line for line in open("/proc/cpuinfo") if "part" in line][0].split()[-1],
    "child": subprocess.run([sys.executable, "-c", "import platform; print(platform.machine())"],
                            capture_output=True, text=True).stdout.strip(),
    "openssl": subprocess.run(["openssl", "version"], capture_output=True, text=True).stdout[:7],
    "uname": missing,
}))
"""


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "machine", "bits", "part"),
    [(PI, "aarch64", 64, "0xd03"), (TERMINAL, "armv7l", 32, "0xc07")],
)
def test_a_board_runs_its_own_python_its_own_programs_and_nothing_of_this_machine(
    places: dict[str, Place], name: str, machine: str, bits: int, part: str
) -> None:
    done = run_python(places[name], ["-I", "-c", PROBE])
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == {
        "machine": machine,
        "bits": bits,
        "cpu": part,
        "child": machine,
        "openssl": "OpenSSL",
        "uname": "not found",  # it is here, and the board does not have it
    }


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("name", [PI, TERMINAL])
def test_the_agent_tests_itself_on_a_board(places: dict[str, Place], name: str) -> None:
    root = Path(__file__).parents[2]
    runtime = overlay(pins_of(board(name))[0], recipe_of(board(name)), print)
    ours = [runtime, root / "device_agent", root / "contract"]
    done = run_python(places[name], ["-m", "wherry_agent", "self-test"], overlays=ours)
    said = done.stdout.decode()
    assert done.returncode == 0, said + done.stderr.decode()
    assert "gives the right scores" in said


@needs_qemu
def test_an_environment_that_is_there_is_not_made_again(places: dict[str, Place]) -> None:
    made = create(recipe_of(board(PI)), print)
    assert not made.fresh
    assert made.place == places[PI]


@needs_qemu
@pytest.mark.parametrize("cpu", ["cortex-a55", "max"])
def test_another_cpu_of_the_family_is_refused_with_the_list(
    places: dict[str, Place], cpu: str
) -> None:
    with pytest.raises(SetupError, match=f"does not know the CPU {cpu}") as raised:
        create(with_cpu(cpu), print)
    assert "cortex-a53" in raised.value.cure
    assert "max" not in raised.value.cure


def test_a_list_of_wheels_beside_a_profile_of_ones_own_is_its_own(tmp_path: Path) -> None:
    text = (FOLDER / f"{PI}.toml").read_text().replace("aarch64-cp311", "till")
    (tmp_path / "till.toml").write_text(text)
    with pytest.raises(SetupError, match="H02"):
        recipe_of(load_board("till.toml", tmp_path))
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "till.txt").write_text("numpy==1.26.4 --hash=sha256:00")
    assert recipe_of(load_board("till.toml", tmp_path)).lock.startswith("numpy==")


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("words", ["fetching ca-certificates", "unpacking", "compiling"])
def test_killed_while_making_leaves_nothing_in_use_and_the_next_try_succeeds(
    tmp_path: Path, words: str
) -> None:
    settings = dict(os.environ) | {FOLDER_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-m", "wherry", "board", "create", TERMINAL]
    with subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(words in line for line in process.stderr)  # up to that step
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    names = [path.name for path in (tmp_path / "boards").iterdir()]
    assert all(name.endswith(".new") or name == "lock" for name in names)
    if words == "unpacking":  # once is enough: it fetches all of it again
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not list((tmp_path / "boards").glob("*.new"))


def test_doctor_repeats_a_board_as_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    path = tmp_path / "my.toml"
    shutil.copy(FOLDER / "pi3.toml", path)
    last = examine(load_board(str(path), Path()), str(path))[-1]
    assert last.cure == f"run: wherry board create {path}"


@needs_qemu
def test_doctor_tells_a_cpu_that_the_emulator_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    last = examine(replace(board(PI), cpu="cortex-a55"))[-1]
    assert last.found == "qemu-aarch64 does not know the CPU cortex-a55"
    assert "cortex-a53" in last.cure
    assert not last.fine


@needs_qemu
def test_doctor_tells_an_environment_that_works_from_one_that_does_not(
    places: dict[str, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examine(board(PI))[-1].fine
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    missing = examine(board(PI))[-1]
    assert not missing.fine
    assert missing.cure == f"run: wherry board create {PI}"
    place = place_on_disk(board(PI))
    assert place
    shutil.copytree(places[PI].folder, place.folder, symlinks=True)
    shutil.copytree(places[PI].base, place.base, symlinks=True)
    (place.programs / "python3").write_text("#!/bin/sh\nexit 3\n")
    assert not examine(board(PI))[-1].fine


def test_the_commands_list_and_show_what_profiles_say(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(wherry(capsys, "board", "list", "--json").out)["boards"]
    assert {item["name"] for item in listed} == set(known_boards())
    shown = wherry(capsys, "board", "show", PI).out
    assert "cortex-a53" in shown
    assert "numpy==1.26.4" in shown
    unknown = wherry(capsys, "board", "show", "pi-3")
    assert unknown.code == 3
    assert "did you mean 'pi3'" in unknown.err


def test_where_qemu_is_absent_one_command_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "environments"))
    done = wherry(capsys, "board", "create", PI)
    assert done.code == 3
    assert "apt-get install --no-install-recommends qemu-user" in done.err
    assert not (tmp_path / "environments").exists()


BUNDLE = Path(__file__).parents[2] / "contract" / "vectors" / "fraud-mini.wherry"


# --- instructions --------------------------------------------------------------------------


def test_what_a_mark_costs_is_not_counted() -> None:
    marks = ["0 100", "1 130", "2 1160", "0 5000", "1 5031", "2 5062"]
    assert read_counts(marks) == [1000, 0]
    with pytest.raises(ValueError, match="out of order"):
        read_counts(["1 5", "0 6", "2 7"])


@needs_qemu
@pytest.mark.slow
def test_instructions_of_a_row_are_the_same_in_every_run(
    capsys: pytest.CaptureFixture[str], places: dict[str, Place]
) -> None:
    def counted() -> list[dict[str, Any]]:
        done = wherry(capsys, "bench", "--board", PI, "--json", BUNDLE)
        assert done.code == 0, done.err
        found: list[dict[str, Any]] = json.loads(done.out)["counts"]
        return found

    first = counted()
    assert first == counted()
    assert 1_000 < first[0]["instructions"] <= first[0]["most"]
