"""Groups of devices over HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from wherry.selectors import parse

from . import views
from .query import read_body
from .store import Store

_MOST_DEVICES: Final = 10_000


class GroupApi:
    """One method for each route."""

    def __init__(self, store: Store) -> None:
        """Take the memory."""
        self._store = store

    def routes(self) -> list[Route]:
        """What is served."""
        return [
            Route("/api/v1/groups", self.list, methods=["GET"]),
            Route("/api/v1/groups", self.create, methods=["POST"]),
            Route("/api/v1/groups/{name}", self.members, methods=["GET"]),
            Route("/api/v1/groups/{name}/remove", self.remove, methods=["POST"]),
            Route("/api/v1/groups/{name}/members", self.change, methods=["POST"]),
        ]

    def list(self, _: Request) -> JSONResponse:
        """Every group."""
        rows = [
            {"group": row.name, "devices": row.devices, "made_at": views.moment(row.made_at)}
            for row in self._store.groups.list()
        ]
        return JSONResponse({"schema": "wherry/groups/1", "groups": rows})

    def members(self, request: Request) -> JSONResponse:
        """One group."""
        return JSONResponse(self._view(request.path_params["name"]))

    async def create(self, request: Request) -> JSONResponse:
        """Make one."""
        name = (await read_body(request)).text("group", limit=80)
        await run_in_threadpool(self._store.groups.create, name, time.time())
        return JSONResponse(await run_in_threadpool(self._view, name))

    async def remove(self, request: Request) -> JSONResponse:
        """Take one away."""
        name = request.path_params["name"]
        found = await run_in_threadpool(self._view, name)
        await run_in_threadpool(self._store.groups.remove, name)
        return JSONResponse(found)

    async def change(self, request: Request) -> JSONResponse:
        """Put devices in, by id or selector, and take devices out."""
        body, name = await read_body(request), request.path_params["name"]
        put = body.texts("add", [], limit=_MOST_DEVICES)
        out = body.texts("take", [], limit=_MOST_DEVICES)
        to = body.text("to", "", limit=2000)
        return JSONResponse(await run_in_threadpool(self._change, name, put, out, to))

    def _change(self, name: str, put: Sequence[str], out: Sequence[str], to: str) -> dict[str, Any]:
        if to:
            selector, groups = parse(to), self._store.groups.members()
            put = [
                *put,
                *(
                    row.device
                    for row in self._store.devices()
                    if selector.holds(row.device, row.labels, groups.get(row.device, ()))
                ),
            ]
        added = self._store.groups.put(name, put)
        taken = self._store.groups.take(name, out)
        return self._view(name) | {"added": added, "taken": taken}

    def _view(self, name: str) -> dict[str, Any]:
        self._store.groups.take(name, ())  # says so if there is none
        found = self._store.groups.members()
        devices = sorted(device for device, names in found.items() if name in names)
        return {"schema": "wherry/group/1", "group": name, "devices": devices}
