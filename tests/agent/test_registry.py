"""The registry's client: against a real docker-registry in each of its guises, and one that misleads."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support_agent import FAMILY, Depot, make_bundle, running_depot, write_agent_config
from support_identity import Fleet
from support_registry import (
    IDENTITY_TOKEN,
    Registry,
    Tokens,
    running_registry,
    running_tokens,
    write_credentials,
)

from wherry.to_registry import RegistryTarget, copy_bundle
from wherry_agent.config import RegistryPlace, load_config
from wherry_agent.link.fact import Fact
from wherry_agent.store import BlobStore
from wherry_agent.update.distribution import read_challenge
from wherry_agent.update.fetch import Depot as DepotClient
from wherry_agent.update.registry import open_registry
from wherry_agent.update.transfer import Later
from wherry_contract.errors import SetupError, WherryError
from wherry_contract.oci import Descriptor, OciManifest, blob_path

MADE = make_bundle(card=b"a model card " * 4000)
MANIFEST = MADE.layout.manifest
PART = OciManifest.from_bytes(MANIFEST).layer("model-card.md")
NOWHERE = "http://127.0.0.1:9/depot"
LIMIT = 65_536


@dataclass
class Device:
    """A source as an agent has it, its store, and what it told."""

    folder: Path
    place: RegistryPlace
    depot: str = NOWHERE
    told: list[Fact] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blobs = BlobStore(self.folder)
        depot = DepotClient(self.depot, seconds=2)

        def tell(fact: Fact, _: str) -> None:
            self.told.append(fact)

        self.source = open_registry(self.place, FAMILY, depot, time.time, tell)

    def fetch(self, wanted: Descriptor = PART) -> str:
        """Bring a blob; returns the code of what went wrong, "" if it is there whole."""
        try:
            assert self.source.fetch(wanted, self.blobs, lambda: False)
        except WherryError as error:
            return error.code
        return "" if self.blobs.is_whole(wanted.digest) else "not whole"

    def manifest(self) -> bytes:
        """The bundle's manifest."""
        return self.source.blob(MADE.digest, LIMIT)


# --- a real registry ------------------------------------------------------------------------


@dataclass(frozen=True)
class Guise:
    """A registry that has the bundle, and how a device gets in."""

    registry: Registry
    place: RegistryPlace
    tokens: Tokens | None = None


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "fraud.wherry"
    path.write_bytes(MADE.to_tar())
    return path


@pytest.fixture(scope="module")
def guises(tmp_path_factory: pytest.TempPathFactory, packed: Path) -> Iterator[dict[str, Guise]]:
    """Plain; behind TLS of a private authority with a password; with tokens."""
    folder = tmp_path_factory.mktemp("registries")
    fleet = Fleet(folder)
    authority = folder / "authority.pem"
    authority.write_text(fleet.authority.pem)
    with ExitStack() as stack:
        plain = stack.enter_context(running_registry(folder / "plain"))
        tls = (fleet.certificate, fleet.key)
        locked = stack.enter_context(running_registry(folder / "tls", tls=tls, htpasswd=True))
        login = write_credentials(folder / "login.json", locked.netloc)
        tokens = stack.enter_context(running_tokens(folder / "tokens"))
        about = (tokens.realm, tokens.certificate)
        told = stack.enter_context(running_registry(folder / "told", tokens=about))
        token_login = write_credentials(folder / "tokens.json", told.netloc)
        copy_bundle(packed, RegistryTarget(plain.url))
        copy_bundle(packed, RegistryTarget(locked.url, login, authority))
        copy_bundle(packed, RegistryTarget(told.url, token_login))
        yield {
            "plain": Guise(plain, RegistryPlace(plain.url)),
            "password": Guise(locked, RegistryPlace(locked.url, login, authority)),
            "tokens": Guise(told, RegistryPlace(told.url), tokens),
        }


@pytest.mark.parametrize("name", ["plain", "password", "tokens"])
def test_a_bundle_comes_from_a_real_registry(
    guises: Mapping[str, Guise], name: str, tmp_path: Path
) -> None:
    """Its manifest, a blob, and the rest of a blob that something else has begun."""
    device = Device(tmp_path, guises[name].place)
    assert device.manifest() == MANIFEST
    assert device.fetch() == ""
    for blob in OciManifest.from_bytes(MANIFEST).blobs:
        device.blobs.part(blob.digest).write_bytes(MADE.layout.blobs[blob.digest][:100])
        device.blobs.path(blob.digest).unlink(missing_ok=True)
        assert device.fetch(blob) == ""
    assert device.told == []


def change(place: RegistryPlace, **changes: Any) -> RegistryPlace:
    return RegistryPlace(**(place.__dict__ | {"fallback": False} | changes))


