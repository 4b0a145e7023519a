"""What a person wants to know about a bundle: what is in it, who signed it, how two differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry_contract import oci
from wherry_contract.bundle import Layout, Parts, open_bundle
from wherry_contract.errors import SetupError, TrustError
from wherry_contract.manifest import RuntimeNeeds
from wherry_contract.reaction import PREVIOUS
from wherry_contract.signature import (
    BundleStatement,
    FamilyTrust,
    PublicKey,
    TrustRoot,
)
from wherry_contract.wire import parse_json, sha256_digest

from .keys import signed_payload
from .window_size import window_sizes

_SHOWN: Final = 12  # digits of a digest or key id, for a person


@dataclass(frozen=True)
class View:
    """A bundle's file, opened and checked.

    Attributes:
        path: the file.
        size: in bytes.
        digest: of the OCI manifest.
        parts: what is in it.
        layers: its blobs.
        envelope: the signatures; empty if there are none.
        statement: what they say; nothing is verified. None without.
        signers: who claims to have signed.
        precision: of the weights, as the bundle says it.
    """

    path: Path
    size: int
    digest: str
    parts: Parts
    layers: tuple[oci.Descriptor, ...]
    envelope: bytes
    statement: BundleStatement | None
    signers: tuple[str, ...]
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        manifest, golden = self.parts.manifest, self.parts.golden
        return {
            "file": str(self.path),
            "size": self.size,
            "digest": self.digest,
            "name": manifest.name,
            "version": manifest.version,
            "family": manifest.family,
            "precision": self.precision,
            "runtime": manifest.runtime.to_dict(),
            "board": manifest.board.to_dict(),
            "input": manifest.input.to_dict(),
            "encoder": [
                {"op": step.op, "feature": step.feature} for step in manifest.encoder.steps
            ],
            "output": manifest.output.to_dict(),
            "soak": manifest.soak.to_dict(),
            "fallback": manifest.fallback.to_dict() if manifest.fallback else None,
            "reaction": manifest.reaction.to_dict() if manifest.reaction else None,
            "reference_rows": self.parts.profile.rows,
            "windows": [size.to_dict() for size in window_sizes(self.parts.profile, self.digest)],
            "golden": {"rows": len(golden.rows), "tolerance": golden.tolerance},
            "provenance": dict(manifest.provenance),
            "counter": self.statement.counter if self.statement else None,
            "signed_by": list(self.signers),
            "blobs": [
                {
                    "name": layer.file_name,
                    "size": layer.size,
                    "digest": layer.digest,
                    "media_type": layer.media_type,
                }
                for layer in self.layers
            ],
        }


def look(path: Path) -> View:
    """Open a bundle and check all of it but its signatures.

    Raises:
        SetupError: H02, the file cannot be read.
        BundleError, ManifestError, InputError: it is not a usable bundle.
        TrustError: T08 or T09, its statement is malformed or about something else.
    """
    try:
        with path.open("rb") as stream:
            bundle = open_bundle(stream)
            parts, layers, envelope = bundle.parts(), bundle.oci.layers, bundle.statement
            precision = _precision(bundle.blob(bundle.oci.config))
            size = stream.seek(0, 2)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    statement, signers = _claims(envelope) if envelope else (None, ())
    return View(path, size, bundle.digest, parts, layers, envelope, statement, signers, precision)


def unpack(path: Path) -> tuple[Parts, Layout]:
    """Open a bundle, check all of it but its signatures, and take its blobs out.

    Raises:
        SetupError: H02, the file cannot be read.
        BundleError, ManifestError, InputError: it is not a usable bundle.
    """
    try:
        with path.open("rb") as stream:
            bundle = open_bundle(stream)
            return bundle.parts(), bundle.layout()
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error


def _precision(config: bytes) -> str:
    found = parse_json(config, limit=oci.LIMIT_BYTES, what="config", domain=oci.OCI).get("config")
    named = found.get("precision") if isinstance(found, dict) else None
    return named[:32] if isinstance(named, str) else "not said"


def _claims(envelope: bytes) -> tuple[BundleStatement, tuple[str, ...]]:
    payload, signers = signed_payload(envelope)
    return BundleStatement.from_bytes(payload), signers


def lines(view: View) -> Iterator[str]:
    """The view for a person."""
    manifest, runtime = view.parts.manifest, view.parts.manifest.runtime
    output, measured = manifest.output, manifest.provenance.get("measured")
    yield f"{manifest.name} {manifest.version}, family {manifest.family}"
    yield f"  digest     {view.digest}"
    yield f"  file       {view.size:,} bytes, {view.precision}"
    yield f"  runtime    {_runtime_words(runtime)}"
    yield f"  operators  {', '.join(runtime.operators)}"
    if output.classes:
        least = f", at least {output.threshold:.9g}" if output.threshold > 0 else ""
        yield f"  output     the likeliest of {', '.join(output.classes[:20])}{least}"
    else:
        what = "value, " * bool(output.edges) + output.positive
        yield f"  output     {what}, flagged at {output.threshold:.9g} and above"
    yield f"  fallback   {manifest.fallback or 'none'}"
    if reaction := manifest.reaction:
        shares = f"{reaction.missing_share:g} missing or {reaction.outside_share:g} out of range"
        who = "the model before, else the rule," if reaction.answer == PREVIOUS else "the rule"
        yield f"  reaction   {who} answers over {shares}, of {reaction.rows} rows"
    soak = manifest.soak
    yield f"  soak       {soak.rows} rows and {soak.seconds} s, at most {soak.longest_seconds} s"
    golden = view.parts.golden
    yield f"  proof      {len(golden.rows)} golden vectors, tolerance {golden.tolerance:g}"
    yield f"  reference  {view.parts.profile.rows:,} rows"
    for size in window_sizes(view.parts.profile, view.digest):
        pairs = f", {size.pairs} of them for pairs" if size.pairs else ""
        yield f"  window     of {size.rows:,} rows: {size.json:,} bytes, compact {size.compact:,}{pairs}"
    yield from _measured_lines(measured)
    yield from _signature_lines(view)
    yield f"  input      {manifest.input.name} {manifest.input.version}"
    width = max(map(len, manifest.input.names))
    for feature in manifest.input.features:
        yield "    " + "  ".join(filter(None, _feature_words(feature.to_dict(), width)))
    yield "  blobs"
    for layer in view.layers:
        yield f"    {layer.file_name:<16}{layer.size:>12,}  {layer.digest[7 : 7 + _SHOWN]}"


def _runtime_words(runtime: RuntimeNeeds) -> str:
    if runtime.kind == "tflite":
        return f"{runtime.words}, schema {runtime.ir}"
    domains = ", ".join(f"{name or 'ai.onnx'} {v}" for name, v in sorted(runtime.opsets.items()))
    return f"{runtime.words}, IR {runtime.ir}, {domains}"


def _measured_lines(measured: object) -> Iterator[str]:
    if not isinstance(measured, dict):
        return
    metrics = measured.get("metrics")
    for name, found in (metrics if isinstance(metrics, dict) else {}).items():
        if isinstance(found, dict) and {"auc", "average_precision"} <= found.keys():
            figures = [found["auc"], found["average_precision"]]
            if all(isinstance(figure, float) for figure in figures):
                auc, precision = figures
                yield f"  {name:<10} AUC {auc:.4f}, average precision {precision:.4f}"
    yield f"  flips      {measured.get('flips')} on check rows, {measured.get('edge_flips')} on hard"


def _signature_lines(view: View) -> Iterator[str]:
    if view.statement is None:
        yield "  signed by  nobody"
        return
    names = ", ".join(keyid[:_SHOWN] for keyid in view.signers)
    yield f"  signed by  {names} as release {view.statement.counter} (not verified here)"


def _feature_words(feature: Mapping[str, Any], width: int) -> list[str]:
    low, high = feature.get("minimum"), feature.get("maximum")
    span = f"{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}"
    categories = feature.get("categories", ())
    return [
        f"{feature['name']:<{width}}",
        f"{feature['dtype']:<8}",
        span if span != ".." else "",
        str(feature.get("unit", "")),
        f"of {len(categories)}" if categories else "",
        "may be missing" if feature["missing"] == "allow" else "",
    ]


def verify(view: View, trust: TrustRoot) -> BundleStatement:
    """Check a bundle's signatures against whom somebody trusts.

    Raises:
        TrustError: it is not signed by them, or for something else.
    """
    if not view.envelope:
        raise TrustError("T02", "nobody signed it")
    family = view.parts.manifest.family
    statement = trust.open_bundle_statement(view.envelope, family=family, digest=view.digest)
    manifest = view.parts.manifest
    said, here = (statement.name, statement.version), (manifest.name, manifest.version)
    if said != here:
        raise TrustError("T03", f"it signs {' '.join(said)}, the bundle is {' '.join(here)}")
    return statement


def trusting(keys: Sequence[PublicKey], family: str) -> TrustRoot:
    """A trust root that takes a family's bundles if any of some keys signed."""
    known = {key.keyid: key for key in keys}
    return TrustRoot(known, {family: FamilyTrust(tuple(known))}, ())


