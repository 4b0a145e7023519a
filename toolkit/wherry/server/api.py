"""The server over HTTP: the depot for devices; `/api/v1`, and pages, for operators with a token."""

from __future__ import annotations

import hmac
import re
import tempfile
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from wherry import __version__
from wherry.files import as_store_error
from wherry.verified import read_boards, record
from wherry_contract.bundle import LIMIT_BYTES as BUNDLE_LIMIT_BYTES
from wherry_contract.errors import BundleError, RolloutError, WherryError

from . import label_api, monitor_api, views
from .answers import error_response
from .asker import Asker
from .depot import Depot
from .group_api import GroupApi
from .identity_api import IdentityApi
from .metrics_api import MOST_DEVICES, PATH, MetricsApi
from .office import Office
from .orders_api import plan_view, read_policy
from .query import read_body
from .question_api import QuestionApi
from .registrar import Registrar
from .steer_api import SteerApi
from .steering import Steering
from .watching import Watching
from .web.routes import House
from .web.routes import routes as pages

_API: Final = "/api/v1/"
_HEALTH: Final = "/api/v1/health"
_MOST_ITEMS: Final = 10_000


class _Guard:
    """Lets only requests with the token through to `/api/v1`, and with a scraper's to metrics."""

    def __init__(self, app: ASGIApp, token: str, scraper: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()
        self._scraper = f"Bearer {scraper or token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path == PATH or (path.startswith(_API) and path != _HEALTH):
            said = dict(scope["headers"]).get(b"authorization", b"")
            scraped = path == PATH and hmac.compare_digest(said, self._scraper)
            if not (scraped or hmac.compare_digest(said, self._wanted)):
                await error_response(RolloutError("R05"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def make_app(
    office: Office,
    token: str,
    scratch: Path,
    registrar: Registrar | None = None,
    asker: Asker | None = None,
    *,
    life: Callable[[], Mapping[str, bool]] = dict,
    scraper: str = "",
    most_devices: int = MOST_DEVICES,
    upload_bytes: int = BUNDLE_LIMIT_BYTES,
    data: Path | None = None,
    watching: Watching | None = None,
) -> ASGIApp:
    """The HTTP application.

    Args:
        office: what operators ask.
        token: what they must show.
        scratch: a folder for uploads that are not checked yet.
        registrar: gives devices their identity; nothing where they have passwords.
        asker: asks devices; nobody where that is not wanted.
        life: the server's parts by name, and whether they go on.
        scraper: a token that opens the metrics and nothing else; "" for none.
        most_devices: a larger fleet has no metrics of single devices.
        upload_bytes: the largest upload.
        data: the server's folder; that of uploads if left out.
        watching: judges the store's windows; one of its own if left out.
    """
    home = data or scratch
    api = _Api(office, scratch, home, upload_bytes, life)
    identity = IdentityApi(office, registrar)
    store = office.store
    watching = watching or Watching(store)
    registry = registrar.registry if registrar else None
    routes = [
        Route("/depot/{name:path}", api.depot, methods=["GET"]),
        Route("/api/v1/health", api.health, methods=["GET"]),
        Route("/api/v1/bundles", api.take_bundle, methods=["POST"]),
        Route("/api/v1/bundles", api.bundles, methods=["GET"]),
        *identity.routes(),
        Route("/api/v1/rollouts", api.start, methods=["POST"]),
        Route("/api/v1/rollouts", api.rollouts, methods=["GET"]),
        Route("/api/v1/rollouts/{name}", api.rollout, methods=["GET"]),
        Route("/api/v1/rollouts/{name}/abort", api.abort, methods=["POST"]),
        Route("/api/v1/events", api.events, methods=["GET"]),
        *(QuestionApi(store, asker).routes() if asker else []),
        *monitor_api.routes(store, watching, home),
        *label_api.routes(store),
        *GroupApi(store).routes(),
        *SteerApi(store, Steering(office, office.clock, office.news)).routes(),
        *MetricsApi(store, watching, life, most_devices).routes(),
        *pages(House(office.site.fleet, token, store, watching, registry)),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Response]] = {WherryError: _on_error}
    return _Guard(Starlette(routes=routes, exception_handlers=handlers), token, scraper)


def depot_response(depot: Depot, name: str) -> Response:
    """What the depot has under a name, in pieces if they were asked for."""
    path = depot.served(name)
    if path is None:
        return Response("there is no such blob\n", HTTPStatus.NOT_FOUND)
    if name.startswith(("tuf/", "targets/")):  # small, and some of it is replaced under its name
        headers = {"Cache-Control": "no-cache"}
        return Response(path.read_bytes(), media_type="application/json", headers=headers)
    # content-addressed: what has this name never changes
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, WherryError)  # noqa: S101 - registered for this class alone
    return error_response(error)


class _Api:
    """One method for each route."""

    def __init__(
        self,
        office: Office,
        scratch: Path,
        home: Path,
        upload_bytes: int,
        life: Callable[[], Mapping[str, bool]],
    ) -> None:
        self._office = office
        self._home = home
        self._life = life
        self._upload_bytes = upload_bytes
        self._store = office.store
        self._scratch = scratch

    # --- for devices --------------------------------------------------------------------

    def depot(self, request: Request) -> Response:
        return depot_response(self._store.depot, request.path_params["name"])

    def health(self, _: Request) -> Response:
        parts = dict(self._life())
        ready = all(parts.values())
        document = {"ready": ready, "parts": parts, "version": __version__}
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"schema": "wherry/health/1"} | document, status)

    # --- bundles ------------------------------------------------------------------------

    async def take_bundle(self, request: Request) -> Response:
        limit, size = self._upload_bytes, 0
        too_large = BundleError("B02", f"at most {limit} bytes are taken")
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > limit:
            raise too_large
        try:
            with tempfile.TemporaryFile(dir=self._scratch) as stream:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise too_large
                    await run_in_threadpool(stream.write, chunk)
                row = await run_in_threadpool(self._office.take_bundle, stream)
        except ClientDisconnect as error:
            raise BundleError("B01", f"the upload was cut off at {size} bytes") from error
        except OSError as error:  # what it holds back it writes when it is read, or put away
            raise as_store_error(error, "upload") from error
        return JSONResponse({"schema": "wherry/bundle-row/1"} | views.bundle_view(row))

    def bundles(self, _: Request) -> Response:
        rows = [views.bundle_view(row) for row in self._store.bundles()]
        return JSONResponse({"schema": "wherry/bundles/1", "bundles": rows})

    # --- rollouts -----------------------------------------------------------------------

    async def start(self, request: Request) -> Response:
        body = await read_body(request)
        digest, select = body.text("bundle", limit=80), body.mapping("select", {})
        if not all(isinstance(value, str) for value in select.values()):
            raise body.error("select", "strings by name")
        dry = body.flag("dry_run", default=False)
        boards = read_boards(body)
        policy = read_policy(body)
        if dry:
            plan = await run_in_threadpool(self._office.plan, digest, select, policy)
            return JSONResponse({"schema": "wherry/rollout-plan/1"} | plan_view(plan))
        row = await run_in_threadpool(self._office.start, digest, select, policy)
        if boards:
            await run_in_threadpool(record, self._home, row.bundle, boards)
        return JSONResponse({"schema": "wherry/rollout/1"} | views.rollout_view(row))

    def rollouts(self, _: Request) -> Response:
        rows = [views.rollout_view(row) for row in self._store.rollouts()]
        return JSONResponse({"schema": "wherry/rollouts/1", "rollouts": rows})

    def rollout(self, request: Request) -> Response:
        row = self._store.ledger.rollout(request.path_params["name"])
        known = self._store.enrolled(item.device for item in row.devices)
        document = views.rollout_view(row)
        for item in document["devices"]:
            device = known.get(item["device"])
            state = device.state if device else None
            item["phase"] = state.phase if state else ""
            item["on_it"] = bool(state and state.bundle == row.bundle)
        document |= views.shadow_view(row, self._store)
        return JSONResponse({"schema": "wherry/rollout/1"} | document)

    async def abort(self, request: Request) -> Response:
        why = (await read_body(request)).text("why", "", limit=200)
        row = await run_in_threadpool(self._office.abort, request.path_params["name"], why)
        return JSONResponse({"schema": "wherry/rollout/1"} | views.rollout_view(row))

    # --- what devices said --------------------------------------------------------------

    def events(self, request: Request) -> Response:
        asked = request.query_params
        limit = asked.get("limit", "100")
        if not re.fullmatch(r"[0-9]{1,9}", limit) or int(limit) > _MOST_ITEMS:
            raise RolloutError("R06", f"limit should be a number up to {_MOST_ITEMS}")
        rows = self._store.events(
            device=asked.get("device"), rollout=asked.get("rollout"), limit=int(limit)
        )
        document = {
            "events": [views.event_view(row) for row in rows],
            "incidents": [views.incident_view(row) for row in self._store.incidents()],
            "counters": self._store.counters(),
        }
        return JSONResponse({"schema": "wherry/events/1"} | document)
