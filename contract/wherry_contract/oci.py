"""The OCI image layout and the CNCF ModelPack format, as far as a bundle uses them.

ModelPack: github.com/modelpack/model-spec, docs/spec.md and docs/config.md.
OCI: image-spec, image-layout.md and manifest.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .errors import BundleError
from .wire import Domain, Fields, canonical, parse_json, sha256_digest

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE: Final = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG_TYPE: Final = "application/vnd.cncf.model.weight.config.v1.raw"
DATASET_TYPE: Final = "application/vnd.cncf.model.dataset.v1.raw"
DOC_TYPE: Final = "application/vnd.cncf.model.doc.v1.raw"
FILEPATH: Final = "org.cncf.model.filepath"
REF_NAME: Final = "org.opencontainers.image.ref.name"

DIGEST: Final = r"sha256:[0-9a-f]{64}"
FILE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
LIMIT_BYTES: Final = 64 * 1024  # of an OCI manifest, an index or a config
MAX_LAYERS: Final = 32
TOTAL_BYTES: Final = 512 * 2**20  # of all that a manifest names, a blob named twice counted twice
_LAYOUT_VERSION: Final = "1.0.0"

OCI: Final = Domain(BundleError, "B09", "B02", "B09", "B09")


def blob_path(digest: str) -> str:
    """Where a blob lies in a layout, a depot or a device's store."""
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


@dataclass(frozen=True)
class Descriptor:
    """Points at a blob: what it is, its digest, its size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: bytes, media_type: str, **annotations: str) -> Descriptor:
        """The descriptor of some bytes."""
        return cls(media_type, sha256_digest(data), len(data), annotations)

    @classmethod
    def for_file(cls, data: bytes, media_type: str, name: str) -> Descriptor:
        """The descriptor of a layer that is one file."""
        return cls(media_type, sha256_digest(data), len(data), {FILEPATH: name})

    @classmethod
    def from_fields(cls, fields: Fields) -> Descriptor:
        """Read a descriptor."""
        annotations = fields.mapping("annotations", {})
        if not all(isinstance(value, str) for value in annotations.values()):
            raise fields.error("annotations", "strings by name")
        return cls(
            media_type=fields.text("mediaType", limit=256),
            digest=fields.text("digest", pattern=DIGEST),
            size=fields.integer("size"),
            annotations=annotations,
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document | dict(self.extra)

    @property
    def file_name(self) -> str:
        """The name that the layer gives its file; "" if it gives none that is safe."""
        name = self.annotations.get(FILEPATH, "")
        return name if re.fullmatch(FILE_NAME, name) else ""


@dataclass(frozen=True)
class OciManifest:
    """The ModelPack manifest of a bundle; its digest is the bundle's identity."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes) -> OciManifest:
        """Read and check a manifest.

        Raises:
            BundleError: B02 or B09; B10 if a file name occurs twice.
        """
        fields = Fields(
            parse_json(data, limit=LIMIT_BYTES, what="OCI manifest", domain=OCI),
            "OCI manifest",
            OCI,
        )
        fields.integer("schemaVersion", low=2, high=2)
        fields.choice("mediaType", (MANIFEST_TYPE,))
        fields.choice("artifactType", (ARTIFACT_TYPE,))
        manifest = cls(
            config=Descriptor.from_fields(fields.table("config")),
            layers=tuple(
                Descriptor.from_fields(item) for item in fields.tables("layers", limit=MAX_LAYERS)
            ),
            extra=fields.rest(),
        )
        manifest._check(fields)
        return manifest

    def _check(self, fields: Fields) -> None:
        if self.config.media_type != CONFIG_TYPE:
            raise fields.error("config.mediaType", CONFIG_TYPE)
        names = [layer.file_name for layer in self.layers]
        if not all(names):
            raise fields.error("layers", f"each annotated with a plain {FILEPATH}")
        if len(set(names)) != len(names):
            raise BundleError("B10", f"files {sorted(names)}")
        total = sum(blob.size for blob in self.blobs)
        if total > TOTAL_BYTES:
            raise BundleError(
                "B02", f"its parts have {total} bytes, at most {TOTAL_BYTES} are taken"
            )

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        return canonical(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "artifactType": ARTIFACT_TYPE,
                "config": self.config.to_dict(),
                "layers": [layer.to_dict() for layer in self.layers],
            }
            | dict(self.extra)
        )

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers."""
        return (self.config, *self.layers)

    def layer(self, name: str) -> Descriptor:
        """The layer that holds the file `name`.

        Raises:
            BundleError: B08.
        """
        for layer in self.layers:
            if layer.file_name == name:
                return layer
        raise BundleError("B08", f"no layer holds {name}")


def model_config(
    *,
    name: str,
    version: str,
    family: str,
    precision: str,
    diff_ids: Iterable[str],
    kind: str = "onnx",
) -> bytes:
    """The ModelPack configuration; it validates against the published schema.

    Args:
        name: of the model.
        version: for people.
        family: models of a family replace each other.
        precision: ModelPack's word for the weights.
        diff_ids: digests of the layers.
        kind: of the model's file, ``onnx`` or ``tflite``.
    """
    return canonical(
        {
            "descriptor": {"name": name, "version": version, "family": family},
            "modelfs": {"type": "layers", "diffIds": list(diff_ids)},
            "config": {"format": kind, "precision": precision},
        }
    )


def check_layout(data: bytes) -> None:
    """Check the file `oci-layout`.

    Raises:
        BundleError: B02 or B09.
    """
    document = parse_json(data, limit=LIMIT_BYTES, what="oci-layout", domain=OCI)
    Fields(document, "oci-layout", OCI).choice("imageLayoutVersion", (_LAYOUT_VERSION,))


def read_index(data: bytes) -> Descriptor:
    """The one model manifest that a layout's index.json lists.

    Raises:
        BundleError: B02 or B09.
    """
    fields = Fields(
        parse_json(data, limit=LIMIT_BYTES, what="index.json", domain=OCI), "index", OCI
    )
    fields.integer("schemaVersion", low=2, high=2)
    listed = [Descriptor.from_fields(item) for item in fields.tables("manifests", limit=16)]
    if len(listed) != 1 or listed[0].media_type != MANIFEST_TYPE:
        raise fields.error("manifests", "one OCI manifest")
    return listed[0]


def write_index(manifest: bytes, ref_name: str) -> bytes:
    """The index.json of a layout that holds one manifest."""
    descriptor = Descriptor(
        MANIFEST_TYPE,
        sha256_digest(manifest),
        len(manifest),
        {REF_NAME: ref_name},
        {"artifactType": ARTIFACT_TYPE},
    )
    return canonical(
        {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor.to_dict()]}
    )
