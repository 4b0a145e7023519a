"""TLS with things in between: another authority, another name, portals, wrong clocks; nothing lost."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support import free_port, wait_for
from support_agent import (
    DEVICE,
    Faults,
    agent_config,
    keys,
    order_for,
    running_depot,
    sign,
    signed_order,
)
from support_device import HandClock, RunningClock
from support_identity import FLEET, Fleet, interceptor, running_broker

from wherry.identity.authority import Authority
from wherry_agent.identity import openssl
from wherry_agent.identity.certificate import read_certificate
from wherry_agent.identity.enrolment import Keeper, ask_time, renew
from wherry_agent.identity.tls import Identity, Tls, fleet_context
from wherry_agent.link.fact import Fact
from wherry_agent.link.mqtt import Handlers, Link
from wherry_agent.link.outbox import Outbox
from wherry_agent.trust.seam import PinnedTrust
from wherry_agent.update.fetch import Depot
from wherry_contract.command import PAYLOAD_TYPE as COMMAND_TYPE
from wherry_contract.command import Command
from wherry_contract.errors import CODES, IdentityError, LinkError, SetupError, TrustError
from wherry_contract.messages import Place, unwrap_assignment
from wherry_contract.wire import compact

YEAR = 365 * 86_400.0
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "fleet").mkdir()
    return Fleet(tmp_path / "fleet")


# --- who is at the other end ----------------------------------------------------------------


@contextmanager
def _strange_authority(fleet: Fleet) -> Iterator[int]:
    """A proxy that opens TLS, as company networks have them."""
    folder = fleet.folder / "proxy"
    folder.mkdir()
    with _between(*Fleet(folder).authority.serve_as(["127.0.0.1"], time.time())) as port:
        yield port


@contextmanager
def _another_name(fleet: Fleet) -> Iterator[int]:
    with _between(*fleet.authority.serve_as(["elsewhere.example"], time.time())) as port:
        yield port


@contextmanager
def _a_device(fleet: Fleet) -> Iterator[int]:
    """A thief of a device's identity who plays the server."""
    identity = fleet.device("till-9")[0]
    with _between(identity.certificate, identity.key) as port:
        yield port


@contextmanager
def _between(certificate: Path, key: Path) -> Iterator[int]:
    with interceptor(certificate, key, ("127.0.0.1", 1)) as (port, seen):
        yield port
        assert not seen  # not a byte of ours was read there


@contextmanager
def _portal(fleet: Fleet) -> Iterator[int]:
    """A captive portal: 200, and a page, without TLS."""
    with running_depot(fleet.folder / "portal") as depot:
        depot.faults = Faults(portal=True)
        yield int(depot.url.rpartition(":")[2].partition("/")[0])


BETWEEN = {
    "another authority": _strange_authority,
    "another name": _another_name,
    "a device's certificate": _a_device,
    "a portal without TLS": _portal,
}


@pytest.mark.parametrize("row", BETWEEN)
def test_who_stands_in_between_gets_nothing_and_nothing_is_lost(
    fleet: Fleet, tmp_path: Path, row: str
) -> None:
    """Depot, renewal, time and broker alike; what waits in the outbox goes on waiting."""
    identity, _ = fleet.device(DEVICE)
    with BETWEEN[row](fleet) as port:
        tls = Tls(replace(identity, enrol=f"https://127.0.0.1:{port}/enrol"), time.time)
        for ask in (
            lambda: Depot(f"https://127.0.0.1:{port}/depot", tls=tls).blob(DIGEST, 100),
            lambda: renew(tls.identity, DEVICE, time.time),
            lambda: ask_time(tls.identity, b"{}"),
        ):
            with pytest.raises(LinkError, match="L09") as caught:
                ask()
            assert "proxy" in caught.value.cure
        with linked(tmp_path, tls, f"mqtts://127.0.0.1:{port}") as side:
            side.add(5)
            wait_for(lambda: "L09" in side.codes, what="the code")
            assert side.outbox.waiting == 5
            assert not side.link.connected


