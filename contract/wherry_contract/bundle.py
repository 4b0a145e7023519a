"""A bundle: one file that carries a model and all that a device needs to trust it.

The file is the plain tar of an OCI image layout with one ModelPack manifest, so registry
tools read it as it is; beside the layout stands `statement.dsse.json`, the signatures.
Everything is checked before anything is used: sizes, counts, names, digests, and that the
parts belong together. Nothing is ever extracted to a path that the bundle names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from . import oci, tar
from .errors import BundleError, ManifestError
from .golden import GoldenVectors
from .manifest import Manifest
from .profile import ReferenceProfile
from .wire import sha256_digest

MODEL_FILE: Final = "model.onnx"
MODEL_FILES: Final = {"onnxruntime": MODEL_FILE, "tflite": "model.tflite"}  # by runtime.kind
MANIFEST_FILE: Final = "wherry.json"
PROFILE_FILE: Final = "profile.json"
GOLDEN_FILE: Final = "golden.json"
CARD_FILE: Final = "model-card.md"
STATEMENT_FILE: Final = "statement.dsse.json"

LIMIT_BYTES: Final = oci.TOTAL_BYTES + 2**20  # of the file
MODEL_LIMIT_BYTES: Final = 256 * 2**20
PART_LIMIT_BYTES: Final = 4 * 2**20  # of every part but the model
STATEMENT_LIMIT_BYTES: Final = 64 * 1024
_MOST_ENTRIES: Final = 64
_NAMES = re.compile(r"oci-layout|index\.json|statement\.dsse\.json|blobs/sha256/[0-9a-f]{64}")
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'

_MEDIA_TYPES: Final[Mapping[str, str]] = dict.fromkeys(MODEL_FILES.values(), oci.WEIGHT_TYPE) | {
    MANIFEST_FILE: oci.WEIGHT_CONFIG_TYPE,
    PROFILE_FILE: oci.DATASET_TYPE,
    GOLDEN_FILE: oci.DATASET_TYPE,
    CARD_FILE: oci.DOC_TYPE,
}


@dataclass(frozen=True)
class Parts:
    """What is in a bundle, parsed, and consistent with itself.

    Attributes:
        model: the graph's file as it stands.
        documents: further files by name, as the model card.
    """

    manifest: Manifest
    model: bytes
    profile: ReferenceProfile
    golden: GoldenVectors
    documents: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def model_file(self) -> str:
        """The name of the model's file."""
        return MODEL_FILES[self.manifest.runtime.kind]

    def check(self) -> None:
        """Refuse parts that contradict each other.

        Raises:
            ManifestError: M05 or M08.
            InputError: a golden row does not fit the input contract.
        """
        self.manifest.check_operators()
        self.profile.check(self.manifest.input)
        if self.golden.features != self.manifest.input.names:
            raise ManifestError("M08", "the golden vectors have other features than the model")
        self.golden.matrix(self.manifest.input)


@dataclass(frozen=True)
class Layout:
    """A bundle as blobs: the OCI manifest and all it refers to."""

    manifest: bytes
    blobs: Mapping[str, bytes]
    ref_name: str

    @property
    def digest(self) -> str:
        """The bundle's identity: the digest of its OCI manifest."""
        return sha256_digest(self.manifest)

    def to_tar(self, statement: bytes = b"") -> bytes:
        """The bundle's file; the same parts give the same bytes."""
        files = [
            ("oci-layout", _LAYOUT),
            ("index.json", oci.write_index(self.manifest, self.ref_name)),
        ]
        if statement:
            files.append((STATEMENT_FILE, statement))
        every = {self.digest: self.manifest} | dict(self.blobs)
        files += [(oci.blob_path(digest), every[digest]) for digest in sorted(every)]
        return tar.write(files)


def assemble(parts: Parts, *, precision: str = "float32") -> Layout:
    """Lay parts out as blobs.

    Args:
        parts: checked first.
        precision: ModelPack's word for the weights, as ``float32`` or ``int8``.

    Raises:
        ManifestError: the parts contradict each other.
        BundleError: B02, a part is too large.
    """
    parts.check()
    files = {
        parts.model_file: parts.model,
        MANIFEST_FILE: parts.manifest.to_bytes(),
        PROFILE_FILE: parts.profile.to_bytes(),
        GOLDEN_FILE: parts.golden.to_bytes(),
    } | dict(parts.documents)
    layers = [
        oci.Descriptor.for_file(data, _MEDIA_TYPES.get(name, oci.DOC_TYPE), name)
        for name, data in files.items()
    ]
    config = oci.model_config(
        name=parts.manifest.name,
        version=parts.manifest.version,
        family=parts.manifest.family,
        precision=precision,
        diff_ids=[layer.digest for layer in layers],
        kind=parts.model_file.rpartition(".")[2],
    )
    manifest = oci.OciManifest(oci.Descriptor.of(config, oci.CONFIG_TYPE), tuple(layers))
    for descriptor in manifest.blobs:
        check_size(descriptor)
    blobs = {sha256_digest(data): data for data in [config, *files.values()]}
    return Layout(manifest.to_bytes(), blobs, parts.manifest.version)


