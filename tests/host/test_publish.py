"""`wherry publish`, `sign` and `key` as people use them, and where their keys may lie."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support_agent import FAMILY, Made, make_bundle
from support_repository import newcomer

from wherry.cli import run
from wherry.keys import generate, load_signer
from wherry.repository.lab import hold_ceremony
from wherry.repository.repository import Repository
from wherry.signers import PIN, adopt, open_signers
from wherry_contract.errors import SetupError, TrustError

MODELS = f"models/{FAMILY}"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
LETTERS = [
    word for name in ("models-1", "models-2", "targets-1", "targets-2") for word in ("--key", name)
]


@pytest.fixture(scope="module")
def made() -> Made:
    return make_bundle()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    hold_ceremony(Repository(folder), folder / "keys")
    return folder


@pytest.fixture
def lab(template: Path, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder after the laboratory's ceremony, and a bundle file beside it."""
    data = Path(shutil.copytree(template, tmp_path / "data", symlinks=True))
    (tmp_path / "fraud.wherry").write_bytes(made.to_tar())
    monkeypatch.setenv("WHERRY_HOME", str(data))
    return data


def wherry(*arguments: str, ok: int = 0) -> None:
    assert run(list(arguments)) == ok


def seen(data: Path, made: Made) -> bool:
    repository = Repository(data)
    path = f"{MODELS}/{made.digest.partition(':')[2]}"
    return newcomer(repository.depot, repository.root_file(), path) is not None


