"""Signatures: DSSE as securesystemslib has it, trust roots, statements and assignments."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from support_contract import VECTORS, document, vector

from wherry_contract.assignment import PAYLOAD_TYPE, Assignment, ShadowPlan, open_assignment
from wherry_contract.errors import TrustError
from wherry_contract.messages import unwrap_assignment
from wherry_contract.signature import (
    AssignmentKey,
    BundleStatement,
    FamilyTrust,
    PublicKey,
    TrustRoot,
    open_envelope,
)

KIND = "application/vnd.wherry.test"
DIGEST = "sha256:" + "d" * 64


@cache
def signer(seed: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def public(seed: int) -> PublicKey:
    key = signer(seed).public_key
    return PublicKey(key.keyid, key.keyval["public"])


def sign(payload: bytes, kind: str, *seeds: int) -> dict[str, Any]:
    """An envelope made by securesystemslib alone."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, kind, {})
    for seed in seeds:
        envelope.sign(signer(seed))
    return envelope.to_dict()  # type: ignore[no-any-return]


def data(envelope: dict[str, Any]) -> bytes:
    return json.dumps(envelope).encode()


def trusted(*seeds: int) -> dict[str, PublicKey]:
    return {public(seed).keyid: public(seed) for seed in seeds}


@pytest.mark.parametrize(
    ("signed_by", "trusts", "threshold"),
    [((1,), (1,), 1), ((1, 2), (1, 2), 2), ((1, 2, 3), (2, 3), 2), ((3, 1), (1, 2), 1)],
)
def test_envelopes_that_verify(
    signed_by: tuple[int, ...], trusts: tuple[int, ...], threshold: int
) -> None:
    payload = b"\x00any bytes\xff"
    found, signers = open_envelope(
        data(sign(payload, KIND, *signed_by)), KIND, trusted(*trusts), threshold
    )
    assert found == payload
    expected = sorted(public(seed).keyid for seed in set(signed_by) & set(trusts))
    assert list(signers) == expected


def spoil(change: Callable[[dict[str, Any]], Any], *seeds: int) -> bytes:
    envelope = sign(b'{"a":1}', KIND, *(seeds or (1,)))
    change(envelope)
    return data(envelope)


def forge(envelope: dict[str, Any]) -> None:
    """Key 1's id on a signature by key 2."""
    envelope["signatures"][0]["keyid"] = public(1).keyid


WRONG: list[tuple[str, bytes, str]] = [
    ("not JSON", b"{", "T09"),
    ("too large", b" " * 70_000, "T09"),
    ("too deep", b'{"a":' * 50 + b"1" + b"}" * 50, "T09"),
    ("no signatures", spoil(lambda e: e.update(signatures=[])), "T02"),
    ("signatures missing", spoil(lambda e: e.pop("signatures")), "T09"),
    ("too many", spoil(lambda e: e.update(signatures=e["signatures"] * 17)), "T09"),
    ("one key twice", spoil(lambda e: e.update(signatures=e["signatures"] * 2)), "T09"),
    ("another payload", spoil(lambda e: e.update(payload="eyJhIjoyfQ==")), "T01"),
    ("another type", spoil(lambda e: e.update(payloadType=KIND + "x")), "T09"),
    ("no payload", spoil(lambda e: e.pop("payload")), "T09"),
    ("payload no base64", spoil(lambda e: e.update(payload="***")), "T09"),
    ("payload of one letter", spoil(lambda e: e.update(payload="A")), "T09"),
    ("payload no string", spoil(lambda e: e.update(payload=[1])), "T09"),
    ("another key", spoil(lambda _: None, 2), "T02"),
    ("another key under its name", spoil(forge, 2), "T01"),
    ("a signature of zeros", spoil(lambda e: e["signatures"][0].update(sig="A" * 86 + "==")), "T01"),
    ("a short signature", spoil(lambda e: e["signatures"][0].update(sig="AAAA")), "T01"),
    ("a key id that is none", spoil(lambda e: e["signatures"][0].update(keyid="x")), "T09"),
    ("a signature that is no object", spoil(lambda e: e.update(signatures=[1])), "T09"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("envelope", "code"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG]
)
def test_envelopes_that_do_not(envelope: bytes, code: str) -> None:
    with pytest.raises(TrustError) as caught:
        open_envelope(envelope, KIND, trusted(1))
    assert caught.value.code == code
    assert caught.value.exit_code == 1


def test_a_threshold_counts_keys_that_verify() -> None:
    one = data(sign(b"x", KIND, 1))
    with pytest.raises(TrustError, match="T02"):
        open_envelope(one, KIND, trusted(1, 2), 2)
    both = sign(b"x", KIND, 1, 2)
    both["signatures"][1]["sig"] = both["signatures"][0]["sig"]
    with pytest.raises(TrustError, match="T01"):
        open_envelope(data(both), KIND, trusted(1, 2), 2)


def test_a_bad_signature_beside_enough_good_ones_is_passed_over() -> None:
    both = sign(b"x", KIND, 1, 2)
    both["signatures"][1]["sig"] = both["signatures"][0]["sig"]
    payload, signers = open_envelope(data(both), KIND, trusted(1, 2), 1)
    assert (payload, signers) == (b"x", (public(1).keyid,))


def test_what_is_signed_is_the_pre_authentication_encoding() -> None:
    """DSSE protocol.md, worked out here by hand."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    payload = b'{"a":1}'
    envelope = sign(payload, KIND, 1)
    pae = b"DSSEv1 %d %s %d %s" % (len(KIND), KIND.encode(), len(payload), payload)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public(1).public))
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), pae)


WITHOUT = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cryptography", "nacl"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
from pathlib import Path
from wherry_contract.assignment import open_assignment, ShadowPlan
from wherry_contract.errors import TrustError
from wherry_contract.messages import unwrap_assignment
from wherry_contract.signature import TrustRoot

folder = Path(sys.argv[1])
root = TrustRoot.from_bytes((folder / "trust.json").read_bytes())
envelope = (folder / "statement.dsse.json").read_bytes()
statement = root.open_bundle_statement(envelope, family="fraud", digest=sys.argv[2])
order = open_assignment(
    unwrap_assignment((folder / "messages/assignment.json").read_bytes()), root
)
assert "cryptography" not in sys.modules
try:
    # one bit of the payload, on its way out of base64 still JSON
    root.open_bundle_statement(
        envelope.replace(b'"payload":"eyJjb3', b'"payload":"eyJjb2'), family="fraud",
        digest=sys.argv[2],
    )
except TrustError as error:
    print(statement.counter, order.sequence, error.code)
"""


def test_a_board_without_cryptography_verifies_in_plain_python() -> None:
    digest = document("fraud-mini.json")["digest"]
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(VECTORS), digest],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.stderr == ""
    assert answer.stdout.split() == ["7", "3", "T01"]


