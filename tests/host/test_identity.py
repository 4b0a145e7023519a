"""From claim code to revocation, with the real server and devices of their own processes."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_agent import make_bundle
from support_fleet import (
    FAMILY,
    Device,
    Server,
    enrol,
    release,
    running_devices,
    running_server,
    wherry,
)
from support_identity import Client, Fleet, context_of, with_clock

from wherry.identity.authority import Authority, make_request, requested_key
from wherry_agent.config import load_config
from wherry_agent.identity.certificate import read_certificate
from wherry_agent.identity.enrolment import Enrolment, ask_time, fingerprint, renew
from wherry_agent.identity.enrolment import enrol as enrol_here
from wherry_agent.identity.tls import Identity
from wherry_agent.selftest import Check, self_test
from wherry_agent.status import read_status, status_lines
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import WherryError
from wherry_contract.fleet_keys import FleetKeys
from wherry_contract.identity import ClaimCode
from wherry_contract.told_time import write_nonce
from wherry_contract.when import to_seconds

DAY = 86_400.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("identity")
    with running_server(folder / "data", "--broker", "mosquitto") as found:
        yield found


def claim(server: Server, **order: Any) -> str:
    """One claim code."""
    return str(server.client.post("claims", {"family": FAMILY} | order)["codes"][0])


def order(server: Server, code: str, folder: Path, device: str = "", **more: Any) -> Enrolment:
    """What `wherry-agent enroll` is told."""
    url = server.facts["devices"]["enrol"]
    return replace(Enrolment(url, code, device, "", folder, again=False), **more)


def code_of(work: Any, *arguments: Any) -> str:
    """The code of the error that a call raises."""
    with pytest.raises(WherryError) as caught:
        work(*arguments)
    assert caught.value.cure
    return caught.value.code


def identity_of(config: Path) -> Identity:
    """Who a device is."""
    found = load_config(config).identity
    assert found
    return found


def fetch(
    server: Server, config: Path, name: str = "blobs/sha256/" + "0" * 64
) -> tuple[int, bytes]:
    """Ask the depot with a device's certificate."""
    port = int(load_config(config).depot.rpartition(":")[2].partition("/")[0])
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=10, context=context_of(identity_of(config))
    )
    try:
        connection.request("GET", f"/depot/{name}")
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def age(server: Server, config: Path, days: float = 401.0) -> None:
    """Put a certificate in place that was good for a day, and ended `days` ago."""
    authority = Authority(server.data / "identity")
    identity = identity_of(config)
    held = authority.shown(identity.certificate.read_text())
    old = authority.issue(held.key, held.device, time.time() - (days + 1) * DAY, DAY)
    identity.certificate.write_text(old.pem)


# --- claims ---------------------------------------------------------------------------------


