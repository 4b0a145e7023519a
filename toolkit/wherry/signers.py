"""Who signs: a key by its file, its environment variable, its token, or a securesystemslib URI.

    release, keys/release.key     a key file, encrypted if $WHERRY_KEY_PASSPHRASE was set
    env:RELEASE_KEY               PKCS #8 PEM in that variable, as in a pipeline
    pkcs11:TOKEN/LABEL            an Ed25519 key that never leaves its token

A public file may name such a URI, so that the key is called by its name like any other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wherry_contract.errors import SetupError, TrustError
from wherry_contract.extras import how_to_install
from wherry_contract.signature import PublicKey
from wherry_contract.wire import SLUG, canonical, sha256_digest

from .files import write_durably
from .folder import key_folder
from .keys import load_named, new_key_path, public_path, read_public

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

MODULE: Final = "WHERRY_PKCS11_MODULE"
PIN: Final = "WHERRY_PKCS11_PIN"
_DEFAULT_MODULE: Final = "/usr/lib/softhsm/libsofthsm2.so"
_URI: Final = re.compile(r"[a-z][a-z0-9]+:.+")


def open_signers(keys: Iterable[str], folder: Path | None = None) -> list[Signer]:
    """Open keys by name, path or URI.

    Args:
        keys: which.
        folder: of keys; a name that it does not hold is looked for among one's own,
            so that a person signs what came on a stick with a key that stays at home.

    Raises:
        TrustError: T10, one cannot be opened.
        SetupError: H02 there is none, H06 something is not installed.
    """
    return [_open(key, _holder(key, folder)) for key in keys]


def _holder(key: str, folder: Path | None) -> Path:
    own = key_folder()
    held = folder is None or _is_held(key, folder) or not _is_held(key, own)
    return folder if folder and held else own


def _is_held(key: str, folder: Path) -> bool:
    """Whether a folder has the key itself, or says where it lies."""
    public = folder / f"{key}.pub.json"
    if not re.fullmatch(SLUG, key):
        return False
    return (folder / f"{key}.key").exists() or (
        public.exists() and "signer" in read_public(public).extra
    )


def _open(key: str, folder: Path) -> Signer:
    if re.fullmatch(SLUG, key) and not (folder / f"{key}.key").exists():
        public = folder / f"{key}.pub.json"
        known = read_public(public) if public.exists() else None
        if known and "signer" in known.extra:
            return _from_uri(str(known.extra["signer"]), known)
    return _from_uri(key, None) if _URI.fullmatch(key) else load_named([key], folder)[0]


def adopt(uri: str, name: str, folder: Path) -> PublicKey:
    """Write the public file of a key that lies elsewhere, so that it can be called by name.

    Raises:
        SetupError: H03, the name is taken; H06.
        TrustError: T10.
    """
    path = public_path(new_key_path(name, folder))
    if path.exists():
        raise SetupError("H03", f"{path} is there already", cure="choose another name")
    key = _from_uri(uri, None).public_key
    public = PublicKey(key.keyid, key.keyval["public"], {"signer": uri})
    write_durably(path, canonical(public.to_dict()) + b"\n")
    return public


def _from_uri(uri: str, known: PublicKey | None) -> Signer:
    scheme, _, rest = uri.partition(":")
    if scheme == "env":
        return _from_environment(rest)
    if scheme == "pkcs11":
        return _token_signer(rest)
    from securesystemslib.exceptions import Error
    from securesystemslib.signer import Signer, SSlibKey

    if known is None:
        cure = "write NAME.pub.json with its public key, and `signer` set to the URI"
        raise TrustError("T10", f"the public key of {scheme}: is not known", cure=cure)
    key = SSlibKey(known.keyid, "ed25519", "ed25519", {"public": known.public})
    try:
        return Signer.from_priv_key_uri(uri, key)
    except (ValueError, OSError, Error) as error:
        raise TrustError("T10", f"{uri}: {error}") from error


def _from_environment(variable: str) -> Signer:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    pem = os.environ.get(variable, "")
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError) as error:
        raise TrustError("T10", f"${variable} holds no private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError("T10", f"${variable} holds no Ed25519 key")
    return CryptoSigner(key)


# --- tokens ---------------------------------------------------------------------------------


def _token_signer(place: str) -> Signer:
    """A key on a token, ``TOKEN/LABEL``."""
    from securesystemslib.signer import SSlibKey

    token, _, label = place.rpartition("/")
    with _session(token) as session:
        pk = _pkcs11()
        found = session.findObjects([(pk.CKA_CLASS, pk.CKO_PUBLIC_KEY), (pk.CKA_LABEL, label)])
        if len(found) != 1:
            raise TrustError("T10", f"token {token} has {len(found)} keys named {label!r}")
        point = bytes(session.getAttributeValue(found[0], [pk.CKA_EC_POINT])[0] or b"")
    # an octet string in DER around the 32 bytes of an Ed25519 key
    if len(point) != 34 or point[:2] != b"\x04\x20":
        raise TrustError("T10", f"{label!r} on token {token} is no Ed25519 key")
    public = {"public": point[2:].hex()}
    content = {"keytype": "ed25519", "scheme": "ed25519", "keyval": public}
    keyid = sha256_digest(canonical(content)).partition(":")[2]
    key = SSlibKey(keyid, "ed25519", "ed25519", public)
    signer: Signer = _signer_class()(token, label, key)
    return signer


def _signer_class() -> type[Any]:
    from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

    class TokenSigner(Signer):
        """Lets a token sign; the key stays in it."""

        def __init__(self, token: str, label: str, public_key: SSlibKey) -> None:
            self._token, self._label, self._key = token, label, public_key

        @classmethod
        def from_priv_key_uri(
            cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
        ) -> Signer:
            raise NotImplementedError  # `open_signers` is the way in

        @property
        def public_key(self) -> SSlibKey:
            """The public half."""
            return self._key

        def sign(self, payload: bytes) -> Signature:
            """Sign; the token may ask for a touch."""
            pk = _pkcs11()
            wanted = [(pk.CKA_CLASS, pk.CKO_PRIVATE_KEY), (pk.CKA_LABEL, self._label)]
            with _session(self._token, login=True) as session:
                found = session.findObjects(wanted)
                if len(found) != 1:
                    raise TrustError("T10", f"token {self._token} has no key {self._label!r}")
                made = bytes(session.sign(found[0], payload, pk.Mechanism(pk.CKM_EDDSA)))
            return Signature(self._key.keyid, made.hex())

    return TokenSigner


@contextmanager
def _session(token: str, *, login: bool = False) -> Iterator[Any]:
    pk = _pkcs11()
    try:
        library = _library(os.environ.get(MODULE, _DEFAULT_MODULE))
        slots = [
            slot
            for slot in library.getSlotList(tokenPresent=True)
            if library.getTokenInfo(slot).label.strip("\0 ") == token
        ]
        if len(slots) != 1:
            raise TrustError("T10", f"there are {len(slots)} tokens named {token!r}")
        session = library.openSession(slots[0])
        try:
            if login:
                session.login(os.environ.get(PIN, ""))
            yield session
        finally:
            session.closeSession()
    except pk.PyKCS11Error as error:
        cure = f"check {MODULE} and {PIN}"
        raise TrustError("T10", f"token {token}: {error}", cure=cure) from error


def _pkcs11() -> Any:
    try:
        import PyKCS11
    except ImportError as error:
        raise SetupError("H06", how_to_install("token")) from error
    return PyKCS11


@cache
def _library(module: str) -> Any:
    """A PKCS#11 module, initialized once in this process."""
    library = _pkcs11().PyKCS11Lib()
    library.load(module)
    return library
