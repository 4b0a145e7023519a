"""What an access list with a row for each device costs mosquitto, beside rights by pattern.

Both are run on the real broker with TLS 1.3 and client certificates. A login is measured in
the broker's own CPU time, since the network's and the client's say nothing of it; the two
lists take turns. A reload is the time for which a client that is connected gets no answer.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import print_machine

from wherry.broker import Supervised, find_engine
from wherry.broker_settings import Accounts, Tls
from wherry.identity.authority import Authority, make_request, requested_key
from wherry.server.doors import client_context
from wherry_contract.topics import DOWN, UP

FLEET, DEVICE = "f", "till-99999"  # the last in a list
LOGINS, ROUNDS, RELOADS = 100, 7, 5
TICKS = os.sysconf("SC_CLK_TCK")
CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"
PING = b"\xc0\x00"


@dataclass
class Bed:
    """A broker with one kind of list."""

    title: str
    broker: Supervised
    list_bytes: int
    context: ssl.SSLContext

    def cpu(self) -> float:
        """CPU seconds of the broker so far."""
        text = Path(f"/proc/{self.broker.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(text[11]) + int(text[12])) / TICKS

    def rss_mib(self) -> float:
        """Resident memory of the broker."""
        text = Path(f"/proc/{self.broker.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def login(self) -> ssl.SSLSocket:
        """A connection that the broker has accepted."""
        address = self.broker.address
        plain = socket.create_connection((address.host, address.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found = self.context.wrap_socket(plain, server_hostname=address.host)
        found.sendall(CONNECT)
        assert found.recv(4) == b"\x20\x02\x00\x00"  # noqa: S101 - CONNACK, accepted
        return found

    def logins(self) -> float:
        """CPU milliseconds of a login."""
        before = self.cpu()
        for _ in range(LOGINS):
            self.login().close()
        return (self.cpu() - before) / LOGINS * 1000

    def reload(self) -> float:
        """Seconds for which nobody is answered while the list is read anew."""
        with self.login() as client:
            longest = 0.0
            os.kill(self.broker.pid, signal.SIGHUP)
            for _ in range(4):  # the reload falls between two of these
                began = time.monotonic()
                client.sendall(PING)
                client.recv(2)
                longest = max(longest, time.monotonic() - began)
        return longest


def rows_for(devices: list[str]) -> str:
    """The list with a row for each right of each device."""
    lines = []
    for name in devices:
        lines.append(f"user {name}")
        lines += [f"topic write wherry/v1/{FLEET}/{name}/{channel}" for channel in UP]
        down = (*DOWN, "presence")
        lines += [f"topic read wherry/v1/{FLEET}/{name}/{channel}" for channel in down]
    return "\n".join(lines) + "\n"


@contextmanager
def bed(folder: Path, devices: int) -> Iterator[Bed]:
    """A broker whose list has a row for each of so many devices; 0 for patterns."""
    folder.mkdir()
    authority = Authority(folder / "identity")
    server = authority.serve_as(["127.0.0.1"], time.time())
    key, csr = make_request()
    issued = authority.issue(requested_key(csr), DEVICE, time.time(), 86_400.0)
    (folder / "key").write_bytes(key)
    (folder / "pem").write_text(issued.pem)
    tls = Tls(authority.file, *server, _free_port())
    broker = Supervised(find_engine("mosquitto"), folder / "broker", "127.0.0.1", _free_port(), tls)
    broker.write(Accounts(b"s" * 32, FLEET, [], [], authority.revocations([], 0)))
    acl = folder / "broker" / "acl"
    if devices:
        names = [*(f"till-{place:05d}" for place in range(devices - 1)), DEVICE]
        acl.write_text(rows_for(names))
    broker.start()
    try:
        context = client_context(folder / "pem", folder / "key", authority.file)
        title = f"rows for {devices:,}" if devices else "patterns"
        yield Bed(title, broker, acl.stat().st_size, context)
    finally:
        broker.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    devices = parser.parse_args().devices
    print_machine("paho-mqtt", "cryptography")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sizes = (0, 100, devices)
        beds = [stack.enter_context(bed(Path(folder) / str(size), size)) for size in sizes]
        for one in beds:
            one.logins()  # warm
        rounds = [[one.logins() for one in beds] for _ in range(ROUNDS)]
        print(f"\n{'list':18} {'KiB':>7} {'MiB':>6} {'login ms':>9} {'ratio':>6} {'reload ms':>10}")
        for place, one in enumerate(beds):
            login = statistics.median(found[place] for found in rounds)
            ratio = statistics.median(found[place] / found[0] for found in rounds)
            still = statistics.median(one.reload() for _ in range(RELOADS)) * 1000
            size = one.list_bytes / 1024
            print(
                f"{one.title:18} {size:7.1f} {one.rss_mib():6.1f} {login:9.2f} {ratio:6.2f}"
                f" {still:10.0f}"
            )
    print(f"\nmedians of {ROUNDS} rounds of {LOGINS} logins, and of {RELOADS} reloads")


if __name__ == "__main__":
    main()
