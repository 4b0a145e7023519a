"""The way in and out, and what stands before each page: a cookie that the sign-in gave."""

from __future__ import annotations

import hmac
import math
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from wherry.server.answers import status_of
from wherry.server.query import read_bytes
from wherry_contract.errors import RolloutError, WherryError

from .sessions import LIFE_SECONDS, Session, Sessions
from .shell import HEADERS, Shell

View = Callable[[Request, Session], Response]
_FORM_BYTES: Final = 8192
_WAY_IN: Final = "/sign-in"
_PLACE: Final = re.compile(r"/(?![/\\])[A-Za-z0-9/?&=%._:+-]{0,500}")


class Entrance:
    """Signs people in and out, and lets those who have signed in through."""

    def __init__(self, shell: Shell, sessions: Sessions, fleet: str) -> None:
        """Take what renders, who is known, and the fleet's name, which is in the cookies' names.

        Cookies do not tell ports apart, and a machine may serve two fleets.
        """
        self._shell = shell
        self._sessions = sessions
        self._cookie = f"wherry-{fleet}"
        self._form_cookie = f"wherry-form-{fleet}"

    def guarded(self, view: View) -> Callable[[Request], Awaitable[Response]]:
        """A page that is shown to who has signed in; others are sent to the way in, and back."""

        async def answer(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                aim = f"{_WAY_IN}?next={_quoted(there)}" if there != "/" else _WAY_IN
                return RedirectResponse(aim, 303, HEADERS)
            try:
                return await run_in_threadpool(view, request, session)
            except WherryError as error:
                status = status_of(error)
                return self._shell.page("error.html.j2", request, session, status, error=error)

        return answer

    async def way_in(self, request: Request) -> Response:
        """The form, and what it sends."""
        if request.method != "POST":
            if self._session(request):
                return RedirectResponse(_place(request.query_params.get("next", "")), 303, HEADERS)
            return self._form(request, request.query_params.get("next", ""))
        sent = await self._sent(request, request.cookies.get(self._form_cookie, ""))
        caller = request.client.host if request.client else ""
        wait = self._sessions.wait_seconds(caller)
        if wait:
            said = f"Too many wrong tokens. Try again in {math.ceil(wait)} seconds."
            found = self._form(request, sent.get("next", ""), said, 429)
            found.headers["Retry-After"] = str(math.ceil(wait))
            return found
        cookie = self._sessions.sign_in(caller, sent.get("token", ""))
        if not cookie:
            said = "That is not this server's token."
            return self._form(request, sent.get("next", ""), said, 403)
        found = RedirectResponse(_place(sent.get("next", "")), 303, HEADERS)
        self._set(found, self._cookie, cookie, int(LIFE_SECONDS))
        found.delete_cookie(self._form_cookie, _WAY_IN, samesite="strict", httponly=True)
        return found

    async def way_out(self, request: Request) -> Response:
        """End the session."""
        session = self._session(request)
        if session:
            await self._sent(request, session.form)
            self._sessions.sign_out(request.cookies.get(self._cookie, ""))
        found = RedirectResponse(_WAY_IN, 303, HEADERS)
        found.delete_cookie(self._cookie, "/", samesite="strict", httponly=True)
        return found

    def _session(self, request: Request) -> Session | None:
        return self._sessions.of(request.cookies.get(self._cookie, ""))

    def _form(self, request: Request, aim: str, said: str = "", status: int = 200) -> Response:
        mark = secrets.token_urlsafe(24)
        found = self._shell.page(
            "sign_in.html.j2", request, None, status, aim=_place(aim), said=said, mark=mark
        )
        self._set(found, self._form_cookie, mark, 3600, _WAY_IN)
        return found

    def _set(self, answer: Response, name: str, value: str, age: int, path: str = "/") -> None:
        """No script reads it, and no other site's request carries it; there is no TLS here."""
        answer.set_cookie(name, value, max_age=age, path=path, httponly=True, samesite="strict")

    async def _sent(self, request: Request, mark: str) -> dict[str, str]:
        """A form's fields, if it is one that we gave out.

        Raises:
            RolloutError: R06.
        """
        data = await read_bytes(request, _FORM_BYTES)
        if len(data) > _FORM_BYTES:
            raise RolloutError("R06", "the form is too long")
        read = parse_qs(data.decode("ascii", "replace"), max_num_fields=16)
        fields = {name: values[0] for name, values in read.items()}
        shown = fields.get("form", "").encode()
        if not mark or not hmac.compare_digest(shown, mark.encode()):
            raise RolloutError("R06", "the form is not of this page", cure="open the page anew")
        return fields


def _place(text: str) -> str:
    """A place on this server to go to; the first page in place of anything else."""
    return text if _PLACE.fullmatch(text) else "/"


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="/")
