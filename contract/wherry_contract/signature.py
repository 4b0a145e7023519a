"""Signed documents: DSSE envelopes with Ed25519, verified by securesystemslib.

This is the one file of the contract that needs a library beyond numpy, imported where it
is used, because host and device must judge a signature by the very same code (ADR 0004).
Without the `cryptography` package securesystemslib verifies in plain Python, which is
what a small board does.

DSSE: github.com/secure-systems-lab/dsse, protocol.md and envelope.md, version 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .errors import TrustError
from .wire import TRUST, Fields, canonical, parse_json

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

ENVELOPE_LIMIT_BYTES: Final = 64 * 1024
KEY_ID: Final = r"[0-9a-f]{64}"
_BASE64: Final = r"[A-Za-z0-9+/_=-]+"


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key.

    Attributes:
        keyid: 64 hexadecimal digits.
        public: the key itself, 64 hexadecimal digits.
    """

    keyid: str
    public: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> PublicKey:
        """Read a key.

        Raises:
            TrustError: T09 for another kind of key.
        """
        key = cls(
            keyid=fields.text("keyid", pattern=KEY_ID),
            public=fields.text("public", pattern=KEY_ID),
        )
        fields.choice("keytype", ("ed25519",), "ed25519")
        return cls(key.keyid, key.public, fields.rest())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document = {"keyid": self.keyid, "keytype": "ed25519", "public": self.public}
        return document | dict(self.extra)

    def load(self) -> SSlibKey:
        """The key as securesystemslib knows it."""
        from securesystemslib.signer import SSlibKey

        return SSlibKey.from_dict(
            self.keyid,
            {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": self.public}},
        )


def read_keys(fields: Fields) -> dict[str, PublicKey]:
    """The public keys in a document's `keys`, by key id.

    Raises:
        TrustError: T09, malformed or a key stands there twice.
    """
    keys = [PublicKey.from_fields(item) for item in fields.tables("keys", limit=256)]
    by_id = {key.keyid: key for key in keys}
    if len(by_id) != len(keys) or len({key.public for key in keys}) != len(keys):
        # one key under two ids would count as two signers
        raise fields.error("keys", "a list without repeats")
    return by_id


def open_envelope(
    data: bytes, payload_type: str, keys: Mapping[str, PublicKey], threshold: int = 1
) -> tuple[bytes, tuple[str, ...]]:
    """Verify an envelope and return what it says and who signed it.

    Args:
        data: the envelope, JSON.
        payload_type: what the payload must be.
        keys: trusted keys by key id.
        threshold: how many of them must have signed.

    Raises:
        TrustError: T09 malformed, T02 too few trusted signatures, T01 a trusted key's
            signature does not verify.
    """
    from securesystemslib.exceptions import VerificationError

    envelope, signers = _read_envelope(data, payload_type)
    known = [keys[keyid] for keyid in signers if keyid in keys]
    if len(known) < threshold:
        seen = ", ".join(keyid[:12] for keyid in signers)
        raise TrustError("T02", f"{len(known)} of {threshold} needed; signed by {seen}")
    try:
        accepted = envelope.verify([key.load() for key in known], threshold)
    except VerificationError as error:
        raise TrustError("T01", str(error)) from error
    return envelope.payload, tuple(sorted(accepted))


def _read_envelope(data: bytes, payload_type: str) -> tuple[Envelope, list[str]]:
    from securesystemslib.dsse import Envelope

    document = parse_json(data, limit=ENVELOPE_LIMIT_BYTES, what="envelope", domain=TRUST)
    fields = Fields(document, "envelope", TRUST)
    payload = fields.text("payload", pattern=_BASE64, limit=ENVELOPE_LIMIT_BYTES)
    if fields.text("payloadType") != payload_type:
        raise fields.error("payloadType", payload_type)
    signatures = [
        {
            "keyid": item.text("keyid", pattern=KEY_ID),
            "sig": item.text("sig", pattern=_BASE64),
        }
        for item in fields.tables("signatures", limit=16)
    ]
    signers = [signature["keyid"] for signature in signatures]
    if len(set(signers)) != len(signers):
        raise fields.error("signatures", "one for each key")
    clean = {"payload": payload, "payloadType": payload_type, "signatures": signatures}
    try:
        return Envelope.from_dict(clean), signers
    except ValueError as error:  # base64 that is none
        raise TrustError("T09", f"envelope: {error}") from error


@dataclass(frozen=True)
class BundleStatement:
    """What a model team signs: this manifest is release `counter` of this family.

    Attributes:
        digest: of the bundle's OCI manifest.
        size: of that manifest in bytes.
        counter: grows with every release; a device takes none below its floor.
    """

    family: str
    name: str
    version: str
    digest: str
    size: int
    counter: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    PAYLOAD_TYPE = "application/vnd.wherry.bundle.v1+json"
    SCHEMA = "wherry/bundle"

    @classmethod
    def from_bytes(cls, data: bytes) -> BundleStatement:
        """Read the payload of a verified envelope.

        Raises:
            TrustError: T08 from the future, T09 malformed.
        """
        document = parse_json(data, limit=ENVELOPE_LIMIT_BYTES, what="statement", domain=TRUST)
        fields = Fields(document, "statement", TRUST)
        fields.schema(cls.SCHEMA)
        check_understood(fields, ())
        return cls(
            family=fields.text("family", limit=63),
            name=fields.text("name", limit=63),
            version=fields.text("version", limit=64),
            digest=fields.text("digest", pattern=r"sha256:[0-9a-f]{64}"),
            size=fields.integer("size", low=1),
            counter=fields.integer("counter"),
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload to be signed."""
        return canonical(
            {
                "schema": f"{self.SCHEMA}/1",
                "family": self.family,
                "name": self.name,
                "version": self.version,
                "digest": self.digest,
                "size": self.size,
                "counter": self.counter,
            }
            | dict(self.extra)
        )


def check_understood(fields: Fields, known: tuple[str, ...]) -> None:
    """Refuse a signed document that names, under `must_understand`, a field we do not know.

    Raises:
        TrustError: T08.
    """
    foreign = sorted(set(fields.texts("must_understand", [], limit=32)) - set(known))
    if foreign:
        raise TrustError("T08", f"it relies on {', '.join(foreign)[:200]}")


@dataclass(frozen=True)
class FamilyTrust:
    """Who may sign bundles of a family, how many must, and the lowest release counter."""

    keys: tuple[str, ...]
    threshold: int = 1
    min_counter: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AssignmentKey:
    """A key that may sign assignments, and from when to when (Unix seconds)."""

    keyid: str
    not_before: float
    not_after: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> AssignmentKey:
        """Read a key's validity.

        Raises:
            TrustError: T09.
        """
        return cls(
            fields.text("keyid", pattern=KEY_ID),
            fields.number("not_before"),
            fields.number("not_after"),
            fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document = {
            "keyid": self.keyid,
            "not_before": self.not_before,
            "not_after": self.not_after,
        }
        return document | dict(self.extra)

    def check(self, moment: float) -> None:
        """Refuse what was signed when the key was not valid.

        Raises:
            TrustError: T02.
        """
        if not self.not_before <= moment <= self.not_after:
            raise TrustError("T02", f"key {self.keyid[:12]} was not valid when it was issued")


@dataclass(frozen=True)
class TrustRoot:
    """`trust.json`: whom a device trusts. It is put there at enrolment.

    Attributes:
        keys: every key by its id.
        families: by name of the family.
        assignment_keys: who may tell this device what to run.
    """

    keys: Mapping[str, PublicKey]
    families: Mapping[str, FamilyTrust]
    assignment_keys: tuple[AssignmentKey, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    SCHEMA = "wherry/trust"
    LIMIT_BYTES = 256 * 1024

    @classmethod
    def from_bytes(cls, data: bytes) -> TrustRoot:
        """Read `trust.json`.

        Raises:
            TrustError: T08 or T09.
        """
        document = parse_json(data, limit=cls.LIMIT_BYTES, what="trust.json", domain=TRUST)
        fields = Fields(document, "trust.json", TRUST)
        fields.schema(cls.SCHEMA)
        keys = read_keys(fields)
        families = fields.mapping("families")
        return cls(
            keys=keys,
            families={
                name: _read_family(Fields(families, "families", TRUST).table(name))
                for name in families
            },
            assignment_keys=tuple(
                AssignmentKey.from_fields(item)
                for item in fields.tables("assignment_keys", limit=64)
            ),
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        families = {
            name: {
                "keys": list(family.keys),
                "threshold": family.threshold,
                "min_counter": family.min_counter,
            }
            | dict(family.extra)
            for name, family in self.families.items()
        }
        return canonical(
            {
                "schema": f"{self.SCHEMA}/1",
                "keys": [key.to_dict() for key in self.keys.values()],
                "families": families,
                "assignment_keys": [key.to_dict() for key in self.assignment_keys],
            }
            | dict(self.extra)
        )

    def open_bundle_statement(
        self, envelope: bytes, *, family: str, digest: str
    ) -> BundleStatement:
        """Verify the signatures of a bundle.

        Args:
            envelope: the DSSE envelope that came with it.
            family: the family that it must belong to.
            digest: of the bundle at hand.

        Raises:
            TrustError: T01, T02, T03, T06, T07, T08 or T09.
        """
        rule = self.families.get(family)
        if rule is None:
            raise TrustError("T06", f"no keys are trusted for family {family}")
        keys = {keyid: self.keys[keyid] for keyid in rule.keys if keyid in self.keys}
        payload, _ = open_envelope(envelope, BundleStatement.PAYLOAD_TYPE, keys, rule.threshold)
        statement = BundleStatement.from_bytes(payload)
        if statement.family != family:
            raise TrustError("T06", f"it is of {statement.family}, wanted is {family}")
        if statement.digest != digest:
            raise TrustError("T03", f"it signs {statement.digest}, the bundle is {digest}")
        if statement.counter < rule.min_counter:
            raise TrustError("T07", f"release {statement.counter}, the floor is {rule.min_counter}")
        return statement


def _read_family(fields: Fields) -> FamilyTrust:
    return FamilyTrust(
        keys=fields.texts("keys", limit=64),
        threshold=fields.integer("threshold", 1, low=1, high=16),
        min_counter=fields.integer("min_counter", 0),
        extra=fields.rest(),
    )
