"""What the serving port answers: the protocol on one side, the scorer on the other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from wherry_agent.config import AgentConfig
from wherry_contract.errors import InputError, ServingError, WherryError

from . import oip
from .oip_request import read_infer
from .scoring import Scorer
from .served import Served

_HOLD_LIMIT_BYTES: Final = 1024
_MOST_SECONDS: Final = 86_400
_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_JSON_LENGTH: Final = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Call:
    """A whole request.

    Attributes:
        target: as the request line has it.
        encoding: Content-Encoding; "" or ``identity`` for plain bytes.
        json_length: Inference-Header-Content-Length as it came, "" if it did not.
        started: monotonic seconds when the request was whole.
    """

    method: str
    target: str
    body: bytes = b""
    encoding: str = ""
    json_length: str = ""
    started: float = 0.0


@dataclass(frozen=True)
class Reply:
    """A whole answer; `headers` are those beside type and length."""

    status: int
    body: bytes
    media_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()


def refusal(error: WherryError) -> Reply:
    """The answer that tells of an error."""
    return Reply(*oip.write_error(error))


class Service:
    """Answers calls; safe to use from threads."""

    def __init__(
        self,
        config: AgentConfig,
        scorer: Scorer,
        session: str,
        hold: Callable[[float], float] = lambda _: 0.0,
    ) -> None:
        """Take what is served from.

        Args:
            config: limits and features.
            scorer: answers.
            session: begins the ids of requests that bring none.
            hold: keeps updates back for so many seconds; returns for how many it did.
        """
        self._hold = hold
        self._also = config.features
        self._most_rows = config.limits.request_rows
        self._scorer = scorer
        self._session = session
        self._count = itertools.count(1)
        self._pages: dict[str, Callable[[oip.Page], Reply]] = {
            "server": self._server,
            "live": lambda _: Reply(*oip.write_health("live", well=True)),
            "ready": self._ready,
            "model": self._model,
            "model-ready": self._model_ready,
        }

    def handle(self, call: Call) -> Reply:
        """Answer one call; every coded error becomes the protocol's error."""
        try:
            path = call.target.partition("?")[0]
            page = oip.find_page(call.method, unquote(path) if "%" in path else path)
            if page.kind == "infer":
                return self._infer(call, page)
            if page.kind == "hold":
                return self._keep_back(call)
            return self._pages[page.kind](page)
        except ServingError as error:
            allow = "POST" if call.method in ("GET", "HEAD") else "GET, HEAD"
            headers = (("Allow", allow),) if error.code == "S08" else ()
            return Reply(*oip.write_error(error), headers=headers)
        except WherryError as error:
            return refusal(error)

    # --- pages --------------------------------------------------------------------------

    def _server(self, _: oip.Page) -> Reply:
        served = self._scorer.served
        return Reply(200, oip.write_server([served.manifest.name] if served else []))

    def _ready(self, _: oip.Page) -> Reply:
        return Reply(*oip.write_health("ready", well=_can_answer(self._scorer.served)))

    def _model(self, page: oip.Page) -> Reply:
        served = self._find(page)
        return Reply(200, oip.write_model(served.manifest, served.digest))

    def _model_ready(self, page: oip.Page) -> Reply:
        return Reply(*oip.write_health("ready", well=_can_answer(self._find(page))))

    def _find(self, page: oip.Page) -> Served:
        served = self._scorer.served
        if served is None:
            raise ServingError("S05")
        name, version = served.manifest.name, served.manifest.version
        if page.model != name or page.version not in ("", version):
            asked = f"{page.model} {page.version}".strip()
            raise ServingError("S04", f"{asked[:100]}; served is {name} {version}")
        return served

    def _keep_back(self, call: Call) -> Reply:
        """The application's veto: no update disturbs the board for so many seconds."""
        if len(call.body) > _HOLD_LIMIT_BYTES:
            raise ServingError("S03", f"more than {_HOLD_LIMIT_BYTES} bytes")
        try:
            seconds = json.loads(call.body)["seconds"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ServingError("S02", 'it should be {"seconds": 60}') from error
        right = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not right or not 0 <= seconds <= _MOST_SECONDS:
            raise ServingError("S02", f"seconds should be a number from 0 to {_MOST_SECONDS}")
        return Reply(200, json.dumps({"seconds": self._hold(float(seconds))}).encode())

    # --- inference ----------------------------------------------------------------------

    def _infer(self, call: Call, page: oip.Page) -> Reply:
        served = self._find(page)
        if call.encoding not in ("", "identity"):
            error = ServingError("S02", f"Content-Encoding {call.encoding[:20]} is not supported")
            return Reply(415, oip.write_error(error)[1])
        try:
            asked = read_infer(
                call.body,
                _json_length(call.json_length),
                most_rows=self._most_rows,
                outputs=oip.outputs_of(served.manifest),
            )
        except (InputError, ServingError) as error:
            self._scorer.refuse(error.code, 1)
            raise
        if asked.one is not None:
            answer = self._scorer.answer_one(asked.one, served, call.started, asked.at)
            return Reply(200, oip.write_one(self._id(asked.id), answer, served.manifest))
        try:
            raw = asked.matrix(served.manifest.input, self._also)
        except InputError as error:
            self._scorer.refuse(error.code, asked.rows)
            raise
        answers = self._scorer.answer(raw, served, started=call.started, at=asked.at)
        body, json_length = oip.write_answer(
            asked,
            self._id(asked.id),
            answers,
            served.manifest,
            served.digest,
        )
        if json_length < 0:
            return Reply(200, body)
        return Reply(200, body, _BINARY, ((_JSON_LENGTH, str(json_length)),))

    def _id(self, given: str) -> str:
        return given or f"{self._session}-{next(self._count)}"


def _can_answer(served: Served | None) -> bool:
    return served is not None and bool(served.model or served.manifest.fallback)


def _json_length(text: str) -> int:
    if not text:
        return -1
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ServingError("S02", f"{_JSON_LENGTH} should be a number of bytes")
    return int(text)
