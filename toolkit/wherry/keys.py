"""Signing keys: Ed25519, one PEM file that only its owner can read, one public file beside it.

    release.key        PKCS #8 PEM, mode 0600; encrypted if a passphrase was set
    release.pub.json   key id and public key: what fleets are told to trust

A private key is never printed, logged or put into an error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wherry_contract.errors import SetupError, TrustError
from wherry_contract.extras import how_to_install
from wherry_contract.signature import ENVELOPE_LIMIT_BYTES, PublicKey
from wherry_contract.wire import SLUG, TRUST, Fields, canonical, parse_json

from .files import write_durably
from .folder import key_folder

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Signer

NAME: Final = "name"  # of a key in a list of keys; says nothing about whose it is
PASSPHRASE: Final = "WHERRY_KEY_PASSPHRASE"  # noqa: S105 - the variable's name, no secret
_LIMIT_BYTES: Final = 4096


def key_path(key: str, folder: Path | None = None) -> Path:
    """The file of a key that is given by its name or its path.

    Raises:
        TrustError: T10, it is neither.
    """
    if re.fullmatch(SLUG, key):
        return (folder or key_folder()) / f"{key}.key"
    if "/" not in key and not key.endswith((".key", ".pem")):
        detail = f"{key[:64]!r} is neither a key's name nor the path of its file"
        raise TrustError("T10", detail, cure="names have lower-case letters, digits and -")
    return Path(key)


def generate(path: Path, *, passphrase: str = "") -> PublicKey:
    """Make a key pair; a key that is there is never written over.

    Cut off in between it leaves the private key alone, and another call ends it.

    Args:
        path: of the private key's file; the public one lies beside it.
        passphrase: encrypts the file; "" for none.

    Raises:
        SetupError: H03, there is a key already; H06, cryptography is missing.
        StoreError: D01 or D06.
    """
    if public_path(path).exists():
        raise SetupError("H03", f"{path} is there already", cure="choose another name")
    # the private key first: whoever sees a public key may count on it
    if path.exists():
        signer = load_signer(path, passphrase=passphrase)
    else:
        signer = _signers().generate_ed25519()
        write_durably(path, _pem(signer, passphrase), mode=0o600)
    public = _public(signer)
    write_durably(public_path(path), canonical(public.to_dict()) + b"\n")
    return public


def new_key_path(name: str, folder: Path) -> Path:
    """The file of a key that is to be made: a name, so that every other command finds it.

    Raises:
        TrustError: T10, it is no name.
    """
    if not re.fullmatch(SLUG, name):
        cure = "names have lower-case letters, digits and -; another folder is named with --data"
        raise TrustError("T10", f"{name[:64]!r} is no key's name", cure=cure)
    return folder / f"{name}.key"


def public_path(path: Path) -> Path:
    """The public key's file beside a private one."""
    return path.with_name(path.name.removesuffix(".key") + ".pub.json")


def _signers() -> type[CryptoSigner]:
    try:
        import cryptography  # noqa: F401 - securesystemslib can sign only with it
        from securesystemslib.signer import CryptoSigner
    except ImportError as error:
        raise SetupError("H06", how_to_install("host")) from error
    return CryptoSigner


def _public(signer: CryptoSigner) -> PublicKey:
    key = signer.public_key
    return PublicKey(key.keyid, key.keyval["public"])


def _pem(signer: CryptoSigner, passphrase: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    plain: bytes = signer.private_bytes
    if not passphrase:
        return plain
    key = load_pem_private_key(plain, None)
    lock = BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def load_signer(path: Path, *, passphrase: str = "") -> CryptoSigner:
    """Load a private key.

    Args:
        path: its file.
        passphrase: for an encrypted one.

    Raises:
        TrustError: T10, it cannot be opened.
        SetupError: H02 there is none, H06 cryptography is missing.
    """
    signers = _signers()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        data = path.read_bytes()[:_LIMIT_BYTES]
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}", cure=_elsewhere(path)) from error
    try:
        key: Any = load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except TypeError as error:  # encrypted and no passphrase given, or the other way round
        state = "is not encrypted" if passphrase else "is encrypted"
        cure = f"{'unset' if passphrase else 'set'} {PASSPHRASE}"
        raise TrustError("T10", f"{path} {state}", cure=cure) from error
    except ValueError as error:
        cure = f"check the file, and {PASSPHRASE}"
        raise TrustError("T10", f"{path} cannot be opened", cure=cure) from error
    signer = signers(key)
    if signer.public_key.keytype != "ed25519":
        raise TrustError("T10", f"{path} is an {signer.public_key.keytype} key, not Ed25519")
    return signer


