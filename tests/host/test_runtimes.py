"""Golden vectors under every version that a bundle claims, with interpreters that really run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from support_build import Built, wherry, write_project

from wherry.build import build
from wherry.bundle_view import look
from wherry.cli import doctor
from wherry.pack import pack
from wherry.project import load_project
from wherry.runtimes import INSTALL, RUNTIMES, Runtime, claimed, install, run_everywhere
from wherry_contract.bundle import Parts
from wherry_contract.errors import SetupError
from wherry_contract.manifest import RuntimeNeeds
from wherry_convert.environments import FOLDER_VARIABLE, MARK

ALL = '[gates]\nruntimes = "all"\n'
HERE = version("onnxruntime")
OTHERS = [item for item in RUNTIMES if item.name == "onnxruntime" and item.version != HERE]


def needs(kind: str, wanted: str, **also: str) -> RuntimeNeeds:
    """What a manifest says of its runtime."""
    names = {name.replace("_", "-"): value for name, value in also.items()}
    return RuntimeNeeds(kind, wanted, 8, {"": 18}, ("Add",), also=names)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for environments."""
    folder = tmp_path / "environments"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


def stand_in(item: Runtime, script: str) -> None:
    """An environment whose interpreter is a script of the shell."""
    python = item.folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    (item.folder / MARK).touch()


def all_here() -> None:
    """For every other version an environment that is this one."""
    for item in OTHERS:
        stand_in(item, f'exec "{sys.executable}" "$@"')


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param(needs("onnxruntime", ">=1.27,<1.29"), ["1.27.0", "1.28.0"], id="ours"),
        pytest.param(needs("onnxruntime", "==1.27.0"), ["1.27.0"], id="one"),
        pytest.param(needs("tflite", ">=2.14,<2.15"), ["2.14.0"], id="tflite-runtime alone"),
        pytest.param(
            needs("tflite", ">=2.14,<2.15", ai_edge_litert=">=2.3,<2.4"),
            ["2.14.0", "2.3.0"],
            id="both interpreters",
        ),
    ],
)
def test_every_released_version_in_the_ranges_is_claimed(
    wanted: RuntimeNeeds, found: list[str]
) -> None:
    assert [item.version for item in claimed(wanted)] == found


def test_a_range_without_a_known_version_is_refused() -> None:
    with pytest.raises(SetupError, match=r"onnxruntime >=1\.9,<1\.10") as caught:
        claimed(needs("onnxruntime", ">=1.9,<1.10"))
    assert caught.value.code == "H06"


def test_no_version_reports_home_and_all_are_pinned() -> None:
    for item in RUNTIMES:
        assert item.name != "onnxruntime" or tuple(map(int, item.version.split("."))) < (1, 29)
        assert all("==" in pin for pin in item.needs)


def test_doctor_offers_it_by_its_name() -> None:
    assert doctor.RUNTIMES == INSTALL


@pytest.mark.usefixtures("home")
def test_a_missing_environment_is_said_with_the_one_command(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "no.wherry"
    done = wherry(capsys, "build", write_project(shop, more=ALL), "--out", out, "--unsigned")
    assert done.code == 3
    assert "H06" in done.err
    assert "wherry doctor --install runtimes" in done.err
    assert all(str(item) in done.err for item in OTHERS)
    assert "comparing decisions" not in done.err
    assert not out.exists()


@pytest.mark.usefixtures("home")
def test_a_build_names_every_version_it_ran_under(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_here()
    out, page = tmp_path / "a.wherry", tmp_path / "a.html"
    project = write_project(shop, more=ALL)
    done = wherry(capsys, "build", project, "--out", out, "--report", page, "--unsigned", "--json")
    assert done.code == 0, done.err
    runs = json.loads(done.out)["runtimes"]
    assert [run["version"] for run in runs] == ["1.27.0", "1.28.0"]
    assert all(run["failure"] == "" and run["largest_gap"] <= 1e-6 for run in runs)
    assert page.read_text().count("agrees") == 2
    said = look(out).parts.manifest.provenance["measured"]["runtimes"]
    assert said == ["onnxruntime 1.27.0", "onnxruntime 1.28.0"]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("kill -SEGV $$", "P02 the model crashed the probe: signal 11", id="crash"),
        pytest.param("echo '[]'", "P02 the model crashed the probe: no answer", id="nonsense"),
        pytest.param("echo no module >&2; exit 1", "no answer no module", id="nothing in it"),
        pytest.param(
            """echo '{"error": {"code": "P04", "detail": "IR 13"}}'""",
            "P04 the runtime cannot load the model: IR 13",
            id="too old",
        ),
    ],
)
def test_what_a_version_does_wrong_is_said(built: Built, script: str, words: str) -> None:
    stand_in(OTHERS[0], script)
    (run,) = run_everywhere(look(built.bundle).parts, OTHERS[:1], lambda _words: None)
    assert words in run.failure


