"""Deltas that the server and `wherry publish` make, what they say of them, and where they go."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from support_agent import FAMILY, Made, make_bundle
from support_fleet import open_store, state, trust_keys
from support_registry import running_registry

from wherry.cli import run
from wherry.deltas import LARGE_BYTES, DeltaVerdict, bundle_in
from wherry.repository.lab import hold_ceremony
from wherry.repository.repository import Repository
from wherry.server.intake import Batch
from wherry.server.office import Office, Site
from wherry_contract.delta import apply_delta, read_deltas
from wherry_contract.oci import blob_path
from wherry_contract.signature import PublicKey

CARD = random.Random(7).randbytes(40_000).hex().encode()
OLD = make_bundle("1.0.0", card=CARD)
NEW = make_bundle("2.0.0", card=CARD[:500] + b"rewritten" + CARD[509:])
OTHER = make_bundle("3.0.0", card=random.Random(8).randbytes(40_000).hex().encode())
KEY = PublicKey("a" * 64, "b" * 64)
LETTERS = [
    w for name in ("models-1", "models-2", "targets-1", "targets-2") for w in ("--key", name)
]


def test_a_bundle_that_is_taken_gets_deltas_from_what_the_fleet_runs(tmp_path: Path) -> None:
    trust_keys(tmp_path)
    with open_store(tmp_path, "a", "b", "c") as store:
        site = Site("http://h", "f", lambda _: "", lambda: None, "", own_broker=True)
        office = Office(store, site, KEY, clock=lambda: 1.8e9, news=lambda: None)
        office.take_bundle(io.BytesIO(OLD.to_tar()))
        reported = {name: state(name, bundle=OLD.digest, trust="good") for name in ("a", "b")}
        store.add(Batch(1.8e9, states=reported))
        office.take_bundle(io.BytesIO(NEW.to_tar()))
        depot = store.depot
        check_delta(depot.folder)
        assert depot.served(f"deltas/{NEW.digest[7:]}.json")
        assert depot.served(f"deltas/{OLD.digest[7:]}.json") is None  # nobody ran anything then


def check_delta(folder: Path) -> int:
    """The folder lists one delta from OLD to NEW, and it is good; returns its size."""
    (delta,) = read_deltas((folder / f"deltas/{NEW.digest[7:]}.json").read_bytes())
    packed = (folder / blob_path(delta.digest)).read_bytes()
    new = NEW.layout.blobs[delta.result]
    assert apply_delta(OLD.layout.blobs[delta.source], packed, len(new)) == new
    assert delta.size == len(packed) < 0.1 * len(new)
    return delta.size


# --- wherry publish -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laboratory, the files of three bundles beside it, and the first of them released."""
    folder = tmp_path_factory.mktemp("lab")
    hold_ceremony(Repository(folder / "data"), folder / "data" / "keys")
    for name, made in {"old": OLD, "new": NEW, "other": OTHER}.items():
        (folder / f"{name}.wherry").write_bytes(made.to_tar())
    words = ["publish", str(folder / "old.wherry"), *LETTERS, "--data", str(folder / "data")]
    assert run(words) == 0
    return folder


class Lab:
    """A copy of it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._capsys = capsys

    def file(self, name: str) -> Path:
        """A bundle's file."""
        return self.folder / f"{name}.wherry"

    def runs(self, made: Made, *devices: str) -> None:
        """Devices report that they run a bundle."""
        with open_store(self.data, *devices) as store:
            store.add(Batch(1.8e9, states={d: state(d, bundle=made.digest) for d in devices}))

    def publish(self, name: str, *words: str) -> tuple[list[dict[str, Any]], str]:
        """Release a bundle; returns the verdicts and what was said."""
        self._capsys.readouterr()
        arguments = [str(self.file(name)), *LETTERS[:4], "--data", str(self.data), "--json"]
        assert run(["publish", *arguments, *words]) == 0
        out, err = self._capsys.readouterr()
        return json.loads(out)["deltas"], err


