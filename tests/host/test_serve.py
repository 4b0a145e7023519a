"""`wherry serve` as a process: ready, second start, stop, kill; and its interface to anybody."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import Mosquitto, wait_for
from support_agent import make_bundle
from support_fleet import FAMILY, Server, enrol, open_store, running_server, wherry

from wherry.broker_settings import SERVER
from wherry.client import Client
from wherry.identity.authority import make_request
from wherry.server.api import make_app
from wherry.server.ending import Ending, Interrupted
from wherry.server.kept import Kept, known_registry
from wherry.server.office import Office, Site
from wherry_agent.config import load_config
from wherry_contract.bundle import LIMIT_BYTES
from wherry_contract.errors import SetupError, WherryError
from wherry_contract.oci import blob_path
from wherry_contract.signature import PublicKey, TrustRoot

MADE = make_bundle()
REGISTRY = "https://registry.example:5000/models"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that only ask."""
    with running_server(tmp_path_factory.mktemp("serve") / "data", pinned=True) as found:
        yield found


def ask(
    server: Server,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    token: str | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """One raw request; the path goes out as it is."""
    where = urlsplit(server.facts["url"])
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    said = (server.data / "token").read_text() if token is None else token
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Authorization", f"Bearer {said}")
        connection.putheader("Content-Length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def upload(client: Client, data: bytes, folder: Path) -> dict[str, Any]:
    """Push a bundle's bytes."""
    path = folder / "some.wherry"
    path.write_bytes(data)
    with path.open("rb") as stream:
        return client.upload("bundles", stream, len(data))


# --- the depot ------------------------------------------------------------------------------


def test_blobs_are_served_in_pieces(server: Server, tmp_path: Path) -> None:
    digest = upload(server.client, MADE.to_tar(), tmp_path)["digest"]
    assert digest == MADE.digest
    path = f"/depot/{blob_path(digest)}"
    status, headers, data = ask(server, "GET", path, token="none is needed")
    assert (status, data) == (200, MADE.layout.manifest)
    assert "immutable" in headers["cache-control"]
    status, headers, rest = ask(server, "GET", path, Range="bytes=10-")
    assert (status, rest) == (206, data[10:])
    assert headers["content-range"] == f"bytes 10-{len(data) - 1}/{len(data)}"
    assert ask(server, "GET", path, Range=f"bytes={len(data)}-")[0] == 416
    hexes = digest.partition(":")[2]
    assert ask(server, "GET", f"/depot/statements/{hexes}.dsse.json")[2] == MADE.statement


@pytest.mark.parametrize(
    "path",
    [
        "/depot/",
        "/depot/blobs/",
        "/depot/blobs/sha256/",
        "/depot/../token",
        "/depot/blobs/sha256/../../../token",
        "/depot/%2e%2e/token",
        "/depot/..%2ftoken",
        "/depot/blobs%2fsha256%2f..%2f..%2f..%2ftoken",
        "/depot//etc/passwd",
        "/depot/fleet.sqlite",
        "/depot/blobs/sha256/" + "0" * 64,
        "/depot/blobs/sha256/" + "0" * 64 + "%00",
        "/token",
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404


def test_a_browser_is_asked_to_sign_in(server: Server) -> None:
    status, headers, rest = ask(server, "GET", "/")
    assert (status, headers["location"], rest) == (303, "/sign-in", b"")


def test_nothing_can_be_written_to_the_depot(server: Server) -> None:
    path = "/depot/blobs/sha256/" + "0" * 64
    assert {ask(server, method, path, b"x")[0] for method in ("PUT", "POST", "DELETE")} == {405}


# --- the operators' interface ---------------------------------------------------------------


@pytest.mark.parametrize("path", ["devices", "rollouts", "bundles", "events", "monitor", "nothing"])
@pytest.mark.parametrize("token", ["", "wrong", "0" * 64])
def test_without_the_token_there_is_nothing(server: Server, path: str, token: str) -> None:
    status, _, data = ask(server, "GET", f"/api/v1/{path}", token=token)
    assert (status, json.loads(data)["code"]) == (401, "R05")


def test_anybody_may_ask_whether_it_runs(server: Server) -> None:
    status, _, data = ask(server, "GET", "/api/v1/health", token="")
    assert status == 200
    found = json.loads(data)
    assert (found["schema"], found["ready"]) == ("wherry/health/1", True)
    assert found["parts"] == dict.fromkeys(("link", "driver", "doors", "broker"), True)


def test_it_is_not_ready_while_a_part_of_it_is_down(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", pinned=True) as server:
        log = server.data / "broker" / "broker.log"
        log.unlink()
        log.mkdir()  # so that the broker cannot be started again
        os.kill(server.children()[0], signal.SIGKILL)
        wait_for(lambda: ask(server, "GET", "/api/v1/health")[0] == 503)
        parts = json.loads(ask(server, "GET", "/api/v1/health")[2])["parts"]
        assert parts == {"link": True, "driver": True, "doors": True, "broker": False}
        log.rmdir()
        wait_for(lambda: ask(server, "GET", "/api/v1/health")[0] == 200)


BODY = {"bundle": MADE.digest, "select": {}}


TWO = {"family": "f", "device": "a", "count": 2}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        pytest.param("POST", "rollouts", b"", 400, "R06", id="nothing"),
        pytest.param("POST", "rollouts", b"{", 400, "R06", id="no JSON"),
        pytest.param("POST", "rollouts", b"[]", 400, "R06", id="no object"),
        pytest.param("POST", "rollouts", b"[" * 70_000, 400, "R06", id="long and deep"),
        pytest.param("POST", "rollouts", b'{"bundle":1}', 400, "R06", id="a number for a digest"),
        pytest.param("POST", "rollouts", b'{"bundle":"x"}', 404, "R04", id="no such bundle"),
        pytest.param("POST", "rollouts", BODY | {"select": {"a": 1}}, 400, "R06", id="odd label"),
        pytest.param("POST", "rollouts", BODY | {"colour": "red"}, 400, "R06", id="unknown name"),
        pytest.param("POST", "rollouts", BODY | {"waves": ["x"]}, 409, "R02", id="no devices"),
        pytest.param("POST", "devices", {"device": "A B", "family": "f"}, 400, "R06", id="odd id"),
        pytest.param("POST", "devices", {"device": "a"}, 400, "R06", id="no family"),
        pytest.param(
            "POST",
            "devices",
            {"device": "a", "family": "f", "labels": {"x": 'y"\n[broker]'}},
            400,
            "R06",
            id="a label that would break the file",
        ),
        pytest.param(
            "POST",
            "devices",
            {
                "device": "a",
                "family": "f",
                "state_dir": 'x"\n[broker]',
                "csr": make_request()[1],
            },
            400,
            "R06",
            id="a path that would break the file",
        ),
        pytest.param(
            "POST", "devices", {"device": "a", "family": "f"}, 400, "I08", id="no request"
        ),
        pytest.param("POST", "claims", {"family": "F"}, 400, "R06", id="claim for odd family"),
        pytest.param("POST", "claims", {"family": "f", "count": 0}, 400, "R06", id="no claim"),
        pytest.param("POST", "claims", TWO, 400, "R06", id="two claims for one device"),
        pytest.param("POST", "claims", {"family": "f", "again": True}, 400, "R06", id="who again"),
        pytest.param("POST", "devices/nobody/revoke", {}, 404, "R07", id="revoke nobody"),
        pytest.param("GET", "devices?select=x", b"", 400, "R06", id="odd select"),
        pytest.param("GET", "devices/nobody", b"", 404, "R07", id="no such device"),
        pytest.param("GET", "rollouts/r99", b"", 404, "R01", id="no such rollout"),
        pytest.param("POST", "rollouts/r99/abort", {}, 404, "R01", id="abort none"),
        pytest.param("GET", "events?limit=x", b"", 400, "R06", id="odd limit"),
        pytest.param("GET", "events?limit=1000000", b"", 400, "R06", id="a limit too high"),
        pytest.param("GET", "events?limit=" + "9" * 5000, b"", 400, "R06", id="no limit at all"),
        pytest.param("POST", "bundles", b"no bundle at all" * 99, 422, "B03", id="no bundle"),
        pytest.param("POST", "bundles", MADE.layout.to_tar(), 422, "T02", id="unsigned"),
        pytest.param("POST", "bundles", MADE.to_tar()[:3000], 422, "B01", id="cut short"),
    ],
)
def test_bad_requests(
    *,
    server: Server,
    tmp_path: Path,
    method: str,
    path: str,
    body: bytes | dict[str, Any],
    status: int,
    code: str,
) -> None:
    upload(server.client, MADE.to_tar(), tmp_path)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found, _, answer = ask(server, method, f"/api/v1/{path}", data)
    document = json.loads(answer)
    assert (found, document["code"]) == (status, code), document
    assert document["next"]
    assert ask(server, "GET", "/api/v1/health")[0] == 200
    assert server.client.get("devices")["devices"] == []  # nobody was let in half-way


def test_an_upload_that_says_it_is_too_large_is_refused_at_once(server: Server) -> None:
    where = urlsplit(server.facts["url"])
    token = (server.data / "token").read_text()
    head = f"POST /api/v1/bundles HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection((where.hostname, where.port), 20) as connection:
        connection.sendall(f"{head}Content-Length: {LIMIT_BYTES + 1}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # until it hangs up
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"B02"' in answer


def test_an_upload_is_counted_whatever_it_says(tmp_path: Path) -> None:
    """The application itself, without a length and with a limit that a test can reach."""
    with open_store(tmp_path) as store:
        site = Site("http://x", "f", lambda _: "", lambda: None)
        office = Office(store, site, PublicKey("0" * 64, "0" * 64), time.time, lambda: None)
        app = make_app(office, "t", tmp_path, upload_bytes=1000)
        said: list[Any] = []
        pieces = itertools.count()

        async def receive() -> dict[str, Any]:
            next(pieces)
            return {"type": "http.request", "body": b"x" * 400, "more_body": True}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v1/bundles",
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer t")],
        }
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]  # plain dictionaries
    assert said[0]["status"] == 413
    assert next(pieces) == 3


def test_an_upload_that_is_cut_off_leaves_nothing(server: Server) -> None:
    where = urlsplit(server.facts["url"])
    token = (server.data / "token").read_text()
    head = f"POST /api/v1/bundles HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection((where.hostname, where.port), 10) as connection:
        connection.sendall(head.encode() + b"Content-Length: 100000\r\n\r\n" + b"x" * 5000)
    wait_for(lambda: ask(server, "GET", "/api/v1/health")[0] == 200)
    assert not list((server.data / "uploads").iterdir())


def test_a_device_gets_papers_that_its_agent_can_read(server: Server) -> None:
    folder = server.data.parent / "papers"
    words = ["device", "add", "till-9", "--family", FAMILY, "--out", str(folder)]
    wherry(server.data, *words, "--label", "site=paris", "--label", "group=b 2")
    path = folder / "agent.toml"
    config = load_config(path)
    assert (config.device, config.family, config.fleet) == ("till-9", FAMILY, "fleet")
    assert config.labels == {"site": "paris", "group": "b 2"}
    devices = server.facts["devices"]
    assert config.broker
    assert config.identity
    assert (config.broker.url, config.broker.username) == (devices["broker"], "")
    assert (config.depot, config.identity.enrol) == (devices["depot"], devices["enrol"])
    assert config.identity.key.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600
    trust = TrustRoot.from_bytes(config.trust.read_bytes())
    assert trust.families[FAMILY].threshold == 1
    assert len(trust.assignment_keys) == 1
    again = wherry(server.data, *words, ok=3)
    assert "R08" in again.stderr
    path.chmod(0o644)  # as a copy may have it
    more = ["--listen", "unix:/run/x.sock", "--state-dir", "here", "--again"]
    wherry(server.data, *words, *more)
    assert path.stat().st_mode & 0o777 == 0o600
    config = load_config(path)
    assert config.listen == "unix:/run/x.sock"
    assert config.state_dir == path.parent / "here"
    assert config.labels == {}


def test_without_tls_devices_that_come_at_once_all_get_their_account(tmp_path: Path) -> None:
    names = [f"till-{place}" for place in range(24)]
    with running_server(
        tmp_path / "data", "--broker", "mosquitto", "--plain", pinned=True
    ) as server:
        client = server.client

        def join(name: str) -> str:
            found = client.post("devices", {"device": name, "family": FAMILY})
            return str(found["files"]["agent.toml"])

        with ThreadPoolExecutor(8) as pool:
            settings = list(pool.map(join, names))
        assert all(f"mqtt://{name}:" in text for name, text in zip(names, settings, strict=True))
        passwords = (server.data / "broker" / "passwords").read_text().splitlines()
        assert {line.partition(":")[0] for line in passwords} == {*names, SERVER}


# --- the process ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_it_ends_in_order_and_comes_back_where_it_was(
    tmp_path: Path, which: signal.Signals, kind: str
) -> None:
    with running_server(
        tmp_path / "data", "--broker", kind, "--fleet", "shops", pinned=True
    ) as server:
        before, children = server.facts, server.children()
        assert children
        assert server.stop(which) == 0
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        assert not (server.data / "server.json").exists()
        server.start()
        again = server.facts
        assert again["pid"] != before["pid"]
        same = ("url", "broker", "fleet")
        assert [again[name] for name in same] == [before[name] for name in same]


def test_a_second_server_on_the_same_folder_is_refused(server: Server) -> None:
    found = wherry(server.data, "serve", "--data", str(server.data), ok=3)
    assert "R10" in found.stderr
    assert ask(server, "GET", "/api/v1/health")[0] == 200


def test_killed_it_leaves_no_broker_and_starts_again(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", pinned=True) as server:
        before, children = server.facts, server.children()
        server.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        server.start()
        assert server.facts["url"] == before["url"]
        assert server.facts["broker"] == before["broker"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--broker", "mosquito"], "H12", id="no such broker"),
        pytest.param(["--broker", "mqtt://127.0.0.1:1"], "L01", id="nobody there"),
        pytest.param(["--port", "TAKEN"], "H11", id="the port is taken"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, arguments: list[str], code: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = [port if word == "TAKEN" else word for word in arguments]
        found = wherry(tmp_path, "serve", "--data", str(tmp_path / "data"), *words, ok=3)
    assert f"error[{code}]" in found.stderr
    assert "next:" in found.stderr
    assert "Traceback" not in found.stderr


def test_another_fleet_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", "--fleet", "shops", pinned=True) as server:
        server.stop()
        data = str(server.data)
        found = wherry(tmp_path, "serve", "--data", data, "--fleet", "banks", ok=3)
        assert "H08" in found.stderr
        assert "shops" in found.stderr


def test_somebody_elses_broker(tmp_path: Path, mosquitto: Mosquitto) -> None:
    choice = ("--broker", mosquitto.url, "--windows", "compact", "--registry", REGISTRY)
    with running_server(tmp_path / "data", *choice, pinned=True) as server:
        assert not server.children()
        config = load_config(enrol(server, "till-1"))
        assert config.broker
        assert (config.broker.port, config.broker.username) == (mosquitto.port, "")
        assert config.identity  # for the depot
        assert not config.broker_identity
        assert config.reporting.encoding == "compact"
        assert config.registry
        assert (config.registry.url, config.registry.fallback) == (REGISTRY, True)
        kept = Kept.read(server.data / "settings.json")
        assert (kept.windows, kept.registry) == ("compact", REGISTRY)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", ""),
        ("none", ""),
        (f"{REGISTRY}/", REGISTRY),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_registries(said: str, kept: str) -> None:
    assert known_registry(said) == kept


@pytest.mark.parametrize(
    "said", ["registry.example", "https://", "ftp://a/b", 'https://a/"\nx', "https://u:p@a/b"]
)
def test_what_is_no_registry(said: str) -> None:
    with pytest.raises(SetupError, match="H08"):
        known_registry(said)


def test_no_server_no_answer(tmp_path: Path) -> None:
    found = wherry(tmp_path, "device", "list", ok=3)
    assert "error[H07]" in found.stderr


def test_secrets_are_their_owners_alone(server: Server) -> None:
    own = ("identity/fleet-ca.key", "identity/server.key", "broker/passwords")
    for name in ("token", "broker.secret", "assignment.key", "fleet.sqlite", *own):
        assert (server.data / name).stat().st_mode & 0o077 == 0, name
    log = (server.data / "log").read_text()
    assert (server.data / "token").read_text() not in log


def test_the_client_says_the_servers_errors_as_its_own(server: Server) -> None:
    with pytest.raises(WherryError) as caught:
        Client(server.facts["url"], "wrong").get("devices")
    assert caught.value.code == "R05"
    with pytest.raises(WherryError) as caught:
        Client("http://127.0.0.1:1", "x").get("devices")
    assert caught.value.code == "L08"
    with pytest.raises(WherryError) as caught:
        Client("ftp://x", "x")
    assert caught.value.code == "H07"


def test_a_signal_whose_exception_was_swallowed_is_not_lost() -> None:
    """As in a finalizer, where whatever is thrown goes nowhere."""
    before = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    try:
        ending = Ending()
        with suppress(Interrupted):
            ending(signal.SIGTERM, None)
        with pytest.raises(Interrupted):
            ending.serving(object())
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def test_a_command_waits_for_a_server_that_was_started_just_before(tmp_path: Path) -> None:
    """`wherry serve &` and the next line, pasted together."""
    serving = subprocess.Popen(
        [sys.executable, "-m", "wherry", "serve", "--data", str(tmp_path / "data")],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for((tmp_path / "data" / "lock").exists, what="the server's first sign of life")
        assert "device" in wherry(tmp_path / "data", "device", "list").stdout
    finally:
        serving.terminate()
        serving.wait(20)
