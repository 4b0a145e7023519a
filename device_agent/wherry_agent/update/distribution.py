"""An OCI registry's client: blobs and manifests by digest (OCI Distribution Spec 1.1, pull).

Whom it speaks to is what the registry says: it may send us on to a store on another host,
which is not told who we are, and to another host for a token, which is told over HTTPS
alone. Who we are lies in a file as `skopeo login --authfile` writes it, read anew whenever
it is needed. What comes is believed by its digest, so nothing rests on any of them.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urljoin, urlsplit

from wherry_agent.config import RegistryPlace
from wherry_agent.identity.tls import registry_context
from wherry_contract.errors import LinkError, WherryError
from wherry_contract.wire import parse_json

from .transfer import check_status, connect, exchange, from_byte, read_small

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_HOPS: Final = 3
_LIMIT_BYTES: Final = 64 * 1024
_WORD: Final = r"[A-Za-z0-9._~+/=-]{1,16384}"  # RFC 6750
_PARAMETER: Final = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|([^\s,"]+))')
_CURE: Final = "check [registry] credentials in agent.toml; `skopeo login --authfile` writes them"


class Distribution:
    """Reads from one repository of a registry."""

    def __init__(
        self, place: RegistryPlace, name: str, now: Callable[[], float], seconds: float
    ) -> None:
        """Take where it is.

        Args:
            place: of the registry.
            name: of the repository below the place's namespace.
            now: the clock that certificates' dates are held against, Unix seconds.
            seconds: without a byte.
        """
        self._place = place
        self._base = urlsplit(place.url)
        self._name = f"{self._base.path.strip('/')}/{name}".lstrip("/")
        self._now = now
        self._seconds = seconds
        self._context: ssl.SSLContext | None = None
        self._authorization = ""

    @contextmanager
    def open(
        self, path: str, offset: int, accept: str = "*/*"
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask for ``blobs/<digest>`` or ``manifests/<digest>``, from a byte on.

        Raises:
            LinkError: L04 to L06, L09 to L11; `Later`.
        """
        with ExitStack() as stack:
            yield self._ask(stack, path, from_byte(offset) | {"Accept": accept})

    def _ask(
        self, stack: ExitStack, path: str, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        where = urlsplit(f"{_origin(self._base)}/v2/{self._name}/{path}")
        hops, asked = 0, False
        while True:
            ours = _origin(where) == _origin(self._base)
            own = {"Authorization": self._authorization} if ours and self._authorization else {}
            response = stack.enter_context(self._exchange(where, dict(headers) | own))
            if response.status == HTTPStatus.UNAUTHORIZED and ours and not asked:
                asked = True
                challenge = read_challenge(response.headers.get_all("WWW-Authenticate") or ())
                stack.close()
                self._authorization = self._answer(challenge)
            elif response.status in _REDIRECTS:
                hops += 1
                where = self._next(where, response.getheader("Location", ""), hops)
                stack.close()
            else:
                _check_let_in(response, path)
                check_status(response, path)
                return response

    @contextmanager
    def _exchange(
        self, where: SplitResult, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        context = self._tls() if where.scheme == "https" else None
        connection = connect(where, self._seconds, context)
        target = (where.path or "/") + (f"?{where.query}" if where.query else "")
        with exchange(connection, target, headers, self._seconds, _nothing, body=body) as response:
            yield response

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = registry_context(self._place.authority, self._now)
        return self._context

    def _next(self, here: SplitResult, location: str, hops: int) -> SplitResult:
        """Where a redirect leads; never from HTTPS to HTTP."""
        there = _url(urljoin(here.geturl(), location)) if location else None
        if there is None or hops > _MOST_HOPS:
            raise LinkError("L06", f"a redirect {'too many' if location else 'to nowhere'}")
        if self._base.scheme == "https" and there.scheme != "https":
            raise LinkError("L06", f"a redirect from HTTPS to {there.scheme}://{there.hostname}")
        return there

    # --- who we are ---------------------------------------------------------------------

    def _answer(self, challenge: Mapping[str, str]) -> str:
        """The Authorization header that a challenge asks for."""
        held = self._credentials()
        if challenge.get("scheme") == "bearer":
            return f"Bearer {self._token(challenge, held)}"
        if challenge.get("scheme") == "basic" and held.get("auth"):
            return f"Basic {held['auth']}"
        raise LinkError("L05", f"{self._base.netloc} wants a login", cure=_CURE)

    def _token(self, challenge: Mapping[str, str], held: Mapping[str, str]) -> str:
        """Ask for a token, as anybody or as ourselves (docker's token authentication)."""
        realm = _url(challenge.get("realm", ""))
        if realm is None or (self._base.scheme == "https" and realm.scheme != "https"):
            raise LinkError("L06", f"{self._base.netloc} names no place for a token over HTTPS")
        asked = {"service": challenge.get("service", "")}
        asked["scope"] = challenge.get("scope") or f"repository:{self._name}:pull"
        headers, body = {"Accept-Encoding": "identity"}, None
        if held.get("identitytoken"):
            secret = {"grant_type": "refresh_token", "refresh_token": held["identitytoken"]}
            body = urlencode(asked | secret | {"client_id": "wherry-agent"}).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            query = urlencode([*parse_qsl(realm.query), *asked.items()])
            realm = realm._replace(query=query)
            headers |= {"Authorization": f"Basic {held['auth']}"} if held.get("auth") else {}

        @contextmanager
        def opened(_: int) -> Iterator[http.client.HTTPResponse]:
            with self._exchange(realm, headers, body) as response:
                _check_let_in(response, "a token")
                check_status(response, "a token")
                yield response

        return _read_token(read_small(opened, "a token", _LIMIT_BYTES, self._seconds))

    def _credentials(self) -> Mapping[str, str]:
        """What the file says of this registry; nothing for a registry that it does not name.

        Raises:
            LinkError: L05, it cannot be read.
        """
        path = self._place.credentials
        if path is None:
            return {}
        try:
            document = parse_json(path.read_bytes(), limit=_LIMIT_BYTES, what=path.name)
        except (OSError, WherryError) as error:
            raise LinkError("L05", f"{path}: {error}", cure=_CURE) from error
        listed = document.get("auths")
        for name, entry in listed.items() if isinstance(listed, dict) else ():
            if name.removeprefix("https://").rstrip("/") == self._base.netloc:
                return _entry(entry)
        return {}


def read_challenge(headers: Sequence[str]) -> dict[str, str]:
    """What `WWW-Authenticate` asks for, a token before a password; empty if neither.

    Returns:
        Its parameters by name, and its ``scheme``, ``bearer`` or ``basic``.
    """
    said = ", ".join(headers)
    for scheme in ("bearer", "basic"):
        match = re.search(rf"(?:^|[,\s]){scheme}(?:\s|,|$)", said, re.IGNORECASE)
        if match:
            rest = re.split(
                r"(?:^|,)\s*(?:bearer|basic)\s", said[match.end() :], flags=re.IGNORECASE
            )[0]
            found = {key.lower(): a or b for key, a, b in _PARAMETER.findall(rest)}
            return found | {"scheme": scheme}
    return {}


def _entry(entry: Any) -> dict[str, str]:
    """The usable parts of one row of the file."""
    found = (
        {k: v for k, v in entry.items() if isinstance(v, str)} if isinstance(entry, dict) else {}
    )
    kept = {}
    try:
        if base64.b64decode(found.get("auth", ""), validate=True).partition(b":")[1]:
            kept["auth"] = found["auth"]
    except binascii.Error as error:
        raise LinkError("L05", "[registry] credentials: `auth` is no base64", cure=_CURE) from error
    if found.get("identitytoken"):
        kept["identitytoken"] = found["identitytoken"]
    return kept


def _read_token(data: bytes) -> str:
    try:
        document = parse_json(data, limit=_LIMIT_BYTES, what="token")
    except WherryError as error:
        raise LinkError("L06", "what came is no token") from error
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not re.fullmatch(_WORD, token):
        raise LinkError("L06", "what came is no token")
    return token


def _check_let_in(response: http.client.HTTPResponse, what: str) -> None:
    if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise LinkError("L05", f"{what}: HTTP {response.status}, the login is refused", cure=_CURE)


def _url(text: str) -> SplitResult | None:
    """An http(s) URL without a password in it; nothing if it is none."""
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    plain = not parts.username and re.fullmatch(r"[!-~]*", text) is not None
    return parts if right and plain else None


def _origin(place: SplitResult) -> str:
    return f"{place.scheme}://{place.netloc}".lower()


def _nothing(_: str) -> None:
    return None
