"""A bundle and its deltas into an OCI registry, by skopeo.

A family's bundles lie in the repository of its name below the namespace. A tag is for
people and against the registry's tidying up; devices ask by digest. Deltas are an artifact
of their own whose `subject` is the bundle (OCI Distribution Spec 1.1, referrers).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry_contract.bundle import open_bundle
from wherry_contract.delta import read_deltas
from wherry_contract.errors import SetupError
from wherry_contract.oci import (
    ARTIFACT_TYPE,
    MANIFEST_TYPE,
    Descriptor,
    blob_path,
    write_index,
)
from wherry_contract.wire import canonical

from .files import as_store_error

DELTAS_TYPE: Final = "application/vnd.wherry.deltas.v1+json"
DELTA_TYPE: Final = "application/vnd.wherry.delta.v1.bsdiff"
_EMPTY: Final = Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json")
_URL: Final = r"(https?)://([A-Za-z0-9.:\[\]-]+(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)/?"
_SECONDS: Final = 600.0


@dataclass(frozen=True)
class RegistryTarget:
    """A registry that bundles are copied to.

    Attributes:
        url: ``https://host[:port]/namespace``, as in the devices' agent.toml.
        credentials: as `skopeo login --authfile` writes them; nothing for skopeo's own.
        authority: certificates that are trusted there, PEM; nothing for the system's.
    """

    url: str
    credentials: Path | None = None
    authority: Path | None = None

    def reference(self, family: str, tag: str) -> str:
        """As skopeo has it.

        Raises:
            SetupError: H07, the URL is none of a registry.
        """
        match = re.fullmatch(_URL, self.url)
        if match is None:
            cure = "write it like https://registry.example/models, in lower case"
            raise SetupError("H07", f"{self.url[:80]!r} is no registry's address", cure=cure)
        return f"{match[2]}/{family}:{tag}"

    def copy(self, source: str, family: str, tag: str) -> str:
        """Copy what skopeo calls `source`; returns the reference.

        Raises:
            SetupError: H06 skopeo is not installed, H05 it did not succeed, H07.
        """
        reference = self.reference(family, tag)
        with tempfile.TemporaryDirectory(prefix="wherry-") as folder:
            options = self._options(Path(folder))
            words = ["copy", "-q", "--preserve-digests", *options, source, f"docker://{reference}"]
            _skopeo(words)
        return reference

    def _options(self, folder: Path) -> list[str]:
        options = [] if self.url.startswith("https:") else ["--dest-tls-verify=false"]
        if self.credentials:
            options += ["--dest-authfile", str(self.credentials)]
        if self.authority:
            try:
                shutil.copyfile(self.authority, folder / "authority.crt")
            except OSError as error:
                raise SetupError("H02", f"{self.authority}: {error.strerror}") from error
            options += ["--dest-cert-dir", str(folder)]
        return options


def copy_bundle(path: Path, target: RegistryTarget) -> str:
    """Copy a bundle file; what is there already is not sent again.

    Returns:
        The reference, tagged with version and digest.

    Raises:
        BundleError, ManifestError, InputError: it is no usable bundle.
        SetupError: H02, H05 to H07.
    """
    try:
        with path.open("rb") as stream:
            bundle = open_bundle(stream)
            manifest = bundle.parts().manifest
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    tag = f"{re.sub(r'[^A-Za-z0-9._-]', '_', manifest.version)[:64]}-{_short(bundle.digest)}"
    return target.copy(f"oci-archive:{path}", manifest.family, tag)


def copy_deltas(depot: Path, digest: str, family: str, target: RegistryTarget) -> str:
    """Copy the deltas that a depot lists for a bundle; returns the reference, "" if there are none.

    Raises:
        SetupError: H05 to H07.
        StoreError: D01 or D06.
        ManifestError: the depot's list is damaged.
    """
    listed = depot / f"deltas/{digest.partition(':')[2]}.json"
    if not listed.is_file():
        return ""
    with tempfile.TemporaryDirectory(prefix="wherry-") as folder:
        try:
            _write_layout(Path(folder), depot, digest, listed.read_bytes())
        except OSError as error:
            raise as_store_error(error, "deltas") from error
        return target.copy(f"oci:{folder}:deltas", family, f"{_short(digest)}.deltas")


def _write_layout(folder: Path, depot: Path, digest: str, listed: bytes) -> None:
    """An OCI image layout that holds the deltas."""
    deltas = sorted({(item.digest, item.size) for item in read_deltas(listed)})
    bundle = (depot / blob_path(digest)).read_bytes()
    layers = [Descriptor(DELTA_TYPE, name, size) for name, size in deltas]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": DELTAS_TYPE,
        "config": _EMPTY.to_dict(),
        "layers": [layer.to_dict() for layer in layers],
        "subject": Descriptor(
            MANIFEST_TYPE, digest, len(bundle), extra={"artifactType": ARTIFACT_TYPE}
        ).to_dict(),
    }
    manifest = canonical(document)
    (folder / "blobs/sha256").mkdir(parents=True)
    parts = {_EMPTY.digest: b"{}", Descriptor.of(manifest, MANIFEST_TYPE).digest: manifest}
    for name, data in parts.items():
        (folder / blob_path(name)).write_bytes(data)
    for layer in layers:
        shutil.copyfile(depot / blob_path(layer.digest), folder / blob_path(layer.digest))
    (folder / "index.json").write_bytes(write_index(manifest, "deltas"))
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def _skopeo(words: Sequence[str]) -> None:
    program = shutil.which("skopeo")
    if program is None:
        raise SetupError("H06", "skopeo is not installed", cure="apt install skopeo")
    command = [program, "--insecure-policy", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError("H05", f"skopeo took more than {_SECONDS:.0f} s") from error
    if done.returncode:
        cure = "see `skopeo login --help`, and --registry-authority for a private authority"
        raise SetupError("H05", f"skopeo: {done.stderr.strip()[-300:]}", cure=cure)