@pytest.mark.usefixtures("home")
def test_a_version_that_fails_packs_nothing(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(OTHERS[0], "kill -SEGV $$")
    out, page = tmp_path / "no.wherry", tmp_path / "no.html"
    project = write_project(shop, more=ALL)
    done = wherry(capsys, "build", project, "--out", out, "--report", page, "--unsigned", "--json")
    assert done.code == 1
    assert "Q05" in done.err
    answer = json.loads(done.out)
    assert answer["bundle"] is None
    failed = {run["version"]: run["failure"] for run in answer["runtimes"]}
    assert failed[OTHERS[0].version].startswith("P02")
    assert failed[HERE] == ""
    assert not out.exists()
    assert "The gate says no" in page.read_text()


@pytest.mark.usefixtures("home")
def test_a_bundle_that_scores_otherwise_fails_the_check(
    built: Built, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_here()
    parts = look(built.bundle).parts
    scores = list(parts.golden.scores)
    scores[3] += 1e-4
    path = tmp_path / "bent.wherry"
    pack(replace(parts, golden=replace(parts.golden, scores=tuple(scores))), path)
    project = write_project(shop, more=ALL)
    assert wherry(capsys, "check", project, "--bundle", built.bundle).code == 0
    done = wherry(capsys, "check", project, "--bundle", path)
    assert done.code == 1
    assert "Q05" in done.err
    assert done.out.count("P01 golden vectors disagree") == 2


def test_the_probe_sees_one_runtime_and_not_ours(
    built: Built, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the path here must not reach into an environment."""
    trap = home / "trap"
    trap.mkdir(parents=True)
    (trap / "onnxruntime.py").write_text("raise SystemExit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(trap))
    here = [item for item in RUNTIMES if item.version == HERE]
    (run,) = run_everywhere(look(built.bundle).parts, here, lambda _words: None)
    assert run.failure == ""


@pytest.mark.usefixtures("home")
def test_a_version_without_a_wheel_is_left_out_and_said() -> None:
    old = Runtime("tflite-runtime", "2.14.0", ("numpy==1.26.4",), "tflite_runtime", 110, "3.9")
    said: list[str] = []
    assert install(said.append, [old]) == []
    assert said == ["left out: tflite-runtime 2.14.0 has no wheel for this Python, at most 3.9"]


@pytest.fixture(scope="module")
def lite(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The same trees as TFLite."""
    pytest.importorskip("tflite")
    pytest.importorskip("ai_edge_litert")
    project = write_project(shop, more='[target]\nruntime = "tflite"\n')
    path = tmp_path_factory.mktemp("lite") / "lite.wherry"
    build(load_project(project), out=path)
    return look(path).parts


@pytest.mark.slow
@pytest.mark.parametrize("item", RUNTIMES, ids=str)
def test_the_real_version(item: Runtime, built: Built, request: pytest.FixtureRequest) -> None:
    """The environments of `wherry doctor --install runtimes`, where they have been made."""
    if not (item.folder / MARK).exists():
        pytest.skip(f"run: wherry doctor --install {INSTALL}")
    is_onnx = item.name == "onnxruntime"
    parts = look(built.bundle).parts if is_onnx else request.getfixturevalue("lite")
    assert item in claimed(parts.manifest.runtime)
    (run,) = run_everywhere(parts, [item], lambda _words: None)
    assert run.failure == ""
    assert run.largest_gap is not None
    assert run.largest_gap <= 1e-6
