"""A good bundle: what is in it, the same bytes every time, and unknown fields that survive."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_contract import document, entries, golden_bundle, golden_parts, opened, vector

from wherry_contract import bundle, oci
from wherry_contract.bundle import (
    MODEL_LIMIT_BYTES,
    Parts,
    assemble,
    load_parts,
    open_bundle,
    read_bundle,
)
from wherry_contract.encoder import Encoder
from wherry_contract.errors import BundleError, InputError, ManifestError, ProbeError
from wherry_contract.golden import GoldenVectors
from wherry_contract.manifest import BoardNeeds, Manifest, RuntimeNeeds
from wherry_contract.operators import ALLOWED, ALLOWED_TFLITE, forbidden
from wherry_contract.wire import sha256_digest


def test_the_golden_bundle_opens(tmp_path: Path) -> None:
    found = opened(golden_bundle())
    expected = document("fraud-mini.json")
    assert found.digest == expected["digest"]
    assert found.ref_name == "1.0.0"
    assert {layer.file_name: layer.digest for layer in found.oci.layers} == expected["blobs"]
    assert found.statement == vector("statement.dsse.json")
    path = tmp_path / "fraud.wherry"
    path.write_bytes(golden_bundle())
    assert read_bundle(path) == found.parts()


def test_writing_what_was_read_gives_the_same_file() -> None:
    found = opened(golden_bundle())
    assert found.layout().to_tar(found.statement) == golden_bundle()
    assert assemble(found.parts()).to_tar(found.statement) == golden_bundle()


def test_an_unsigned_bundle_has_no_statement() -> None:
    assert opened(assemble(golden_parts()).to_tar()).statement == b""


def test_entries_hold_nothing_but_bytes() -> None:
    for info, _ in entries(golden_bundle()):
        said = (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode)
        assert said == (0, 0, 0, "", "", 0o644)


PACK = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from support_contract import golden_parts
from wherry_contract.bundle import assemble
from wherry_contract.wire import sha256_digest
print(sha256_digest(assemble(golden_parts()).to_tar()))
"""


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_the_same_bytes_whatever_seed_folder_and_place(seed: str, tmp_path: Path) -> None:
    folder = tmp_path / f"folder {seed}"
    folder.mkdir()
    environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": f"UTC+{seed[0]}", "LC_ALL": "C"}
    answer = subprocess.run(
        [sys.executable, "-c", PACK, ":".join(path for path in sys.path if path)],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=True,
        timeout=60,
    )
    here = sha256_digest(assemble(golden_parts()).to_tar())
    assert answer.stdout.decode().strip() == here


def test_the_order_of_documents_is_theirs() -> None:
    parts = replace(golden_parts(), documents={"b.md": b"b", "a.md": b"a"})
    names = [layer.file_name for layer in opened(assemble(parts).to_tar()).oci.layers]
    assert names[-2:] == ["b.md", "a.md"]
    assert opened(assemble(parts).to_tar()).parts().documents == parts.documents


def test_equal_parts_share_one_blob() -> None:
    parts = replace(golden_parts(), documents={"a.md": b"same", "b.md": b"same"})
    found = opened(assemble(parts).to_tar())
    assert len(found.oci.layers) == 6
    assert found.parts().documents == {"a.md": b"same", "b.md": b"same"}


# --- limits when packing


def test_a_model_above_the_limit_is_not_packed() -> None:
    class Huge(bytes):
        """Says that it is larger than it is, so that nobody needs the memory."""

        __slots__ = ()

        def __len__(self) -> int:
            return MODEL_LIMIT_BYTES + 1

    with pytest.raises(BundleError, match=r"B02.*model\.onnx"):
        assemble(replace(golden_parts(), model=Huge(b"x")))


def test_a_document_above_the_limit_is_not_packed() -> None:
    with pytest.raises(BundleError, match=r"B02.*card\.md"):
        assemble(replace(golden_parts(), documents={"card.md": bytes(4 * 2**20 + 1)}))


def test_one_blob_named_often_counts_often() -> None:
    size = 200 * 2**20
    layers = [
        {
            "mediaType": oci.WEIGHT_TYPE,
            "digest": "sha256:" + "a" * 64,
            "size": size,
            "annotations": {oci.FILEPATH: f"model{place}.onnx"},
        }
        for place in range(3)
    ]
    manifest = json.loads(opened(golden_bundle()).manifest) | {"layers": layers}
    with pytest.raises(BundleError, match="B02"):
        oci.OciManifest.from_bytes(json.dumps(manifest).encode())


