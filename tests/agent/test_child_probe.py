"""Children that crash, hang, babble or outlive their parent, and the probe's verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_agent import Made, make_bundle

from wherry_agent.child import ChildFailure, run_child
from wherry_agent.serving.probe import probe
from wherry_agent.store import BlobStore
from wherry_contract.errors import CODES, StoreError, TrustError, WherryError, coded_error

HEAD = "import sys, os, time, signal\nfrom wherry_agent.child import child_main\n"


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a module that a child can be started from."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def make(body: str) -> str:
        (tmp_path / "a_child.py").write_text(HEAD + body)
        return "a_child"

    return make


def test_a_child_answers(child: Callable[[str], str]) -> None:
    module = child("sys.exit(child_main(lambda request: {'twice': request['n'] * 2}))")
    assert run_child(module, {"n": 21}, seconds=30) == {"twice": 42}


def test_a_child_has_an_empty_folder_and_no_telemetry(child: Callable[[str], str]) -> None:
    module = child(
        "sys.exit(child_main(lambda _: {'here': os.listdir('.'), 'path': os.getcwd(),"
        " 'off': os.environ['ORT_DISABLE_TELEMETRY'], 'own': os.getsid(0) == os.getpid()}))"
    )
    answer = run_child(module, {}, seconds=30)
    assert (answer["here"], answer["off"], answer["own"]) == ([], "1", True)
    assert not Path(answer["path"]).exists()


FAILURES = [
    ("killed", "os.kill(os.getpid(), signal.SIGSEGV)", 11, False, ""),
    ("aborted", "os.abort()", 6, False, ""),
    ("hangs", "time.sleep(600)", 0, True, ""),
    ("hangs and will not go", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", 0, True, ""),
    ("says nothing", "sys.exit(0)", 0, False, ""),
    ("no JSON", "print('hello')", 0, False, ""),
    ("no UTF-8", r"sys.stdout.buffer.write(b'\xff\xfe{}')", 0, False, ""),
    ("no object", "print('[1]')", 0, False, ""),
    ("too much", "print('{\"a\": \"' + 'x' * (2 << 20) + '\"}')", 0, False, ""),
    ("an answer, then an error code", "print('{}'); sys.exit(3)", 0, False, ""),
    ("an answer, then a crash", "print('{}', flush=True); os.abort()", 6, False, ""),
    ("an exception", "raise ValueError('so it goes')", 0, False, "so it goes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "ended_by", "timed_out", "detail"),
    [row[1:] for row in FAILURES],
    ids=[row[0] for row in FAILURES],
)
def test_a_child_that_fails(
    child: Callable[[str], str], body: str, ended_by: int, detail: str, *, timed_out: bool
) -> None:
    module = child(body)
    with pytest.raises(ChildFailure) as caught:
        run_child(module, {}, seconds=1.5 if timed_out else 30)
    assert (caught.value.signal, caught.value.timed_out) == (ended_by, timed_out)
    assert detail in str(caught.value)


@pytest.mark.parametrize("code", ["T02", "B04", "P01", "D06", "M05"])
def test_a_coded_error_comes_back_as_what_it_was(child: Callable[[str], str], code: str) -> None:
    module = child(
        "from wherry_contract.errors import coded_error\n"
        "def work(request): raise coded_error(request['code'], 'why')\n"
        "sys.exit(child_main(work))"
    )
    with pytest.raises(type(coded_error(code))) as caught:
        run_child(module, {"code": code}, seconds=30)
    assert (caught.value.code, caught.value.detail) == (code, "why")


def test_every_code_has_its_leaf() -> None:
    for code in CODES:
        assert type(coded_error(code)) is not WherryError
    assert isinstance(coded_error("T01"), TrustError)
    with pytest.raises(KeyError):
        coded_error("X01")


def test_a_board_that_cannot_start_a_child_blames_nobody(
    child: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = child("")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StoreError, match="D07"):
        run_child(module, {}, seconds=5)


PARENT = """
import sys
from wherry_agent.child import run_child
run_child("a_child", {}, seconds=600)
"""


def test_a_child_dies_with_its_parent(child: Callable[[str], str], tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child(
        f"def work(_):\n    open({str(note)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\nsys.exit(child_main(work))"
    )
    with subprocess.Popen([sys.executable, "-c", PARENT]) as parent:
        number = int(wait_for(lambda: note.exists() and note.read_text(), what="the child"))
        parent.kill()
    wait_for(lambda: not _lives(number), what="the child's end")


def test_a_child_whose_parent_is_gone_does_not_work(child: Callable[[str], str]) -> None:
    """It died between the start and the request: the kernel has nobody to watch."""
    child("sys.exit(child_main(lambda _: {'worked': True}))")
    done = subprocess.run(
        [sys.executable, "-m", "a_child"],
        input=json.dumps({"parent": 1 if os.getpid() != 1 else 2}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")


def _lives(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


# --- the probe ------------------------------------------------------------------------------


def stored(folder: Path, made: Made) -> str:
    blobs = BlobStore(folder)
    for digest, data in {made.digest: made.layout.manifest, **made.layout.blobs}.items():
        blobs.put(digest, data)
    return made.digest


@pytest.mark.parametrize("category", [False, True], ids=["numbers", "with a category"])
def test_a_good_bundle_passes(tmp_path: Path, *, category: bool) -> None:
    digest = stored(tmp_path, make_bundle(category=category))
    found = probe(tmp_path, digest, seconds=60, mib=256)
    assert found["largest_gap"] < 1e-5
    assert 0 < found["p50_us"] <= found["p95_us"]
    assert found["peak_mib"] > 0


VERDICTS: list[tuple[str, Any, str]] = [
    ("golden vectors disagree", "golden", "P01"),
    ("golden vectors disagree one by one", "alone", "P01"),
    ("the runtime crashes", "crash", "P02"),
    ("too slow", "slow", "P03"),
    ("no ONNX", "unloadable", "P04"),
    ("too much memory", "memory", "P05"),
    ("a forbidden operator", "operator", "M05"),
]


@pytest.mark.parametrize(
    ("flaw", "code"), [row[1:] for row in VERDICTS], ids=[row[0] for row in VERDICTS]
)
def test_verdict(tmp_path: Path, flaw: Any, code: str) -> None:
    digest = stored(tmp_path, make_bundle(flaw=flaw))
    with pytest.raises(WherryError) as caught:
        probe(tmp_path, digest, seconds=4 if flaw == "slow" else 60, mib=256)
    assert caught.value.code == code
    assert type(caught.value) is type(coded_error(code))


def test_threads_that_only_reserve_memory_cost_none(tmp_path: Path) -> None:
    digest = stored(tmp_path, make_bundle(threads=8))
    assert probe(tmp_path, digest, seconds=60, mib=128)["peak_mib"] > 0


@pytest.mark.parametrize("code", ["B04", "D06"])
def test_blobs_that_are_damaged_or_gone(tmp_path: Path, code: str) -> None:
    made = make_bundle()
    digest = stored(tmp_path, made)
    path = BlobStore(tmp_path).path(next(iter(made.layout.blobs)))
    path.unlink()
    if code == "B04":
        path.write_bytes(b"?")
    with pytest.raises(WherryError) as caught:
        probe(tmp_path, digest, seconds=60, mib=256)
    assert caught.value.code == code


def test_the_time_of_a_probe_is_bounded(tmp_path: Path) -> None:
    digest = stored(tmp_path, make_bundle(flaw="slow"))
    start = time.monotonic()
    with pytest.raises(WherryError, match="P03"):
        probe(tmp_path, digest, seconds=1.5, mib=256)
    assert time.monotonic() - start < 60
