"""The depot's client against a real HTTP server that fails in every way we could think of."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import free_port
from support_agent import Depot, Faults, running_depot

from wherry_agent.store import BlobStore
from wherry_agent.update.fetch import Depot as Client
from wherry_contract.errors import LinkError, WherryError
from wherry_contract.oci import Descriptor, blob_path

DATA = bytes(range(256)) * 400  # 102,400 bytes
WANTED = Descriptor.for_file(DATA, "application/octet-stream", "model.onnx")
EMPTY = Descriptor.for_file(b"", "application/octet-stream", "empty")


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with running_depot(tmp_path / "depot") as running:
        running.put(blob_path(WANTED.digest), DATA)
        running.put(blob_path(EMPTY.digest), b"")
        yield running


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "state")


def fetch(depot: Depot, blobs: BlobStore, wanted: Descriptor = WANTED) -> bool:
    return Client(depot.url, seconds=1).fetch(wanted, blobs, lambda: False)


def test_a_blob_is_fetched(depot: Depot, blobs: BlobStore) -> None:
    assert fetch(depot, blobs)
    assert blobs.read_whole(WANTED.digest) == DATA


def test_an_empty_blob_is_not_even_asked_for(depot: Depot, blobs: BlobStore) -> None:
    assert fetch(depot, blobs, EMPTY)
    assert blobs.read_whole(EMPTY.digest) == b""
    assert depot.requests == []


# name, faults, bytes already here, code of the first try (or ""), bytes here after it
ROWS: list[tuple[str, Faults, int, str, int]] = [
    ("all well", Faults(), 0, "", -1),
    ("chunked", Faults(chunked=True), 0, "", -1),
    ("in small pieces", Faults(piece_bytes=100), 0, "", -1),
    ("resumed", Faults(), 50_000, "", -1),
    ("resumed at the last byte", Faults(), len(DATA) - 1, "", -1),
    ("already complete", Faults(status=500), len(DATA), "", -1),
    ("too much already here", Faults(), len(DATA) + 5, "", -1),
    ("Range is ignored", Faults(ignore_range=True), 50_000, "", -1),
    ("cut off at once", Faults(cut_after=0), 0, "L04", 0),
    ("cut off", Faults(cut_after=70_000), 0, "L04", 70_000),
    ("cut off while resuming", Faults(cut_after=1000), 50_000, "L04", 51_000),
    ("cut off, chunked", Faults(cut_after=70_000, chunked=True), 0, "L04", -2),
    ("another range", Faults(wrong_range=True), 50_000, "L06", 50_000),
    ("a redirect", Faults(redirect=True), 50_000, "L06", 50_000),
    ("a captive portal", Faults(portal=True), 50_000, "L06", 50_000),
    ("not found", Faults(status=404), 50_000, "L05", 50_000),
    ("away", Faults(status=503), 50_000, "L05", 50_000),
    ("silent", Faults(silent=True), 50_000, "L04", 50_000),
    ("wrong bytes", Faults(other_bytes=True), 0, "L06", 0),
    ("wrong bytes at the end", Faults(other_bytes=True), 50_000, "L06", 0),
    ("longer than it should be", Faults(longer=True), 0, "L06", 0),
    ("longer, chunked", Faults(longer=True, chunked=True), 0, "L06", 0),
    ("longer, while resuming", Faults(longer=True), 50_000, "L06", 50_000),
]


@pytest.mark.parametrize(
    ("faults", "here", "ends"),
    [(row[1], row[2], row[3:]) for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_row(
    depot: Depot, blobs: BlobStore, faults: Faults, here: int, ends: tuple[str, int]
) -> None:
    """What a try ends with, what it leaves, and that the next one finishes the work."""
    code, left = ends
    part = blobs.part(WANTED.digest)
    if here:
        part.write_bytes((DATA + b"extra")[:here])
    depot.faults = Faults(**faults.__dict__)
    if code:
        with pytest.raises(LinkError) as caught:
            fetch(depot, blobs)
        assert caught.value.code == code
        assert not blobs.has(WANTED.digest)
        found = part.stat().st_size if part.exists() else 0
        assert found == left if left >= 0 else 0 < found <= 70_000
        depot.faults = Faults()
    assert fetch(depot, blobs)
    assert blobs.read_whole(WANTED.digest) == DATA
    assert not part.exists()


def test_a_line_that_breaks_again_and_again_still_brings_everything(
    depot: Depot, blobs: BlobStore
) -> None:
    depot.faults = Faults(cut_after=10_000, times=10)
    tries = 0
    while not blobs.has(WANTED.digest):
        tries += 1
        with suppress(LinkError):
            fetch(depot, blobs)
    assert tries == 11
    starts = [int(asked[6:-1] or 0) if asked else 0 for _, asked in depot.requests]
    assert starts == [10_000 * turn for turn in range(11)]  # not a byte twice


def test_a_part_that_rotted_is_thrown_away(depot: Depot, blobs: BlobStore) -> None:
    blobs.part(WANTED.digest).write_bytes(bytes(50_000))
    with pytest.raises(LinkError, match="L06"):
        fetch(depot, blobs)
    assert fetch(depot, blobs)


def test_a_slow_fetch_can_be_stopped_and_goes_on_later(depot: Depot, blobs: BlobStore) -> None:
    depot.faults = Faults(wait_seconds=0.02, piece_bytes=500)
    looks = iter([False, False, True])
    assert not Client(depot.url, seconds=5).fetch(WANTED, blobs, lambda: next(looks))
    size = blobs.part(WANTED.digest).stat().st_size
    assert 0 < size < len(DATA)
    depot.faults = Faults()
    assert fetch(depot, blobs)
    assert depot.requests[-1][1] == f"bytes={size}-"


def test_nobody_listens(blobs: BlobStore) -> None:
    with pytest.raises(LinkError, match="L04"):
        Client(f"http://127.0.0.1:{free_port()}/depot", seconds=1).fetch(
            WANTED, blobs, lambda: False
        )


@pytest.mark.parametrize("url", ["", "ftp://h/", "http:///depot"])
def test_no_depot_is_configured(blobs: BlobStore, url: str) -> None:
    with pytest.raises(LinkError, match="L04") as caught:
        Client(url).fetch(WANTED, blobs, lambda: False)
    assert "agent.toml" in caught.value.cure


FULL = """
import pathlib, resource, signal, sys
from wherry_agent.update.fetch import Depot
from wherry_agent.store import BlobStore
from wherry_contract.errors import WherryError
from wherry_contract.oci import Descriptor
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
wanted = Descriptor("", sys.argv[3], int(sys.argv[4]))
try:
    Depot(sys.argv[2]).fetch(wanted, BlobStore(pathlib.Path(sys.argv[1])), lambda: False)
