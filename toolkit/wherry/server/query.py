"""What stands in the query of a request, checked."""

from __future__ import annotations

import math

from starlette.requests import Request

from wherry_contract.errors import RolloutError


def selection(request: Request) -> dict[str, str]:
    """Labels, as ``?select=site=paris&select=group=b``.

    Raises:
        RolloutError: R06.
    """
    found = {}
    for text in request.query_params.getlist("select"):
        name, equals, value = text.partition("=")
        if not equals:
            raise RolloutError("R06", f"select {text[:80]!r} should be like site=paris")
        found[name] = value
    return found


def seconds(request: Request, name: str) -> float | None:
    """A positive number of seconds, if it is there.

    Raises:
        RolloutError: R06.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise RolloutError("R06", f"{name} should be a positive number of seconds")
    return value
