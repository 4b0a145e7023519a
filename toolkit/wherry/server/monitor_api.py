"""What the monitor and the report ask the server for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Route

    from .store import Store


def routes(store: Store) -> list[Route]:  # noqa: ARG001 - the monitor's routes read it
    """The monitor's routes."""
    return []
