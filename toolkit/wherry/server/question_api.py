"""Questions to devices over HTTP, for operators: ask, look, list."""

from __future__ import annotations

import re

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from wherry.rows import Question
from wherry_contract.errors import RolloutError

from . import views
from .asker import Asker
from .query import read_body
from .store import Store


class QuestionApi:
    """One method for each route."""

    def __init__(self, store: Store, asker: Asker) -> None:
        self._store = store
        self._asker = asker

    def routes(self) -> list[Route]:
        """What is served."""
        return [
            Route("/api/v1/devices/{name}/questions", self.ask, methods=["POST"]),
            Route("/api/v1/devices/{name}/questions", self.list, methods=["GET"]),
            Route("/api/v1/questions/{number}", self.show, methods=["GET"]),
        ]

    async def ask(self, request: Request) -> JSONResponse:
        """Ask a device."""
        body = await read_body(request)
        ask, lines = body.text("ask", limit=63), body.integer("lines", 0)
        seconds = body.number("seconds", 3600.0)
        name = request.path_params["name"]
        question = await run_in_threadpool(
            lambda: self._asker.ask(name, ask, seconds=seconds, lines=lines)
        )
        return await run_in_threadpool(self._shown, question)

    def list(self, request: Request) -> JSONResponse:
        """The latest questions to a device, without their answers' documents."""
        row = self._store.device(request.path_params["name"])
        questions = self._store.questions.of(row.device)
        shown = [views.question_view(item, row.online, whole=False) for item in questions]
        return JSONResponse({"schema": "wherry/questions/1", "questions": shown})

    def show(self, request: Request) -> JSONResponse:
        """One question with its answer."""
        number = request.path_params["number"]
        if not re.fullmatch(r"[1-9][0-9]{0,15}", number):
            raise RolloutError("R12", number[:40])
        return self._shown(self._store.questions.one(int(number)))

    def _shown(self, question: Question) -> JSONResponse:
        online = self._store.device(question.device).online
        shown = views.question_view(question, online, whole=True)
        return JSONResponse({"schema": "wherry/question/1"} | shown)
