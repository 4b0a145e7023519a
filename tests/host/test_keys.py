"""Signing keys: how they lie on disk, what they sign, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from support_build import wherry

from wherry.keys import (
    PASSPHRASE,
    generate,
    key_path,
    list_keys,
    load_signer,
    public_path,
    read_public,
    sign_envelope,
    signed_payload,
)
from wherry_contract.errors import SetupError, TrustError, WherryError
from wherry_contract.signature import open_envelope

KIND = "application/x-test"


def test_a_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        generate(tmp_path / "release.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "release.key").stat().st_mode) == 0o600
    assert (tmp_path / "release.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_what_is_signed_opens_with_the_public_file(tmp_path: Path) -> None:
    public = generate(tmp_path / "release.key")
    assert read_public(tmp_path / "release.pub.json") == public
    signer = load_signer(tmp_path / "release.key")
    envelope = sign_envelope(b"payload", KIND, [signer])
    payload, signers = open_envelope(envelope, KIND, {public.keyid: public})
    assert (payload, signers) == (b"payload", (public.keyid,))
    assert signed_payload(envelope) == (b"payload", (public.keyid,))


def test_a_second_signature_joins_the_first(tmp_path: Path) -> None:
    keys = {key.keyid: key for key in (generate(tmp_path / "a.key"), generate(tmp_path / "b.key"))}
    one, two = load_signer(tmp_path / "a.key"), load_signer(tmp_path / "b.key")
    envelope = sign_envelope(b"payload", KIND, [one])
    both = sign_envelope(b"payload", KIND, [two], envelope=envelope)
    assert open_envelope(both, KIND, keys, threshold=2)[1] == tuple(sorted(keys))


@pytest.mark.parametrize(
    ("payload", "kind", "envelope", "words"),
    [
        (b"payload", KIND, None, "has signed it already"),
        (b"other", KIND, None, "something else"),
        (b"payload", "application/y", None, "something else"),
        (b"payload", KIND, b"{}", "cannot be read"),
        (b"payload", KIND, b"[", "envelope"),
        (b"payload", KIND, b'{"payload":1,"payloadType":2,"signatures":3}', "cannot be read"),
    ],
    ids=["twice", "payload", "type", "empty", "no JSON", "wrong types"],
)
def test_signatures_that_cannot_be_added(
    tmp_path: Path, payload: bytes, kind: str, envelope: bytes | None, words: str
) -> None:
    generate(tmp_path / "a.key")
    signer = load_signer(tmp_path / "a.key")
    there = sign_envelope(b"payload", KIND, [signer]) if envelope is None else envelope
    with pytest.raises(TrustError) as caught:
        sign_envelope(payload, kind, [signer], envelope=there)
    assert caught.value.code == "T09"
    assert words in caught.value.detail


def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    public = generate(path, passphrase="horse battery")
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_signer(path, passphrase="horse battery").public_key.keyid == public.keyid
    for passphrase, words in (("", "is encrypted"), ("wrong", "cannot be opened")):
        with pytest.raises(TrustError) as caught:
            load_signer(path, passphrase=passphrase)
        assert caught.value.code == "T10"
        assert words in caught.value.detail
        assert PASSPHRASE in caught.value.cure


def _p256() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "cannot be opened"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be opened"),
        (_p256(), "not Ed25519"),
    ],
    ids=["absent", "empty", "damaged", "another kind"],
)
def test_keys_that_cannot_sign(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "release.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((SetupError, TrustError)) as caught:
        load_signer(path)
    assert caught.value.code == ("H02" if content is None else "T10")
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("elsewhere", "cure"), [(True, "signs with `wherry sign`"), (False, "`wherry key generate`")]
)
def test_a_key_that_somebody_else_keeps_is_not_made_anew(
    tmp_path: Path, cure: str, *, elsewhere: bool
) -> None:
    if elsewhere:
        (tmp_path / "release.pub.json").write_text("{}")
    with pytest.raises(SetupError) as caught:
        load_signer(tmp_path / "release.key")
    assert cure in caught.value.cure


@pytest.mark.parametrize(("there", "code"), [("release.key", "T10"), ("release.pub.json", "H03")])
def test_a_key_is_never_written_over(tmp_path: Path, there: str, code: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises((SetupError, TrustError)) as caught:
        generate(tmp_path / "release.key")
    assert caught.value.code == code
    assert (tmp_path / there).read_text() == "precious"


def test_a_key_whose_making_was_cut_off_gets_its_public_file(tmp_path: Path) -> None:
    public = generate(tmp_path / "release.key", passphrase="p")
    (tmp_path / "release.pub.json").unlink()
    with pytest.raises(TrustError):
        generate(tmp_path / "release.key", passphrase="q")
    assert generate(tmp_path / "release.key", passphrase="p") == public
    assert read_public(tmp_path / "release.pub.json") == public


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("release", "{}/release.key"),
        ("./release", "release"),
        ("other/a.pem", "other/a.pem"),
        ("a.key", "a.key"),
        ("Release", None),
        ("re lease", None),
        ("", None),
    ],
)
def test_a_name_or_a_path(tmp_path: Path, key: str, found: str | None) -> None:
    if found is None:
        with pytest.raises(TrustError) as caught:
            key_path(key, tmp_path)
        assert caught.value.code == "T10"
    else:
        assert key_path(key, tmp_path) == Path(found.format(tmp_path))


def test_listing_tells_what_can_sign(tmp_path: Path) -> None:
    generate(tmp_path / "plain.key")
    generate(tmp_path / "locked.key", passphrase="x")
    generate(tmp_path / "gone.key")
    (tmp_path / "gone.key").unlink()
    found = [(item.name, item.state) for item in list_keys(tmp_path)]
    assert found == [("gone", "public only"), ("locked", "encrypted"), ("plain", "private")]


def test_a_damaged_public_file(tmp_path: Path) -> None:
    (tmp_path / "a.pub.json").write_text('{"keyid":"zz"}')
    with pytest.raises(WherryError) as caught:
        list_keys(tmp_path)
    assert caught.value.code == "T09"


def test_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERRY_HOME", str(tmp_path))
    monkeypatch.setenv(PASSPHRASE, "horse battery")
    made = wherry(capsys, "key", "generate", "release")
    assert made.code == 0
    keyid = made.out.strip()
    assert keyid == read_public(public_path(tmp_path / "keys" / "release.key")).keyid
    assert "horse" not in made.err
    assert "PRIVATE KEY" not in made.out + made.err
    again = wherry(capsys, "key", "generate", "release")
    assert (again.code, "H03" in again.err) == (3, True)
    listed = json.loads(wherry(capsys, "key", "list", "--json").out)
    assert listed["schema"] == "wherry/key-list/1"
    assert listed["keys"] == [{"name": "release", "keyid": keyid, "state": "encrypted"}]
    nobody = wherry(capsys, "key", "list", "--data", tmp_path / "none")
    assert (nobody.code, "no keys" in nobody.out) == (0, True)
