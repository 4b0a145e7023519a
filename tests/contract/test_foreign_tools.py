"""Tools that nobody here wrote take a bundle for what it is: skopeo, docker-registry, a schema."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import jsonschema
import pytest
from support_contract import golden_bundle, golden_parts, opened, vector
from support_registry import running_registry

from wherry.to_registry import RegistryTarget, copy_bundle
from wherry_contract import oci
from wherry_contract.errors import SetupError
from wherry_contract.wire import sha256_digest

SCHEMA = Path(__file__).parent / "data" / "modelpack-config-schema.json"


def skopeo(*words: str, folder: Path) -> bytes:
    """Run skopeo without any setting of this machine."""
    program = shutil.which("skopeo")
    assert program, "skopeo is missing; `make test-tools` installs it"
    done = subprocess.run(
        [program, "--insecure-policy", "--tmpdir", str(folder), *words],
        capture_output=True,
        check=False,
        timeout=60,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with running_registry(tmp_path / "registry") as running:
        yield running.netloc


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "fraud-mini.wherry"
    path.write_bytes(golden_bundle())
    return path


def test_skopeo_reads_the_file(packed: Path, tmp_path: Path) -> None:
    raw = skopeo("inspect", "--raw", f"oci-archive:{packed}", folder=tmp_path)
    assert raw == opened(golden_bundle()).manifest
    assert sha256_digest(raw) == opened(golden_bundle()).digest


def test_a_release_is_copied_to_a_registry_unchanged(packed: Path, registry: str) -> None:
    tag = copy_bundle(packed, RegistryTarget(f"http://{registry}/models")).rpartition(":")[2]
    url = f"http://{registry}/v2/models/fraud/manifests/{tag}"
    kind = "application/vnd.oci.image.manifest.v1+json"
    with urlopen(Request(url, headers={"Accept": kind}), timeout=10) as answer:
        assert answer.read() == opened(golden_bundle()).manifest
    with pytest.raises(SetupError, match="H05"):
        copy_bundle(packed, RegistryTarget(f"https://{registry}/models"))
    with pytest.raises(SetupError, match="H07"):
        copy_bundle(packed, RegistryTarget(f"http://{registry}/NOT ALLOWED"))


def test_to_a_registry_and_back(packed: Path, tmp_path: Path, registry: str) -> None:
    before = opened(golden_bundle())
    there = f"docker://{registry}/models/fraud:1.0.0"
    back = tmp_path / "back.wherry"
    skopeo("copy", "--dest-tls-verify=false", f"oci-archive:{packed}", there, folder=tmp_path)
    skopeo("copy", "--src-tls-verify=false", there, f"oci-archive:{back}:1.0.0", folder=tmp_path)

    after = opened(back.read_bytes())
    assert after.digest == before.digest
    assert after.manifest == before.manifest
    assert after.ref_name == before.ref_name
    assert after.layout().blobs == before.layout().blobs
    assert after.parts() == golden_parts()
    # a registry has no place for what stands beside the layout; the statement travels apart
    assert after.statement == b""
    assert after.layout().to_tar(vector("statement.dsse.json")) == golden_bundle()


def test_the_registry_serves_the_same_blobs(packed: Path, tmp_path: Path, registry: str) -> None:
    there = f"docker://{registry}/fraud:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci-archive:{packed}", there, folder=tmp_path)
    for blob in opened(golden_bundle()).oci.blobs:
        with urllib.request.urlopen(f"http://{registry}/v2/fraud/blobs/{blob.digest}") as answer:
            assert sha256_digest(answer.read()) == blob.digest


def config() -> dict[str, Any]:
    found = opened(golden_bundle())
    return json.loads(found.blob(found.oci.config))  # type: ignore[no-any-return]


def test_the_config_is_valid_modelpack() -> None:
    schema = json.loads(SCHEMA.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(config())
    assert not validator.is_valid(config() | {"wherry": 1})
    assert not validator.is_valid({k: v for k, v in config().items() if k != "modelfs"})


def test_the_config_names_the_layers_in_order() -> None:
    layers = [layer.digest for layer in opened(golden_bundle()).oci.layers]
    assert config()["modelfs"] == {"type": "layers", "diffIds": layers}


def test_the_schema_is_the_published_one(shared: Path) -> None:
    assert SCHEMA.read_bytes() == (shared / "modelpack" / "config-schema.json").read_bytes()


def test_the_manifest_follows_modelpack() -> None:
    """docs/spec.md: the artifact type, the config type, raw layers with their file's name."""
    found = json.loads(opened(golden_bundle()).manifest)
    assert found["schemaVersion"] == 2
    assert found["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert found["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert found["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {
        layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"]
        for layer in found["layers"]
    }
    assert kinds == {
        "model.onnx": "application/vnd.cncf.model.weight.v1.raw",
        "wherry.json": "application/vnd.cncf.model.weight.config.v1.raw",
        "profile.json": "application/vnd.cncf.model.dataset.v1.raw",
        "golden.json": "application/vnd.cncf.model.dataset.v1.raw",
        "model-card.md": "application/vnd.cncf.model.doc.v1.raw",
    }


def test_debian_tar_lists_and_unpacks_it(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    done = subprocess.run(
        ["tar", "-xf", str(packed), "-C", str(folder)], capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, b"")
    found = opened(golden_bundle())
    for blob in found.oci.blobs:
        assert (folder / oci.blob_path(blob.digest)).read_bytes() == found.blob(blob)
