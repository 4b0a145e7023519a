"""Text that may be shown, pictures that may be put into a page, and the pages' templates."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FONT: Final = "system-ui, 'DejaVu Sans', sans-serif"
# how every chart of a page looks; its colours are the page's, so that they follow light and dark
LOOK: Final[dict[str, Any]] = {
    "aria": False,  # the page gives each picture one name; its parts are in a table beside it
    "font": FONT,
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
    },
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--muted)", "labelFontSize": 11},
}
_LONGEST: Final = 200  # characters of one text in a picture
_HIDING: Final = frozenset({"Cc", "Cf", "Cs", "Cn"})
_HARMLESS: Final = "\n\t\u200c\u200d"  # line ends, and joiners that some scripts need


@dataclass(frozen=True)
class Picture:
    """A chart with its title, and a line below it."""

    title: str
    svg: Markup
    note: str = ""


def plain(text: str) -> str:
    """Text without characters that could hide or turn around what stands there."""
    return "".join(
        char if char in _HARMLESS or unicodedata.category(char) not in _HIDING else "\ufffd"
        for char in text
    )


def templates(*folders: Path) -> Environment:
    """Templates of these folders, and those that all pages share; whatever they print is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # whatever is printed goes through `plain` first, wherever it came from
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """A long name, escaped, that may go on in the next line after an underscore."""
    from markupsafe import Markup

    return Markup("_<wbr>").join(plain(name).split("_"))


def draw(spec: dict[str, Any], title: str, note: str) -> Picture:
    """Draw a Vega-Lite chart; its data are in it, so that nothing may be loaded."""
    import vl_convert
    from markupsafe import Markup

    drawn = vl_convert.vegalite_to_svg(_clean(spec), allowed_base_urls=[])
    label = escape(plain(f"{title}: {note}" if note else title), quote=True)
    named = re.sub(r"^<svg ", lambda _: f'<svg role="img" aria-label="{label}" ', drawn, count=1)
    return Picture(title, Markup(named), note)  # noqa: S704 - Vega escapes what it draws


def _clean(value: Any) -> Any:
    """The same with plain texts: the library ends the process on some control characters."""
    if isinstance(value, str):
        return plain(value)[:_LONGEST]
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value
