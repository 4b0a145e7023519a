"""A rollout that is there, over HTTP: pause, resume, pass, undo, explain."""

from __future__ import annotations

from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from wherry.outcomes import shown
from wherry.rows import PASS, PAUSE, RESUME
from wherry_contract.wire import Fields

from . import views
from .explain import Replay, replay
from .orders_api import plan_view, read_policy
from .query import read_body
from .steering import Steering
from .store import Store

_UNDO_SHARES: Final = ("10%", "100%")


class SteerApi:
    """One method for each route."""

    def __init__(self, store: Store, steering: Steering) -> None:
        """Take the memory, and who acts."""
        self._store = store
        self._steering = steering

    def routes(self) -> list[Route]:
        """What is served."""
        path = "/api/v1/rollouts/{name}"
        return [
            Route(f"{path}/{PAUSE}", self.say, methods=["POST"], name=PAUSE),
            Route(f"{path}/{RESUME}", self.say, methods=["POST"], name=RESUME),
            Route(f"{path}/{PASS}", self.say, methods=["POST"], name=PASS),
            Route(f"{path}/undo", self.undo, methods=["POST"]),
            Route(f"{path}/explain", self.explain, methods=["GET"]),
        ]

    async def say(self, request: Request) -> JSONResponse:
        """Take an operator's word."""
        body, name = await read_body(request), request.path_params["name"]
        what = request.url.path.rpartition("/")[2]
        why, wave = body.text("why", "", limit=200), body.integer("wave", 0)
        row = await run_in_threadpool(self._steering.say, name, what, why, wave)
        return JSONResponse({"schema": "wherry/rollout/1"} | views.rollout_view(row))

    async def undo(self, request: Request) -> JSONResponse:
        """Plan or begin the way back."""
        body, name = await read_body(request), request.path_params["name"]
        return JSONResponse(await run_in_threadpool(self._undo, name, body))

    def _undo(self, name: str, body: Fields) -> dict[str, Any]:
        dry = body.flag("dry_run", default=False)
        policy = read_policy(body, _UNDO_SHARES)
        undo = self._steering.undo(name)
        if dry:
            plan = plan_view(self._steering.plan(undo, policy))
            return {"schema": "wherry/rollout-plan/1"} | plan | {"others": undo.others}
        row = self._steering.start(undo, policy)
        return {"schema": "wherry/rollout/1"} | views.rollout_view(row)

    def explain(self, request: Request) -> JSONResponse:
        """Every decision, made again."""
        row = self._store.ledger.rollout(request.path_params["name"])
        steps = [_view(replay(step)) for step in row.decisions]
        words = [item.__dict__ | {"at": views.moment(item.at)} for item in row.words]
        document = {"id": row.id, "state": row.state, "steps": steps, "words": words}
        return JSONResponse({"schema": "wherry/rollout-explain/1"} | document)


def _view(found: Replay) -> dict[str, Any]:
    step = found.step
    return {
        "at": views.moment(step.at),
        "before": step.before,
        "event": step.event,
        "after": step.after,
        "wave": step.figures.get("wave", step.wave),
        "reason": step.reason,
        "figures": shown(step.figures),
        "gates": list(step.figures.get("gate_results", ())),
        "replayed": found.verdict is not None,
        "same": found.same,
        "differs": list(found.differs),
    }
