"""The depot takes whole, signed bundles and gives out blobs by their names alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from support_agent import Made, keys, make_bundle, statement_of
from support_fleet import trust_keys

from wherry.server.depot import Depot, statement_path
from wherry_contract.errors import RolloutError, WherryError
from wherry_contract.oci import blob_path

MADE = make_bundle()


def depot(folder: Path) -> Depot:
    """A depot that trusts the tests' bundle key."""
    trust_keys(folder)
    return Depot(folder / "depot", folder / "keys")


def test_a_bundle_is_taken_and_taking_it_twice_changes_nothing(tmp_path: Path) -> None:
    found = depot(tmp_path)
    row = found.add(io.BytesIO(MADE.to_tar()))
    assert (row.digest, row.name, row.version, row.counter) == (MADE.digest, "fraud", "1.0.0", 1)
    assert row.size == len(MADE.layout.manifest)
    assert row.edges == MADE.parts.profile.edges_id
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "depot/blobs").rglob("*")}
    assert found.add(io.BytesIO(MADE.to_tar())).digest == row.digest
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "depot/blobs").rglob("*")}
    assert found.manifest(row.digest) == MADE.parts.manifest
    assert found.profile(row.digest).edges_id == row.edges
    assert found.holds(row.digest)


def _flip(data: bytes) -> bytes:
    place = data.index(b"wherry/manifest") + 3
    return data[:place] + b"X" + data[place + 1 :]


BAD: dict[str, tuple[Callable[[Made], bytes], str]] = {
    "unsigned": (lambda made: made.layout.to_tar(), "T02"),
    "signed by a stranger": (
        lambda made: made.layout.to_tar(
            statement_of(made.layout, made.parts.manifest, 1, keys("stranger").bundle)
        ),
        "T02",
    ),
    "signed for another bundle": (
        lambda made: made.layout.to_tar(make_bundle("9.9.9").statement),
        "T03",
    ),
    "a bit flipped": (lambda made: _flip(made.to_tar()), "B04"),
    "cut short": (lambda made: made.to_tar()[:5000], "B01"),
    "no tar": (lambda _: b"hello" * 1000, "B03"),
    "nothing": (lambda _: b"", "B03"),
    "a forbidden operator": (lambda _: make_bundle(flaw="operator").to_tar(), "M05"),
}


@pytest.mark.parametrize(("make", "code"), BAD.values(), ids=BAD)
def test_what_is_not_taken(tmp_path: Path, make: Callable[[Made], bytes], code: str) -> None:
    with pytest.raises(WherryError) as caught:
        depot(tmp_path).add(io.BytesIO(make(MADE)))
    assert caught.value.code == code
    assert not (tmp_path / "depot").exists()


def test_a_signature_cannot_be_swapped_for_one_that_verifies_not(tmp_path: Path) -> None:
    statement = MADE.statement.replace(b'"sig":"', b'"sig":"AAAA')
    with pytest.raises(WherryError) as caught:
        depot(tmp_path).add(io.BytesIO(MADE.layout.to_tar(statement)))
    assert caught.value.code in {"T01", "T09"}


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    found = depot(tmp_path)
    (tmp_path / "keys" / "odd.pub.json").write_text("{}")
    with pytest.raises(WherryError) as caught:
        found.trusted()
    assert caught.value.code == "T09"
    assert "odd.pub.json" in caught.value.detail


HEX = MADE.digest.partition(":")[2]


@pytest.mark.parametrize(
    ("name", "served"),
    [
        pytest.param(f"blobs/sha256/{HEX}", True, id="a blob"),
        pytest.param(f"statements/{HEX}.dsse.json", True, id="a statement"),
        pytest.param("blobs/sha256/" + "0" * 64, False, id="not there"),
        pytest.param("", False, id="the folder"),
        pytest.param("blobs/sha256/", False, id="a folder"),
        pytest.param(f"blobs/sha256/../sha256/{HEX}", False, id="dots"),
        pytest.param("../token", False, id="outside"),
        pytest.param("/etc/passwd", False, id="absolute"),
        pytest.param(f"blobs/sha256/{HEX}\n", False, id="a line end"),
        pytest.param(f"blobs/sha256/{HEX[:-1]}G", False, id="no digest"),
        pytest.param("blobs/sha256/" + "1" * 64, False, id="a link"),
        pytest.param("blobs/sha256/" + "2" * 64, False, id="a folder by a blob's name"),
    ],
)
def test_what_is_served(tmp_path: Path, name: str, *, served: bool) -> None:
    found = depot(tmp_path)
    found.add(io.BytesIO(MADE.to_tar()))
    blobs = tmp_path / "depot/blobs/sha256"
    (blobs / ("1" * 64)).symlink_to(tmp_path / "keys" / "tests.pub.json")
    (blobs / ("2" * 64)).mkdir()
    assert (found.served(name) is not None) is served


def test_a_bundle_that_lost_a_blob_is_no_longer_held(tmp_path: Path) -> None:
    found = depot(tmp_path)
    found.add(io.BytesIO(MADE.to_tar()))
    blob = next(iter(MADE.layout.blobs))
    (tmp_path / "depot" / blob_path(blob)).unlink()
    assert not found.holds(MADE.digest)
    found.add(io.BytesIO(MADE.to_tar()))
    assert found.holds(MADE.digest)
    (tmp_path / "depot" / statement_path(MADE.digest)).unlink()
    assert not found.holds(MADE.digest)


def test_a_damaged_blob_is_not_read_and_is_mended_by_the_next_push(tmp_path: Path) -> None:
    found = depot(tmp_path)
    found.add(io.BytesIO(MADE.to_tar()))
    path = tmp_path / "depot" / blob_path(MADE.digest)
    path.write_bytes(b"rotten")
    with pytest.raises(RolloutError) as caught:
        found.manifest(MADE.digest)
    assert caught.value.code == "R04"
    found.add(io.BytesIO(MADE.to_tar()))
    assert found.manifest(MADE.digest) == MADE.parts.manifest
