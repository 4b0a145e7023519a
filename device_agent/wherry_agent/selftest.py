"""`wherry-agent self-test`: does everything that the agent stands on work on this board?

Nothing is imitated: a real tree model that travels with the package is packed, stored and
probed by the same child process that probes every bundle; a real signature is verified
and a forged one refused; files are written durably where the agent would write them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from wherry_contract.bundle import Parts, assemble
from wherry_contract.encoder import Encoder
from wherry_contract.errors import SetupError, StoreError, TrustError, WherryError
from wherry_contract.features import Feature, InputContract
from wherry_contract.golden import GoldenVectors
from wherry_contract.manifest import BoardNeeds, Manifest, Output, RuntimeNeeds, Soak
from wherry_contract.messages import Ack
from wherry_contract.profile import build_profile
from wherry_contract.signature import TrustRoot
from wherry_contract.wire import canonical

from . import __version__
from .config import AgentConfig, Limits, load_config
from .identity.enrolment import check as check_identity
from .link.fact import Fact
from .link.outbox import Outbox
from .serving.probe import probe
from .serving.runtime import KINDS, runtimes
from .store import BlobStore, StatePair, as_store_error, durable_write, make_folder
from .trust.seam import PinnedTrust
from .trust.tuf_trust import check_root, is_root
from .update.record import DeviceRecord

SCHEMA: Final = "wherry/agent-self-test/1"
_DIGEST: Final = "sha256:" + "0" * 64  # what the signature that travels with us signs
_ROWS: Final = ((50.0, 1), (50.0, 9), (200.0, 1), (200.0, 9), (100.0, 3))
_LOGITS: Final = (-2.5, -1.5, 0.5, 1.5, -2.5)  # two trees by hand: see tests/agent/test_app_cli.py
# the same trees by kind: the file that travels with us, and what runs it
_TINY: Final = {
    "onnxruntime": (
        "self_test.onnx",
        RuntimeNeeds(
            "onnxruntime", ">=1.20,<2", 8, {"": 13, "ai.onnx.ml": 3},
            ("Sigmoid", "ai.onnx.ml:TreeEnsembleRegressor"),
        ),
    ),
    "tflite": (
        "self_test.tflite",
        RuntimeNeeds(
            "tflite", ">=2.14,<3", 3, {"GATHER": 5},
            ("ADD", "CAST", "GATHER", "GREATER", "LOGISTIC", "NOT_EQUAL", "PADV2", "SELECT_V2", "SUM"),
            also={"ai-edge-litert": ">=1,<3"},
        ),
    ),
}  # fmt: skip
_EARLIEST: Final = 1_767_225_600.0  # 2026: no agent ran before


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of what.
        well: whether it works.
        detail: what was seen.
        code: of the error, if it does not work.
        cure: what to do then.
    """

    name: str
    well: bool
    detail: str
    code: str = ""
    cure: str = ""


def self_test(path: Path | None) -> list[Check]:
    """Run every check; `path` is agent.toml, if there is one yet."""
    checks = [_run("agent", lambda: f"wherry {__version__}")]
    config: AgentConfig | None = None
    if path:
        checks.append(_run("configuration", lambda: _configuration(path)))
        config = load_config(path) if checks[-1].well else None
    if config:
        known = config
        checks.append(_run(config.trust.name, lambda: _trust_file(known)))
        if config.identity:
            who = config.identity
            checks.append(_run("identity", lambda: check_identity(who)))
    checks.append(_run("clock", _clock))
    try:
        with _work_folder(config) as folder:
            checks += _in_folder(folder, config.limits if config else Limits())
            checks += _active(config) if config else []
    except WherryError as error:
        checks.append(_failed("disk", error))
    return checks


def _in_folder(folder: Path, limits: Limits) -> list[Check]:
    return [
        _run("disk", lambda: _disk(folder)),
        _run("outbox", lambda: _outbox(folder)),
        _run("signatures", lambda: _signatures(folder)),
        *_models(folder, limits),
    ]