# --- parts that contradict each other


def wrong_golden(**change: Any) -> GoldenVectors:
    return replace(golden_parts().golden, **change)


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"golden": wrong_golden(features=("A", "B", "C"))}, ManifestError, "M08"),
        ({"golden": wrong_golden(features=("RISK", "AMOUNT", "KIND"))}, ManifestError, "M08"),
        ({"golden": wrong_golden(rows=(("x", 1, "food"),))}, InputError, "C03"),
        ({"golden": wrong_golden(rows=((None, 1, "food"),))}, InputError, "C02"),
        ({"golden": wrong_golden(rows=(([1], 1, "food"),))}, InputError, "C03"),
        ({"profile": replace(golden_parts().profile, version=2)}, ManifestError, "M08"),
        ({"profile": replace(golden_parts().profile, contract="other")}, ManifestError, "M08"),
    ],
)
def test_contradictions(change: dict[str, Any], error: type[Exception], code: str) -> None:
    with pytest.raises(error, match=code):
        assemble(replace(golden_parts(), **change))


# --- wherry.json


def manifest_with(**change: Any) -> bytes:
    return json.dumps(json.loads(golden_parts().manifest.to_bytes()) | change).encode()


def changed(path: str, value: Any) -> bytes:
    """The golden manifest with one field, named by its path, put to `value`."""
    found = json.loads(golden_parts().manifest.to_bytes())
    *way, last = path.split(".")
    inner = found
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = value
    return json.dumps(found).encode()


def test_unknown_fields_survive_wherever_they_stand() -> None:
    found = json.loads(golden_parts().manifest.to_bytes())
    places = [
        found,
        found["runtime"],
        found["board"],
        found["input"],
        found["input"]["features"][0],
        found["encoder"][0],
        found["output"],
        found["soak"],
        found["fallback"],
        found["fallback"]["conditions"][0],
        found["provenance"],
    ]
    for number, place in enumerate(places):
        place["x-new"] = {"number": number, "list": [None, 1.5, "é"]}
    data = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert Manifest.from_bytes(data).to_bytes() == data


def test_defaults_are_filled_in() -> None:
    found = json.loads(golden_parts().manifest.to_bytes())
    for name in ("board", "soak", "encoder", "fallback", "provenance"):
        del found[name]
    made = Manifest.from_bytes(json.dumps(found).encode())
    assert made.board == BoardNeeds()
    assert made.soak.rows == 200
    assert made.soak.longest_seconds == 86_400
    assert made.encoder.steps == ()
    assert made.fallback is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (manifest_with(schema="wherry/manifest/2"), "M03"),
        (manifest_with(schema="wherry/profile/1"), "M04"),
        (manifest_with(name="Fraud"), "M04"),
        (manifest_with(name="x" * 64), "M04"),
        (manifest_with(name="../x"), "M04"),
        (manifest_with(version=""), "M04"),
        (manifest_with(version="1 0"), "M04"),
        (manifest_with(family="a_b"), "M04"),
        (manifest_with(input={}), "M04"),
        (manifest_with(encoder={}), "M04"),
        (manifest_with(fallback=[]), "M04"),
        (changed("runtime.kind", "python"), "M04"),
        (changed("runtime.version", "newest"), "M04"),
        (changed("runtime.opsets", {"": 0}), "M04"),
        (changed("runtime.opsets", {"": True}), "M04"),
        (changed("runtime.operators", [1]), "M04"),
        (changed("runtime.threads", 0), "M04"),
        (changed("output.column", -2), "M04"),
        (changed("output.threshold", None), "M04"),
        (changed("soak.longest_seconds", 0), "M04"),
        (changed("soak.rows", -1), "M04"),
        (changed("board.memory_mib", 1.5), "M04"),
        (changed("input.features.0.dtype", "image"), "M04"),
        (changed("fallback.conditions.0.feature", "NOBODY"), "M08"),
        (b"\x80\x04\x95", "M01"),
        (b"[" * 10_000, "M02"),
    ],
)
def test_manifests_that_are_wrong(data: bytes, code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("operator", "allowed"),
    [
        ("MatMul", True),
        ("ai.onnx.ml:TreeEnsembleClassifier", True),
        ("Loop", False),
        ("If", False),
        ("Scan", False),
        ("RandomNormal", False),
        ("com.microsoft:FusedMatMul", False),
        ("ai.onnx.ml:ZipMap", False),
        ("TreeEnsembleClassifier", False),
        ("ai.onnx:MatMul", False),
        ("matmul", False),
        ("", False),
    ],
)
def test_operators(operator: str, allowed: bool) -> None:  # noqa: FBT001 - a row
    assert (not forbidden([operator])) is allowed
    if allowed:
        return
    runtime = replace(golden_parts().manifest.runtime, operators=("Gemm", operator))
    parts = replace(golden_parts(), manifest=replace(golden_parts().manifest, runtime=runtime))
    with pytest.raises(ManifestError, match="M05"):
        assemble(parts)


