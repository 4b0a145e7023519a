"""uvicorn with a bare ASGI callable: the least that its users can write."""

from __future__ import annotations

import json
import os
from typing import Any

from plain_model import PlainModel, columns, reply

MODEL = PlainModel(os.environ["BENCH_MODEL"])
HEADERS = [(b"content-type", b"application/json")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = json.dumps(reply("fraud", MODEL.score(columns(json.loads(body))))).encode()
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": answer})