# --- bundle statements


SAYS = BundleStatement("fraud", "fraud-mini", "1.0.0", DIGEST, 1234, 7)
TRUST = TrustRoot(
    trusted(1, 2, 3),
    {
        "fraud": FamilyTrust((public(1).keyid,), 1, 5),
        "credit": FamilyTrust((public(1).keyid, public(2).keyid), 2),
    },
    (AssignmentKey(public(3).keyid, 1000.0, 2000.0),),
)


def statement(says: BundleStatement = SAYS, *seeds: int, kind: str = SAYS.PAYLOAD_TYPE) -> bytes:
    return data(sign(says.to_bytes(), kind, *(seeds or (1,))))


def test_a_statement_that_fits() -> None:
    found = TRUST.open_bundle_statement(statement(), family="fraud", digest=DIGEST)
    assert found == SAYS
    more = replace(SAYS, family="credit", extra={"team": "risk"})
    assert (
        TRUST.open_bundle_statement(statement(more, 1, 2), family="credit", digest=DIGEST) == more
    )


@pytest.mark.parametrize(
    ("envelope", "family", "code"),
    [
        (statement(), "unknown", "T06"),
        (statement(SAYS, 1, 2), "credit", "T06"),
        (statement(replace(SAYS, family="credit"), 1), "credit", "T02"),
        (statement(SAYS, 2), "fraud", "T02"),
        (statement(SAYS, 3), "fraud", "T02"),
        (statement(replace(SAYS, digest="sha256:" + "e" * 64)), "fraud", "T03"),
        (statement(replace(SAYS, counter=4)), "fraud", "T07"),
        (statement(kind=PAYLOAD_TYPE), "fraud", "T09"),
        (data(sign(SAYS.to_bytes().replace(b"bundle/1", b"bundle/2"), SAYS.PAYLOAD_TYPE, 1)), "fraud", "T08"),
        (statement(replace(SAYS, extra={"must_understand": ["expiry"]})), "fraud", "T08"),
        (statement(replace(SAYS, counter=-1)), "fraud", "T09"),
        (statement(replace(SAYS, size=0)), "fraud", "T09"),
        (statement(replace(SAYS, digest="sha1:aa")), "fraud", "T09"),
        (b"", "fraud", "T09"),
    ],
    ids=[
        "no such family",
        "of another family",
        "too few signatures",
        "a key of another family",
        "an assignment key",
        "another bundle",
        "below the floor",
        "another type of payload",
        "from the future",
        "must understand more",
        "negative counter",
        "no size",
        "another digest",
        "unsigned",
    ],
)  # fmt: skip
def test_statements_that_do_not(envelope: bytes, family: str, code: str) -> None:
    with pytest.raises(TrustError) as caught:
        TRUST.open_bundle_statement(envelope, family=family, digest=DIGEST)
    assert caught.value.code == code


# --- trust.json


def test_a_trust_root_survives_with_what_it_does_not_know() -> None:
    made = json.loads(TRUST.to_bytes())
    made["x"] = 1
    made["keys"][0]["owner"] = "me"
    made["families"]["fraud"]["note"] = None
    made["assignment_keys"][0]["office"] = "north"
    read = TrustRoot.from_bytes(data(made))
    assert json.loads(read.to_bytes()) == made
    assert TrustRoot.from_bytes(read.to_bytes()) == read