@pytest.mark.parametrize(
    ("operator", "allowed"),
    [
        ("GATHER", True),
        ("FULLY_CONNECTED", True),
        ("WHILE", False),
        ("CUSTOM:FlexErf", False),
        ("MatMul", False),
        ("VAR_HANDLE", False),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", False),  # keeps state between rows
    ],
)
def test_operators_of_tflite(operator: str, allowed: bool) -> None:  # noqa: FBT001 - a row
    assert (not forbidden([operator], "tflite")) is allowed
    if not allowed:
        with pytest.raises(ManifestError, match="M05"):
            assemble(tflite_parts(operators=("GATHER", operator)))


def test_every_operator_of_tflite_on_the_list_exists() -> None:
    schema = pytest.importorskip("tflite", reason="the extra tflite is absent")
    assert set(vars(schema.BuiltinOperator)) >= ALLOWED_TFLITE


def tflite_parts(**more: Any) -> Parts:
    """The golden parts, with another kind of model."""
    parts = golden_parts()
    needs = RuntimeNeeds(
        "tflite", ">=2.14,<2.15", 3, {"GATHER": 5}, ("GATHER",),
        also={"ai-edge-litert": ">=2.3,<2.4"},
    )  # fmt: skip
    manifest = replace(parts.manifest, runtime=replace(needs, **more))
    return replace(parts, manifest=manifest, model=b"a model")


def test_a_bundle_of_a_tflite_model() -> None:
    found = opened(assemble(tflite_parts()).to_tar())
    assert found.parts() == tflite_parts()
    names = {layer.file_name: layer.media_type for layer in found.oci.layers}
    assert names["model.tflite"] == "application/vnd.cncf.model.weight.v1.raw"
    assert "model.onnx" not in names
    assert json.loads(found.blob(found.oci.config))["config"]["format"] == "tflite"


def test_the_kind_says_which_file_is_the_model() -> None:
    parts = tflite_parts()
    onnx = replace(parts.manifest, runtime=golden_parts().manifest.runtime).to_bytes()
    layout = assemble(parts)
    blobs = {item.file_name: item for item in oci.OciManifest.from_bytes(layout.manifest).layers}
    other = oci.Descriptor.for_file(onnx, oci.WEIGHT_CONFIG_TYPE, "wherry.json")
    listed = oci.OciManifest.from_bytes(layout.manifest)
    layers = [other if item == blobs["wherry.json"] else item for item in listed.layers]
    every = dict(layout.blobs) | {other.digest: onnx}
    manifest = replace(listed, layers=tuple(layers)).to_bytes()
    with pytest.raises(BundleError, match=r"B08.*model\.onnx"):
        load_parts(manifest, lambda item: every[item.digest])


def test_ranges_of_further_runtimes_must_be_ranges() -> None:
    for wanted in ("two", 2):
        document = json.loads(tflite_parts().manifest.to_bytes())
        document["runtime"]["also"]["ai-edge-litert"] = wanted
        with pytest.raises(ManifestError, match=r"M04.*also"):
            Manifest.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("runtime", "version", "fits"),
    [
        ("tflite-runtime", "2.14.0", True),
        ("ai-edge-litert", "2.3.0", True),
        ("tflite-runtime", "2.3.0", False),
        ("ai-edge-litert", "2.14.0", False),
        ("tflite", "2.14.0", False),
        ("onnxruntime", "2.14.0", False),
    ],
)
def test_either_interpreter_in_its_own_range(runtime: str, version: str, fits: bool) -> None:  # noqa: FBT001 - a row
    manifest = tflite_parts().manifest
    if fits:
        manifest.check_fits(runtime=runtime, version=version, architecture="armv7l")
        return
    with pytest.raises(ManifestError, match=r"M06.*tflite-runtime >=2\.14,<2\.15 or ai-edge"):
        manifest.check_fits(runtime=runtime, version=version, architecture="armv7l")


