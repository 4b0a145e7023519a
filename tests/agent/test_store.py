"""What must be on the medium when a call returns, and what damage to it may cost."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import examples
from support_agent import may_trace, strace_program

from wherry_agent.store import BlobStore, StatePair, durable_write, folder_lock
from wherry_contract.errors import BundleError, StoreError
from wherry_contract.wire import compact, sha256_digest

ANYWHERE = settings(
    max_examples=examples(80),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def in_a_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code of a test's in a process of its own, with limits of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- durable_write --------------------------------------------------------------------------


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first and long", b"second", b""):
        durable_write(path, data)
        assert path.read_bytes() == data
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_order_of_system_calls(tmp_path: Path) -> None:
    """Temporary file, fsync, rename, fsync of the folder: seen by strace."""
    if not may_trace():
        pytest.skip("ptrace is not permitted here")
    code = (
        "import sys, pathlib; from wherry_agent.store import durable_write;"
        "durable_write(pathlib.Path(sys.argv[1]), b'x' * 100)"
    )
    log = tmp_path / "log"
    calls = "trace=openat,open,write,fsync,rename,renameat,renameat2"
    path = tmp_path / "state.0"
    subprocess.run(
        [
            strace_program(),
            "-f",
            "-o",
            str(log),
            "-e",
            calls,
            sys.executable,
            "-c",
            code,
            str(path),
        ],
        check=True,
    )
    text = log.read_text()
    seen = re.findall(r"(openat?|write|fsync|rename\w*)\(", text[text.index(".state.0.new") :])
    assert [re.sub("at2?$", "", call) for call in ["open", *seen]] == [
        "open", "write", "fsync", "rename", "open", "fsync",
    ]  # fmt: skip


FULL = """
import pathlib, resource, signal, sys
from wherry_agent.store import durable_write
from wherry_contract.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    durable_write(pathlib.Path(sys.argv[1]), b"y" * 5000)
except StoreError as error:
    print(error.code)
"""


def test_a_full_disk_keeps_the_old_file_and_leaves_no_part(tmp_path: Path) -> None:
    """A limit on file size cuts the write short and then fails, as a full disk does."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    assert in_a_child(FULL, path).stdout.strip() == "D01"
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="D06"):
        durable_write(tmp_path / "nowhere" / "file", b"x")


# --- the pair -------------------------------------------------------------------------------


def saved(folder: Path, *bodies: dict[str, Any]) -> None:
    pair = StatePair(folder)
    pair.load()
    for body in bodies:
        pair.save(body)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_the_newest_record_is_loaded(tmp_path: Path, count: int) -> None:
    saved(tmp_path, *({"n": turn} for turn in range(count)))
    assert StatePair(tmp_path).load() == ({"n": count - 1} if count else None)


def test_saving_goes_on_where_the_files_stand(tmp_path: Path) -> None:
    for turn in range(6):
        saved(tmp_path, {"n": turn})
    assert StatePair(tmp_path).load() == {"n": 5}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["state.0", "state.1"]


@ANYWHERE
@given(
    which=st.sampled_from([0, 1]),
    share=st.floats(0, 1, exclude_max=True),
    change=st.sampled_from(["flip", "cut", "insert", "zero"]),
)
def test_damage_to_either_file_costs_one_generation_at_most(
    tmp_path: Path, which: int, share: float, change: str
) -> None:
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    saved(folder, {"n": 1, "t": "one"}, {"n": 2, "t": "two"})
    path = folder / f"state.{which}"
    data = path.read_bytes()
    place = int(share * len(data))
    path.write_bytes(
        {
            "flip": data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :],
            "cut": data[:place],
            "insert": data[:place] + b"\x00" + data[place:],
            "zero": bytes(len(data)),
        }[change]
    )
    pair = StatePair(folder)
    assert pair.load() == ({"n": 1, "t": "one"} if which == 0 else {"n": 2, "t": "two"})
    assert len(pair.damaged) == 1
    assert pair.damaged[0].parent.name == "set-aside"
    pair.save({"n": 3})
    assert StatePair(folder).load() == {"n": 3}


FOREIGN = [b"{}", b"[]", b"1", b"null", b'{"generation":"x","body":{}}', b'{"generation":1,"body":[]}',
           b'{"generation":-1,"body":{}}', b"\xff\xfe", b"[" * 5000]  # fmt: skip


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_a_whole_file_that_is_not_ours_is_set_aside(tmp_path: Path, text: bytes) -> None:
    saved(tmp_path, {"n": 1}, {"n": 2})
    line = hashlib.sha256(text).hexdigest().encode()
    (tmp_path / "state.0").write_bytes(line + b"\n" + text)
    pair = StatePair(tmp_path)
    assert pair.load() == {"n": 1}
    assert len(pair.damaged) == 1


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "state.1").open("wb") as stream:
        stream.truncate(2**40)  # sparse: a terabyte of nothing
    assert StatePair(tmp_path).load() is None


