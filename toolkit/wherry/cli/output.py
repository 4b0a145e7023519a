"""What commands share: data to stdout, talk to stderr, progress, plans that must be agreed to."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from wherry_contract.errors import GateError, SetupError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document with a schema name."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask; for scripts.")


def say(text: str) -> None:
    """Talk to the person, on stderr; nothing with --quiet."""
    if not _quiet():
        click.echo(text, err=True)


def _quiet() -> bool:
    context = click.get_current_context(silent=True)
    root = context.find_root().obj if context else None
    return bool(root and root.get("quiet"))


def show(schema: str, document: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print an answer on stdout: one JSON document, or lines for a person.

    Args:
        schema: its name and version, as ``wherry/rollout-status/1``.
        document: the answer.
        lines: the same for a person.
        as_json: which of the two.
    """
    if as_json:
        click.echo(json.dumps({"schema": schema} | dict(document), indent=2, allow_nan=False))
        return
    for line in lines:
        click.echo(line)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a plain table; columns are as wide as they must be, numbers stand to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    right = [
        bool(cells) and all(re.fullmatch(r"[-+0-9.,%<>]*", row[place]) for row in cells)
        for place in range(len(heads))
    ]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(heads), *cells]
    ]


def tree(document: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of a document for a person: names and values, what lies in them further to the right."""
    for name, value in document.items():
        inner = value if isinstance(value, list | tuple) else ()
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from tree(value, indent + "  ")
        elif any(isinstance(item, Mapping) for item in inner):
            yield f"{indent}{name}:"
            for place, item in enumerate(inner, 1):
                yield from tree({str(place): item}, indent + "  ")
        else:
            yield f"{indent}{name}: {_word(value)}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value)) or "none"
    return "none" if value is None or value == {} else str(value)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr for long work; yields a function that takes steps.

    Where stderr is no terminal, the label is said once and nothing moves.
    """
    if not sys.stderr.isatty():
        say(label)
        yield lambda _steps: None
        return
    with click.progressbar(length=max(1, total), label=label, file=sys.stderr) as bar:
        yield bar.update


@contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """Steps of long work, each told in words; words that begin with a space are a part of one.

    On a terminal they move a bar on stderr, elsewhere each is a line.

    Args:
        total: how many there will be, without parts.
    """
    if not sys.stderr.isatty() or _quiet():
        yield lambda words: say(f"  {words}")
        return
    shown = click.progressbar(
        length=total, file=sys.stderr, show_eta=False, item_show_func=lambda words: words or ""
    )
    with shown as bar:

        def step(words: str) -> None:
            bar.update(0 if words.startswith(" ") else 1, words.strip()[:70])
            bar.render_progress()  # parts take no step, and are shown all the same

        yield step


def confirm(plan: Iterable[str], *, yes: bool) -> None:
    """Show what would change devices and ask, unless `yes` was said.

    Raises:
        SetupError: H09, nobody could be asked.
        GateError: H09, the answer was no.
    """
    for line in plan:
        click.echo(line, err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise SetupError("H09", "nobody can be asked: standard input is no terminal")
    if not click.confirm("Go on?", err=True):
        raise GateError("H09", "", cure="nothing was changed")


class ShadowWave(click.ParamType[tuple[int, int]]):
    """``200tx,30m``: rows and seconds; what is left out is 200 rows, or half an hour."""

    name = "rows,duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        rows, seconds = 200, 1800.0
        for part in str(value).split(","):
            if match := re.fullmatch(r"(\d{1,9})tx", part.strip()):
                rows = int(match[1])
            else:
                seconds = Seconds().convert(part.strip(), param, ctx)
        return rows, round(seconds)


class Seconds(click.ParamType[float]):
    """A duration like ``30s``, ``15m``, ``2h`` or ``7d``; its value is seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the text."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if not match:
            self.fail(f"{value!r} is not a duration like 30m", param, ctx)
        return float(match[1]) * _UNITS[match[2]]
