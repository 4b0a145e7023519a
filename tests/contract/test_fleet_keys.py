"""Fleet keys, and what they sign: orders, commands, the time. Every way in which each is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_contract import assignment, command, told_time
from wherry_contract.assignment import Assignment, FetchPolicy, MaintenanceWindow
from wherry_contract.command import Command
from wherry_contract.errors import TrustError
from wherry_contract.fleet_keys import FleetKeys
from wherry_contract.messages import unwrap_command, wrap_command
from wherry_contract.signature import AssignmentKey, PublicKey
from wherry_contract.told_time import ToldTime, read_nonce, write_nonce
from wherry_contract.wire import canonical

AT = 1_796_000_000.0
NONCE = "0123456789abcdef" * 2
ORDER = Assignment("shop-1", "r1", "fraud", "", 0, 1, AT, AT + 9)
COMMAND = Command("shop-1", "logs", 1, AT, AT + 9)


@cache
def signer(seed: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def public(seed: int) -> PublicKey:
    key = signer(seed).public_key
    return PublicKey(key.keyid, key.keyval["public"])


def sign(payload: bytes, kind: str, seed: int) -> bytes:
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, kind, {})
    envelope.sign(signer(seed))
    return json.dumps(envelope.to_dict()).encode()


def listed(seed: int) -> AssignmentKey:
    return AssignmentKey(public(seed).keyid, AT - 100, AT + 100)


KEYS = FleetKeys(
    {public(seed).keyid: public(seed) for seed in (1, 2, 3)}, (listed(1),), (listed(2),)
)


def test_reading_back_loses_nothing() -> None:
    more = replace(KEYS, extra={"later": 1})
    assert FleetKeys.from_bytes(more.to_bytes()) == more


def test_a_command_s_payload_is_named_like_every_other() -> None:
    envelope = sign(COMMAND.to_bytes(), command.PAYLOAD_TYPE, 1)
    found = KEYS.command(unwrap_command(wrap_command(envelope)))
    assert replace(found, extra={}) == replace(COMMAND, keyid=public(1).keyid)


def changed(**fields: Any) -> bytes:
    return canonical(json.loads(KEYS.to_bytes()) | fields)


FILES: list[tuple[str, bytes, str]] = [
    ("no JSON", b"{", "T09"),
    ("too large", b" " * 70_000, "T09"),
    ("from the future", changed(schema="wherry/fleet-keys/2"), "T08"),
    ("another document", changed(schema="wherry/trust/1"), "T09"),
    ("no keys", changed(keys=None), "T09"),
    ("a key twice", changed(keys=[public(1).to_dict()] * 2), "T09"),
    (
        "one key under two ids",
        changed(keys=[public(1).to_dict(), public(1).to_dict() | {"keyid": "0" * 64}]),
        "T09",
    ),
    ("another kind of key", changed(keys=[public(1).to_dict() | {"keytype": "rsa"}]), "T09"),
    ("a validity that is none", changed(time_keys=[{"keyid": "0" * 64}]), "T09"),
    ("a key id that is none", changed(assignment_keys=[listed(1).to_dict() | {"keyid": "x"}]), "T09"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), [r[1:] for r in FILES], ids=[r[0] for r in FILES])
def test_files_that_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(TrustError) as caught:
        FleetKeys.from_bytes(data)
    assert caught.value.code == code


def order(value: Assignment = ORDER, seed: int = 1, kind: str = assignment.PAYLOAD_TYPE) -> Any:
    return KEYS.assignment(sign(value.to_bytes(), kind, seed))


def told(value: ToldTime | None = None, seed: int = 2, nonce: str = NONCE) -> Any:
    said = value or ToldTime(NONCE, AT)
    return KEYS.time(sign(said.to_bytes(), told_time.PAYLOAD_TYPE, seed), nonce)


def commanded(value: Command = COMMAND, seed: int = 1, kind: str = command.PAYLOAD_TYPE) -> Any:
    return KEYS.command(sign(value.to_bytes(), kind, seed))


def test_what_the_right_keys_sign_is_taken() -> None:
    assert replace(order(), extra={}) == replace(ORDER, keyid=public(1).keyid)
    assert replace(commanded(), extra={}) == replace(COMMAND, keyid=public(1).keyid)
    assert commanded(replace(COMMAND, lines=7)).lines == 7
    assert told() == ToldTime(NONCE, AT, public(2).keyid)


SIGNED: list[tuple[str, Callable[[], Any], str]] = [
    ("an order by a time key", lambda: order(seed=2), "T02"),
    ("an order by a key without a use", lambda: order(seed=3), "T02"),
    ("an order by a stranger", lambda: order(seed=4), "T02"),
    ("an order before its key was valid", lambda: order(replace(ORDER, issued_at=AT - 101)), "T02"),
    ("an order after it", lambda: order(replace(ORDER, issued_at=AT + 101)), "T02"),
    ("an order that is a command", lambda: order(kind=command.PAYLOAD_TYPE), "T09"),
    ("sequence 2^53", lambda: order(replace(ORDER, sequence=2**53)), "T09"),
    ("sequence 2^63", lambda: order(replace(ORDER, sequence=2**63)), "T09"),
    ("sequence 0", lambda: order(replace(ORDER, sequence=0)), "T09"),
    ("a device key that is none", lambda: order(replace(ORDER, device_key="shop")), "T09"),
    (
        "a window that is none",
        lambda: order(replace(ORDER, window=MaintenanceWindow("2:00", "05:00"))),
        "T09",
    ),
    (
        "a window on the moon",
        lambda: order(replace(ORDER, window=MaintenanceWindow("02:00", "05:00", 1000))),
        "T09",
    ),
    ("a policy that is none", lambda: order(replace(ORDER, policy=FetchPolicy("maybe"))), "T09"),
    (
        "a rate below nothing",
        lambda: order(replace(ORDER, policy=FetchPolicy(bytes_per_second=-1))),
        "T09",
    ),
    ("a command by a time key", lambda: commanded(seed=2), "T02"),
    ("a command after its key", lambda: commanded(replace(COMMAND, issued_at=AT + 101)), "T02"),
    ("a command that is an order", lambda: commanded(kind=assignment.PAYLOAD_TYPE), "T09"),
    ("a command by a key without a use", lambda: commanded(seed=3), "T02"),
    ("a command by a stranger", lambda: commanded(seed=4), "T02"),
    ("a command before its key", lambda: commanded(replace(COMMAND, issued_at=AT - 101)), "T02"),
    ("command 0", lambda: commanded(replace(COMMAND, sequence=0)), "T09"),
    ("command 2^63", lambda: commanded(replace(COMMAND, sequence=2**63)), "T09"),
    ("a command for no device", lambda: commanded(replace(COMMAND, device="a/b")), "T09"),
    (
        "a command for a key that is none",
        lambda: commanded(replace(COMMAND, device_key="x")),
        "T09",
    ),
    ("more lines than there are", lambda: commanded(replace(COMMAND, lines=1001)), "T09"),
    ("an over-long command", lambda: commanded(replace(COMMAND, extra={"x": "x" * 17_000})), "T09"),
    ("a command without words", lambda: commanded(replace(COMMAND, ask="")), "T09"),
    (
        "a command that relies on more",
        lambda: commanded(replace(COMMAND, extra={"must_understand": ["moon"]})),
        "T08",
    ),
    ("the time by an assignment key", lambda: told(seed=1), "T02"),
    ("the time for another question", lambda: told(nonce="f" * 32), "T03"),
    ("a time outside the key's validity", lambda: told(ToldTime(NONCE, AT + 101)), "T02"),
    ("a time that is none", lambda: told(ToldTime(NONCE, AT, extra={"at": "soon"})), "T09"),
]


@pytest.mark.parametrize(("ask", "code"), [r[1:] for r in SIGNED], ids=[r[0] for r in SIGNED])
def test_what_is_refused(ask: Callable[[], Any], code: str) -> None:
    with pytest.raises(TrustError) as caught:
        ask()
    assert caught.value.code == code


def test_a_key_that_is_listed_and_not_there_signs_nothing() -> None:
    lacking = replace(KEYS, keys={})
    with pytest.raises(TrustError, match="T02"):
        lacking.assignment(sign(ORDER.to_bytes(), assignment.PAYLOAD_TYPE, 1))


# --- what an order may bind -----------------------------------------------------------------

TIMES = st.sampled_from(["00:00", "02:00", "13:37", "23:59"])
WINDOWS = st.builds(MaintenanceWindow, TIMES, TIMES, st.integers(-840, 840))
POLICIES = st.builds(
    FetchPolicy,
    st.sampled_from(["prefer", "never", "only"]),
    st.integers(0, 2**40),
    st.sampled_from(["any", "free"]),
)


@given(
    st.sampled_from(["", "0f" * 32]),
    st.none() | WINDOWS,
    st.none() | st.integers(0, 4_000_000_000).map(float),
    POLICIES,
)
def test_an_order_is_read_back_as_it_was_written(
    key: str, window: MaintenanceWindow | None, deadline: float | None, policy: FetchPolicy
) -> None:
    made = replace(ORDER, device_key=key, window=window, deadline=deadline, policy=policy)
    found = Assignment.from_bytes(made.to_bytes())
    assert replace(found, extra={}) == made
    document = json.loads(made.to_bytes())
    binding = {"device_key", "window", "deadline", "policy"} & set(document)
    assert set(document["must_understand"]) == {"mode", *binding}
    assert Assignment.from_bytes(found.to_bytes()) == found


def test_an_order_of_the_first_kind_binds_nothing_more() -> None:
    assert "window" not in json.loads(ORDER.to_bytes())
    assert json.loads(ORDER.to_bytes())["must_understand"] == ["mode"]


# --- the question ---------------------------------------------------------------------------


def test_a_question_is_read_back() -> None:
    assert read_nonce(write_nonce(NONCE)) == NONCE


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "T09"),
        (write_nonce("x"), "T09"),
        (write_nonce(NONCE.upper()), "T09"),
        (b" " * 5000 + write_nonce(NONCE), "T09"),
        (write_nonce(NONCE).replace(b"nonce/1", b"nonce/2"), "T08"),
    ],
)
def test_questions_that_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(TrustError) as caught:
        read_nonce(data)
    assert caught.value.code == code