def read_trust(path: Path) -> TrustRoot:
    """Read a `trust.json`.

    Raises:
        SetupError: H02.
        TrustError: T08 or T09.
    """
    try:
        return TrustRoot.from_bytes(path.read_bytes())
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error


@dataclass(frozen=True)
class Change:
    """One thing that differs between two bundles."""

    what: str
    before: str
    after: str

    def to_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {"what": self.what, "before": self.before, "after": self.after}


def differences(before: View, after: View) -> list[Change]:
    """What differs, most telling first; empty if the bundles are the same.

    Signatures are compared too, though they are no part of a bundle's identity.
    """
    ours, theirs = _facts(before), _facts(after)
    found = [
        Change(what, ours.get(what, "absent"), theirs.get(what, "absent"))
        for what in [*ours, *(what for what in theirs if what not in ours)]
    ]
    return [change for change in found if change.before != change.after]


def _facts(view: View) -> dict[str, str]:
    """Everything that can differ, in words, by name."""
    manifest, profile = view.parts.manifest, view.parts.profile
    facts = {
        "name": manifest.name,
        "version": manifest.version,
        "family": manifest.family,
        "model": _short(sha256_digest(view.parts.model)),
        "model bytes": f"{len(view.parts.model)}",
        "threshold": f"{manifest.output.threshold!r}",
        "input contract": f"{manifest.input.name} {manifest.input.version}",
        "features": ", ".join(manifest.input.names),
    }
    for feature in manifest.input.features:
        words = {name: value for name, value in feature.to_dict().items() if name != "name"}
        facts[f"feature {feature.name}"] = _words(words)
    for item in profile.features:
        facts[f"edges of {item.name}"] = ", ".join(f"{edge:g}" for edge in item.edges)
    documents = {f"document {n}": _short(sha256_digest(d)) for n, d in view.parts.documents.items()}
    return (
        facts
        | _sections(view)
        | {
            "reference rows": f"{profile.rows}",
            "reference": _short(sha256_digest(profile.to_bytes())),
            "golden vectors": _short(sha256_digest(view.parts.golden.to_bytes())),
        }
        | documents
        | {
            "counter": f"{view.statement.counter}" if view.statement else "none",
            "signed by": ", ".join(keyid[:_SHOWN] for keyid in view.signers) or "nobody",
            "digest": _short(view.digest),
        }
    )


def _sections(view: View) -> dict[str, str]:
    manifest = view.parts.manifest
    runtime = manifest.runtime.to_dict()
    found = {f"runtime {name}": _words(value) for name, value in runtime.items()}
    found |= {f"soak {name}": _words(value) for name, value in manifest.soak.to_dict().items()}
    found |= {f"board {name}": _words(value) for name, value in manifest.board.to_dict().items()}
    found |= {
        "output": _words({k: v for k, v in manifest.output.to_dict().items() if k != "threshold"}),
        "fallback": str(manifest.fallback or "none"),
        "reaction": _words(manifest.reaction.to_dict() if manifest.reaction else "none"),
        "pairs": ", ".join(pair.name for pair in view.parts.profile.pairs) or "none",
        "encoder": f"{len(manifest.encoder.steps)} steps, "
        + _short(sha256_digest(repr(manifest.encoder.to_list()).encode())),
    }
    return found | {f"provenance {k}": _words(v) for k, v in manifest.provenance.items()}


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name or 'ai.onnx'} {_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return str(value)


def _short(digest: str) -> str:
    return digest[7 : 7 + _SHOWN]