def _run(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, well=True, detail=look())
    except WherryError as error:
        return _failed(name, error)


def _failed(name: str, error: WherryError) -> Check:
    detail = f"{error.title}: {error.detail}" if error.detail else error.title
    return Check(name, well=False, detail=detail, code=error.code, cure=error.cure)


@contextmanager
def _work_folder(config: AgentConfig | None) -> Iterator[Path]:
    """A folder beside the agent's own files, or in the system's place for such things."""
    try:
        if config:
            make_folder(config.state_dir)
        home = tempfile.TemporaryDirectory(
            prefix="self-test-", dir=config.state_dir if config else None
        )
    except OSError as error:
        where = str(config.state_dir) if config else "the folder for temporary files"
        raise as_store_error(error, where) from error
    with home as name:
        yield Path(name)


def _configuration(path: Path) -> str:
    config = load_config(path)
    broker = f"{config.broker.host}:{config.broker.port}" if config.broker else "none"
    depot = config.depot or "none"
    return f"{config.device} of {config.fleet}; broker {broker}, depot {depot}"


def _trust_file(config: AgentConfig) -> str:
    if is_root(config.trust):
        return check_root(config.trust)
    try:
        root = TrustRoot.from_bytes(config.trust.read_bytes())
    except OSError as error:
        raise TrustError("T10", f"{config.trust}: {error.strerror}") from error
    family = root.families.get(config.family)
    if family is None:
        raise TrustError("T06", f"{config.trust.name} trusts no keys for {config.family}")
    here = [keyid for keyid in family.keys if keyid in root.keys]
    if len(here) < family.threshold:
        raise TrustError("T10", f"{len(here)} of {family.threshold} keys for {config.family}")
    return f"{len(here)} keys for {config.family}, {len(root.assignment_keys)} for orders"


def _clock() -> str:
    now = time.time()
    if now < _EARLIEST:
        cure = "set the clock, or start time synchronisation before the agent"
        raise SetupError("H08", "the clock is before 2026", cure=cure)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def _disk(folder: Path) -> str:
    data = bytes(range(256)) * 256
    start = time.perf_counter()
    durable_write(folder / "durable", data)
    spent = (time.perf_counter() - start) * 1000
    if (folder / "durable").read_bytes() != data:
        raise StoreError("D06", "what was written reads back otherwise")
    pair = StatePair(folder)
    for turn in (1, 2):
        pair.save({"turn": turn})
    if StatePair(folder).load() != {"turn": 2}:
        raise StoreError("D06", "a saved record reads back otherwise")
    return f"64 KiB written durably in {spent:.1f} ms"


def _outbox(folder: Path) -> str:
    fact, now = Fact("self-test"), time.time()
    box = Outbox(folder, "self-test", mib=1, days=1)
    seq = box.add("event", lambda place: fact.event(place, now).to_bytes(), now=time.monotonic())
    box.close()
    again = Outbox(folder, "self-test", mib=1, days=1)
    try:
        if [message.seq for message in again.after(0, 2)] != [seq]:
            raise StoreError("D06", "a stored message is not there any more")
        again.acknowledge(Ack(again.spool, ((seq, seq),)))
        if again.waiting:
            raise StoreError("D06", "an acknowledged message stays")
    finally:
        again.close()
    return "a message was stored, read again and acknowledged"


def _signatures(folder: Path) -> str:
    known = json.loads(_resource("self_test.json"))
    (folder / "trust.json").write_bytes(canonical(known["trust"]))
    trust = PinnedTrust(folder / "trust.json")
    start = time.perf_counter()
    trust.statement(canonical(known["envelope"]), family="self-test", digest=_DIGEST)
    spent = time.perf_counter() - start
    try:
        trust.statement(canonical(_forged(known["envelope"])), family="self-test", digest=_DIGEST)
    except TrustError as error:
        if error.code == "T01":
            return f"a signature verifies in {spent:.1f} s, a forged one is refused"
        raise
    raise TrustError("T01", "a forged signature was accepted")