class Side:
    """A link in its thread, and what it told."""

    def __init__(self, link: Link, outbox: Outbox, told: list[tuple[Fact, str]]) -> None:
        self.link, self.outbox, self._told = link, outbox, told

    @property
    def codes(self) -> set[str]:
        """Of what was told."""
        return {fact.code for fact, _ in self._told}

    def add(self, count: int) -> None:
        """Windows into the outbox."""
        for _ in range(count):
            self.outbox.add("window", _payload, now=time.time())


def _payload(place: Place) -> bytes:
    return compact(dict(place.to_dict()))


@contextmanager
def linked(folder: Path, tls: Tls, url: str, session: str = "a" * 16) -> Iterator[Side]:
    """A link of a device with an identity."""
    config = agent_config(folder / "agent", broker=url, reconnect_seconds=1.0)
    config = replace(config, fleet=FLEET, identity=tls.identity, broker_identity=True)
    config.state_dir.mkdir(exist_ok=True)
    outbox = Outbox(config.state_dir, DEVICE, mib=4, days=30)
    told: list[tuple[Fact, str]] = []
    handlers = Handlers(
        assignment=lambda _: None,
        tell=lambda fact, key: told.append((fact, key)),
        state=lambda: b'{"state":1}',
    )
    link = Link(config, session, outbox, RunningClock(), handlers, tls=tls)
    assert config.broker
    thread = threading.Thread(target=link.run, args=(config.broker,))
    thread.start()
    try:
        yield Side(link, outbox, told)
    finally:
        link.stop()
        thread.join(20)
        outbox.close()


def test_after_the_portal_comes_the_broker(fleet: Fleet, tmp_path: Path) -> None:
    """The same link goes on as soon as the way is free."""
    identity, _ = fleet.device(DEVICE)
    port = free_port()
    with linked(tmp_path, Tls(identity, time.time), f"mqtts://127.0.0.1:{port}") as side:
        wait_for(lambda: "L01" in side.codes, what="nobody")
        with running_broker("mosquitto", fleet, [DEVICE], (port, free_port())):
            wait_for(lambda: side.link.connected, what="the link")


def test_a_refused_certificate_is_told_as_such(fleet: Fleet, tmp_path: Path) -> None:
    ended = time.time() - 401 * 86_400
    identity, _ = fleet.device(DEVICE, now=ended - 86_400, seconds=86_400)
    ports = free_port(), free_port()
    with (
        running_broker("mosquitto", fleet, [DEVICE], ports),
        linked(tmp_path, Tls(identity, time.time), f"mqtts://127.0.0.1:{ports[0]}") as side,
    ):
        wait_for(lambda: "L10" in side.codes, what="the refusal")
        assert not side.link.connected
        wait_for(lambda: "L08" in side.codes, what="a try to renew, where nobody is")


def test_two_agents_with_one_identity_are_told_of(fleet: Fleet, tmp_path: Path) -> None:
    """They push each other out, so neither ever sees the other online."""
    identity, _ = fleet.device(DEVICE)
    ports = free_port(), free_port()
    url = f"mqtts://127.0.0.1:{ports[0]}"
    with ExitStack() as stack:
        stack.enter_context(running_broker("mosquitto", fleet, [DEVICE], ports))
        first = stack.enter_context(linked(tmp_path / "1", Tls(identity, time.time), url))
        wait_for(lambda: first.link.connected, what="the first")
        tls = Tls(identity, time.time)
        second = stack.enter_context(linked(tmp_path / "2", tls, url, "b" * 16))
        wait_for(lambda: "G07" in first.codes | second.codes, what="the event", seconds=30)


# --- dates ----------------------------------------------------------------------------------


@contextmanager
def _server(fleet: Fleet) -> Iterator[int]:
    with interceptor(fleet.certificate, fleet.key, ("127.0.0.1", 1)) as (port, _):
        yield port


