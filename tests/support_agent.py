"""What tests of the agent share: small real bundles with real signatures, a real depot, configs.

The models are logistic regressions, written for the runtime that is installed here; a flaw is
built into the graph or the parts, never pretended.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from support_models import Flaw, needs_of, regression

from wherry_agent.config import AgentConfig, load_config
from wherry_contract.assignment import PAYLOAD_TYPE, Assignment
from wherry_contract.bundle import Layout, Parts, assemble
from wherry_contract.encoder import Encoder, Step
from wherry_contract.features import Feature, InputContract, RawMatrix
from wherry_contract.golden import GoldenVectors
from wherry_contract.manifest import BoardNeeds, Manifest, Output, Soak
from wherry_contract.messages import wrap_assignment
from wherry_contract.oci import blob_path
from wherry_contract.profile import build_profile
from wherry_contract.reaction import Reaction
from wherry_contract.rule import Condition, Rule
from wherry_contract.signature import (
    AssignmentKey,
    BundleStatement,
    FamilyTrust,
    PublicKey,
    TrustRoot,
)
from wherry_contract.wire import canonical, sha256_digest

FAMILY = "fraud"
DEVICE = "shop-1"
FLEET = "test"
LONG_AGO, FAR_AHEAD = 1.6e9, 4.0e9  # Unix seconds: 2020 and 2096
WEIGHTS = (0.02, 0.3, -0.1)
BIAS = -3.0
THRESHOLD = 0.5

# --- keys and signatures --------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """Who signs bundles and who signs orders."""

    bundle: CryptoSigner
    order: CryptoSigner

    def root(self, *families: str, min_counter: int = 0) -> TrustRoot:
        """What a device trusts that knows these keys."""
        bundle, order = public_key(self.bundle), public_key(self.order)
        family = FamilyTrust((bundle.keyid,), 1, min_counter)
        return TrustRoot(
            {key.keyid: key for key in (bundle, order)},
            dict.fromkeys(families or (FAMILY,), family),
            (AssignmentKey(order.keyid, LONG_AGO, FAR_AHEAD),),
        )


@cache
def keys(name: str = "ours") -> Keys:
    """Fresh keys, the same for each name within one run."""
    return Keys(CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519())


def public_key(signer: CryptoSigner) -> PublicKey:
    """The public half, as trust.json has it."""
    return PublicKey(signer.public_key.keyid, signer.public_key.keyval["public"])


def sign(payload: bytes, payload_type: str, *signers: CryptoSigner) -> bytes:
    """A DSSE envelope."""
    envelope = Envelope(payload, payload_type, {})
    for signer in signers:
        envelope.sign(signer)
    return canonical(envelope.to_dict())


def order_for(digest: str, sequence: int, **changes: Any) -> Assignment:
    """A plain order for `DEVICE`."""
    order = Assignment(
        device=DEVICE,
        rollout=f"r{sequence}",
        family=FAMILY,
        digest=digest,
        size=0,
        sequence=sequence,
        issued_at=1.79e9,
        expires=FAR_AHEAD,
    )
    return replace(order, **changes)


def signed_order(order: Assignment, signer: CryptoSigner | None = None) -> bytes:
    """The payload of the assignment topic."""
    return wrap_assignment(sign(order.to_bytes(), PAYLOAD_TYPE, signer or keys().order))


# --- bundles --------------------------------------------------------------------------------


class UncheckedParts(Parts):
    """Parts that a careless host packs without looking."""

    def check(self) -> None:
        """Let everything pass."""


@dataclass(frozen=True)
class Made:
    """A bundle in memory, with its signatures."""

    layout: Layout
    parts: Parts
    statement: bytes

    @property
    def digest(self) -> str:
        """The bundle's identity."""
        return self.layout.digest

    def to_tar(self) -> bytes:
        """The file."""
        return self.layout.to_tar(self.statement)


