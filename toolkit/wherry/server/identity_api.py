"""Devices over HTTP, for operators: claim, enrol, revoke, list, show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from wherry.behind import known_here
from wherry_contract.errors import RolloutError
from wherry_contract.identity import PEM_LIMIT
from wherry_contract.wire import Fields

from . import views
from .office import Office
from .query import read_body, selection
from .registrar import ClaimOrder, Registrar, files_of

_CLAIM_SECONDS: Final = 30 * 86_400.0
_PAPERS: Final = "wherry/device-papers/1"


class IdentityApi:
    """One method for each route."""

    def __init__(self, office: Office, registrar: Registrar | None) -> None:
        """Take the office, and who gives identities; nobody where devices have passwords."""
        self._office = office
        self._registrar = registrar

    def routes(self) -> list[Route]:
        """What is served."""
        return [
            Route("/api/v1/claims", self.claim, methods=["POST"]),
            Route("/api/v1/claims", self.claims, methods=["GET"]),
            Route("/api/v1/devices", self.enrol, methods=["POST"]),
            Route("/api/v1/devices", self.devices, methods=["GET"]),
            Route("/api/v1/devices/{name}", self.device, methods=["GET"]),
            Route("/api/v1/devices/{name}/revoke", self.revoke, methods=["POST"]),
        ]

    def _identity(self) -> Registrar:
        if self._registrar is None:
            cure = "start it without --plain"
            raise RolloutError("R06", "this server gives no identities", cure=cure)
        return self._registrar

    async def claim(self, request: Request) -> JSONResponse:
        """Make claim codes."""
        body = await read_body(request)
        order = ClaimOrder(
            count=body.integer("count", 1, low=1),
            family=body.text("family", limit=63),
            labels=_labels(body),
            device=body.text("device", "", limit=63),
            again=body.flag("again", default=False),
            seconds=body.number("seconds", _CLAIM_SECONDS),
        )
        codes = await run_in_threadpool(self._identity().claim, order)
        document = {"url": self._office.site.enrol, "family": order.family, "codes": codes}
        document["warnings"] = await run_in_threadpool(self._office.warnings, order.family)
        return JSONResponse({"schema": "wherry/claim-codes/1"} | document)

    def claims(self, _: Request) -> JSONResponse:
        """List claims."""
        rows = [views.claim_view(claim) for claim in self._identity().registry.claims()]
        return JSONResponse({"schema": "wherry/claims/1", "claims": rows})

    async def enrol(self, request: Request) -> JSONResponse:
        """Take in a device that an operator has at hand."""
        body = await read_body(request)
        order = ClaimOrder(
            count=1,
            family=body.text("family", limit=63),
            labels=_labels(body),
            device=body.text("device", limit=63),
            again=body.flag("again", default=False),
            seconds=_CLAIM_SECONDS,
        )
        places = (body.text("listen", "", limit=256), body.text("state_dir", "", limit=1024))
        csr = body.text("csr", "", limit=PEM_LIMIT)
        files = await run_in_threadpool(self._enrol, order, csr, places)
        warnings = await run_in_threadpool(self._office.warnings, order.family)
        document = {"device": order.device, "files": dict(files), "warnings": warnings}
        return JSONResponse({"schema": _PAPERS} | document)

    def _enrol(self, order: ClaimOrder, csr: str, places: tuple[str, str]) -> Mapping[str, str]:
        if self._registrar:
            return self._registrar.add(order, csr, *places).files
        who = (order.device, order.family, order.labels)
        return files_of(self._office.enrol(*who, *places, again=order.again))

    async def revoke(self, request: Request) -> JSONResponse:
        """Revoke a device's identity."""
        name = request.path_params["name"]
        await run_in_threadpool(self._identity().revoke, name)
        return await run_in_threadpool(self.device, request)

    def devices(self, request: Request) -> JSONResponse:
        """List devices."""
        rows = self._office.store.devices(selection(request))
        known = self._registrar.registry.identities() if self._registrar else {}
        newest = known_here()
        shown = [views.device_view(row, known.get(row.device), newest) for row in rows]
        return JSONResponse({"schema": "wherry/devices/1", "devices": shown})

    def device(self, request: Request) -> JSONResponse:
        """Show one device."""
        store = self._office.store
        row = store.device(request.path_params["name"])
        identity = self._registrar.registry.identity(row.device) if self._registrar else None
        events = store.events(device=row.device, limit=50)
        incidents = [item for item in store.incidents() if item.device == row.device]
        document = views.device_view(row, identity, known_here()) | {
            "schema": "wherry/device/1",
            "lost_messages": store.lost(row.device),
            "events": [views.event_view(item) for item in events],
            "incidents": [views.incident_view(item) for item in incidents],
        }
        return JSONResponse(document)


def _labels(body: Fields) -> dict[str, str]:
    labels = body.mapping("labels", {})
    if not all(isinstance(value, str) for value in labels.values()):
        raise body.error("labels", "strings by name")
    return labels