def test_a_device_enrols_with_a_code_and_comes(server: Server, tmp_path: Path) -> None:
    """By the commands that people type; the key is made on the device and stays there."""
    words = ["device", "claim", "--count", "2", "--family", FAMILY, "--label", "site=paris"]
    first, second = wherry(server.data, *words).stdout.split()
    assert first != second
    url = server.facts["devices"]["enrol"]
    arguments = ["enroll", "--url", url, "--claim", first, "--device", "till-1", "--into"]
    folder = tmp_path / "till-1"
    done = subprocess.run(
        [sys.executable, "-m", "wherry_agent", *arguments, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    config = folder / "agent.toml"
    assert str(config) in done.stdout
    found = load_config(config)
    assert (found.device, found.family, found.labels) == ("till-1", FAMILY, {"site": "paris"})
    for name in ("device.key", "agent.toml"):
        assert (folder / name).stat().st_mode & 0o077 == 0
    private = (folder / "device.key").read_text()
    kept = [p for p in server.data.rglob("*") if p.is_file() and private.encode() in p.read_bytes()]
    assert not kept
    with running_devices(Device(config)):
        wait_for(lambda: _row(server, "till-1")["online"], what="the device")
    assert fetch(server, config)[0] == 404  # let in; there is no such blob
    row = _row(server, "till-1")
    assert row["identity"]["fingerprint"] == fingerprint(identity_of(config))
    assert row["identity"]["not_after"] > "2031"
    listed = server.client.get("claims")["claims"]
    assert {item["used_by"] for item in listed} == {"till-1", ""}
    assert first not in str(listed)


def test_self_test_and_status_look_at_the_identity(server: Server, tmp_path: Path) -> None:
    config = enrol_here(order(server, claim(server), tmp_path / "till", "looked-at"))
    assert _identity_check(config).well
    print_ = fingerprint(identity_of(config))
    assert read_status(load_config(config))["identity"]["fingerprint"] == print_
    lines = list(status_lines(read_status(load_config(config))))
    assert [line for line in lines if print_ in line]
    identity_of(config).key.write_bytes(make_request()[0])
    assert _identity_check(config).code == "L13"
    identity_of(config).certificate.write_text("nothing")
    assert _identity_check(config).code == "I06"
    lines = list(status_lines(read_status(load_config(config))))
    assert [line for line in lines if "I06" in line]


def _identity_check(config: Path) -> Check:
    (found,) = [check for check in self_test(config) if check.name == "identity"]
    return found


def _row(server: Server, name: str) -> dict[str, Any]:
    return server.client.get(f"devices/{name}")


def test_a_code_is_good_once_but_for_an_answer_that_was_lost(
    server: Server, tmp_path: Path
) -> None:
    code = claim(server)
    config = enrol_here(order(server, code, tmp_path / "a", "once-1"))
    first = identity_of(config).certificate.read_text()
    config.unlink()  # as if the power had gone before the last file was written
    enrol_here(order(server, code, tmp_path / "a", "once-1"))
    second = identity_of(config).certificate.read_text()
    assert first != second
    assert read_certificate(first).fingerprint == read_certificate(second).fingerprint
    assert code_of(enrol_here, order(server, code, tmp_path / "b", "once-1")) == "I02"
    assert code_of(enrol_here, order(server, code, tmp_path / "b", "once-2")) == "I02"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("mistyped", "I01"),
        ("never made", "I02"),
        ("expired", "I02"),
        ("for another device", "I02"),
        ("without an id", "I02"),
        ("of another fleet", "I03"),
        ("for an enrolled device", "R08"),
        ("for an id that is none", "I08"),
        ("where an identity is", "H03"),
        ("at no server", "L08"),
        ("at a plain URL", "H08"),
        ("with a port that would break the file", "R06"),
    ],
)
def test_codes_that_let_nobody_in(server: Server, tmp_path: Path, row: str, expected: str) -> None:
    code, folder = claim(server), tmp_path / "x"
    change = CHANGES[row](server, tmp_path, code)
    assert code_of(enrol_here, replace(order(server, code, folder, "till-x"), **change)) == expected
    assert not (folder / "device.pem").exists()
    if "claim" not in change:  # and the code was not used up
        name = row.lower().replace(" ", "-")
        assert enrol_here(order(server, code, tmp_path / "y", name)).exists()


def test_the_depots_port_enrols_nobody_and_it_is_said_which_one_does(
    server: Server, tmp_path: Path
) -> None:
    url = server.facts["devices"]["depot"].removesuffix("/depot") + "/enrol"
    with pytest.raises(WherryError, match="L08: the server does not enrol there") as caught:
        enrol_here(order(server, claim(server), tmp_path / "x", "till-x", url=url))
    assert "wherry device claim" in caught.value.cure


@pytest.mark.parametrize(("family", "warned"), [(FAMILY, False), ("typo", True)])
def test_a_family_that_nobody_releases_for_is_told_of(
    server: Server, tmp_path: Path, family: str, *, warned: bool
) -> None:
    release(server.data, make_bundle())
    claimed = wherry(server.data, "device", "claim", "--family", family)
    folder = str(tmp_path / family)
    added = wherry(server.data, "device", "add", f"f-{family}", "--family", family, "--out", folder)
    for done in (claimed, added):
        said = f"no such family is released here: {family}; there are: {FAMILY}"
        assert (said in done.stderr) is warned, done.stderr