def contract(count: int = 3, *, category: bool = False) -> InputContract:
    """`count` numbers, and a category behind them if wanted."""
    names = ["AMOUNT", "NIGHTS", "RISK", *(f"X{place}" for place in range(3, count))]
    features = [Feature(name, minimum=-1e6, maximum=1e6) for name in names[:count]]
    features[1:2] = [replace(features[1], missing="allow")] if count > 1 else []
    if category:
        features.append(
            Feature("KIND", "category", categories=("food", "fuel", "other"), unseen="allow")
        )
    return InputContract("terminal", 1, tuple(features))


def make_bundle(
    version: str = "1.0.0",
    *,
    family: str = FAMILY,
    name: str = "fraud",
    flaw: Flaw = "",
    category: bool = False,
    features: int = 3,
    bias: float = BIAS,
    counter: int = 1,
    soak: Soak | None = None,
    rule: bool = True,
    signer: CryptoSigner | None = None,
    wants: str = "",
    architectures: tuple[str, ...] = (),
    threads: int = 1,
    card: bytes = b"# A model for tests\n",
    reaction: Reaction | None = None,
    rows: int = 200,
) -> Made:
    """A small real bundle: a logistic regression, its profile, golden vectors and signatures.

    Args:
        version: for people; it changes the digest.
        family: that it belongs to.
        name: the model's name.
        flaw: what is wrong with it.
        category: add the feature KIND, encoded by the encoder's ``codes``.
        features: how many numbers.
        bias: of the regression; it changes scores.
        counter: release counter in the signed statement.
        soak: 5 rows and no time unless said otherwise.
        rule: whether there is a fallback rule: AMOUNT > 200.
        signer: who signs it.
        wants: the range of runtime versions; a wide one unless said otherwise.
        architectures: of the boards that it is for; none means any.
        threads: for one inference.
        card: the model card; a long one makes a bundle of any size.
        reaction: when the rule answers though there is a model.
        rows: of the reference.
    """
    inputs = contract(features, category=category)
    weights = [*WEIGHTS, *([0.01] * features)][:features] + [0.5] * category
    steps = [Step("fill", "NIGHTS", {"value": 0.0})]
    if category:
        steps.append(
            Step("codes", "KIND", {"values": (0.0, 1.0, 2.0), "missing": 9.0, "unseen": 9.0})
        )
    encoder = Encoder(inputs, tuple(steps))
    raw = reference_rows(inputs, rows)
    scores = expected_scores(encoder, raw, weights, bias)
    manifest = Manifest(
        name=name,
        version=version,
        family=family,
        runtime=needs_of(flaw, wants, threads),
        board=BoardNeeds(architectures),
        input=inputs,
        encoder=encoder,
        output=Output("score", -1, THRESHOLD, "fraud"),
        soak=soak or Soak(rows=5, seconds=0, longest_seconds=60, error_share=0.01),
        fallback=Rule((Condition("AMOUNT", ">", 200.0),)) if rule else None,
        provenance={"source": "tests"},
        reaction=reaction,
    )
    made = Parts if not flaw else UncheckedParts
    parts = made(
        manifest,
        regression(weights, bias, flaw),
        build_profile(inputs, raw, scores, THRESHOLD),
        _golden(inputs, raw[:20], scores[:20], flaw),
        {"model-card.md": card},
    )
    layout = assemble(parts)
    return Made(layout, parts, statement_of(layout, manifest, counter, signer))


def statement_of(
    layout: Layout, manifest: Manifest, counter: int = 1, signer: CryptoSigner | None = None
) -> bytes:
    """The signatures of a bundle."""
    says = BundleStatement(
        manifest.family,
        manifest.name,
        manifest.version,
        layout.digest,
        len(layout.manifest),
        counter,
    )
    return sign(says.to_bytes(), BundleStatement.PAYLOAD_TYPE, signer or keys().bundle)


def reference_rows(inputs: InputContract, rows: int, seed: int = 0) -> RawMatrix:
    """Rows as the application might send them: amounts in cents up to 300, small counts."""
    chance = np.random.default_rng(seed)
    raw = np.round(chance.uniform(0, 300, (rows, len(inputs.features))), 2)
    for place, feature in enumerate(inputs.features):
        if feature.dtype == "category":
            raw[:, place] = chance.integers(0, len(feature.categories), rows)
        elif place:
            raw[:, place] = chance.integers(0, 10, rows)
    return raw


