"""A bundle's whole life on a board, rehearsed: enrolment, update, payments, windows.

The real agent runs under the board's instructions against a real server on this machine, over
real sockets. `rehearsal` judges what it did.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from wherry.server.depot import Depot
from wherry.server.place import open_database
from wherry.server.store import Store
from wherry_contract.bundle import Layout, Parts
from wherry_contract.states import RolloutState
from wherry_contract.window import Window

from . import rehearsal
from .agent import BoardAgent
from .rehearsal import Rehearsal, Step
from .stand import FailedError, Stand, stand

SECONDS: Final = 300.0  # emulated programs are a tenth to a fortieth as fast
_SOAK_ROWS: Final = 100
_LIMITS: Final = {
    "window_rows": rehearsal.WINDOW_ROWS,
    "heartbeat_seconds": 5.0,
    "reconnect_seconds": 1.0,
    "probe_seconds": SECONDS,
}
_HTTP_SECONDS: Final = 60.0
_ENDED: Final = (RolloutState.DONE, RolloutState.REVERTED)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """What is rehearsed.

    Attributes:
        layout: of the bundle.
        parts: likewise.
        agent: on the board, with a runtime.
        runtime: its name and version.
        memory_mib: of the board.
    """

    layout: Layout
    parts: Parts
    agent: BoardAgent
    runtime: str
    memory_mib: int


@dataclass
class _Life:
    """One rehearsal, as far as it has come."""

    board: Stand
    subject: Subject
    progress: Progress
    steps: list[Step] = field(default_factory=list)
    address: tuple[str, int] = ("", 0)


def rehearse(subject: Subject, progress: Progress, seconds: float = SECONDS) -> Rehearsal:
    """Rehearse a bundle's life.

    Args:
        subject: what and where.
        progress: is told each step in words.
        seconds: after which nothing is known.

    Raises:
        SetupError: H05, the server does not start here.
    """
    began, slow = time.monotonic(), False
    with (
        tempfile.TemporaryDirectory(prefix="wherry-rehearsal-") as where,
        stand(Path(where), subject.agent, began + seconds) as board,
    ):
        life = _Life(board, subject, progress)
        try:
            _live(life)
            board.stop_agent()
            spoken = rehearsal.judge_contacts(board.contacts(), board.doors)
            life.steps += [spoken, _memory(life)]
        except TimeoutError:
            slow = True
        except FailedError as error:
            life.steps.append(Step(rehearsal.UPDATED, well=False, seen=str(error)))
    lasted = round(time.monotonic() - began, 1)
    return Rehearsal(subject.runtime, tuple(life.steps), round(board.peak_mib, 1), lasted, slow)


def _live(life: _Life) -> None:
    board, parts = life.board, life.subject.parts
    life.progress("  a fleet's server here; the board enrols")
    board.serve()
    board.enrol(parts.manifest.family, _LIMITS)
    life.address = board.start()
    board.until(lambda: bool(board.device()["online"]))
    life.steps.append(_identity(life))
    life.progress("  the update, with payments")
    digest = board.release(life.subject.layout)
    order = {"bundle": digest, "waves": ["1"], "soak_seconds": 1, "soak_rows": _SOAK_ROWS}
    rollout = str(board.client.post("rollouts", order)["id"])

    def ended() -> bool:
        return board.client.get(f"rollouts/{rollout}")["state"] in _ENDED

    board.until(lambda: _ready(life) or ended())
    asked = rehearsal.payments(parts.golden)
    answers = [] if ended() else [_ask(life, row) for row in asked.rows]
    board.until(ended)
    life.steps.append(rehearsal.judge_update(board.events(), rollout))
    if answers:
        life.steps.append(rehearsal.judge_answers(asked, parts, digest, answers))
        life.progress("  the windows")
        wanted = rehearsal.ROWS // rehearsal.WINDOW_ROWS
        board.until(lambda: board.client.get("events")["counters"].get("windows", 0) >= wanted)
        life.steps.append(rehearsal.judge_windows(_windows(board), parts, asked))


def _identity(life: _Life) -> Step:
    found = life.board.device()
    who = found["identity"]
    words = f"key {str(who['fingerprint'])[:19]}" if who else "it has no certificate"
    return Step(rehearsal.ENROLLED, bool(who), f"{words}, {life.board.broker}")


def _ready(life: _Life) -> bool:
    return _exchange(life, "GET", "/v2/health/ready")[0] == HTTPStatus.OK


def _ask(life: _Life, row: tuple[Any, ...]) -> dict[str, Any]:
    parts = life.subject.parts
    body = {"rows": [dict(zip(parts.golden.features, row, strict=True))]}
    path = f"/v2/models/{parts.manifest.name}/infer"
    status, answer = _exchange(life, "POST", path, json.dumps(body))
    if status != HTTPStatus.OK:
        raise FailedError(f"HTTP {status}: {str(answer)[:200]}")
    return answer


def _exchange(life: _Life, method: str, path: str, body: str = "") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(
        *life.address, timeout=min(_HTTP_SECONDS, life.board.left)
    )
    try:
        connection.request(method, path, body or None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FailedError(f"{path}: {error or repr(error)}; {life.board.last_words}") from error
    finally:
        connection.close()


def _windows(board: Stand) -> list[Window]:
    depot = Depot(board.fleet / "depot", board.fleet / "keys")
    store = Store(open_database(board.fleet), depot)
    try:
        return [item.window for item in store.windows()]
    finally:
        store.close()


def _memory(life: _Life) -> Step:
    return rehearsal.judge_memory(life.board.peak_mib, life.subject.memory_mib)
