"""What stands in the query and the body of a request, checked."""

from __future__ import annotations

import math
from typing import Final

from starlette.requests import ClientDisconnect, Request

from wherry_contract.errors import RolloutError
from wherry_contract.wire import Domain, Fields, parse_json

REQUEST: Final = Domain(RolloutError, "R06", "R06", "R06", "R06")
_BODY_LIMIT_BYTES: Final = 64 * 1024


async def read_bytes(request: Request, limit: int) -> bytes:
    """A request's body, read no further than just beyond a limit in bytes.

    Raises:
        RolloutError: R06, it was cut off.
    """
    data = b""
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                break
    except ClientDisconnect as error:
        raise RolloutError("R06", "the request was cut off") from error
    return data


async def read_body(request: Request, limit: int = _BODY_LIMIT_BYTES) -> Fields:
    """A request's JSON.

    Args:
        request: may be cut off.
        limit: bytes.

    Raises:
        RolloutError: R06.
    """
    data = await read_bytes(request, limit)
    document = parse_json(data, limit=limit, what="request", domain=REQUEST)
    return Fields(document, "request", REQUEST)


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