def expected_scores(
    encoder: Encoder, raw: RawMatrix, weights: Sequence[float], bias: float
) -> NDArray[np.float64]:
    """The regression by hand, in double precision on what the encoder makes."""
    tensor = encoder.encode(raw).astype(np.float64)
    logits = tensor @ np.array(weights, np.float32).astype(float) + bias
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))


def _golden(
    inputs: InputContract, raw: RawMatrix, scores: NDArray[np.float64], flaw: Flaw
) -> GoldenVectors:
    rows = [list(row) for row in raw.tolist()]
    for place, feature in enumerate(inputs.features):
        for row in rows:
            if feature.dtype == "category":
                row[place] = feature.categories[int(row[place])]
    if flaw == "crash":
        rows[0][0] = -1.0
    wanted = scores[::-1] if flaw == "golden" else scores
    return GoldenVectors(
        inputs.names, tuple(tuple(row) for row in rows), tuple(wanted.tolist()), 1e-5
    )


# --- the depot ------------------------------------------------------------------------------


@dataclass
class Faults:
    """What the depot does wrong now; change it while it runs.

    Attributes:
        cut_after: break the connection after so many bytes of a body.
        ignore_range: answer 200 with everything, whatever range was asked for.
        wrong_range: answer 206 with another range than was asked for.
        redirect: answer 302 to somewhere else.
        portal: answer 200 with a captive portal's page.
        status: answer with this status instead.
        retry_after: and with this header.
        slow_head: send the head byte by byte, so many seconds apart.
        wait_seconds: before each piece of a body.
        piece_bytes: how much is sent at once.
        chunked: no Content-Length, chunked transfer.
        silent: accept, and never answer.
        other_bytes: the right length, the wrong bytes.
        longer: more bytes than there should be.
        only: the fault strikes paths that contain this.
        times: how often the fault strikes before all is well; never ends if negative.
    """

    cut_after: int = -1
    ignore_range: bool = False
    wrong_range: bool = False
    redirect: bool = False
    portal: bool = False
    status: int = 0
    retry_after: str = ""
    slow_head: float = 0.0
    wait_seconds: float = 0.0
    piece_bytes: int = 4096
    chunked: bool = False
    silent: bool = False
    other_bytes: bool = False
    longer: bool = False
    only: str = ""
    times: int = -1


PORTAL_PAGE = b"<html><body>Welcome to the hotel's network. Please log in.</body></html>"


