"""What brokers are told: who may come, and who may do what. Pure; `broker` writes and runs it."""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import ipaddress
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry_contract.topics import DOWN, UP

SERVER: Final = "@server"  # no device can have this id
_READER: Final = "@reader"
_PACKET_BYTES: Final = 4 * 2**20  # larger than any message, so that the ingest can refuse it
_CONSUMERS: Final = 50_000  # NATS has 1,000 by default, and refuses the rest quietly


@dataclass(frozen=True)
class Tls:
    """How the broker shows who it is, and tells who comes.

    Attributes:
        authority: the fleet authority's certificate, PEM.
        certificate: the server's own, PEM; as a client it is the server's account.
        key: its key, PEM.
        loopback: port of a second listener without TLS, on this machine alone: for the
            server itself, and for anybody who listens here (mosquitto only).
    """

    authority: Path
    certificate: Path
    key: Path
    loopback: int


class Accounts:
    """Who may do what at our own broker; passwords come from one secret."""

    def __init__(
        self,
        secret: bytes,
        fleet: str,
        devices: Iterable[str],
        revoked: Iterable[str] = (),
        revocations: bytes = b"",
    ) -> None:
        """Take the secret, the fleet's name and its devices; with TLS, also what was revoked.

        Args:
            secret: passwords are derived from it.
            fleet: its name.
            devices: ids; with TLS mosquitto needs none, for a certificate says who it is.
            revoked: ids of devices whose identity was revoked.
            revocations: certificates that were revoked, PEM (`Authority.revocations`).
        """
        self._secret = secret
        self.fleet = fleet
        self.devices = sorted(set(devices) - set(revoked))
        self.revoked = sorted(revoked)
        self.revocations = revocations

    def password(self, name: str) -> str:
        """The password of the server's or a device's account, 40 hexadecimal digits."""
        return hmac.new(self._secret, f"broker:{name}".encode(), hashlib.sha256).hexdigest()[:40]

    @property
    def names(self) -> list[str]:
        """Every account."""
        return [SERVER, *self.devices]


def mosquitto_settings(
    accounts: Accounts, folder: Path, host: str, port: int, tls: Tls | None = None
) -> dict[str, str]:
    """Mosquitto's files by name: settings, passwords, access list (mosquitto.conf(5))."""
    anonymous = is_loopback(host)
    settings = {
        "allow_anonymous": "true" if anonymous else "false",
        "password_file": str(folder / "passwords"),
        "acl_file": str(folder / "acl"),
        "persistence": "true",
        "persistence_location": f"{folder}/",
        "autosave_interval": "300",
        "max_packet_size": str(_PACKET_BYTES),
        "max_inflight_messages": "200",
        "max_queued_messages": "20000",
        "set_tcp_nodelay": "true",
        "sys_interval": "0",
        "user": getpass.getuser(),  # started by root it would else become `mosquitto`
        "log_dest": "stderr",
    }
    lines = [f"{name} {value}" for name, value in settings.items()]
    lines += [f"log_type {kind}" for kind in ("error", "warning")]
    lines += _mosquitto_listeners(folder, host, port, tls)
    names = [SERVER] if tls else accounts.names
    passwords = [f"{name}:{_mosquitto_hash(accounts.password(name))}" for name in names]
    acl = _mosquitto_rules(accounts, anonymous=anonymous)
    files = {"settings": lines, "acl": acl, "passwords": passwords}
    found = {name: "\n".join(text) + "\n" for name, text in files.items()}
    return found | ({"revoked.pem": accounts.revocations.decode()} if tls else {})


def _mosquitto_listeners(folder: Path, host: str, port: int, tls: Tls | None) -> list[str]:
    if tls is None:
        return [f"listener {port} {host}"]
    settings = {
        "cafile": str(tls.authority.absolute()),
        "certfile": str(tls.certificate.absolute()),
        "keyfile": str(tls.key.absolute()),
        "crlfile": str(folder / "revoked.pem"),
        "tls_version": "tlsv1.3",  # or later
        "require_certificate": "true",
        "use_identity_as_username": "true",
        # one connection for each identity, whatever it calls itself: else a thief could not
        # be cut off, for nobody outside knows the name that he chose
        "use_username_as_clientid": "true",
    }
    own = [f"{name} {value}" for name, value in settings.items()]
    return [f"listener {tls.loopback} 127.0.0.1", f"listener {port} {host}", *own]


def _mosquitto_rules(accounts: Accounts, *, anonymous: bool) -> list[str]:
    where = f"wherry/v1/{accounts.fleet}/%u"
    readers = ["topic read wherry/#"] if anonymous else []  # before any user: for nameless ones
    rules = [*readers, f"user {SERVER}", "topic readwrite wherry/#"]
    for name in accounts.revoked:  # refusals are looked at before patterns
        rules += [f"user {name}", "topic deny #"]
    rules += [f"pattern write {where}/{channel}" for channel in UP]
    return rules + [f"pattern read {where}/{channel}" for channel in (*DOWN, "presence")]


def _mosquitto_hash(password: str) -> str:
    """As mosquitto_passwd(1) writes it; our passwords are long, so few rounds do."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def nats_settings(
    accounts: Accounts, folder: Path, host: str, port: int, tls: Tls | None = None
) -> dict[str, str]:
    """The NATS server's settings (docs.nats.io, MQTT); its topics have dots for slashes.

    With TLS a user is a certificate's subject, and nobody reads without one. One of two
    certificates of a device cannot be refused here, only the device.
    """
    where = f"wherry.v1.{accounts.fleet}"
    inner = ["$MQTT.sub.>", "$MQTT.deliver.pubrel.>"]  # how a QoS 1 subscription is fed

    def user(name: str, publish: Any, subscribe: Any) -> dict[str, Any]:
        who = {"user": f"CN={name}"} if tls else {"user": name, "password": accounts.password(name)}
        return who | {"permissions": {"publish": publish, "subscribe": subscribe}}

    users = [user(SERVER, ["wherry.>", "$MQTT.>"], ["wherry.>", "$MQTT.>"])]
    for name in accounts.devices:
        down = [f"{where}.{name}.{channel}" for channel in (*DOWN, "presence")]
        users.append(user(name, [f"{where}.{name}.{channel}" for channel in UP], down + inner))
    mqtt: dict[str, Any] = {"host": host, "port": port, "max_ack_pending": 1000}
    if tls:
        mqtt["tls"] = _nats_tls(tls)
    elif is_loopback(host):
        users.append(user(_READER, {"deny": [">"]}, ["wherry", "wherry.>", *inner]))
        mqtt["no_auth_user"] = _READER
    jetstream = {"max_consumers": _CONSUMERS}
    settings = {
        "server_name": f"wherry-{accounts.fleet}",
        "host": "127.0.0.1",
        "port": -1,  # its own protocol is not used
        "max_payload": _PACKET_BYTES,
        "jetstream": {"store_dir": str(folder / "jetstream")},
        "mqtt": mqtt,
        "accounts": {"fleet": {"users": users, "jetstream": jetstream}},
    }
    return {"settings": json.dumps(settings, indent=1) + "\n"}


def _nats_tls(tls: Tls) -> dict[str, Any]:
    return {
        "ca_file": str(tls.authority.absolute()),
        "cert_file": str(tls.certificate.absolute()),
        "key_file": str(tls.key.absolute()),
        "min_version": "1.3",
        "timeout": 10,
        "verify_and_map": True,
    }


def is_loopback(host: str) -> bool:
    """Whether an address reaches no further than this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