def test_a_folder_in_the_place_of_a_file_is_damage(tmp_path: Path) -> None:
    saved(tmp_path, {"n": 1})
    (tmp_path / "state.0").mkdir()
    assert StatePair(tmp_path).load() == {"n": 1}


def test_few_damaged_files_are_kept(tmp_path: Path) -> None:
    for turn in range(20):
        (tmp_path / "state.0").write_bytes(b"%d" % turn)
        StatePair(tmp_path).load()
    kept = sorted(item.read_bytes() for item in (tmp_path / "set-aside").iterdir())
    assert kept == sorted(b"%d" % turn for turn in range(12, 20))


def test_a_failed_save_keeps_the_former_record(tmp_path: Path) -> None:
    pair = StatePair(tmp_path)
    pair.save({"n": 1})
    (tmp_path / ".state.0.new").mkdir()
    with pytest.raises(StoreError):
        pair.save({"n": 2})
    assert StatePair(tmp_path).load() == {"n": 1}
    (tmp_path / ".state.0.new").rmdir()
    pair.save({"n": 3})
    assert StatePair(tmp_path).load() == {"n": 3}


def test_names_and_texts_survive(tmp_path: Path) -> None:
    body = {"text": 'é "quoted" \n', "deep": {"a": [1, 2.5, None, True]}}
    saved(tmp_path, body)
    assert StatePair(tmp_path).load() == body
    assert compact(body).decode()


# --- the lock -------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from wherry_agent.store import folder_lock
from wherry_contract.errors import StoreError
try:
    with folder_lock(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except StoreError as error:
    print(error.code)
"""


def test_one_agent_holds_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    with folder_lock(folder):
        assert in_a_child(HOLD, folder).stdout.strip() == "D03"
    assert in_a_child(HOLD, folder).stdout.strip() == "held"


def test_a_killed_agent_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="D03"), folder_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with folder_lock(tmp_path):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="D06"), folder_lock(tmp_path / "file" / "state"):
        pass


# --- blobs ----------------------------------------------------------------------------------

DATA = b"the bytes of a blob"
DIGEST = sha256_digest(DATA)


def test_a_finished_part_becomes_the_blob(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.part(DIGEST).write_bytes(DATA)
    assert not blobs.has(DIGEST)
    assert blobs.adopt(DIGEST)
    assert blobs.read_whole(DIGEST) == DATA
    assert not blobs.part(DIGEST).exists()


def test_a_part_with_other_bytes_is_removed(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.part(DIGEST).write_bytes(DATA[:-1] + b"?")
    assert not blobs.adopt(DIGEST)
    assert not blobs.has(DIGEST)
    assert not blobs.part(DIGEST).exists()


def test_a_part_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="D06"):
        BlobStore(tmp_path).adopt(DIGEST)


def test_a_blob_that_went_bad_is_found_out(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.put(DIGEST, DATA)
    assert blobs.is_whole(DIGEST)
    blobs.path(DIGEST).write_bytes(DATA[1:])
    with pytest.raises(BundleError, match="B04"):
        blobs.read_whole(DIGEST)
    assert not blobs.is_whole(DIGEST)
    assert not blobs.has(DIGEST)


def test_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    others = [sha256_digest(b"%d" % turn) for turn in range(3)]
    for digest in (DIGEST, *others):
        blobs.put(digest, b"")
    blobs.part(DIGEST).write_bytes(b"begun")
    blobs.part(others[1]).write_bytes(b"begun")
    assert blobs.keep_only({DIGEST, others[0]}) == 3  # what has come of the first may go on
    left = (blobs.path(DIGEST), blobs.part(DIGEST), blobs.path(others[0]))
    assert set(blobs.path(DIGEST).parent.iterdir()) == set(left)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="D06"):
        BlobStore(tmp_path).read(DIGEST)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="D06"):
        BlobStore(tmp_path / "file")


def test_small_whole_blobs_may_be_manifests_the_oldest_first(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    texts = [b"one", b"two", b"three"]
    for age, text in enumerate(texts):
        blobs.put(sha256_digest(text), text)
        os.utime(blobs.path(sha256_digest(text)), ns=(10**18, 10**18 + age))
    blobs.put(sha256_digest(b"large"), bytes(10**6))
    blobs.put(sha256_digest(b"bad"), b"worse")
    assert blobs.manifests() == [sha256_digest(text) for text in texts]


def test_threads_may_read_while_one_writes(tmp_path: Path) -> None:
    """A reader sees the old record or the new one, never something between."""
    pair = StatePair(tmp_path)
    pair.save({"n": 0, "pad": "x" * 5000})
    stop = threading.Event()
    bad: list[object] = []

    def read() -> None:
        while not stop.is_set():
            reader = StatePair(tmp_path)
            if reader.load() is None or reader.damaged:
                bad.append(reader.damaged)

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(100):
        pair.save({"n": turn, "pad": "x" * 5000})
    stop.set()
    thread.join()
    assert bad == []
