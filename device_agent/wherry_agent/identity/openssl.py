"""What the `openssl` program does for us: keys, requests, signatures.

Boards have the program; a compiled cryptography package has no wheel for many of them, and
none of this is done more than once a year.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from wherry_contract.errors import SetupError

_SECONDS: Final = 60.0  # a small board without entropy takes its time
_SHOWN: Final = 200  # characters
_SETTINGS: Final = b"[req]\ndistinguished_name=name\n[name]\n"  # some boards have no openssl.cnf


def make_key() -> bytes:
    """A new private key: ECDSA on P-256, PEM (PKCS #8).

    Raises:
        SetupError: H05, H06.
    """
    curve = ["-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:named_curve"]
    return _run(["genpkey", "-algorithm", "EC", *curve])


def make_request(key: Path) -> bytes:
    """A certificate request for a key, PEM (PKCS #10); who somebody is the claim code says.

    Raises:
        SetupError: H05, H06.
    """
    settings = ["-config", "/dev/stdin", "-subj", "/CN=device"]
    return _run(["req", "-new", "-sha256", "-key", str(key), *settings], _SETTINGS)


def sign(key: Path, text: bytes) -> bytes:
    """A signature over a text: ECDSA with SHA-256, DER.

    Raises:
        SetupError: H05, H06.
    """
    return _run(["dgst", "-sha256", "-sign", str(key)], text)


def _run(arguments: list[str], given: bytes = b"") -> bytes:
    program = shutil.which("openssl")
    if program is None:
        raise SetupError("H06", "the program openssl", cure="apt install openssl")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=given,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError("H05", f"openssl {arguments[0]}: {error}") from error
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip()[:_SHOWN]
        raise SetupError("H05", f"openssl {arguments[0]}: {said}")
    return done.stdout