def _made_up(server: Server, _folder: Path, _code: str) -> dict[str, Any]:
    return {"claim": ClaimCode.new(Authority(server.data / "identity").der).text}


def _too_late(server: Server, _folder: Path, _code: str) -> dict[str, Any]:
    code = claim(server, seconds=0.01)
    time.sleep(0.02)
    return {"claim": code}


def _foreign(_server: Server, folder: Path, _code: str) -> dict[str, Any]:
    (folder / "other").mkdir()
    return {"claim": ClaimCode.new(Fleet(folder / "other").authority.der).text}


def _known(server: Server, _folder: Path, _code: str) -> dict[str, Any]:
    server.client.post("devices", _by_hand("till-known", again=True))
    return {"device": "till-known"}


def _occupied(_server: Server, folder: Path, _code: str) -> dict[str, Any]:
    (folder / "x").mkdir()
    (folder / "x" / "agent.toml").touch()
    return {}


CHANGES: dict[str, Callable[[Server, Path, str], dict[str, Any]]] = {
    "mistyped": lambda _s, _f, code: {"claim": ("B" if code[0] == "A" else "A") + code[1:]},
    "never made": _made_up,
    "expired": _too_late,
    "for another device": lambda server, _f, _c: {"claim": claim(server, device="till-y")},
    "without an id": lambda _s, _f, _c: {"device": ""},
    "of another fleet": _foreign,
    "for an enrolled device": _known,
    "for an id that is none": lambda _s, _f, _c: {"device": "no_id"},
    "where an identity is": _occupied,
    "with a port that would break the file": lambda *_: {"listen": "x\n[broker]"},
    "at no server": lambda _s, _f, _c: {"url": "https://127.0.0.1:1/enrol"},
    "at a plain URL": lambda _s, _f, _c: {"url": "http://127.0.0.1:1/enrol"},
}


def _by_hand(name: str, *, again: bool = False) -> dict[str, Any]:
    return {"device": name, "family": FAMILY, "csr": make_request()[1], "again": again}


def test_of_two_that_want_one_id_at_once_one_gets_it(server: Server, tmp_path: Path) -> None:
    wanted = [order(server, claim(server), tmp_path / str(at), "wanted-1") for at in range(6)]

    def come(one: Enrolment) -> str:
        try:
            return str(enrol_here(one))
        except WherryError as error:
            return error.code

    with ThreadPoolExecutor(6) as pool:
        found = sorted(pool.map(come, wanted))
    assert found[1:] == ["R08"] * 5 or found[:5] == ["R08"] * 5
    (winner,) = [one for one in found if one != "R08"]
    assert fetch(server, Path(winner))[0] == 404


def test_a_device_gets_another_key_and_its_old_one_is_worth_nothing(
    server: Server, tmp_path: Path
) -> None:
    config = enrol_here(order(server, claim(server), tmp_path / "till", "new-key"))
    stolen = _copy(config, tmp_path / "thief")
    code = claim(server, device="new-key", again=True)
    enrol_here(order(server, code, tmp_path / "till", again=True))
    assert fingerprint(identity_of(config)) != fingerprint(identity_of(stolen))
    assert not (tmp_path / "till" / "device.key.new").exists()
    assert fetch(server, config)[0] == 404
    assert fetch(server, stolen)[0] == 403
    assert code_of(renew, identity_of(stolen), "new-key", time.time) == "I04"
    with running_devices(device := Device(stolen)):
        wait_for(lambda: device._client, what="a try")
        with running_devices(Device(config)):
            wait_for(lambda: _row(server, "new-key")["online"], what="the device")
        assert not device._client.is_connected()