def _forged(envelope: dict[str, Any]) -> dict[str, Any]:
    signature = envelope["signatures"][0]
    head = "B" if signature["sig"][0] == "A" else "A"
    return envelope | {"signatures": [signature | {"sig": head + signature["sig"][1:]}]}


def _models(folder: Path, limits: Limits) -> Iterator[Check]:
    """A model in each runtime that is here: a runtime may be imported and still not work."""
    try:
        here = runtimes()
    except SetupError as error:
        yield _failed("model", error)
        return
    for name, version in here.items():
        what = "model" if len(here) == 1 else f"model in {name}"
        yield _run(what, partial(_model, folder, limits, name, version))


def _active(config: AgentConfig) -> list[Check]:
    """What serves here, probed as at a start; nothing where nothing does."""
    try:
        record = DeviceRecord.from_dict(StatePair(config.state_dir).peek() or {})
    except WherryError as error:
        return [_failed("active bundle", error)]
    return [_run("active bundle", partial(_bundle, config, record))] if record.active else []


def _bundle(config: AgentConfig, record: DeviceRecord) -> str:
    slot, limits = record.serving, config.limits
    found = probe(config.state_dir, slot.digest, seconds=limits.probe_seconds, mib=limits.probe_mib)
    return f"{slot.name} {slot.version} gives the right scores; {found['p50_us']:.0f} us a row"


def _model(folder: Path, limits: Limits, name: str, version: str) -> str:
    layout = assemble(tiny_bundle(KINDS[name]))
    store = BlobStore(folder)
    for digest, data in {layout.digest: layout.manifest, **layout.blobs}.items():
        store.put(digest, data)
    found = probe(folder, layout.digest, seconds=limits.probe_seconds, mib=limits.probe_mib)
    return (
        f"{name} {version} gives the right scores; {found['p50_us']:.0f} us a row,"
        f" {found['peak_mib']:.0f} MiB"
    )


def tiny_bundle(kind: str = "onnxruntime") -> Parts:
    """The parts of a bundle of two small trees, whose scores are known by hand.

    Args:
        kind: of the model, ``onnxruntime`` or ``tflite``.
    """
    contract = InputContract("self-test", 1, (Feature("AMOUNT", unit="EUR"), Feature("NIGHTS")))
    raw = np.array(_ROWS, np.float64)
    scores = 1 / (1 + np.exp(-np.array(_LOGITS)))
    file, runtime = _TINY[kind]
    manifest = Manifest(
        name="self-test",
        version="1",
        family="self-test",
        runtime=runtime,
        board=BoardNeeds(),
        input=contract,
        encoder=Encoder(contract),
        output=Output("score", -1, 0.5),
        soak=replace(Soak(), rows=0, seconds=0),
        fallback=None,
        provenance={},
    )
    return Parts(
        manifest,
        _resource(file),
        build_profile(contract, raw, scores, 0.5),
        GoldenVectors(contract.names, _ROWS, tuple(scores.tolist()), 1e-6),
    )


def _resource(name: str) -> bytes:
    return files(__package__).joinpath(name).read_bytes()


def to_document(checks: list[Check]) -> dict[str, Any]:
    """The JSON form."""
    well = all(check.well for check in checks)
    return {"schema": SCHEMA, "well": well, "checks": [asdict(check) for check in checks]}


def self_test_lines(checks: list[Check]) -> Iterator[str]:
    """The same for a person."""
    for check in checks:
        mark = "ok   " if check.well else "WRONG"
        yield f"{mark}  {check.name}: {check.code + ' ' if check.code else ''}{check.detail}"
        if not check.well:
            yield f"       next: {check.cure}"