@dataclass
class Depot:
    """A folder behind a real HTTP server, whose faults can be switched."""

    folder: Path
    port: int = 0
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """As agent.toml wants it."""
        return f"http://127.0.0.1:{self.port}/depot"

    def publish(self, *bundles: Made) -> None:
        """Put bundles there, as the server does."""
        for made in bundles:
            for digest, data in {made.digest: made.layout.manifest, **made.layout.blobs}.items():
                self.put(blob_path(digest), data)
            self.put(f"statements/{made.digest.partition(':')[2]}.dsse.json", made.statement)

    def put(self, path: str, data: bytes) -> str:
        """Put a file there; returns its digest."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return sha256_digest(data)

    def faulty(self, path: str) -> Faults:
        """The faults that strike this request."""
        if self.faults.only not in path or self.faults.times == 0:
            return Faults()
        if self.faults.times > 0:
            self.faults.times -= 1
        return replace(self.faults)


@contextmanager
def running_depot(folder: Path, *bundles: Made) -> Iterator[Depot]:
    """A depot for the length of a block."""
    depot = Depot(folder)
    folder.mkdir(parents=True, exist_ok=True)
    depot.publish(*bundles)

    class Handler(_DepotHandler):
        served = depot

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    depot.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield depot
    finally:
        depot.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _DepotHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Depot

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer, well or badly."""
        asked = self.headers.get("Range", "")
        self.served.requests.append((self.path, asked))
        self.served.headers.append(self.headers)
        faults = self.served.faulty(self.path)
        self.close_connection = True
        if faults.silent:
            self.served.released.wait(30)
        elif faults.redirect:
            self._head(302, 0, Location="http://127.0.0.1:9/elsewhere")
        elif faults.portal:
            self._head(200, len(PORTAL_PAGE))
            self.wfile.write(PORTAL_PAGE)
        elif faults.slow_head:
            self._drip(faults.slow_head)
        elif faults.status:
            later = {"Retry-After": faults.retry_after} if faults.retry_after else {}
            self._head(faults.status, 0, **later)
        else:
            self._file(asked, faults)

    def _drip(self, seconds: float) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Pad: 1\r\n" * 1000:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.served.released.wait(seconds):
                    return
        except OSError:
            self.close_connection = True  # the client has had enough

    def _file(self, asked: str, faults: Faults) -> None:
        path = self.served.folder / self.path.removeprefix("/depot/")
        if not path.is_file():
            self._head(404, 0)
            return
        data = path.read_bytes()
        if faults.other_bytes:
            data = bytes(byte ^ 1 for byte in data)
        if faults.longer:
            data += b"and more"
        match = None if faults.ignore_range else re.fullmatch(r"bytes=(\d+)-", asked)
        start = int(match[1]) if match else 0
        if match and start >= len(data):
            self._head(416, 0)
            return
        body = data[start:]
        more = {"Transfer-Encoding": "chunked"} if faults.chunked else {}
        if match:
            said = start + 1 if faults.wrong_range else start
            more["Content-Range"] = f"bytes {said}-{len(data) - 1}/{len(data)}"
        self._head(206 if match else 200, len(body), **more)
        self._body(body, faults)

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        if "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _body(self, body: bytes, faults: Faults) -> None:
        if faults.cut_after >= 0:
            body = body[: faults.cut_after]
        try:
            for start in range(0, len(body), faults.piece_bytes):
                if faults.wait_seconds:
                    time.sleep(faults.wait_seconds)  # the fault itself: a slow line
                piece = body[start : start + faults.piece_bytes]
                if faults.chunked:
                    piece = b"%x\r\n%b\r\n" % (len(piece), piece)
                self.wfile.write(piece)
                self.wfile.flush()
            if faults.chunked and faults.cut_after < 0:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the client has seen enough


# --- the kernel's word ----------------------------------------------------------------------


def strace_program() -> str:
    """Debian's strace; it is no option, or what it watches for would go unwatched."""
    found = shutil.which("strace")
    assert found, "strace is missing; `make test-tools` installs it"
    return found


def may_trace() -> bool:
    """Whether this machine lets strace trace: a container may forbid ptrace."""
    asked = [strace_program(), "-qq", "-e", "trace=connect", "true"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    forbidden = "PTRACE" in done.stderr or "not permitted" in done.stderr
    assert forbidden or not done.returncode, done.stderr
    return not forbidden


# --- the agent's own files ------------------------------------------------------------------


def write_agent_config(
    folder: Path,
    *,
    device: str = DEVICE,
    family: str = FAMILY,
    broker: str = "",
    depot: str = "",
    listen: str = "127.0.0.1:0",
    root: TrustRoot | None = None,
    features: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    reporting: str = "",
    **limits: float,
) -> Path:
    """Write agent.toml and trust.json into a folder, as enrolment does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trust.json").write_bytes((root or keys().root()).to_bytes())
    lines = [
        f'device = "{device}"',
        f'fleet = "{FLEET}"',
        f'family = "{family}"',
        f'serving = {{ listen = "{listen}" }}',
    ]
    lines += [f'broker = {{ url = "{broker}" }}'] * bool(broker)
    lines += [f'depot = {{ url = "{depot}" }}'] * bool(depot)
    lines += [f"reporting = {{ {reporting} }}"] * bool(reporting)
    if features:
        names = ", ".join(f'"{name}"' for name in features)
        lines.append(f"application = {{ features = [{names}] }}")
    lines += ["[labels]", *(f'{name} = "{value}"' for name, value in (labels or {}).items())]
    lines += ["[limits]", *(f"{name} = {value}" for name, value in limits.items())]
    path = folder / "agent.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def agent_config(folder: Path, **changes: Any) -> AgentConfig:
    """Write the files of an agent and read them back."""
    return load_config(write_agent_config(folder, **changes))