def _copy(config: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in config.parent.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder / "agent.toml"


# --- renewal --------------------------------------------------------------------------------


def test_a_terminal_that_was_off_for_400_days_comes_back_by_itself(
    server: Server, tmp_path: Path
) -> None:
    """Its certificate ended long ago: it is refused, shows its key, and goes on."""
    listen = "127.0.0.1:0"
    config = enrol_here(order(server, claim(server), tmp_path / "till", "long-off", listen=listen))
    age(server, config)
    identity = identity_of(config)
    assert read_certificate(identity.certificate.read_text()).not_after < time.time() - 400 * DAY
    agent = subprocess.Popen(
        [sys.executable, "-m", "wherry_agent", "run", "--config", str(config)],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: _row(server, "long-off")["online"], what="the terminal")
        assert read_certificate(identity.certificate.read_text()).not_after > time.time() + DAY
        codes = {item["code"] for item in _row(server, "long-off")["events"]}
        wait_for(lambda: "agent.renewed" in codes or _codes(server, "long-off", codes))
    finally:
        agent.terminate()
        agent.wait(20)


CLOCKS = {
    "1970": 5000.0 - time.time(),
    "400 days behind": -400 * DAY,
    "ten years ahead": 3652 * DAY,
}


@pytest.mark.parametrize("row", CLOCKS)
def test_a_board_whose_clock_is_wrong_enrols_and_comes(
    server: Server, tmp_path: Path, row: str
) -> None:
    """The real agent with the board's clock moved under it, and under its OpenSSL."""
    name, folder = f"clock-{row.replace(' ', '-')}", tmp_path / "till"
    environment = with_clock(CLOCKS[row])
    code, url = claim(server), server.facts["devices"]["enrol"]
    words = ["enroll", "--url", url, "--claim", code, "--device", name, "--into", str(folder)]
    words += ["--listen", "127.0.0.1:0"]
    agent = [sys.executable, "-m", "wherry_agent"]
    looked = [sys.executable, "-c", "import time; print(time.time())"]
    shown = subprocess.run(looked, env=environment, check=True, capture_output=True).stdout
    assert abs(float(shown) - time.time() - CLOCKS[row]) < 60
    subprocess.run([*agent, *words], env=environment, check=True, timeout=60)
    config = folder / "agent.toml"
    config.write_text(config.read_text() + "\n[limits]\nheartbeat_seconds = 1.0\n")
    with (tmp_path / "log").open("wb") as log:
        run = [*agent, "run", "--config", str(config)]
        process = subprocess.Popen(run, env=environment, stdout=log, stderr=log)
    try:
        wait_for(
            lambda: _row(server, name)["online"],
            seconds=40,
            what=lambda: (tmp_path / "log").read_text()[-2000:],
        )
        wait_for(lambda: _is_right(_row(server, name)["state"]), what="a report with the hour")
    finally:
        process.terminate()
        process.wait(20)


def _is_right(state: dict[str, Any] | None) -> bool:
    """Whether a device reports with the right hour, whatever its board says."""
    return bool(state) and abs(to_seconds(state["reported_at"]) - time.time()) < 3600


def test_the_server_tells_the_time_to_who_asks(server: Server, tmp_path: Path) -> None:
    config = enrol_here(order(server, claim(server), tmp_path / "till", "what-time"))
    (listed,) = (server.data / "depot" / "targets" / "fleet").glob("*.keys.json")
    keys = FleetKeys.from_bytes(listed.read_bytes())
    nonce = "5" * 32
    answer = ask_time(identity_of(config), write_nonce(nonce))
    assert abs(keys.time(answer, nonce).at - time.time()) < 60
    assert code_of(keys.time, answer, "6" * 32) == "T03"


def _codes(server: Server, name: str, codes: set[str]) -> bool:
    codes |= {item["code"] for item in _row(server, name)["events"]}
    return "agent.renewed" in codes


def test_an_expired_certificate_lets_nobody_into_the_depot(server: Server, tmp_path: Path) -> None:
    config = enrol_here(order(server, claim(server), tmp_path / "till", "old-1"))
    age(server, config, days=0.01)
    with pytest.raises((OSError, http.client.HTTPException)):
        fetch(server, config)
    renew(identity_of(config), "old-1", time.time)
    assert fetch(server, config)[0] == 404


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("revoked", "I04"),
        ("another device's key", "I05"),
        ("another name", "I05"),
        ("a certificate of another authority", "I05"),
        ("a certificate made for another key", "I05"),
        ("no certificate", "I06"),
        ("no key", "H05"),
    ],
)
def test_who_does_not_get_another_certificate(
    server: Server, tmp_path: Path, row: str, expected: str
) -> None:
    name = f"proof-{row.replace(' ', '-').replace(chr(39), '')}"
    config = enrol_here(order(server, claim(server), tmp_path / "till", name))
    age(server, config)
    identity, asked = identity_of(config), name
    if row == "revoked":
        wherry(server.data, "device", "revoke", name, "--yes")
    elif row in ("another device's key", "a certificate made for another key"):
        identity.key.write_bytes(make_request()[0])
    elif row == "another name":
        asked = "till-1"
    elif row == "a certificate of another authority":
        (tmp_path / "other").mkdir()
        other = Fleet(tmp_path / "other").device(name)[0]
        identity = replace(identity, key=other.key, certificate=other.certificate)
    elif row == "no certificate":
        identity.certificate.unlink()
    else:
        identity.key.unlink()
    assert code_of(renew, identity, asked, time.time) == expected


