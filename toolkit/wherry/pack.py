"""Parts in, one signed file out; and the same from a folder of parts made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wherry_contract.bundle import (
    CARD_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    MODEL_LIMIT_BYTES,
    PART_LIMIT_BYTES,
    PROFILE_FILE,
    Layout,
    Parts,
    assemble,
    open_bundle,
)
from wherry_contract.errors import BundleError, ManifestError, SetupError, TrustError
from wherry_contract.golden import GoldenVectors
from wherry_contract.manifest import Manifest
from wherry_contract.profile import ReferenceProfile
from wherry_contract.signature import BundleStatement
from wherry_convert.graph import inspect_graph, parse
from wherry_convert.quantize_graph import precision_of as weights_precision
from wherry_convert.scoring import Scored
from wherry_convert.tflite_inspect import inspect_tflite, refuse_tflite

from .files import read_bounded, write_durably
from .keys import sign_envelope, signed_payload
from .vectors import check_vectors

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

PARTS: Final = (MANIFEST_FILE, PROFILE_FILE, GOLDEN_FILE)  # and the model's


def precision_of(parts: Parts) -> str:
    """ModelPack's word for the weights.

    Raises:
        ConvertError: K04 or K06, the model cannot be read.
    """
    if parts.manifest.runtime.kind == "tflite":
        return inspect_tflite(parts.model).precision
    return weights_precision(parse(parts.model))


def statement_for(layout: Layout, parts: Parts, counter: int) -> BundleStatement:
    """What signers of a bundle sign."""
    manifest = parts.manifest
    return BundleStatement(
        family=manifest.family,
        name=manifest.name,
        version=manifest.version,
        digest=layout.digest,
        size=len(layout.manifest),
        counter=counter,
    )


def pack(parts: Parts, path: Path, *, counter: int = 0, signers: Sequence[Signer] = ()) -> Layout:
    """Lay parts out as a bundle and write it, signed if there is anyone to sign.

    Args:
        parts: what goes in.
        path: the file; its folder is made.
        counter: the release counter, from 1; only read when somebody signs.
        signers: see `wherry.keys.load_signer`.

    Raises:
        ManifestError: the parts contradict each other.
        BundleError: B02.
        StoreError: D01 or D06.
    """
    layout = assemble(parts, precision=precision_of(parts))
    statement = b""
    if signers:
        payload = statement_for(layout, parts, counter).to_bytes()
        statement = sign_envelope(payload, BundleStatement.PAYLOAD_TYPE, signers)
    write_durably(path, layout.to_tar(statement))
    return layout


def sign_bundle(
    path: Path, signers: Sequence[Signer], *, counter: int | None = None
) -> BundleStatement:
    """Add signatures to a bundle's file; its digest does not change.

    Args:
        path: the bundle; it is replaced by the signed one.
        signers: at least one.
        counter: the release counter; may be left out if somebody has signed already.

    Raises:
        BundleError, ManifestError: it is no bundle.
        SetupError: H02 it cannot be read.
        TrustError: T09, a key would sign twice, or the signatures are for something else,
            or no counter is known.
    """
    try:
        with path.open("rb") as stream:
            bundle = open_bundle(stream)
            parts, layout, envelope = bundle.parts(), bundle.layout(), bundle.statement
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    if envelope:
        said = BundleStatement.from_bytes(signed_payload(envelope)[0])
        counter = said.counter if counter is None else counter
    if counter is None:
        raise TrustError("T09", "nobody has signed it yet", cure="say --counter")
    statement = statement_for(layout, parts, counter)
    kind = BundleStatement.PAYLOAD_TYPE
    signed = sign_envelope(statement.to_bytes(), kind, signers, envelope=envelope)
    write_durably(path, layout.to_tar(signed))
    return statement


def write_parts(parts: Parts, folder: Path) -> None:
    """Write parts as files, as `read_parts` reads them."""
    files = {
        parts.model_file: parts.model,
        MANIFEST_FILE: parts.manifest.to_bytes(),
        PROFILE_FILE: parts.profile.to_bytes(),
        GOLDEN_FILE: parts.golden.to_bytes(),
    } | dict(parts.documents)
    for name, data in files.items():
        write_durably(folder / name, data)


def read_parts(folder: Path) -> Parts:
    """Read a folder of parts and prove that they belong together.

    The graph is looked into, and the golden vectors are scored by the runtime here.

    Raises:
        SetupError: H02, a file is missing.
        BundleError: B02, a file is too large.
        ManifestError: M01 to M05, M08.
        ConvertError: K04, the model cannot be read.
        ProbeError: P01, the golden vectors disagree.
    """
    files = {name: _read(folder / name) for name in PARTS}
    card = folder / CARD_FILE
    manifest = Manifest.from_bytes(files[MANIFEST_FILE])
    parts = Parts(
        manifest=manifest,
        model=_read(folder / MODEL_FILES[manifest.runtime.kind]),
        profile=ReferenceProfile.from_bytes(files[PROFILE_FILE]),
        golden=GoldenVectors.from_bytes(files[GOLDEN_FILE]),
        documents={CARD_FILE: _read(card)} if card.exists() else {},
    )
    parts.check()
    check_graph(parts)
    check_scores(parts)
    return parts


def _read(path: Path) -> bytes:
    limit = MODEL_LIMIT_BYTES if path.name in MODEL_FILES.values() else PART_LIMIT_BYTES
    return read_bounded(path, limit, partial(BundleError, "B02"))


def check_graph(parts: Parts) -> None:
    """Refuse a manifest that says something else about the graph than the graph does.

    Raises:
        ManifestError: M08.
        ConvertError: K04; K01 or K02, a TFLite file is none that a bundle may hold.
    """
    needs = parts.manifest.runtime
    facts = _tflite_graph(parts.model) if needs.kind == "tflite" else _onnx_graph(parts.model)
    for what, found, said in (
        ("IR version", facts.ir, needs.ir),
        ("operator sets", dict(facts.opsets), dict(needs.opsets)),
        ("operators", sorted(facts.operators), sorted(needs.operators)),
    ):
        if found != said:
            raise ManifestError("M08", f"the graph has {what} {found}, the manifest says {said}")
    if parts.manifest.output.tensor not in facts.outputs:
        raise ManifestError("M08", f"the graph has no output {parts.manifest.output.tensor!r}")


@dataclass(frozen=True)
class _Graph:
    """What a manifest says of a model's file, as the file says it."""

    ir: int
    opsets: Mapping[str, int]
    operators: tuple[str, ...]
    outputs: tuple[str, ...]


def _onnx_graph(model: bytes) -> _Graph:
    found = inspect_graph(model)
    return _Graph(found.ir, found.opsets, found.operators, found.outputs)


def _tflite_graph(model: bytes) -> _Graph:
    found = inspect_tflite(model)
    refuse_tflite(found)
    outputs = tuple(item.name for item in found.outputs)
    return _Graph(found.schema, found.versions, found.operators, outputs)


def scored(parts: Parts) -> Scored:
    """Scores raw rows as a device that runs these parts does.

    Raises:
        ConvertError: K04 or K06.
    """
    manifest = parts.manifest
    output = manifest.output
    return Scored(
        parts.model,
        manifest.runtime,
        manifest.encoder,
        output.tensor,
        output.column,
        len(output.classes),
    )


def check_scores(parts: Parts) -> float:
    """Score the golden vectors here and return the largest difference.

    Raises:
        ProbeError: P01.
        ConvertError: K04 or K06.
    """
    manifest = parts.manifest
    threshold = manifest.output.threshold
    return check_vectors(parts.golden, scored(parts).scores, manifest.input, threshold)
