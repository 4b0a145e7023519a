"""Trust through the real verifier process: every way in which a signature can be wrong."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_agent import FAMILY, keys, make_bundle, order_for, public_key, sign

from wherry_agent.trust.seam import PinnedTrust
from wherry_contract.assignment import PAYLOAD_TYPE
from wherry_contract.errors import StoreError, TrustError
from wherry_contract.signature import AssignmentKey, BundleStatement, TrustRoot
from wherry_contract.wire import canonical

MADE = make_bundle()
ORDER = order_for(MADE.digest, 1)
OURS, STRANGER = keys(), keys("stranger")


@pytest.fixture
def trust(tmp_path: Path) -> PinnedTrust:
    return trusting(tmp_path, OURS.root())


def trusting(folder: Path, root: TrustRoot) -> PinnedTrust:
    (folder / "trust.json").write_bytes(root.to_bytes())
    return PinnedTrust(folder / "trust.json")


def changed(envelope: bytes, **fields: Any) -> bytes:
    return canonical(json.loads(envelope) | fields)


def flipped(envelope: bytes) -> bytes:
    document = json.loads(envelope)
    signature = bytearray(base64.b64decode(document["signatures"][0]["sig"]))
    signature[5] ^= 1
    document["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return canonical(document)


def another_payload(envelope: bytes) -> bytes:
    document = json.loads(envelope)
    text = base64.b64decode(document["payload"]).replace(b"live", b"lave")
    return changed(envelope, payload=base64.b64encode(text).decode())


SIGNED = sign(ORDER.to_bytes(), PAYLOAD_TYPE, OURS.order)


def test_our_order_is_taken(trust: PinnedTrust) -> None:
    found = trust.assignment(SIGNED)
    assert found == replace(ORDER, keyid=public_key(OURS.order).keyid, extra=found.extra)


ORDERS: list[tuple[str, Callable[[], bytes], str]] = [
    ("the signature is flipped", lambda: flipped(SIGNED), "T01"),
    ("the payload was changed", lambda: another_payload(SIGNED), "T01"),
    ("a stranger's", lambda: sign(ORDER.to_bytes(), PAYLOAD_TYPE, STRANGER.order), "T02"),
    ("signed by a bundle key", lambda: sign(ORDER.to_bytes(), PAYLOAD_TYPE, OURS.bundle), "T02"),
    ("issued before the key was valid", lambda: sign(replace(ORDER, issued_at=1e9).to_bytes(), PAYLOAD_TYPE, OURS.order), "T02"),
    ("no signature", lambda: changed(SIGNED, signatures=[]), "T02"),
    ("the same signature twice", lambda: changed(SIGNED, signatures=json.loads(SIGNED)["signatures"] * 2), "T09"),
    ("another payload type", lambda: sign(ORDER.to_bytes(), BundleStatement.PAYLOAD_TYPE, OURS.order), "T09"),
    ("from the future", lambda: sign(ORDER.to_bytes().replace(b"assignment/1", b"assignment/2"), PAYLOAD_TYPE, OURS.order), "T08"),
    ("relies on what we do not know", lambda: sign(ORDER.to_bytes().replace(b'["mode"]', b'["mode","moon"]'), PAYLOAD_TYPE, OURS.order), "T08"),
    ("no order", lambda: sign(b"{}", PAYLOAD_TYPE, OURS.order), "T09"),
    ("no JSON", lambda: b"\x00\xff", "T09"),
    ("no base64", lambda: changed(SIGNED, payload="*"), "T09"),
    ("too large", lambda: b" " * 100_000 + SIGNED, "T09"),
    ("too deep", lambda: b'{"a":' * 100 + b"1" + b"}" * 100, "T09"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "code"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS]
)
def test_orders_that_are_refused(trust: PinnedTrust, make: Callable[[], bytes], code: str) -> None:
    with pytest.raises(TrustError) as caught:
        trust.assignment(make())
    assert caught.value.code == code


def test_our_statement_is_taken(trust: PinnedTrust) -> None:
    found = trust.statement(MADE.statement, family=FAMILY, digest=MADE.digest)
    assert (found.digest, found.counter) == (MADE.digest, 1)


OTHER = make_bundle("2.0.0")
STATEMENTS: list[tuple[str, bytes, dict[str, str], str]] = [
    ("of another bundle", OTHER.statement, {}, "T03"),
    ("a stranger's", make_bundle(signer=STRANGER.bundle).statement, {}, "T02"),
    ("signed by an order key", make_bundle(signer=OURS.order).statement, {}, "T02"),
    ("the signature is flipped", flipped(MADE.statement), {}, "T01"),
    ("of another family", make_bundle(family="churn").statement, {}, "T06"),
    ("a family that nobody signs for", MADE.statement, {"family": "moon"}, "T06"),
    ("below the floor", make_bundle(counter=0).statement, {}, "T07"),
    ("malformed", b"[]", {}, "T09"),
]


@pytest.mark.parametrize(
    ("envelope", "asked", "code"),
    [row[1:] for row in STATEMENTS],
    ids=[row[0] for row in STATEMENTS],
)
def test_statements_that_are_refused(
    tmp_path: Path, envelope: bytes, asked: dict[str, str], code: str
) -> None:
    trust = trusting(tmp_path, OURS.root(FAMILY, "churn", min_counter=1))
    with pytest.raises(TrustError) as caught:
        trust.statement(envelope, **({"family": FAMILY, "digest": MADE.digest} | asked))
    assert caught.value.code == code


def test_two_of_two_must_sign(tmp_path: Path) -> None:
    first, second = public_key(OURS.bundle), public_key(STRANGER.bundle)
    root = OURS.root()
    family = replace(root.families[FAMILY], keys=(first.keyid, second.keyid), threshold=2)
    both = replace(root, keys={**root.keys, second.keyid: second}, families={FAMILY: family})
    trust = trusting(tmp_path, both)
    payload = base64.b64decode(json.loads(MADE.statement)["payload"])
    with pytest.raises(TrustError, match="T02"):
        trust.statement(MADE.statement, family=FAMILY, digest=MADE.digest)
    envelope = sign(payload, BundleStatement.PAYLOAD_TYPE, OURS.bundle, STRANGER.bundle)
    trust.statement(envelope, family=FAMILY, digest=MADE.digest)
    half = json.loads(envelope)
    half["signatures"][1]["sig"] = half["signatures"][0]["sig"]
    with pytest.raises(TrustError, match="T01"):
        trust.statement(canonical(half), family=FAMILY, digest=MADE.digest)


def test_a_verifier_that_is_killed_blames_nobody(
    trust: PinnedTrust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again: a signature that was not looked at is not wrong."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    for ask in (trust.assignment, trust.command):
        with pytest.raises(StoreError, match="D07"):
            ask(SIGNED)


ROOTS: list[tuple[str, bytes | None, str]] = [
    ("absent", None, "T10"),
    ("damaged", b"{", "T09"),
    ("from the future", b'{"schema":"wherry/trust/2"}', "T08"),
    ("empty", replace(OURS.root(), assignment_keys=()).to_bytes(), "T02"),
    (
        "an assignment key that is not listed",
        replace(OURS.root(), assignment_keys=(AssignmentKey("0" * 64, 0, 9e9),)).to_bytes(),
        "T02",
    ),
]


@pytest.mark.parametrize(
    ("root", "code"), [row[1:] for row in ROOTS], ids=[row[0] for row in ROOTS]
)
def test_what_the_device_trusts_may_be_wrong(tmp_path: Path, root: bytes | None, code: str) -> None:
    path = tmp_path / "trust.json"
    if root is not None:
        path.write_bytes(root)
    with pytest.raises(TrustError) as caught:
        PinnedTrust(path).assignment(SIGNED)
    assert caught.value.code == code
