"""uvicorn and Starlette."""

from __future__ import annotations

import os

from plain_model import PlainModel, columns, reply
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MODEL = PlainModel(os.environ["BENCH_MODEL"])


async def infer(request: Request) -> JSONResponse:
    """Answer one request."""
    return JSONResponse(reply("fraud", MODEL.score(columns(await request.json()))))


app = Starlette(routes=[Route("/v2/models/fraud/infer", infer, methods=["POST"])])