@pytest.fixture
def lab(template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Lab:
    return Lab(Path(shutil.copytree(template, tmp_path / "lab", symlinks=True)), capsys)


def test_publish_makes_deltas_from_what_the_fleet_runs_and_says_sizes(lab: Lab) -> None:
    lab.runs(OLD, "a", "b")
    lab.runs(OTHER, "c")
    (verdict,), said = lab.publish("new")
    assert check_delta(lab.data / "depot") == verdict["delta"]
    assert (verdict["name"], verdict["source"], verdict["kept"]) == (
        "model-card.md",
        OLD.digest,
        True,
    )
    assert verdict["share"] == round(verdict["delta"] / verdict["compressed"], 4) < 0.6
    assert f"devices run {OTHER.digest[:19]}" in said  # whose blobs are nowhere here


def test_publish_makes_deltas_from_files_and_says_which_are_not_worth_it(lab: Lab) -> None:
    words = [w for name in ("old", "other") for w in ("--against", str(lab.file(name)))]
    verdicts, _ = lab.publish("new", *words)
    assert {v["source"]: v["kept"] for v in verdicts} == {OLD.digest: True, OTHER.digest: False}
    (refused,) = [v for v in verdicts if not v["kept"]]
    assert refused["share"] > 0.6
    check_delta(lab.data / "depot")
    # said again, and not made again
    listed = lab.data / "depot" / f"deltas/{NEW.digest[7:]}.json"
    before = listed.read_bytes()
    (lab.data / "depot" / blob_path(OTHER.digest)).unlink(missing_ok=True)
    assert lab.publish("new", *words)[0] == verdicts
    assert listed.read_bytes() == before


def test_nothing_to_make_a_delta_from_is_said(lab: Lab) -> None:
    verdicts, said = lab.publish("new")
    assert verdicts == []
    assert "no deltas: no device reports a bundle" in said
    assert not (lab.data / "depot" / "deltas").exists()
    lab.runs(OLD, "a")
    assert lab.publish("new", "--no-deltas")[0] == []
    for words in (["--against", str(lab.file("old"))], ["--registry", "http://127.0.0.1:9/m"]):
        assert run(["publish", "--data", str(lab.data), *words]) == 2


def test_a_list_that_was_damaged_or_lost_its_blob_is_made_anew(lab: Lab) -> None:
    depot = lab.data / "depot"
    against = ["--against", str(lab.file("old"))]
    lab.publish("new", *against)
    listed = depot / f"deltas/{NEW.digest[7:]}.json"
    for damage in (b'{"schema":"wherry/deltas/1","deltas":[],"verdicts":[{}]}', b"{"):
        listed.write_bytes(damage)
        assert lab.publish("new", *against)[0][0]["kept"]
        check_delta(depot)
    (delta,) = read_deltas(listed.read_bytes())
    (depot / blob_path(delta.digest)).unlink()
    assert lab.publish("new", *against)[0][0]["kept"]
    check_delta(depot)


WORDS = [
    (DeltaVerdict("m", "s", 9, 100, 21, True, "", ""), "21 bytes, 21% of the"),
    (DeltaVerdict("m", "s", 9, 100, 92, False, "", ""), "92%"),
    (DeltaVerdict("m", "s", LARGE_BYTES + 1, 0, 0, False, "", ""), "too many to compare"),
]


@pytest.mark.parametrize(("verdict", "words"), WORDS)
def test_verdicts_in_words(verdict: DeltaVerdict, words: str) -> None:
    assert words in str(verdict)
    assert ("not worth it" in str(verdict)) == (verdict.delta == 92)


def test_a_registry_holds_bundle_and_deltas(lab: Lab, tmp_path: Path) -> None:
    """And what is there was pushed byte by byte, the deltas as an artifact about the bundle."""
    with running_registry(tmp_path / "registry") as registry:
        words = ["--against", str(lab.file("old")), "--registry", registry.url]
        _, said = lab.publish("new", *words)
        assert f"copied to {registry.url[7:]}/{FAMILY}:2.0.0-{NEW.digest[7:19]}" in said
        assert f"{FAMILY}:{NEW.digest[7:19]}.deltas" in said
        (delta,) = read_deltas((lab.data / "depot" / f"deltas/{NEW.digest[7:]}.json").read_bytes())
        for digest in (NEW.digest, delta.digest, *NEW.layout.blobs):
            stored = registry.storage / "docker/registry/v2/blobs/sha256" / digest[7:9]
            data = (stored / digest[7:] / "data").read_bytes()
            assert data == (lab.data / "depot" / blob_path(digest)).read_bytes()


def test_an_old_bundle_that_lost_a_part_is_none(lab: Lab) -> None:
    depot = lab.data / "depot"
    assert bundle_in(depot, OTHER.digest) is None
    old = bundle_in(depot, OLD.digest)
    assert old
    (depot / blob_path(old.parts[-1].digest)).unlink()
    assert bundle_in(depot, OLD.digest) is None
