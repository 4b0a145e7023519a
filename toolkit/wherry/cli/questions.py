"""`wherry device ask` and `wherry device answers`: what a device says of itself when it is asked."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from wherry.client import Client, find_client, segment
from wherry_contract.command import ASKS, MOST_LINES
from wherry_contract.errors import LinkError

from .options import server_options
from .output import Seconds, json_option, say, show, table, tree

_LOOK_SECONDS: Final = 0.3
_SCHEMA: Final = "wherry/question/1"


@click.command("ask", epilog="Example: wherry device ask till-1 self-test --wait 60s")
@click.argument("name")
@click.argument("what", type=click.Choice(ASKS))
@click.option(
    "--wait", type=Seconds(), default="60s", show_default=True, help="How long to wait; 0s not."
)
@click.option(
    "--keep", type=Seconds(), default="1h", show_default=True, help="How long it is asked again."
)
@click.option(
    "--lines",
    type=click.IntRange(1, MOST_LINES),
    default=200,
    show_default=True,
    help="Of logs: how many of the last.",
)
@json_option
@server_options
def device_ask(
    *,
    name: str,
    what: str,
    wait: float,
    keep: float,
    lines: int,
    server: str,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Ask a device for a self-test, a snapshot of its state, or its log.

    The server signs the question; the device answers it once. One that is away is asked
    when it comes back, as long as the question is kept.
    """
    client = find_client(server, token_file)
    order = {"ask": what, "seconds": keep, "lines": lines if what == "logs" else 0}
    found = client.post(f"devices/{segment(name)}/questions", order)
    if not found["online"]:
        say(f"{name} is away: question {found['id']} is kept until {found['expires']}")
    found = _answered(client, found, wait)
    if not found["answered_at"]:
        raise LinkError(
            "L12",
            f"question {found['id']} to {name}, kept until {found['expires']}",
            cure=f"look again: wherry device answers {name} {found['id']}",
        )
    _show(found, as_json=as_json)


@click.command("answers", epilog="Example: wherry device answers till-1")
@click.argument("name")
@click.argument("number", type=click.IntRange(1), required=False)
@json_option
@server_options
def device_answers(
    name: str, number: int | None, server: str, token_file: Path | None, *, as_json: bool
) -> None:
    """List what a device was asked, or show one answer by its number."""
    client = find_client(server, token_file)
    if number is not None:
        found = client.get(f"questions/{number}")
        if found["answered_at"]:
            _show(found, as_json=as_json)
        else:
            show(_SCHEMA, found, [_state(found)], as_json=as_json)
        return
    found = client.get(f"devices/{segment(name)}/questions")
    rows = [
        (item["id"], item["ask"], item["asked_at"], item["expires"], _state(item))
        for item in found["questions"]
    ]
    heads = ("question", "asked for", "at", "kept until", "answer")
    show("wherry/questions/1", found, table(heads, rows), as_json=as_json)


def _answered(client: Client, found: dict[str, Any], wait: float) -> dict[str, Any]:
    end = time.monotonic() + wait
    while not found["answered_at"] and (left := end - time.monotonic()) > 0:
        time.sleep(min(_LOOK_SECONDS, left))
        found = client.get(f"questions/{found['id']}")
    return found


def _show(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print an answer; the exit code is 1 where it is no good one."""
    document = found["document"]
    show(_SCHEMA, found, _lines(found, document), as_json=as_json)
    if found["outcome"] != "done" or not document.get("well", True):
        click.get_current_context().exit(1)


def _state(found: Mapping[str, Any]) -> str:
    if not found["answered_at"]:
        return "none yet"
    return f"{found['outcome']} {found['answered_at']}: {found['text']}"


def _lines(found: Mapping[str, Any], document: Mapping[str, Any]) -> Iterable[str]:
    """An answer for a person; a snapshot is a tree of names and values."""
    if found["outcome"] != "done":
        yield f"{found['outcome']}: {found['code']} {found['text']}"
    elif found["ask"] == "logs":
        yield from document.get("lines", ())
        if document.get("left_out"):
            say(f"{document['left_out']} earlier lines are not here")
    elif found["ask"] == "self-test":
        for check in document.get("checks", ()):
            mark = "ok   " if check["well"] else "WRONG"
            yield f"{mark}  {check['name']}: {check['code']} {check['detail']}".replace(":  ", ": ")
            if not check["well"]:
                yield f"       next: {check['cure']}"
    else:
        yield from tree(document)