except WherryError as error:
    print(error.code)
"""


def test_a_full_disk_is_told_as_such_and_keeps_the_part(
    depot: Depot, blobs: BlobStore, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            FULL,
            str(tmp_path / "state"),
            depot.url,
            WANTED.digest,
            str(WANTED.size),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "D01"
    assert fetch(depot, blobs)


# --- small documents ------------------------------------------------------------------------

SMALL: list[tuple[str, Faults, str]] = [
    ("cut off", Faults(cut_after=10), "L04"),
    ("cut off, chunked", Faults(cut_after=10, chunked=True), "L04"),
    ("a redirect", Faults(redirect=True), "L06"),
    ("not found", Faults(status=404), "L05"),
    ("silent", Faults(silent=True), "L04"),
    ("a drip", Faults(wait_seconds=0.1, piece_bytes=1), "L04"),
]


@pytest.mark.parametrize(
    ("faults", "code"), [row[1:] for row in SMALL], ids=[row[0] for row in SMALL]
)
def test_a_statement_that_does_not_come(depot: Depot, faults: Faults, code: str) -> None:
    depot.put("statements/" + "0" * 64 + ".dsse.json", b"x" * 500)
    client = Client(depot.url, seconds=0.5)
    assert client.statement("sha256:" + "0" * 64, 500) == b"x" * 500
    depot.faults = faults
    start = time.monotonic()
    with pytest.raises(LinkError) as caught:
        client.statement("sha256:" + "0" * 64, 500)
    assert caught.value.code == code
    assert time.monotonic() - start < 20  # and not the 50 s of the drip


def test_a_document_over_its_limit_is_not_read(depot: Depot) -> None:
    with pytest.raises(LinkError, match="L06"):
        Client(depot.url).blob(WANTED.digest, 1000)


def test_every_failure_is_coded(blobs: BlobStore) -> None:
    for url in ("http://127.0.0.1:1", "http://256.256.256.256", "https://127.0.0.1:1/x"):
        with pytest.raises(WherryError):
            Client(url, seconds=0.5).fetch(WANTED, blobs, lambda: False)


def test_a_server_that_speaks_no_http(blobs: BlobStore) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        port: Any = server.getsockname()[1]
        with pytest.raises(LinkError, match="L04"):
            Client(f"http://127.0.0.1:{port}", seconds=1).fetch(WANTED, blobs, lambda: False)
        thread.join()