@pytest.mark.parametrize(
    ("clock", "good"),
    [
        pytest.param(0.0, False, id="1970"),
        pytest.param(time.time(), True, id="now"),
        pytest.param(time.time() + 10 * YEAR, True, id="ten years ahead"),
        pytest.param(time.time() + 21 * YEAR, False, id="after the authority's end"),
    ],
)
def test_dates_are_held_against_the_agents_clock(fleet: Fleet, *, clock: float, good: bool) -> None:
    identity, _ = fleet.device(DEVICE)
    with _server(fleet) as port:
        depot = Depot(f"https://127.0.0.1:{port}/d", seconds=1, tls=Tls(identity, lambda: clock))
        with pytest.raises(LinkError) as caught:
            depot.blob(DIGEST, 100)
        assert caught.value.code == ("L04" if good else "L11")  # this server never answers


def test_where_the_time_is_asked_for_dates_do_not_matter(fleet: Fleet) -> None:
    identity, _ = fleet.device(DEVICE)
    context = fleet_context(identity.authority, None)
    with _server(fleet) as port, _talk(port, context) as connection:
        connection.connect()
    context = fleet_context(identity.authority, lambda: 0.0)
    with _server(fleet) as port, _talk(port, context) as connection, pytest.raises(OSError):
        connection.connect()


