"""The golden vectors: made again they are the same, and the contract agrees with each."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support_contract import VECTORS, document, opened, vector

from wherry_contract.encoder import Encoder
from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import LATENCY_EDGES_US, SCORE_EDGES, latency_bin, score_bins
from wherry_contract.psi import assess
from wherry_contract.signature import TrustRoot
from wherry_contract.slots import SlotCounter
from wherry_contract.wire import MANIFEST, Fields


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".md", ".pyc")
    }


@pytest.mark.parametrize("seed", ["1", "77"])
def test_made_again_they_are_the_same(seed: str, tmp_path: Path) -> None:
    program = str(VECTORS / "make_vectors.py")
    subprocess.run(
        [sys.executable, program, str(tmp_path / "out")],
        check=True,
        timeout=60,
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    made, kept = files(tmp_path / "out"), files(VECTORS)
    assert set(made) == set(kept)
    assert [name for name in kept if made[name] != kept[name]] == []


def test_the_readme_names_them_all() -> None:
    page = vector("README.md").decode()
    folders = {"messages": "messages/*.json", "compact": "compact/*"}
    names = {folders.get(name.partition("/")[0], name) for name in files(VECTORS)}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_the_bundle_is_what_it_says() -> None:
    expected = document("fraud-mini.json")
    found = opened(vector("fraud-mini.wherry"))
    parts = found.parts()
    root = TrustRoot.from_bytes(vector("trust.json"))
    said = root.open_bundle_statement(found.statement, family="fraud", digest=found.digest)
    raw = parts.golden.matrix(parts.manifest.input)
    assert said.counter == expected["counter"]
    assert bits(parts.manifest.encoder.encode(raw)) == expected["tensor_bits"]
    assert score_bins(expected["scores"]).tolist() == expected["score_bins"]
    assert parts.manifest.fallback
    assert (
        parts.manifest.fallback.flags(raw, parts.manifest.input).tolist()
        == (expected["fallback_flags"])
    )


def bits(tensor: Any) -> list[list[str]]:
    return [[struct.pack(">f", cell).hex() for cell in row] for row in tensor.tolist()]


@pytest.mark.parametrize("case", document("encoder.json"), ids=lambda case: case["name"])
def test_encoder(case: dict[str, Any]) -> None:
    contract = InputContract.from_dict(case["input"])
    items = [Fields(item, "step", MANIFEST) for item in case["encoder"]]
    encoder = Encoder.from_fields(items, contract, Fields({}, "case"))
    raw = contract.matrix([{"X": value} for value in case["values"]])
    assert [row[0] for row in bits(encoder.encode(raw))] == case["bits"]


@pytest.mark.parametrize("case", document("slots.json"), ids=lambda case: case["name"])
def test_slots(case: dict[str, Any]) -> None:
    feature = Feature.from_fields(Fields(case["feature"], "feature"))
    contract = InputContract("s", 1, (feature,))
    counter = SlotCounter(contract.features, [case["edges"]])
    slots = counter.zeros()
    counter.add(slots, contract.matrix([{"X": value} for value in case["values"]]))
    assert counter.split(slots)[0].to_dict() == case["counts"]


def test_histograms() -> None:
    cases = document("histograms.json")
    # exp may differ in its last digit from one C library to the next
    assert pytest.approx(cases["score_edges"], rel=1e-15) == SCORE_EDGES.tolist()
    assert pytest.approx(cases["latency_edges_us"], rel=1e-15) == LATENCY_EDGES_US.tolist()
    assert [score_bins(value) for value, _ in cases["scores"]] == [b for _, b in cases["scores"]]
    assert [latency_bin(value) for value, _ in cases["latencies_us"]] == [
        place for _, place in cases["latencies_us"]
    ]


@pytest.mark.parametrize("case", document("psi.json"), ids=lambda case: case["name"])
def test_psi(case: dict[str, Any]) -> None:
    found = assess(case["expected"], case["actual"])
    for name in ("psi", "corrected", "p", "low", "high"):
        assert getattr(found, name) == pytest.approx(case[name], rel=1e-5, abs=1e-12)
    for delta in (0.05, 0.1):
        assert found.p_material(delta) == pytest.approx(case[f"p_material_{delta}"], rel=1e-6)
    assert (found.needed, found.enough) == (case["needed"], case["enough"])