def test_every_operator_on_the_list_exists() -> None:
    from onnx import defs

    known = {
        f"{schema.domain}:{schema.name}" if schema.domain else schema.name
        for schema in defs.get_all_schemas_with_history()
    }
    assert known >= ALLOWED


@pytest.mark.parametrize(
    ("runtime", "version", "architecture", "code"),
    [
        ("onnxruntime", "1.27.0", "aarch64", ""),
        ("onnxruntime", "1.28.3", "x86_64", ""),
        ("onnxruntime", "1.29.0", "aarch64", "M06"),
        ("onnxruntime", "1.26.9", "aarch64", "M06"),
        ("litert", "1.27.0", "aarch64", "M06"),
        ("onnxruntime", "1.27.0", "armv7l", "M07"),
    ],
)
def test_fitting_a_board(runtime: str, version: str, architecture: str, code: str) -> None:
    manifest = replace(golden_parts().manifest, board=BoardNeeds(("aarch64", "x86_64")))
    if not code:
        manifest.check_fits(runtime=runtime, version=version, architecture=architecture)
        return
    with pytest.raises(ManifestError, match=code):
        manifest.check_fits(runtime=runtime, version=version, architecture=architecture)


# --- golden vectors


def test_onnxruntime_agrees_with_the_golden_vectors() -> None:
    import onnxruntime

    parts = golden_parts()
    session = onnxruntime.InferenceSession(parts.model, providers=["CPUExecutionProvider"])
    raw = parts.golden.matrix(parts.manifest.input)
    tensor = parts.manifest.encoder.encode(raw)
    (found,) = session.run([parts.manifest.output.tensor], {"input": tensor})
    scores = found[:, parts.manifest.output.column].astype(np.float64)
    assert parts.golden.judge(scores, parts.manifest.output.threshold) <= parts.golden.tolerance


GOLDEN = GoldenVectors(("X",), ((1,), (2,)), (0.25, 0.75), 0.01)


@pytest.mark.parametrize(
    ("scores", "threshold", "passes"),
    [
        ([0.25, 0.75], 0.5, True),
        ([0.2599, 0.7401], 0.5, True),
        ([0.27, 0.75], 0.5, False),
        ([0.25, 0.745], 0.75, False),
        ([0.25, 0.755], 0.752, False),
        ([0.25, float("nan")], 0.5, False),
        ([0.25], 0.5, False),
    ],
    ids=["equal", "near", "far", "flips down", "flips up", "NaN", "too few"],
)
def test_judging(scores: list[float], threshold: float, passes: bool) -> None:  # noqa: FBT001 - a row
    if passes:
        assert GOLDEN.judge(np.array(scores), threshold) <= 0.011
        return
    with pytest.raises(ProbeError, match="P01"):
        GOLDEN.judge(np.array(scores), threshold)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"rows": [[1]]},
        {"rows": [[1, 2], [2, 3]]},
        {"rows": [1, 2]},
        {"scores": [0.1, None]},
        {"scores": [0.1]},
        {"tolerance": -1},
        {"tolerance": "0"},
        {"features": "X"},
    ],
)
def test_golden_vectors_that_are_wrong(change: dict[str, Any]) -> None:
    data = json.dumps(json.loads(GOLDEN.to_bytes()) | change).encode()
    with pytest.raises(ManifestError, match="M04"):
        GoldenVectors.from_bytes(data)


def test_golden_vectors_survive_with_what_they_do_not_know() -> None:
    data = json.dumps(json.loads(GOLDEN.to_bytes()) | {"made_on": "x86_64"}).encode()
    read = GoldenVectors.from_bytes(data)
    assert read.extra == {"made_on": "x86_64"}
    assert GoldenVectors.from_bytes(read.to_bytes()) == read


def test_the_encoder_is_bound_to_the_input() -> None:
    parts = golden_parts()
    assert parts.manifest.encoder == Encoder(parts.manifest.input, parts.manifest.encoder.steps)


def test_a_blob_is_checked_when_it_is_read_not_only_when_opened() -> None:
    stream = io.BytesIO(golden_bundle())
    found = open_bundle(stream)
    place = golden_bundle().index(golden_parts().model)
    stream.seek(place)
    stream.write(b"\xff")
    with pytest.raises(BundleError, match="B04"):
        found.parts()
    assert bundle.MODEL_FILE == "model.onnx"
