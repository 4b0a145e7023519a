"""`hooks.toml`: whom to tell, and by which way. Secrets stand in files of their own."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from wherry.files import read_bounded
from wherry_contract.errors import SetupError
from wherry_contract.wire import PROJECT, SLUG, Fields

from .ways import Command, Topic, Way, Webhook

LIMIT_BYTES: Final = 1 << 16
_LIMIT_SECRET: Final = 4096
_DAY: Final = 86_400.0
_LEAD_DAYS: Final = 28.0


@dataclass(frozen=True)
class Hooks:
    """Whom to tell.

    Attributes:
        lead_seconds: how long before a date they are told.
        ways: by name.
    """

    lead_seconds: float
    ways: dict[str, Way]


def read_hooks(path: Path) -> Hooks:
    """Read the file; paths in it are relative to it.

    Raises:
        SetupError: H01 it is wrong, H02 it or a secret cannot be read, H12.
    """
    data = read_bounded(path, LIMIT_BYTES, partial(SetupError, "H01"))
    try:
        fields = Fields(tomllib.loads(data.decode()), path.name, PROJECT)
    except (ValueError, RecursionError) as error:
        raise SetupError("H01", f"{path.name} is not valid TOML: {error}") from error
    ways: dict[str, Way] = {}
    lead = fields.number("lead_days", _LEAD_DAYS)
    for item in fields.tables("hooks", [], limit=32):
        name = item.text("name", pattern=SLUG)
        if name in ways:
            raise item.error("name", "another than that of the hook before")
        ways[name] = _way(item, path.parent)
        _nothing_left(item)
    _nothing_left(fields)
    return Hooks(lead * _DAY, ways)


def _way(item: Fields, folder: Path) -> Way:
    kind = item.choice("kind", ("webhook", "command", "mqtt"))
    if kind == "command":
        words, project = item.texts("command", limit=256), item.text("project", "")
        if not words:
            raise item.error("command", "a list of words")
        built = folder / item.text("bundle", "candidate.wherry")
        return Command(words, folder, folder / project if project else None, built)
    secret = _secret(item, folder)
    if kind == "mqtt":
        topic = item.text("topic", limit=256)
        if re.search(r"[+#\x00]", topic):
            raise item.error("topic", "a topic without wildcards")
        return Topic(item.text("url", limit=1024), topic, secret.decode())
    url = item.text("url", limit=1024)
    if not re.match(r"https?://[^/\s]", url):
        raise item.error("url", "like https://ci.example/hook")
    return Webhook(url, secret)


def _secret(item: Fields, folder: Path) -> bytes:
    name = item.text("secret_file", "")
    if not name:
        return b""
    return read_bounded(folder / name, _LIMIT_SECRET, partial(SetupError, "H01")).strip()


def _nothing_left(fields: Fields) -> None:
    left: dict[str, Any] = dict(fields.rest())
    if left:  # a misspelt name must not become a default
        raise fields.error(min(left)[:64], "left out: nobody knows it")
