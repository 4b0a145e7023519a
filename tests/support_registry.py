"""A real registry, Debian's docker-registry: plain, behind TLS and a password, or with tokens."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from support import accepts, free_port, wait_for

USER, PASSWORD = "till", "open sesame"
# what `htpasswd -nbB till 'open sesame'` prints; the registry takes bcrypt alone
HTPASSWD = "till:$2y$04$9tbyOfbwZxvrXuaZu3KA4.zKwm1nNrPx6DhQPIFsus7Uv6uemgPXK\n"
IDENTITY_TOKEN = "an-identity-token"


@dataclass(frozen=True)
class Registry:
    """A running one.

    Attributes:
        netloc: host and port.
        url: of a namespace in it, as agent.toml and `wherry publish` want it.
        storage: where it keeps what it was sent.
    """

    netloc: str
    url: str
    storage: Path


@contextmanager
def running_registry(
    folder: Path,
    *,
    tls: tuple[Path, Path] | None = None,
    htpasswd: bool = False,
    tokens: tuple[str, Path] | None = None,
) -> Iterator[Registry]:
    """A registry for the length of a block.

    Args:
        folder: its own.
        tls: certificate and key.
        htpasswd: whether it wants the password.
        tokens: where its tokens come from, and the certificate that signs them.
    """
    program = shutil.which("docker-registry")
    assert program, "docker-registry is missing; `make test-tools` installs it"
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = [
        "version: 0.1",
        "log: {level: error, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: '{folder / 'storage'}'}}}}",
        "http:",
        f"  addr: '127.0.0.1:{port}'",
    ]
    if tls:
        lines.append(f"  tls: {{certificate: '{tls[0]}', key: '{tls[1]}'}}")
    if htpasswd:
        (folder / "htpasswd").write_text(HTPASSWD)
        lines.append(f"auth: {{htpasswd: {{realm: shops, path: '{folder / 'htpasswd'}'}}}}")
    if tokens:
        about = f"realm: '{tokens[0]}', service: shops, issuer: tests"
        lines.append(f"auth: {{token: {{{about}, rootcertbundle: '{tokens[1]}'}}}}")
    settings = folder / "registry.yml"
    settings.write_text("\n".join(lines) + "\n")
    log = folder / "registry.log"
    with log.open("wb") as out:
        process = subprocess.Popen([program, "serve", str(settings)], stdout=out, stderr=out)
    try:
        wait_for(lambda: accepts(port), what=log.read_text)
        netloc = f"127.0.0.1:{port}"
        url = f"{'https' if tls else 'http'}://{netloc}/models"
        yield Registry(netloc, url, folder / "storage")
    finally:
        process.kill()
        process.wait()


def write_credentials(path: Path, netloc: str, **entry: str) -> Path:
    """A file as `skopeo login --authfile` writes it; by default with the password."""
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path.write_text(json.dumps({"auths": {netloc: entry or {"auth": auth}}}))
    return path


# --- a token server -------------------------------------------------------------------------


@dataclass
class Tokens:
    """Gives out the tokens of docker's authentication, signed as the registry wants them.

    Attributes:
        asked: what each question said: how it came in, and its scope.
        anybody: whether one who shows nothing may pull.
    """

    certificate: Path
    port: int = 0
    anybody: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def realm(self) -> str:
        """Where tokens are."""
        return f"http://127.0.0.1:{self.port}/token"


@contextmanager
def running_tokens(folder: Path) -> Iterator[Tokens]:
    """A token server for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    tokens = Tokens(folder / "tokens.pem")
    certificate = _self_signed(key)
    tokens.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            said = self.headers.get("Authorization", "")
            self._answer(said.partition(" ")[0].lower() or "anybody", query.get("scope", [""])[0])

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            right = form.get("refresh_token") == [IDENTITY_TOKEN]
            self._answer("identity" if right else "nobody", form["scope"][0])

        def _answer(self, who: str, scope: str) -> None:
            tokens.asked.append((who, scope))
            good = who in ("basic", "identity") or (who == "anybody" and tokens.anybody)
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"token": _sign(key, certificate, scope)}).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tokens.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(days=1))
    return builder.not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())


def _sign(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, scope: str) -> str:
    """A JSON web token (ES256) that allows a scope."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    kind, name, actions = scope.split(":")
    now = int(time.time())
    access = [{"type": kind, "name": name, "actions": actions.split(",")}]
    says = {"iss": "tests", "aud": "shops", "sub": "", "jti": "1", "access": access}
    says |= {"nbf": now - 60, "iat": now, "exp": now + 300}
    head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    text = f"{_base64(json.dumps(head).encode())}.{_base64(json.dumps(says).encode())}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