def test_a_nonce_that_is_made_up_or_old_proves_nothing(server: Server, tmp_path: Path) -> None:
    import base64

    from wherry.server.registrar import Registrar
    from wherry_agent.identity import openssl
    from wherry_contract.identity import RenewRequest, proof_text

    authority = Authority(tmp_path / "ca")
    now = [1_000_000.0]
    registrar = Registrar(None, None, authority, lambda: now[0], lambda _: None)  # type: ignore[arg-type]
    key, csr = make_request()
    (tmp_path / "key").write_bytes(key)
    pem = authority.issue(requested_key(csr), "till-1", now[0], DAY).pem

    def ask(nonce: str) -> str:
        proof = openssl.sign(tmp_path / "key", proof_text(nonce, "till-1"))
        return code_of(registrar.renew, RenewRequest(pem, nonce, base64.b64encode(proof).decode()))

    good = registrar.nonce()
    for bad in ("0" * 80, good[:-1] + ("0" if good[-1] != "0" else "1"), "0" * 16 + good[16:]):
        assert ask(bad) == "I05"
    now[0] += 301
    assert ask(good) == "I05"
    now[0] -= 302  # the server's clock was set back
    assert ask(good) == "I05"


# --- revocation -----------------------------------------------------------------------------


def test_who_is_revoked_is_cut_off_everywhere_and_comes_back_by_a_new_code(
    server: Server, tmp_path: Path
) -> None:
    config = enrol(server, "stolen-1")
    other = Device(enrol(server, "stolen-2"))
    device = Device(config)
    before = server.children()
    with running_devices(device, other):
        wait_for(lambda: _row(server, "stolen-1")["online"], what="the device")
        wait_for(lambda: _row(server, "stolen-2")["online"], what="the other")
        client = other._client
        held = http.client.HTTPSConnection(
            "127.0.0.1", _port(config), timeout=10, context=context_of(identity_of(config))
        )
        held.request("GET", "/depot/blobs/sha256/" + "0" * 64)
        assert held.getresponse().read()
        found = wherry(server.data, "device", "revoke", "stolen-1", "--yes").stdout
        assert "revoked" in found
        wait_for(lambda: not _row(server, "stolen-1")["online"], what="its end")
        assert held.sock.recv(1) == b""  # its idle connection was cut
        held.close()
        assert fetch(server, config)[0] == 403
        assert b"I04" in fetch(server, config)[1]
        assert other._client is client
        assert client.is_connected()
        assert server.children() == before
        assert code_of(renew, identity_of(config), "stolen-1", time.time) == "I04"
    assert "revoked" in wherry(server.data, "device", "list").stdout
    asked = wherry(server.data, "device", "ask", "stolen-1", "snapshot", ok=1).stderr
    assert "I04" in asked
    assert "--again" in asked
    code = claim(server, device="stolen-1", again=True)
    back = enrol_here(order(server, code, tmp_path / "back"))
    with running_devices(Device(back)):
        wait_for(lambda: _row(server, "stolen-1")["online"], what="the device")
    assert not _row(server, "stolen-1")["identity"]["revoked_at"]
    assert fetch(server, config)[0] == 403  # what was stolen stays worthless


