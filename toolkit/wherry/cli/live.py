"""Looking again and again: a screen that is drawn anew, or a line for each change."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import click

from wherry_contract.errors import LinkError

from .output import say

_AWAY: Final = "L08"


def follow(
    ask: Callable[[], Mapping[str, Any]],
    lines: Callable[[Mapping[str, Any]], Iterable[str]],
    seconds: float,
    *,
    as_json: bool,
) -> NoReturn:
    """Show what is asked for until somebody ends it.

    On a terminal the screen is drawn anew at each look; elsewhere all is printed again when
    it has changed. As JSON it is one line for each change. A server that is away is waited for.

    Args:
        ask: the document.
        lines: the same for a person.
        seconds: between two looks.
        as_json: one line of JSON instead.
    """
    screen = sys.stdout.isatty() and not as_json
    before: Mapping[str, Any] | None = None
    for found in _looks(ask, seconds):
        if screen:
            _draw(list(lines(found)))
        elif found != before:
            text = json.dumps(found, allow_nan=False) if as_json else "\n".join(lines(found))
            click.echo(text)
            sys.stdout.flush()  # a pipe would keep it back
        before = found
    raise AssertionError  # looks do not end


def _looks(ask: Callable[[], Mapping[str, Any]], seconds: float) -> Iterable[Mapping[str, Any]]:
    away = False
    for number in itertools.count():
        try:
            found = ask()
        except LinkError as error:
            if error.code != _AWAY or not number:  # one that was never there is not waited for
                raise
            if not away:
                say(f"{error}; looking again every {seconds:g} s")
            away = True
        else:
            if away:
                say("the server answers again")
            away = False
            yield found
        time.sleep(seconds)


def _draw(lines: list[str]) -> None:
    """As much of it as the terminal has room for, and when that was."""
    width, height = shutil.get_terminal_size()
    room = height - 2
    cut = f"; {len(lines) - room} more lines: make the window taller" if len(lines) > room else ""
    click.clear()
    for line in lines[:room]:
        click.echo(line[:width])
    now = datetime.now(UTC).strftime("%H:%M:%S")
    click.echo(f"looked at {now} UTC; Ctrl-C ends{cut}"[:width], nl=False)
    sys.stdout.flush()