def _elsewhere(path: Path) -> str:
    """Where a key may be that is not here; a public half says that the key exists somewhere."""
    if public_path(path).exists():
        return "this key is kept elsewhere: who holds it signs with `wherry sign`"
    return "give the path of the key, or --data its folder; a new one: `wherry key generate`"


def load_named(keys: Sequence[str], folder: Path | None = None) -> list[CryptoSigner]:
    """Load keys by name or path; the passphrase comes from the environment.

    Raises:
        TrustError: T10.
        SetupError: H06, cryptography is missing.
    """
    passphrase = os.environ.get(PASSPHRASE, "")
    return [load_signer(key_path(key, folder), passphrase=passphrase) for key in keys]


def sign_envelope(
    payload: bytes, payload_type: str, signers: Sequence[Signer], *, envelope: bytes = b""
) -> bytes:
    """Sign a payload, or add signatures to an envelope that holds it.

    Args:
        payload: what is signed.
        payload_type: what it is.
        signers: at least one.
        envelope: an existing DSSE envelope of the same payload; b"" for a new one.

    Returns:
        The DSSE envelope, JSON, as `wherry_contract.signature.open_envelope` reads it.

    Raises:
        TrustError: T09, a key would sign twice, or the envelope holds something else.
    """
    from securesystemslib.dsse import Envelope

    signed = _read_envelope(envelope) if envelope else Envelope(payload, payload_type, {})
    if (signed.payload, signed.payload_type) != (payload, payload_type):
        raise TrustError("T09", "the signatures that are there are for something else")
    for signer in signers:
        if signer.public_key.keyid in signed.signatures:
            detail = f"key {signer.public_key.keyid[:12]} has signed it already"
            raise TrustError("T09", detail, cure="sign with another key, or leave it as it is")
        signed.sign(signer)
    return json.dumps(signed.to_dict(), separators=(",", ":")).encode()


def _read_envelope(data: bytes) -> Any:
    from securesystemslib.dsse import Envelope

    document = parse_json(data, limit=ENVELOPE_LIMIT_BYTES, what="envelope", domain=TRUST)
    try:
        return Envelope.from_dict(document)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TrustError("T09", "the signatures that are there cannot be read") from error


def signed_payload(envelope: bytes) -> tuple[bytes, tuple[str, ...]]:
    """What an envelope says and who claims to have signed it; nothing is verified.

    Raises:
        TrustError: T09.
    """
    signed = _read_envelope(envelope)
    return signed.payload, tuple(sorted(signed.signatures))


def read_named(path: Path) -> PublicKey:
    """Read a ``.pub.json``, and let the key go by the file's name.

    Raises:
        SetupError: H02.
        TrustError: T09.
    """
    key = read_public(path)
    name = path.name.removesuffix(".pub.json")
    return PublicKey(key.keyid, key.public, {**key.extra, NAME: name})


def read_public(path: Path) -> PublicKey:
    """Read a ``.pub.json``.

    Raises:
        SetupError: H02.
        TrustError: T09.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    document = parse_json(data, limit=_LIMIT_BYTES, what=path.name, domain=TRUST)
    return PublicKey.from_fields(Fields(document, path.name, TRUST))


@dataclass(frozen=True)
class ListedKey:
    """A key in a folder; `state` is ``private``, ``encrypted`` or ``public only``."""

    name: str
    public: PublicKey
    state: str

    def to_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {"name": self.name, "keyid": self.public.keyid, "state": self.state}


def list_keys(folder: Path) -> list[ListedKey]:
    """The keys in a folder, by name.

    Raises:
        TrustError: T09, a file is damaged.
    """
    found = []
    for path in sorted(folder.glob("*.pub.json")):
        name = path.name.removesuffix(".pub.json")
        found.append(ListedKey(name, read_public(path), _state(path.with_name(f"{name}.key"))))
    return found


def _state(private: Path) -> str:
    if not private.is_file():
        return "public only"
    with private.open("rb") as stream:
        return "encrypted" if b"ENCRYPTED" in stream.read(64) else "private"