def _port(config: Path) -> int:
    return int(load_config(config).depot.rpartition(":")[2].partition("/")[0])


def test_revocations_outlive_the_server(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        config = enrol(server, "gone-1")
        wherry(server.data, "device", "revoke", "gone-1", "--yes")
        server.stop()
        server.start()
        assert fetch(server, config)[0] == 403
        with running_devices(device := Device(config)):
            wait_for(lambda: device._client, what="a try")
            wait_for(lambda: not device._client.is_connected())
            assert not _row(server, "gone-1")["online"]


# --- the doors ------------------------------------------------------------------------------


def test_without_a_certificate_there_is_no_depot(server: Server, tmp_path: Path) -> None:
    from wherry_agent.identity.tls import fleet_context

    config = enrol_here(order(server, claim(server), tmp_path / "till", "bare-1"))
    context = fleet_context(identity_of(config).authority, time.time)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", _port(config), timeout=10, context=context
    )

    def ask() -> None:
        connection.request("GET", "/depot/blobs/sha256/" + "0" * 64)
        connection.getresponse()

    with pytest.raises(OSError):
        ask()
    connection.close()


@pytest.mark.parametrize("path", ["claim", "renew", "time"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"x" * 70_000, b'{"schema":"wherry/enrol/1"}'], ids=range(5)
)
def test_bad_knocks(server: Server, tmp_path: Path, path: str, body: bytes) -> None:
    from wherry_agent.identity.tls import fleet_context

    port = int(server.facts["devices"]["enrol"].rpartition(":")[2].partition("/")[0])
    context = fleet_context(server.data / "identity" / "fleet-ca.pem", time.time)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    connection.request("POST", f"/enrol/{path}", body)
    response = connection.getresponse()
    assert 400 <= response.status < 500
    assert b'"next"' in response.read()
    connection.close()


def test_the_authority_stays_and_the_servers_names_may_change(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        before = Authority(server.data / "identity").pem
        config = enrol(server, "till-1")
        server.stop()
    with running_server(tmp_path / "data", "--name", "localhost") as server:
        assert Authority(server.data / "identity").pem == before
        assert server.facts["devices"]["depot"].startswith("https://localhost:")
        assert fetch(server, config)[0] == 404


def test_beyond_this_machine_there_is_tls_or_nothing(tmp_path: Path) -> None:
    """On every address: devices come, operators and listeners do not."""
    names = ("--host", "0.0.0.0", "--name", "127.0.0.1")  # noqa: S104 - that is what is tested
    with running_server(tmp_path / "data", *names, "--broker", "mosquitto") as server:
        config = enrol(server, "till-1")
        assert server.facts["url"].startswith("http://127.0.0.1:")
        assert fetch(server, config)[0] == 404
        with running_devices(Device(config)):
            wait_for(lambda: _row(server, "till-1")["online"], what="the device")
        plain = BrokerAddress.from_url(server.facts["broker"])
        assert (plain.host, plain.tls) == ("127.0.0.1", False)
        ear = Client(plain, ["wherry/#"])
        try:
            wait_for(lambda: ear.refused, what="a refusal")
        finally:
            ear.close()


def test_an_encrypted_authority_wants_its_passphrase(tmp_path: Path) -> None:
    Authority(tmp_path, passphrase="open sesame")
    assert b"ENCRYPTED" in (tmp_path / "fleet-ca.key").read_bytes()
    assert Authority(tmp_path, passphrase="open sesame").pem
    for wrong in ("", "sesame"):
        assert code_of(lambda word=wrong: Authority(tmp_path, passphrase=word)) == "H02"
