"""Bundles on boards: each verdict on a real cause, and the demo's bundles through their whole lives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from support import ROOT
from support_build import wherry, write_project

from wherry.boards import rehearsal
from wherry.boards.contacts import contacts, traced, tracer
from wherry.boards.emulator import run_python
from wherry.boards.overlay import Pin, overlay
from wherry.boards.recipe import recipe_of
from wherry.boards.rehearsal import ALONE, COUNTED, ENROLLED, ROOM, SCORED, UPDATED, Rehearsal, Step
from wherry.boards.resident import Image, read_resident
from wherry.boards.root import create
from wherry.boards.verify import (
    CLOSE,
    COUNTS,
    CRASHED,
    EXACT,
    GOOD,
    HOME,
    ILLEGAL,
    MEMORY,
    NO_WHEEL,
    OPERATOR,
    REFUSED,
    SLOW,
    UNWATCHED,
    WORKS,
    WRONG,
    judge,
    judge_life,
)
from wherry.bundle_view import unpack
from wherry.profiles import FOLDER, load_board
from wherry_contract.bundle import Parts, assemble
from wherry_convert.environments import FOLDER_VARIABLE

PI, TERMINAL = "pi3", "pos-armv7"
QUICK, PATIENT = ["--quick"], ["--patience", "20m"]
BUNDLE = ROOT / "contract" / "vectors" / "fraud-mini.wherry"
FLOAT_SUMS = 5e-7  # by which sums of float32 differ that are taken in another order
TOOLS = ("qemu-aarch64", "qemu-arm", "apt-get", "dpkg-deb")
needs_qemu = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason="needs QEMU's user mode: apt install qemu-user"
)


# --- what is made of what was seen ----------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "output", "verdict"),
    [
        pytest.param(0, '{"largest_gap": 0.0}', EXACT, id="every bit"),
        pytest.param(0, '{"largest_gap": 4e-7}', CLOSE, id="near enough"),
        pytest.param(0, '{"error": {"code": "P01", "detail": ""}}', WRONG, id="other scores"),
        pytest.param(0, '{"error": {"code": "P04", "detail": ""}}', OPERATOR, id="does not load"),
        pytest.param(0, '{"error": {"code": "P05", "detail": ""}}', MEMORY, id="memory"),
        pytest.param(0, '{"error": {"code": "M06", "detail": ""}}', REFUSED, id="another code"),
        pytest.param(-4, "", ILLEGAL, id="SIGILL"),
        pytest.param(-11, "", CRASHED, id="SIGSEGV"),
        pytest.param(0, "no JSON", CRASHED, id="says something else"),
        pytest.param(1, "", CRASHED, id="says nothing"),
    ],
)
def test_each_end_of_a_probe_has_its_verdict(returned: int, output: str, verdict: str) -> None:
    found = judge("onnxruntime 1.27.0", returned, output.encode(), b"")
    assert found.verdict == verdict
    assert bool(found.cure) == (verdict not in GOOD)


def life(*steps: Step, slow: bool = False) -> Rehearsal:
    return Rehearsal("onnxruntime 1.27.0", steps, 60.0, 20.0, slow)


def failed(name: str, code: str = "") -> Step:
    return Step(name, well=False, seen="", code=code)


@pytest.mark.parametrize(
    ("lived", "verdict"),
    [
        pytest.param(life(Step(ENROLLED, well=True, seen="")), WORKS, id="all is well"),
        pytest.param(life(slow=True), SLOW, id="its time was up"),
        pytest.param(life(failed(ENROLLED)), REFUSED, id="does not enrol"),
        pytest.param(life(failed(UPDATED, "P01")), WRONG, id="its own probe refuses it"),
        pytest.param(life(failed(UPDATED, "P04")), OPERATOR, id="does not load there"),
        pytest.param(life(failed(UPDATED), slow=True), REFUSED, id="fails, and then nothing more"),
        pytest.param(life(failed(SCORED)), WRONG, id="scores otherwise over HTTP"),
        pytest.param(life(failed(COUNTED)), COUNTS, id="windows do not add up"),
        pytest.param(life(failed(ALONE)), HOME, id="speaks to others"),
        pytest.param(life(failed(ROOM, "P05")), MEMORY, id="takes the system's memory"),
        pytest.param(life(rehearsal.judge_contacts(None, set())), UNWATCHED, id="no strace"),
        pytest.param(
            life(rehearsal.judge_contacts(None, set()), failed(ROOM)), MEMORY, id="and fails"
        ),
    ],
)
def test_each_end_of_a_life_has_its_verdict(lived: Rehearsal, verdict: str) -> None:
    found = judge_life(lived)
    assert found.verdict == verdict
    assert found.good == lived.good
    assert bool(found.cure) == (found.verdict != WORKS)


def event(code: str, **more: str) -> dict[str, Any]:
    plain = {"code": code, "rollout": "r1", "outcome": "", "severity": "info", "text": ""}
    return plain | more


STATES = [
    f"update.{state}"
    for state in (
        "admit",
        "fetch",
        "verify",
        "stage",
        "probe",
        "switch",
        "soak",
        "commit",
        "report",
    )
]


def test_an_update_is_whole_only_if_every_state_was_told_of() -> None:
    told = [*map(event, STATES), event("update.committed", outcome="committed")]
    assert rehearsal.judge_update(told, "r1").well
    assert not rehearsal.judge_update(told, "r2").well
    for place in range(len(told)):
        assert not rehearsal.judge_update([*told[:place], *told[place + 1 :]], "r1").well
    refused = event("P01", outcome="refused", severity="error", text="other scores")
    found = rehearsal.judge_update([event("update.admit"), refused], "r1")
    assert (found.well, found.code, "other scores" in found.seen) == (False, "P01", True)


def parts_of(path: Path) -> Parts:
    return unpack(path)[0]


def answers(parts: Parts, digest: str, **changes: Any) -> list[dict[str, Any]]:
    """What an agent answers that gives the golden scores."""
    asked, threshold = rehearsal.payments(parts.golden), parts.manifest.output.threshold
    return [
        {
            "parameters": {"bundle": digest, "source": "model"},
            "outputs": [
                {"name": "score", "data": [score]},
                {"name": "flagged", "data": [score >= threshold]},
            ],
        }
        | changes
        for score in asked.scores
    ]


def test_an_answer_that_is_another_is_seen() -> None:
    parts, digest = parts_of(BUNDLE), "sha256:1"
    asked = rehearsal.payments(parts.golden)
    assert len(asked.rows) == rehearsal.ROWS
    good = answers(parts, digest)
    assert rehearsal.judge_answers(asked, parts, digest, good).well
    by_rule = answers(parts, digest, parameters={"bundle": digest, "source": "rule"})
    assert not rehearsal.judge_answers(asked, parts, digest, [*good[:-1], by_rule[-1]]).well
    score, flagged = good[7]["outputs"]
    moved = {**good[7], "outputs": [{**score, "data": [score["data"][0] + 0.01]}, flagged]}
    found = rehearsal.judge_answers(asked, parts, digest, [*good[:7], moved, *good[8:]])
    assert (found.well, found.code) == (False, "P01")
    turned = {**good[7], "outputs": [score, {**flagged, "data": [not flagged["data"][0]]}]}
    found = rehearsal.judge_answers(asked, parts, digest, [*good[:7], turned, *good[8:]])
    assert (found.well, "1 decisions differ" in found.seen) == (False, True)


def test_memory_that_the_system_needs_is_not_the_agents() -> None:
    assert rehearsal.judge_memory(64.0, 128).well
    assert not rehearsal.judge_memory(64.1, 128).well


def test_resident_memory_is_that_of_the_boards_region_alone() -> None:
    program = Path("/b/python3")
    lines = [
        "00500000-00900000 r-xp 00000000 fe:00 7   /b/python3", "Rss:   2048 kB",
        "7f0000000000-7f0000100000 rw-p 00000000 00:00 0", "Rss:   4096 kB",
        "100400000-100500000 rw-p 00000000 00:00 0", "Rss:   1024 kB",
    ]  # fmt: skip
    assert read_resident(lines, program, Image(64, 0)) == 3.0
    assert read_resident(lines, program, Image(32, 0x10000)) == 3.0
    assert read_resident(lines[2:], program, Image(32, 0x10000)) == 0.0


LOG = """11 connect(4, {sa_family=AF_UNIX, sun_path="/run/x"}, 110) = 0
11 connect(5, {sa_family=AF_INET, sin_port=htons(8883), sin_addr=inet_addr("127.0.0.1")}, 16 <unfinished ...>
11 bind(6, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
11 <... getsockname resumed>{sa_family=AF_INET, sin_port=htons(4711), sin_addr=inet_addr("127.0.0.1")}, [16]) = 0
11 connect(7, {sa_family=AF_INET, sin_port=htons(4711), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
12 sendto(8, ""..., 5, 0, {sa_family=AF_INET6, sin6_port=htons(53), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "fd00::1", &sin6_addr), sin6_scope_id=0}, 28) = 5
"""


def test_whom_a_program_spoke_to_is_read_from_the_kernels_word() -> None:
    found = contacts(LOG)
    assert found == {("127.0.0.1", 8883), ("fd00::1", 53)}
    assert not rehearsal.judge_contacts(found, {("127.0.0.1", 8883)}).well
    assert rehearsal.judge_contacts({("127.0.0.1", 8883)}, {("127.0.0.1", 8883)}).well


# --- each verdict on a real cause -----------------------------------------------------------


@needs_qemu
def test_a_bundle_that_fits_is_probed_under_every_runtime_of_the_board(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = wherry(capsys, "verify", "--board", PI, "--quick", BUNDLE, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [item["runtime"] for item in found["verdicts"]] == [
        "onnxruntime 1.27.0", "onnxruntime 1.28.0",
    ]  # fmt: skip
    assert {item["verdict"] for item in found["verdicts"]} <= {EXACT, CLOSE}
    assert found["rehearsal"] is None


@needs_qemu
@pytest.mark.slow
def test_a_runtime_made_for_a_newer_cpu_is_an_illegal_instruction_with_a_cure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """microsoft/onnxruntime#23957: it works on every PC that emulates the newest CPU."""
    done = wherry(capsys, "verify", "--board", PI, "--runtime", "onnxruntime==1.21.0", BUNDLE)
    assert done.code == 1
    assert ILLEGAL in done.out
    assert "put another version on the board" in done.out


@needs_qemu
def test_a_bundle_for_a_runtime_that_has_no_wheel_there_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = wherry(capsys, "verify", "--board", TERMINAL, BUNDLE)
    assert done.code == 1
    assert NO_WHEEL in done.out
    asked = ["--runtime", "onnxruntime==1.27.0"]
    done = wherry(capsys, "verify", "--board", TERMINAL, *asked, BUNDLE)
    assert done.code == 1
    assert NO_WHEEL in done.out
    assert "the package index has no wheel of onnxruntime==1.27.0 for armv7l" in done.out


@needs_qemu
def test_a_model_that_the_runtime_does_not_know_is_an_unsupported_operator(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its manifest says less than its graph asks for, as one from a foreign tool may."""
    parts = parts_of(BUNDLE)
    graph = onnx.load_from_string(parts.model)
    graph.opset_import[0].version = 99
    newer = replace(parts, model=graph.SerializeToString(deterministic=True))
    path = tmp_path / "newer.wherry"
    path.write_bytes(assemble(newer).to_tar())
    done = wherry(capsys, "verify", "--board", PI, "--runtime", "onnxruntime==1.27.0", path)
    assert done.code == 1
    assert OPERATOR in done.out


@needs_qemu
def test_a_model_that_does_not_do_what_its_golden_vectors_say_gives_wrong_numbers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parts = parts_of(BUNDLE)
    others = replace(parts.golden, scores=tuple(score / 2 for score in parts.golden.scores))
    path = tmp_path / "bad.wherry"
    path.write_bytes(assemble(replace(parts, golden=others)).to_tar())
    done = wherry(capsys, "verify", "--board", PI, "--runtime", "onnxruntime==1.27.0", path)
    assert done.code == 1
    assert WRONG in done.out


@needs_qemu
def test_what_does_not_answer_in_time_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--runtime", "onnxruntime==1.27.0", "--patience", "1s"]
    done = wherry(capsys, "verify", "--board", PI, *asked, BUNDLE)
    assert done.code == 1
    assert SLOW in done.out


@needs_qemu
@pytest.mark.slow
def test_a_runtimes_telemetry_is_seen_and_the_agents_setting_stops_it(tmp_path: Path) -> None:
    """microsoft/onnxruntime#27379: wheels from 1.29 on send it unless they are told not to."""
    strace = tracer()
    assert strace, "strace is missing, or may not trace here"
    recipe = recipe_of(load_board(PI, FOLDER))
    place = create(recipe, print).place
    runtime = overlay(Pin("onnxruntime", "1.30.0"), recipe, print)

    log = tmp_path / "log"

    def speaks_within(seconds: float, settings: dict[str, str]) -> bool:
        log.unlink(missing_ok=True)
        command = [str(place.python), "-c", "import onnxruntime, time; time.sleep(200)"]
        child = subprocess.Popen(
            traced(strace, command, log), env=settings, stderr=subprocess.DEVNULL
        )
        begun = time.monotonic()
        try:
            while time.monotonic() < begun + seconds:
                if log.exists() and contacts(log.read_text()):
                    return True
                time.sleep(0.2)
            return False
        finally:
            child.kill()
            child.wait()

    stopped = place.environment([runtime])
    talkative = {name: value for name, value in stopped.items() if name != "ORT_DISABLE_TELEMETRY"}
    begun = time.monotonic()
    assert speaks_within(120, talkative)
    assert not speaks_within(1.5 * (time.monotonic() - begun), stopped)


@needs_qemu
@pytest.mark.parametrize("name", [PI, TERMINAL])
def test_tflite_leaves_the_arithmetic_as_it_was(name: str) -> None:
    """Loading tflite-runtime 2.14 turns denormal numbers off on ARM; windows counted 0 as too low."""
    board = load_board(name, FOLDER)
    recipe = recipe_of(board)
    place, pin = create(recipe, print).place, Pin("tflite-runtime", "2.14.0")
    code = "print(5e-324 > 0); import {}; print(5e-324 > 0)"
    ours = [overlay(pin, recipe, print), ROOT / "device_agent", ROOT / "contract"]
    found = [
        run_python(place, ["-c", code.format(module)], overlays=ours).stdout.split()
        for module in ("tflite_runtime.interpreter", "wherry_agent.serving.runtime_tflite")
    ]
    assert found == [[b"True", b"False"], [b"True", b"True"]]


# --- whole lives ----------------------------------------------------------------------------


@needs_qemu
@pytest.mark.slow
def test_a_build_is_run_on_the_boards_that_it_names_and_one_that_must_not_have_it_stops_it(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A board of one's own: all is well there, but for its memory."""
    text = (FOLDER / f"{PI}.toml").read_text().replace("memory_mib = 512", "memory_mib = 128")
    (shop / "gate.toml").write_text(text.replace('"1.27.0", "1.28.0"', '"1.27.0"'))
    create(recipe_of(load_board("gate.toml", shop)), print)
    project = write_project(shop, more='[target]\nboards = ["gate.toml"]\n')
    out, page = tmp_path / "no.wherry", tmp_path / "page.html"
    asked = ["--out", out, "--unsigned", "--json", "--report", page]
    done = wherry(capsys, "build", project, *asked)
    assert done.code == 1, done.err
    assert "Q06" in done.err
    assert not out.exists()
    assert MEMORY in page.read_text()
    (board,) = json.loads(done.out)["boards"]
    steps = {step["name"]: step["well"] for step in board["run"]["rehearsal"]["steps"]}
    assert steps == {name: name != ROOM for name in rehearsal.NAMES}


def test_a_board_whose_environment_is_not_here_is_told_of_or_stops_the_build(
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    named = '[target]\nboards = ["pi4", "pc-x86-64"]\n'
    asked = ["--out", tmp_path / "a.wherry", "--unsigned"]
    done = wherry(capsys, "build", write_project(shop, more=named), *asked)
    assert done.code == 0, done.err
    assert "not run; do: wherry board create pi4" in done.out
    assert "its profile has no [emulation]" in done.out
    strict = named + '[gates]\nboards = "required"\n'
    done = wherry(capsys, "build", write_project(shop, more=strict), *asked)
    assert done.code == 3
    assert "run: wherry board create pi4" in done.err


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's bundles: boosted trees and a net in int8, for onnxruntime and for TFLite."""
    folder = tmp_path_factory.mktemp("demo") / "example"
    shutil.copytree(ROOT / "examples" / "fraud_terminals", folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, folder / "train.py"], env=environment, check=True)
    made = {}
    for name, project in (("trees", "project"), ("net", "mlp")):
        text = (folder / f"{project}.toml").read_text()
        for runtime in ("onnxruntime", "tflite"):
            made[f"{name} {runtime}"] = folder / f"{name}-{runtime}.wherry"
            file = folder / f"{name}-{runtime}.toml"
            file.write_text(text + f'\n[target]\nruntime = "{runtime}"\n')
            command = ["build", str(file), "--unsigned", "--out", str(made[f"{name} {runtime}"])]
            subprocess.run([sys.executable, "-m", "wherry", *command], env=environment, check=True)
    return made


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bundle", "more"),
    [
        (TERMINAL, "trees tflite", PATIENT),
        (TERMINAL, "net tflite", QUICK),
        (PI, "trees onnxruntime", PATIENT),
        (PI, "trees tflite", QUICK),
    ],
)
def test_the_demos_bundles_do_on_boards_what_they_did_here(
    demo: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    bundle: str,
    more: list[str],
) -> None:
    done = wherry(capsys, "verify", "--board", name, demo[bundle], "--json", *more)
    found = json.loads(done.out)
    assert done.code == 0, found
    probed = {item["verdict"] for item in found["verdicts"]} - {WORKS}
    # sums of float32 in TFLite, and the float layers that the search for an int8 net keeps
    assert probed <= ({EXACT} if bundle.endswith("onnxruntime") else {EXACT, CLOSE})
    assert all((item["largest_gap"] or 0.0) < FLOAT_SUMS for item in found["verdicts"])
    if more == PATIENT:
        steps = {step["name"]: step["answer"] for step in found["rehearsal"]["steps"]}
        assert steps == dict.fromkeys(rehearsal.NAMES, "yes")
        assert not found["warnings"]


@pytest.fixture
def no_strace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program that is found here, but for strace."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for place in os.environ["PATH"].split(":"):
        for program in Path(place).glob("*"):
            link = folder / program.name
            if program.name != "strace" and not link.is_symlink():
                link.symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))


@needs_qemu
@pytest.mark.slow
@pytest.mark.usefixtures("no_strace")
def test_where_nobody_can_watch_the_verdict_warns(
    demo: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    done = wherry(capsys, "verify", "--board", PI, demo["net onnxruntime"], "--json", *PATIENT)
    found = json.loads(done.out)
    assert done.code == 0, found
    assert {item["verdict"] for item in found["verdicts"]} == {EXACT, UNWATCHED}
    assert ["strace" in words for words in found["warnings"]] == [True]
    steps = {step["name"]: step["answer"] for step in found["rehearsal"]["steps"]}
    assert steps == dict.fromkeys(rehearsal.NAMES, "yes") | {ALONE: "could not"}