@contextmanager
def _talk(port: int, context: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    yield connection
    connection.close()


def test_nothing_below_tls_1_3_and_no_public_authority(fleet: Fleet) -> None:
    identity, _ = fleet.device(DEVICE)
    context = Tls(identity, time.time).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def _another_s_key(fleet: Fleet, identity: Identity) -> None:
    identity.key.write_bytes(fleet.device("till-9")[0].key.read_bytes())


def _no_certificate(_: Fleet, identity: Identity) -> None:
    identity.certificate.write_text("nothing of the kind")


def _unreadable(_: Fleet, identity: Identity) -> None:
    identity.key.unlink()
    identity.key.mkdir()  # as for a user who may not: the system gives an error and no bytes


UNUSABLE: list[tuple[str, Callable[[Fleet, Identity], None], str, str]] = [
    ("no key", lambda _, who: who.key.unlink(), "device.key is missing", "put it back"),
    ("no certificate", lambda _, who: who.certificate.unlink(), "device.pem is missing", "enroll"),
    ("no authority", lambda _, who: who.authority.unlink(), "fleet-ca.pem is missing", "enroll"),
    ("a key that cannot be read", _unreadable, "device.key cannot be read: Is a dir", "chmod"),
    ("another's key", _another_s_key, "do not belong together: key values mismatch", "enroll"),
    ("a certificate that is none", _no_certificate, "do not belong together", "enroll"),
]


@pytest.mark.parametrize(
    ("spoil", "what", "cure"), [row[1:] for row in UNUSABLE], ids=[row[0] for row in UNUSABLE]
)
def test_identity_files_that_cannot_be_used_are_named(
    fleet: Fleet, spoil: Callable[[Fleet, Identity], None], what: str, cure: str
) -> None:
    """It is no refusal by the server (L10), and nothing is renewed: the device looks at itself."""
    identity, _ = fleet.device(DEVICE)
    spoil(fleet, identity)
    with pytest.raises(LinkError, match="L13") as caught:
        Tls(identity, time.time).context()
    assert what in caught.value.detail
    assert cure in caught.value.cure


@pytest.mark.parametrize("ours", [True, False])
def test_pinned_keys_too_obey_no_order_for_another_key(
    fleet: Fleet, tmp_path: Path, *, ours: bool
) -> None:
    identity, issued = fleet.device(DEVICE)
    trust = PinnedTrust(agent_config(tmp_path / "agent").trust, identity)
    order = order_for(DIGEST, 1, device_key=issued.fingerprint if ours else "1" * 64)
    if ours:
        assert (
            trust.assignment(unwrap_assignment(signed_order(order))).device_key
            == issued.fingerprint
        )
    else:
        with pytest.raises(TrustError, match="T03"):
            trust.assignment(unwrap_assignment(signed_order(order)))


@pytest.mark.parametrize("ours", [True, False])
def test_pinned_keys_too_obey_no_command_for_another_key(
    fleet: Fleet, tmp_path: Path, *, ours: bool
) -> None:
    identity, issued = fleet.device(DEVICE)
    trust = PinnedTrust(agent_config(tmp_path / "agent").trust, identity)
    named = issued.fingerprint if ours else "1" * 64
    asked = Command(DEVICE, "logs", 1, time.time(), time.time() + 60, named)
    envelope = sign(asked.to_bytes(), COMMAND_TYPE, keys().order)
    if ours:
        assert trust.command(envelope).device_key == named
    else:
        with pytest.raises(TrustError, match="T03"):
            trust.command(envelope)


# --- when to renew --------------------------------------------------------------------------


def _keeper(identity: Identity, clock: HandClock, told: list[str]) -> Keeper:
    tls = Tls(identity, clock.now)
    return Keeper(tls, DEVICE, clock, lambda fact, _key: told.append(fact.code))


@pytest.mark.parametrize(
    ("age", "due"),
    [
        pytest.param(0.1, False, id="young"),
        pytest.param(0.6, False, id="in its middle"),
        pytest.param(0.7, True, id="after two thirds"),
        pytest.param(3.0, True, id="long over"),
    ],
)
def test_it_renews_after_two_thirds(fleet: Fleet, *, age: float, due: bool) -> None:
    identity, _ = fleet.device(DEVICE, seconds=YEAR)
    told: list[str] = []
    _keeper(identity, HandClock(time.time() + age * YEAR), told).keep()
    assert told == (["L08"] if due else [])  # nobody is there


def test_it_renews_when_it_is_refused_but_not_in_a_storm(fleet: Fleet) -> None:
    identity, _ = fleet.device(DEVICE)
    told: list[str] = []
    clock = HandClock(time.time())
    keeper = _keeper(identity, clock, told)
    for _ in range(2):
        keeper.refused(silently=True)
        keeper.keep()
    assert not told
    keeper.refused(silently=True)
    for _ in range(50):
        keeper.keep()
    assert told == ["L08"]
    for _ in range(7 * 24 * 60):  # a week, looked at each minute
        clock.pass_by(60)
        keeper.keep()
    assert 25 < len(told) < 80  # at last once in three to six hours
    keeper.accepted()
    clock.pass_by(7 * 3600)
    before = len(told)
    keeper.keep()
    assert len(told) == before


# --- reading certificates -------------------------------------------------------------------


def test_the_agent_reads_what_the_authority_wrote(fleet: Fleet) -> None:
    identity, issued = fleet.device(DEVICE, now=1_700_000_000.0, seconds=YEAR)
    found = read_certificate(identity.certificate.read_text())
    assert found.fingerprint == issued.fingerprint
    assert (found.not_before, found.not_after) == (1_700_000_000.0 - 86_400, 1_700_000_000.0 + YEAR)


def test_certificates_beyond_2050(tmp_path: Path) -> None:
    """Dates are written in another form from then on (RFC 5280)."""
    authority = Authority(tmp_path)
    assert read_certificate(authority.pem).not_after > time.time() + 19 * YEAR


def test_what_is_no_certificate(fleet: Fleet) -> None:
    pem = fleet.device(DEVICE)[0].certificate.read_text()
    body = pem.splitlines()
    for bad in ("", "x", pem[:-30], "\n".join([*body[:3], *body[5:]]), pem.replace("M", "N")):
        with pytest.raises(IdentityError, match="I06"):
            read_certificate(bad)


def test_a_board_without_openssl_is_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="H06") as caught:
        openssl.make_key()
    assert "openssl" in caught.value.cure


def test_openssl_needs_no_settings_of_the_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "none"))
    (tmp_path / "key").write_bytes(openssl.make_key())
    assert b"CERTIFICATE REQUEST" in openssl.make_request(tmp_path / "key")


def test_codes_of_tls_say_what_to_do() -> None:
    assert all(CODES[code].cure for code in ("L09", "L10", "L11", "L13"))
