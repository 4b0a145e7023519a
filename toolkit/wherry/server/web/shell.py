"""What all pages share: templates, the style sheet and script, headers, times in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from wherry.monitor.words import day
from wherry.report.drawing import draw, templates

from .sessions import Session

if TYPE_CHECKING:
    from wherry.report.drawing import Picture

HERE: Final = Path(__file__).parent
PARTS: Final = (
    ("/", "Fleet"),
    ("/devices", "Devices"),
    ("/drift", "Drift"),
    ("/rollouts", "Rollouts"),
    ("/models", "Models"),
    ("/audit", "Audit"),
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_PICTURES: Final = 256


class Shell:
    """Renders pages."""

    def __init__(self, fleet: str, clock: Callable[[], float]) -> None:
        """Read templates and assets.

        Args:
            fleet: its name, on each page.
            clock: Unix seconds.
        """
        self._clock = clock
        self._environment = templates(HERE / "templates")
        self._assets = self._read_assets()
        marks = {name: hashlib.sha256(data).hexdigest()[:12] for name, data in self._assets.items()}
        self._environment.filters |= {
            "day": lambda moment: day(moment) if moment else "never",
            "ago": lambda moment: ago(clock() - moment) if moment else "never",
            "count": lambda value: f"{value:,}",
        }
        self._environment.globals |= {
            "fleet": fleet,
            "parts": PARTS,
            "asset": lambda name: f"/assets/{name}?v={marks[name]}",
        }

    def _read_assets(self) -> dict[str, bytes]:
        """By name; the one style sheet is that of the report, and what a page needs beside it."""
        found = {path.name: path.read_bytes() for path in (HERE / "assets").iterdir()}
        report, _, _ = self._environment.loader.get_source(  # type: ignore[union-attr]  # it has one
            self._environment, "style.css"
        )
        return found | {"style.css": report.encode() + found.pop("web.css")}

    def page(
        self,
        name: str,
        request: Request,
        session: Session | None = None,
        status: int = 200,
        **facts: Any,
    ) -> HTMLResponse:
        """A page.

        Args:
            name: of the template.
            request: what was asked.
            session: who asks; nobody on the way in.
            status: of the answer.
            facts: what the template shows.
        """
        shared = {"path": request.url.path, "session": session, "now": self._clock()}
        text = self._environment.get_template(name).render(shared | facts)
        return HTMLResponse(text, status, HEADERS)

    def asset(self, request: Request) -> Response:
        """The style sheet, the script, the icon; they carry a digest in their address."""
        name = request.path_params["name"]
        data = self._assets.get(name)
        if data is None:
            return Response("there is no such file\n", 404, HEADERS)
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(data, headers=headers, media_type=_TYPES[name.rpartition(".")[2]])


def ago(seconds: float) -> str:
    """How long ago something was, in words."""
    for length, word in ((86_400.0, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {word}{'' if number == 1 else 's'} ago"
    return "just now"


def picture(spec: dict[str, Any], title: str, note: str = "") -> Picture:
    """A chart; drawing one takes some 0.15 s, so the latest are remembered."""
    return _drawn(json.dumps(spec), title, note)


@lru_cache(maxsize=_PICTURES)
def _drawn(spec: str, title: str, note: str) -> Picture:
    return draw(json.loads(spec), title, note)