REFUSED: dict[str, tuple[str, Callable[[RegistryPlace, Path], RegistryPlace], str]] = {
    "no login where one is wanted": (
        "password",
        lambda place, _: change(place, credentials=None),
        "L05",
    ),
    "a login for another registry": (
        "password",
        lambda place, folder: change(place, credentials=write_credentials(folder / "a", "other:1")),
        "L05",
    ),
    "a wrong password": (
        "password",
        lambda place, folder: change(
            place,
            credentials=write_credentials(folder / "a", place.url[8:-7], auth="dGlsbDp3cm9uZw=="),
        ),
        "L05",
    ),
    "a login that is gone": (
        "password",
        lambda place, folder: change(place, credentials=folder / "gone"),
        "L05",
    ),
    "an authority that is not its own": (
        "password",
        lambda place, _: change(place, authority=None),
        "L09",
    ),
    "an authority that is gone": (
        "password",
        lambda place, folder: change(place, authority=folder / "gone"),
        "L09",
    ),
    "another namespace": ("plain", lambda place, _: change(place, url=place.url + "2"), "L05"),
    "nobody there": ("plain", lambda place, _: change(place, url="http://127.0.0.1:9/m"), "L04"),
    "plain HTTP where TLS is": (
        "password",
        lambda place, _: change(place, url=place.url.replace("https", "http"), credentials=None),
        "L05",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_real_registry_that_does_not_let_us_in(
    guises: Mapping[str, Guise], tmp_path: Path, name: str
) -> None:
    which, changed, code = REFUSED[name]
    device = Device(tmp_path, changed(guises[which].place, tmp_path))
    assert device.fetch() == code
    assert device.told == []


WAYS = [({}, "anybody"), ({"auth": "dGlsbDpvcGVuIHNlc2FtZQ=="}, "basic")]
WAYS += [({"identitytoken": IDENTITY_TOKEN}, "identity")]


@pytest.mark.parametrize(("entry", "way"), WAYS, ids=[row[1] for row in WAYS])
def test_a_token_is_asked_for_once_and_used_until_it_is_refused(
    guises: Mapping[str, Guise], tmp_path: Path, entry: dict[str, str], way: str
) -> None:
    guise = guises["tokens"]
    assert guise.tokens
    guise.tokens.asked.clear()
    login = write_credentials(tmp_path / "login", guise.registry.netloc, **entry) if entry else None
    # the file is for HTTPS; what is asked for here is how a token is got, and not from whom
    device = Device(tmp_path, change(guise.place, credentials=login))
    assert device.manifest() == MANIFEST
    assert device.fetch() == ""
    assert guise.tokens.asked == [(way, f"repository:models/{FAMILY}:pull")]


def test_a_token_that_is_not_given(guises: Mapping[str, Guise], tmp_path: Path) -> None:
    guise = guises["tokens"]
    assert guise.tokens
    guise.tokens.anybody = False
    try:
        assert Device(tmp_path, change(guise.place)).fetch() == "L05"
    finally:
        guise.tokens.anybody = True


def test_what_a_registry_lacks_comes_from_the_depot_and_is_told(
    guises: Mapping[str, Guise], tmp_path: Path
) -> None:
    other = make_bundle("2.0.0", card=b"another card " * 3000)
    card = OciManifest.from_bytes(other.layout.manifest).layer("model-card.md")
    with running_depot(tmp_path / "depot", other) as depot:
        device = Device(tmp_path / "a", guises["plain"].place, depot.url)
        assert device.source.blob(other.digest, LIMIT) == other.layout.manifest
        assert device.fetch(card) == ""
        assert [fact.code for fact in device.told] == ["update.depot", "update.depot"]
        assert card.digest in device.told[1].text
        alone = Device(tmp_path / "b", change(guises["plain"].place), depot.url)
        assert alone.fetch(card) == "L05"
        # a registry that is away is waited for: a small depot must not take its place
        away = Device(tmp_path / "c", RegistryPlace("http://127.0.0.1:9/m"), depot.url)
        assert away.fetch(card) == "L04"


# --- one that misleads ----------------------------------------------------------------------


@dataclass
class Fake:
    """Answers each path with a status and headers; keeps what it was asked."""

    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    @property
    def place(self) -> RegistryPlace:
        """As agent.toml would say it."""
        return RegistryPlace(f"http://127.0.0.1:{self.port}/models", fallback=False)


@contextmanager
def running_fake() -> Iterator[Fake]:
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            name = self.path.partition("?")[0]
            fake.asked.append((name, {k.lower(): v for k, v in self.headers.items()}))
            status, headers = fake.answers.get(name, (404, {}))
            body = json.dumps({"token": "x"}).encode() if name == "/token" else b""
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running_fake() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Depot]:
    """A store for blobs on another host, as registries send pulls to."""
    with running_depot(tmp_path / "store", MADE) as depot:
        yield depot


BLOB = f"/v2/models/{FAMILY}/blobs/{PART.digest}"


def test_a_redirect_to_a_store_goes_without_our_name_and_on_from_where_it_was(
    fake: Fake, store: Depot, tmp_path: Path
) -> None:
    there = f"{store.url}/{blob_path(PART.digest)}"
    device = Device(tmp_path / "a", fake.place)
    fake.answers[BLOB] = (401, {"WWW-Authenticate": f'Bearer realm="{_realm(fake)}"'})
    fake.answers["/token"] = (200, {})
    assert device.fetch() == "L05"  # it has a token now, and that was refused
    fake.answers[BLOB] = (307, {"Location": there})
    device.blobs.part(PART.digest).write_bytes(MADE.layout.blobs[PART.digest][:1000])
    assert device.fetch() == ""
    path, headers = fake.asked[-1]
    assert (path, headers["authorization"], headers["range"]) == (BLOB, "Bearer x", "bytes=1000-")
    assert store.requests == [(f"/depot/{blob_path(PART.digest)}", "bytes=1000-")]
    assert store.headers[-1].get("Authorization") is None


def _realm(fake: Fake) -> str:
    return f"http://127.0.0.1:{fake.port}/token"


MISLEADING: dict[str, tuple[int, dict[str, str], str]] = {
    "to itself for ever": (307, {"Location": BLOB}, "L06"),
    "to nowhere": (307, {}, "L06"),
    "to a file": (302, {"Location": "file:///etc/passwd"}, "L06"),
    "to a host with a password": (302, {"Location": "http://a:b@127.0.0.1/"}, "L06"),
    "to a port that is none": (302, {"Location": "http://127.0.0.1:0/"}, "L06"),
    "a challenge that is none": (401, {"WWW-Authenticate": "Negotiate"}, "L05"),
    "no challenge": (401, {}, "L05"),
    "a token from a file": (401, {"WWW-Authenticate": 'Bearer realm="file:///x"'}, "L06"),
    "a token from nowhere": (401, {"WWW-Authenticate": "Bearer"}, "L06"),
    "forbidden": (403, {}, "L05"),
    "another page": (200, {}, "L06"),
}


@pytest.mark.parametrize("name", MISLEADING)
def test_one_that_misleads(fake: Fake, tmp_path: Path, name: str) -> None:
    status, headers, code = MISLEADING[name]
    fake.answers[BLOB] = (status, headers)
    device = Device(tmp_path, fake.place)
    device.blobs.part(PART.digest).write_bytes(MADE.layout.blobs[PART.digest][:1000])
    assert device.fetch() == code
    assert device.blobs.part(PART.digest).stat().st_size == 1000  # nothing that was here is lost
    assert len(fake.asked) <= 4


def test_one_that_is_busy_says_when_to_come_again(fake: Fake, tmp_path: Path) -> None:
    fake.answers[BLOB] = (429, {"Retry-After": "7"})
    with pytest.raises(Later) as caught:
        Device(tmp_path, fake.place).source.fetch(PART, BlobStore(tmp_path), lambda: False)
    assert caught.value.wait_seconds == 7


def test_https_is_never_left(guises: Mapping[str, Guise], tmp_path: Path) -> None:
    """Neither by a redirect nor for a token: the rule alone, as no real registry breaks it."""
    from urllib.parse import urlsplit

    from wherry_agent.update.distribution import Distribution

    client = Distribution(guises["password"].place, FAMILY, time.time, 2)
    here = urlsplit(guises["password"].registry.url)
    for break_it in (
        lambda: client._next(here, "http://127.0.0.1:9/blob", 1),
        lambda: client._answer({"scheme": "bearer", "realm": "http://127.0.0.1:9/token"}),
    ):
        with pytest.raises(WherryError, match="L06"):
            break_it()


CHALLENGES: list[tuple[list[str], dict[str, str]]] = [
    (
        ['Bearer realm="https://a/t?x=1",service="s",scope="repository:m/f:pull,push"'],
        {
            "scheme": "bearer",
            "realm": "https://a/t?x=1",
            "service": "s",
            "scope": "repository:m/f:pull,push",
        },
    ),
    (['Basic realm="x"', 'Bearer realm="https://a"'], {"scheme": "bearer", "realm": "https://a"}),
    (['Bearer realm="https://a", Basic realm="x"'], {"scheme": "bearer", "realm": "https://a"}),
    (["basic realm=x"], {"scheme": "basic", "realm": "x"}),
    (["Basic"], {"scheme": "basic"}),
    (["Negotiate", "NTLM"], {}),
    ([], {}),
]


@pytest.mark.parametrize(("headers", "wanted"), CHALLENGES)
def test_challenges(headers: list[str], wanted: dict[str, str]) -> None:
    assert read_challenge(headers) == wanted


# --- agent.toml -----------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = write_agent_config(folder)
    path.write_text(f"{path.read_text()}[registry]\n{text}\n")
    return path


def test_the_configuration(tmp_path: Path) -> None:
    text = 'url = "https://r.example:5000/shops/models/"\ncredentials = "login.json"'
    place = load_config(written(tmp_path, text)).registry
    wanted = RegistryPlace("https://r.example:5000/shops/models", tmp_path / "login.json")
    assert place == wanted


WRONG = [
    'url = "r.example/models"',
    'url = "https://r.example/Models"',
    'url = "https://user:secret@r.example/models"',
    'url = "https://r.example/models?x=1"',
    'url = "https://r.example:0/models"',
    'url = "http://r.example/models"\ncredentials = "login.json"',
    'url = "https://r.example"\nurls = 1',
    'credentials = "login.json"',
]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_configurations(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupError, match="H08"):
        load_config(written(tmp_path, text))
