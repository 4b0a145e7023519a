"""The pages, by their addresses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.routing import Route

from wherry.server.registry import Registry
from wherry.server.store import Store
from wherry.server.watching import Watching

from .audit import AuditPage
from .devices import DevicePages
from .drift import DriftPages
from .entrance import Entrance
from .fleet import FleetPage
from .judged import Judged
from .models import ModelPages
from .rollouts import RolloutPages
from .sessions import Sessions
from .shell import Shell

_READ: Final = ["GET"]


@dataclass(frozen=True)
class House:
    """What the pages are made of.

    Attributes:
        fleet: its name.
        token: lets somebody in.
        store: what is known.
        watching: who judges.
        registry: who is who; nothing where devices have passwords.
        clock: Unix seconds.
        steady: a clock that never goes back, seconds.
    """

    fleet: str
    token: str
    store: Store
    watching: Watching
    registry: Registry | None = None
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


def routes(house: House) -> list[Route]:
    """All of them."""
    shell = Shell(house.fleet, house.clock)
    entrance = Entrance(shell, Sessions(house.token, house.steady), house.fleet)
    judged = Judged(house.watching, house.steady)
    devices = DevicePages(shell, house.store, judged, house.registry)
    drift = DriftPages(shell, judged)
    rollouts = RolloutPages(shell, house.store)
    models = ModelPages(shell, house.store, judged)
    pages = {
        "/": FleetPage(shell, house.store, judged).page,
        "/devices": devices.list,
        "/devices/{name}": devices.device,
        "/drift": drift.map,
        "/drift/cell": drift.cell,
        "/rollouts": rollouts.list,
        "/rollouts/{name}": rollouts.rollout,
        "/models": models.list,
        "/audit": AuditPage(shell, house.store).page,
        "/models/{digest}": models.model,
    }
    return [
        Route("/sign-in", entrance.way_in, methods=["GET", "POST"]),
        Route("/sign-out", entrance.way_out, methods=["POST"]),
        Route("/assets/{name}", shell.asset, methods=_READ),
        *(Route(path, entrance.guarded(view), methods=_READ) for path, view in pages.items()),
    ]
