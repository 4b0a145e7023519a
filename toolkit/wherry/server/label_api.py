"""Delayed labels over HTTP, for operators: bring in, list."""

from __future__ import annotations

import time
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from wherry.documents import from_document, to_document
from wherry.labels.counts import LabelBatch
from wherry_contract.errors import RolloutError

from .query import read_body
from .store import Store

_LIMIT_BYTES: Final = 16 * 2**20


def routes(store: Store) -> list[Route]:
    """What is served."""
    api = _LabelApi(store)
    return [
        Route("/api/v1/labels", api.add, methods=["POST"]),
        Route("/api/v1/labels", api.list, methods=["GET"]),
    ]


class _LabelApi:
    """One method for each route."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, request: Request) -> JSONResponse:
        body = await read_body(request, limit=_LIMIT_BYTES)
        try:
            batch = from_document(LabelBatch, dict(body.rest()), "labels")
            batch.check()
        except ValueError as error:
            raise RolloutError("R06", str(error)) from error
        return JSONResponse(await run_in_threadpool(self._add, batch))

    def _add(self, batch: LabelBatch) -> dict[str, object]:
        known = {row.digest for row in self._store.bundles()}
        added = self._store.labels.add(batch, time.time())
        return {
            "schema": "wherry/labels-imported/1",
            "batch": batch.batch,
            "added": added,
            "labels": batch.labels,
            "positives": batch.positives,
            "bundles_unknown": sorted({row.bundle for row in batch.rows} - known),
        }

    def list(self, _: Request) -> JSONResponse:
        lines = [to_document(line) for line in self._store.labels.batches()]
        return JSONResponse({"schema": "wherry/labels/1", "batches": lines})
