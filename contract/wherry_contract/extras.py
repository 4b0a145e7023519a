"""How an extra of this Wherry is installed: from where Wherry itself came, which need not be an index."""

from __future__ import annotations

import json
import shlex
from typing import Final
from urllib.parse import unquote, urlsplit

_NAME: Final = "wherry"


def how_to_install(extra: str, *, options: str = "") -> str:
    """The command that adds an extra to what is installed here.

    Args:
        extra: its name; "" for Wherry alone.
        options: of pip, as ``--force-reinstall``.
    """
    from importlib import metadata  # slow to import, and only errors need it

    try:
        origin = metadata.distribution(_NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        origin = None
    return install_words(extra, origin or "", options=options)


def install_words(extra: str, origin: str, *, options: str = "") -> str:
    """The same for an origin. Pure.

    Args:
        extra: its name; "" for Wherry alone.
        origin: direct_url.json, as PyPA's "Recording the Direct URL Origin of installed
            distributions" has it; "" if it came from an index.
        options: of pip.
    """
    tail = f"[{extra}]" if extra else ""
    words = ["pip", "install", *shlex.split(options)]
    try:
        about = json.loads(origin) if origin else {}
        url = str(about["url"]) if about else ""
        if about.get("dir_info", {}).get("editable"):
            return _quoted([*words, "-e"], f"{unquote(urlsplit(url).path)}{tail}")
        if version := about.get("vcs_info"):
            url = f"{version['vcs']}+{url}@{version['commit_id']}"
    except (ValueError, KeyError, TypeError, AttributeError):  # nobody's hint is worth a failure
        url = ""
    return _quoted(words, f"{_NAME}{tail} @ {url}" if url else f"{_NAME}{tail}")


def _quoted(words: list[str], what: str) -> str:
    return f"{' '.join(words)} {shlex.quote(what)}"