def test_a_trust_root_is_read_as_it_was_written() -> None:
    assert TrustRoot.from_bytes(TRUST.to_bytes()) == TRUST
    assert TrustRoot.from_bytes(vector("trust.json")).to_bytes() == vector("trust.json")


def twice(**change: str) -> Callable[[dict[str, Any]], Any]:
    return lambda root: root["keys"].append(root["keys"][0] | change)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda root: root.update(schema="wherry/trust/2"), "T08"),
        (lambda root: root.update(schema="wherry/bundle/1"), "T09"),
        (lambda root: root["keys"][0].update(keytype="rsa"), "T09"),
        (lambda root: root["keys"][0].update(public="00"), "T09"),
        (lambda root: root["keys"][0].update(keyid="AA" * 32), "T09"),
        (twice(), "T09"),
        (twice(keyid="ab" * 32), "T09"),
        (lambda root: root["families"]["fraud"].update(threshold=0), "T09"),
        (lambda root: root["families"]["fraud"].update(min_counter=-1), "T09"),
        (lambda root: root["families"].update(x=1), "T09"),
        (lambda root: root["assignment_keys"][0].update(not_after=None), "T09"),
    ],
    ids=[
        "from the future",
        "something else",
        "RSA",
        "a short key",
        "capital letters",
        "a key id twice",
        "one key under two ids",
        "no threshold",
        "a negative floor",
        "a family that is no object",
        "no end of validity",
    ],
)
def test_trust_roots_that_are_wrong(change: Callable[[dict[str, Any]], Any], code: str) -> None:
    made = json.loads(TRUST.to_bytes())
    change(made)
    with pytest.raises(TrustError) as caught:
        TrustRoot.from_bytes(data(made))
    assert caught.value.code == code


# --- assignments


ORDER = Assignment(
    "shop-1", "r-1", "fraud", DIGEST, 1234, 3, 1500.0, 2500.0, soak_rows=5, soak_seconds=0
)


def order(made: Assignment = ORDER, *seeds: int) -> bytes:
    return data(sign(made.to_bytes(), PAYLOAD_TYPE, *(seeds or (3,))))


@pytest.mark.parametrize(
    "made",
    [
        ORDER,
        replace(ORDER, soak_rows=-1, soak_seconds=-1),
        replace(ORDER, digest="", size=0),
        replace(ORDER, issued_at=1000.0),
        replace(ORDER, issued_at=2000.0),
        replace(ORDER, mode="shadow"),
        replace(ORDER, mode="shadow", shadow=ShadowPlan(50, 0, "switch", {"novel": 1})),
        replace(ORDER, extra={"ticket": "42"}),
    ],
    ids=[
        "whole",
        "no soak",
        "withdrawn",
        "first moment",
        "last moment",
        "shadow",
        "planned",
        "more",
    ],
)
def test_assignments_that_verify(made: Assignment) -> None:
    assert open_assignment(order(made), TRUST) == replace(made, keyid=public(3).keyid)


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        (order(ORDER, 1), "T02"),
        (order(replace(ORDER, issued_at=999.0)), "T02"),
        (order(replace(ORDER, issued_at=2001.0)), "T02"),
        (order(replace(ORDER, sequence=0)), "T09"),
        (order(replace(ORDER, device="Shop 1")), "T09"),
        (order(replace(ORDER, digest="x")), "T09"),
        (order(replace(ORDER, size=70_000)), "T09"),
        (data(sign(ORDER.to_bytes().replace(b"00.000Z", b"00+0000", 1), PAYLOAD_TYPE, 3)), "T09"),
        (data(sign(ORDER.to_bytes().replace(b"assignment/1", b"assignment/2"), PAYLOAD_TYPE, 3)), "T08"),
        (data(sign(ORDER.to_bytes().replace(b'["mode"]', b'["mode","place"]'), PAYLOAD_TYPE, 3)), "T08"),
        (data(sign(SAYS.to_bytes(), SAYS.PAYLOAD_TYPE, 3)), "T09"),
    ],
    ids=[
        "a bundle key",
        "before the key's time",
        "after the key's time",
        "no sequence",
        "a device that is none",
        "a digest that is none",
        "a manifest too large",
        "a time that is none",
        "from the future",
        "must understand more",
        "a bundle statement",
    ],
)  # fmt: skip
def test_assignments_that_do_not(envelope: bytes, code: str) -> None:
    with pytest.raises(TrustError) as caught:
        open_assignment(envelope, TRUST)
    assert caught.value.code == code


def test_the_golden_assignment_orders_the_golden_bundle() -> None:
    root = TrustRoot.from_bytes(vector("trust.json"))
    found = open_assignment(unwrap_assignment(vector("messages/assignment.json")), root)
    assert (found.device, found.sequence, found.soak_rows) == ("shop-1", 3, 100)
    assert found.digest == document("fraud-mini.json")["digest"]