def check_size(descriptor: oci.Descriptor) -> None:
    """Refuse a part that is larger than its kind may be, before it is read or fetched.

    Raises:
        BundleError: B02.
    """
    limit = MODEL_LIMIT_BYTES if descriptor.media_type == oci.WEIGHT_TYPE else PART_LIMIT_BYTES
    if descriptor.size > limit:
        what = descriptor.file_name or descriptor.media_type
        raise BundleError("B02", f"{what} has {descriptor.size} bytes, at most {limit} are taken")


def load_parts(manifest: bytes, get: Callable[[oci.Descriptor], bytes]) -> Parts:
    """Parse and cross-check a bundle from its blobs, wherever they lie.

    Args:
        manifest: the OCI manifest.
        get: returns a blob's bytes; they are checked against the descriptor here.

    Raises:
        BundleError: B02, B04, B08, B09, B10.
        ManifestError: M01 to M05, M08.
    """
    listed = oci.OciManifest.from_bytes(manifest)
    for descriptor in listed.blobs:
        check_size(descriptor)
    files = {layer.file_name: _checked(get(layer), layer) for layer in listed.layers}
    _checked(get(listed.config), listed.config)
    for name in (MANIFEST_FILE, PROFILE_FILE, GOLDEN_FILE):
        listed.layer(name)
    described = Manifest.from_bytes(files.pop(MANIFEST_FILE))
    model = listed.layer(MODEL_FILES[described.runtime.kind]).file_name
    parts = Parts(
        manifest=described,
        model=files.pop(model),
        profile=ReferenceProfile.from_bytes(files.pop(PROFILE_FILE)),
        golden=GoldenVectors.from_bytes(files.pop(GOLDEN_FILE)),
        documents=files,
    )
    parts.check()
    return parts


def _checked(data: bytes, descriptor: oci.Descriptor) -> bytes:
    if len(data) != descriptor.size or sha256_digest(data) != descriptor.digest:
        name = descriptor.file_name or "config"
        raise BundleError("B04", f"{name} should be {descriptor.digest}")
    return data


class Bundle:
    """An open bundle file, indexed and verified; its blobs are read when asked for."""

    def __init__(self, stream: BinaryIO, files: Mapping[str, tar.Entry]) -> None:
        self._stream = stream
        self._files = files
        oci.check_layout(self._read("oci-layout", oci.LIMIT_BYTES))
        index = oci.read_index(self._read("index.json", oci.LIMIT_BYTES))
        self.manifest = self._blob(index, oci.LIMIT_BYTES)
        self.digest = index.digest
        self.ref_name = index.annotations.get(oci.REF_NAME, "")
        self.oci = oci.OciManifest.from_bytes(self.manifest)
        self._check_complete()

    def _check_complete(self) -> None:
        named = {oci.blob_path(blob.digest) for blob in self.oci.blobs}
        named.add(oci.blob_path(self.digest))
        here = {name for name in self._files if name.startswith("blobs/")}
        if named - here:
            raise BundleError("B08", f"{min(named - here)} is not there")
        if here - named:
            raise BundleError("B07", min(here - named))

    def _read(self, name: str, limit: int) -> bytes:
        entry = self._files.get(name)
        if entry is None:
            raise BundleError("B08" if "/" in name else "B03", f"{name} is not there")
        if entry.size > limit:
            raise BundleError("B02", f"{name} has {entry.size} bytes, at most {limit} are read")
        self._stream.seek(entry.offset)
        return self._stream.read(entry.size)

    def _blob(self, descriptor: oci.Descriptor, limit: int) -> bytes:
        return _checked(self._read(oci.blob_path(descriptor.digest), limit), descriptor)

    def blob(self, descriptor: oci.Descriptor) -> bytes:
        """A blob's bytes, checked.

        Raises:
            BundleError: B02, B04 or B08.
        """
        return self._blob(descriptor, MODEL_LIMIT_BYTES)

    def parts(self) -> Parts:
        """Everything in the bundle, parsed and cross-checked."""
        return load_parts(self.manifest, self.blob)

    def layout(self) -> Layout:
        """The bundle as blobs, to be stored or written again."""
        blobs = {item.digest: self.blob(item) for item in self.oci.blobs}
        return Layout(self.manifest, blobs, self.ref_name)

    @property
    def statement(self) -> bytes:
        """The signatures; empty for an unsigned bundle."""
        if STATEMENT_FILE not in self._files:
            return b""
        return self._read(STATEMENT_FILE, STATEMENT_LIMIT_BYTES)


def open_bundle(stream: BinaryIO) -> Bundle:
    """Index a bundle file and check its outside: sizes, names, kinds, completeness.

    Raises:
        BundleError: B01 to B10.
    """
    return Bundle(stream, dict(_index(stream)))


def _index(stream: BinaryIO) -> Iterator[tuple[str, tar.Entry]]:
    size = stream.seek(0, 2)
    if size > LIMIT_BYTES:
        raise BundleError("B02", f"it has {size} bytes, at most {LIMIT_BYTES} are read")
    seen = set()
    for entry in tar.entries(stream, most=_MOST_ENTRIES):
        if not _NAMES.fullmatch(entry.name):
            raise BundleError("B05", repr(entry.name[:80]))
        if entry.name in seen:
            raise BundleError("B10", entry.name)
        seen.add(entry.name)
        yield entry.name, entry


def read_bundle(path: Path) -> Parts:
    """Open a bundle file, check all of it and parse its parts.

    Raises:
        BundleError, ManifestError, InputError: it is not a usable bundle.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return open_bundle(stream).parts()