def test_one_command_releases_where_all_keys_are(
    lab: Path, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    wherry("publish", str(lab.parent / "fraud.wherry"), *LETTERS, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "schema": "wherry/publish/1",
        "published": ["targets", MODELS],
        "waiting": [],
        "deltas": [],
    }
    assert seen(lab, made)


def test_two_people_release_one_after_the_other(
    lab: Path, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    wherry("publish", "--family", FAMILY, "--key", "targets-1", "--key", "targets-2", ok=1)
    assert f"{MODELS} 1: 2 more must sign: " in capsys.readouterr().out
    wherry("publish", str(lab.parent / "fraud.wherry"), "--key", "models-1", ok=1)
    assert capsys.readouterr().out == f"{MODELS} 1: 1 more must sign: models-2\n"
    assert not seen(lab, made)
    wherry("sign", MODELS, "--key", "models-1", ok=1)
    assert "T09" in capsys.readouterr().err
    wherry("sign", MODELS, "--key", "root-1", ok=1)
    assert "T02" in capsys.readouterr().err
    wherry("sign", MODELS, "--key", "models-2")
    assert not seen(lab, made)  # signing publishes nothing
    wherry("publish")
    assert seen(lab, made)


def test_a_data_folder_that_is_not_there_is_not_made(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wherry("sign", MODELS, "--key", "models-1", "--data", str(lab / "none"), ok=3)
    assert "there is no such folder" in capsys.readouterr().err
    assert not (lab / "none").exists()


def test_withdrawing_a_floor_a_renewal_and_forgetting(lab: Path, made: Made) -> None:
    wherry("publish", str(lab.parent / "fraud.wherry"), *LETTERS)
    wherry("publish", "--floor", "1", "--family", FAMILY, ok=1)
    wherry("publish", "--forget")
    models = ("--key", "models-1", "--key", "models-2")
    wherry("publish", "--withdraw", made.digest, *models)
    assert not seen(lab, made)
    wherry("publish", "--withdraw", made.digest, *models, ok=1)
    wherry("publish", "--renew", "targets", "--key", "targets-1", "--key", "targets-2")
    assert Repository(lab).state.targets.signed.version == 3
    wherry("publish", "--floor", "1", ok=2)


def test_keys_are_exchanged_and_revoked_by_name(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wherry("key", "generate", "root-4", "--data", str(lab))
    words = ("key", "rotate", "root", "--old", "root-1", "--new", "root-4", "--key", "root-4")
    wherry(*words, ok=1)
    assert "root 2: 2 more must sign" in capsys.readouterr().out
    wherry("publish", "--key", "root-2", "--key", "root-3")
    assert Repository(lab).state.root.signed.version == 2
    wherry("key", "revoke", "root-1", ok=1)
    wherry("key", "revoke", "root-3", "--key", "root-2", "--key", "root-4")
    wherry("key", "revoke", "root-4", ok=1)  # too few would be left
    assert "T10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("sign models/frad --key models-1", "T06", "no such document waits"),
        ("sign modls/fraud --key models-1", "H02", "no such bundle, and no such role"),
        ("publish --renew rot", "T06", "known: root, targets, snapshot"),
        ("publish --floor 3 --family frad", "T06", "there is no such role here"),
        ("key rotate roott --old root-1 --new root-2", "T06", "there is no such role here"),
        ("key rotate root --old root-1 --new root-9", "H02", "put root-9.pub.json into"),
        ("key rotate root --old models-1 --new models-2", "T02", "the keys of root are root-1"),
        ("key revoke nobody", "T02", "this key has no part in any role"),
        ("key revoke online", "T10", "`wherry key rotate snapshot --old"),
        ("key generate ../x", "T10", "is no key's name"),
        ("publish --forget", "", "there was nothing to forget"),
    ],
)
def test_a_mistyped_name_is_called_that(
    lab: Path, capsys: pytest.CaptureFixture[str], words: str, code: str, told: str
) -> None:
    run(words.split())
    said = capsys.readouterr().err
    assert code in said
    assert told in said
    assert not Repository(lab).staged()


@pytest.mark.parametrize("role", ["assignment", "time"])
def test_an_online_key_is_exchanged_by_the_offline_keys(lab: Path, role: str) -> None:
    wherry("key", "generate", f"{role}-2", "--data", str(lab))
    signers = ("--key", "targets-1", "--key", "targets-2")
    wherry("key", "rotate", role, "--old", role, "--new", f"{role}-2", *signers)
    listed = getattr(Repository(lab).fleet_keys(), f"{role}_keys")
    public = json.loads((lab / "keys" / f"{role}-2.pub.json").read_text())
    drop = json.loads((lab / "keys" / "drop.pub.json").read_text())
    wanted = [*([drop["keyid"]] if role == "assignment" else []), public["keyid"]]
    assert [key.keyid for key in listed] == wanted


def test_a_real_ceremony_with_keys_of_people_who_are_elsewhere(
    tmp_path: Path,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody's private key comes near the server; papers and signatures travel as files."""
    server, home, papers = tmp_path / "server", tmp_path / "home", tmp_path / "papers"
    people = home / "keys"
    monkeypatch.setenv("WHERRY_HOME", str(home))
    names = ("root-1", "root-2", "root-3", "targets-1", "targets-2", "models-1", "models-2")
    for name in names:
        generate(people / f"{name}.key", passphrase="of " + name)
    shutil.copytree(people, papers, ignore=shutil.ignore_patterns("*.key"))
    files = [
        word
        for name in names
        for word in (f"--{name.partition('-')[0]}", str(papers / f"{name}.pub.json"))
    ]
    wherry("publish", "--data", str(server), "--init", "--family", FAMILY, *files, ok=1)
    assert "root 1: 2 more must sign" in (said := capsys.readouterr().out)
    assert all(name in said for name in names)  # by name, though nobody's key is here
    with pytest.raises(SetupError, match="wait for signatures"):  # as `wherry serve` would
        hold_ceremony(Repository(server), server / "keys")
    for name in ("root-1", "root-3", "targets-1", "targets-2", "models-1", "models-2"):
        role = {"models": MODELS}.get(name.partition("-")[0], name.partition("-")[0])
        monkeypatch.setenv("WHERRY_KEY_PASSPHRASE", "of " + name)
        wherry("sign", role, "--key", name, "--data", str(server))
    monkeypatch.delenv("WHERRY_KEY_PASSPHRASE")
    wherry("publish", "--data", str(server))
    assert sorted(path.stem for path in (server / "keys").glob("*.key")) == [
        "assignment",
        "drop",
        "online",
        "time",
    ]
    assert newcomer(server / "depot", Repository(server).root_file(), "fleet/keys.json")


def test_a_laboratory_is_not_made_of_keys_that_lie_elsewhere(tmp_path: Path) -> None:
    """A first start before the real ceremony: people's public files stay what they are."""
    server, person = tmp_path / "server", tmp_path / "person"
    generate(person / "root-1.key")
    public = server / "keys" / "root-1.pub.json"
    public.parent.mkdir(parents=True)
    shutil.copy(person / "root-1.pub.json", public)
    with pytest.raises(SetupError, match="H02"):
        hold_ceremony(Repository(server), server / "keys")
    assert public.read_bytes() == (person / "root-1.pub.json").read_bytes()
    assert not (server / "staged").exists()


# --- where keys lie -------------------------------------------------------------------------


def test_a_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = generate(tmp_path / "a.key")
    monkeypatch.setenv("RELEASE_KEY", (tmp_path / "a.key").read_text())
    (signer,) = open_signers(["env:RELEASE_KEY"], tmp_path)
    assert signer.public_key.keyid == public.keyid
    assert adopt("env:RELEASE_KEY", "pipeline", tmp_path).keyid == public.keyid
    assert open_signers(["pipeline"], tmp_path)[0].sign(b"x") == signer.sign(b"x")
    with pytest.raises(SetupError, match="H03"):
        adopt("env:RELEASE_KEY", "pipeline", tmp_path)


def test_a_key_by_one_of_securesystemslibs_own_uris(tmp_path: Path) -> None:
    public = generate(tmp_path / "a.key")
    document = {**public.to_dict(), "signer": f"file2:{tmp_path / 'a.key'}"}
    (tmp_path / "b.pub.json").write_text(json.dumps(document))
    assert open_signers(["b"], tmp_path)[0].sign(b"x") == load_signer(tmp_path / "a.key").sign(b"x")


UNUSABLE = [
    ("env:NOWHERE", "holds no private key"),
    ("hsm:2", "is not known"),
    ("gone", "cannot be read"),
]


@pytest.mark.parametrize(("key", "says"), UNUSABLE, ids=[row[0] for row in UNUSABLE])
def test_keys_that_cannot_be_opened(tmp_path: Path, key: str, says: str) -> None:
    with pytest.raises((TrustError, SetupError), match=says):
        open_signers([key], tmp_path)


@pytest.mark.skipif(
    not MODULE.exists() or not find_spec("PyKCS11"), reason="wants softhsm2 and pykcs11"
)
def test_a_key_that_never_leaves_its_token_signs_a_root(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv(PIN, "123456")
    _tool(
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "fleet",
        "--pin",
        "123456",
        "--so-pin",
        "1234",
    )
    _make_key("fleet", "mine")
    wherry("key", "generate", "root-4", "--signer", "pkcs11:fleet/mine", "--data", str(lab))
    words = ("--old", "root-1", "--new", "root-4", "--key", "root-4", "--key", "root-2")
    wherry("key", "rotate", "root", *words, "--key", "root-3")
    repository = Repository(lab)
    assert repository.state.root.signed.version == 2
    assert newcomer(
        repository.depot, (repository.depot / "tuf/1.root.json").read_bytes(), "fleet/keys.json"
    )
    with pytest.raises(TrustError, match="T10"):
        open_signers(["pkcs11:fleet/other"], lab / "keys")
    monkeypatch.setenv(PIN, "wrong")
    with pytest.raises(TrustError, match="T10"):
        open_signers(["root-4"], lab / "keys")[0].sign(b"x")


def _make_key(token: str, label: str) -> None:
    """An Ed25519 key, made by the token; in a process of its own, as any other tool would."""
    code = """if True:
        import sys
        import PyKCS11 as pk
        library = pk.PyKCS11Lib()
        library.load(sys.argv[1])
        found = [s for s in library.getSlotList(True)
                 if library.getTokenInfo(s).label.strip() == sys.argv[2]]
        session = library.openSession(found[0], pk.CKF_SERIAL_SESSION | pk.CKF_RW_SESSION)
        session.login(sys.argv[4])
        named = [(pk.CKA_TOKEN, True), (pk.CKA_LABEL, sys.argv[3])]
        curve = bytes.fromhex("06032b6570")
        public = [(pk.CKA_CLASS, pk.CKO_PUBLIC_KEY), (pk.CKA_EC_PARAMS, curve),
                  (pk.CKA_KEY_TYPE, pk.CKK_EC_EDWARDS), *named]
        private = [(pk.CKA_CLASS, pk.CKO_PRIVATE_KEY), (pk.CKA_PRIVATE, True),
                   (pk.CKA_KEY_TYPE, pk.CKK_EC_EDWARDS), (pk.CKA_SIGN, True), *named]
        way = pk.Mechanism(pk.CKM_EC_EDWARDS_KEY_PAIR_GEN)
        session.generateKeyPair(public, private, mecha=way)
    """
    _tool(sys.executable, "-c", code, str(MODULE), token, label, "123456")


def _tool(*command: str) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
