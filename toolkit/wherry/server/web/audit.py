"""What was done and when."""

from __future__ import annotations

import math
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from wherry.server.audit import KINDS
from wherry.server.store import Store

from .sessions import Session
from .shell import Shell

PER_PAGE: Final = 100


class AuditPage:
    """Draws it."""

    def __init__(self, shell: Shell, store: Store) -> None:
        """Take what renders, and what is known."""
        self._shell = shell
        self._store = store

    def page(self, request: Request, session: Session) -> Response:
        """One page, the latest first; `before` goes back in time."""
        asked = request.query_params
        kind = asked.get("kind", "") if asked.get("kind", "") in KINDS else ""
        device = asked.get("device", "").strip()[:63]
        before = _moment(asked.get("before", ""))
        kinds = (kind,) if kind else KINDS
        rows = self._store.trail.latest(PER_PAGE, before, kinds, device)
        older = ""
        if len(rows) == PER_PAGE:
            wanted = {"kind": kind, "device": device, "before": repr(rows[-1].at)}
            older = "/audit?" + urlencode({name: value for name, value in wanted.items() if value})
        return self._shell.page(
            "audit.html.j2",
            request,
            session,
            rows=rows,
            kinds=KINDS,
            kind=kind,
            device=device,
            older=older,
            is_back=bool(before),
        )


def _moment(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if 0 < found < math.inf else 0.0
