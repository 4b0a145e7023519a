"""`wherry retrain`: start a training when a model has aged, and see what was started."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from wherry.client import find_client
from wherry.folder import home
from wherry_contract.errors import GateError

from .options import server_options
from .output import json_option, show, table

_file = click.Path(dir_okay=False, path_type=Path)
_HEADS: Final = ("cause", "model", "hook", "state", "what came of it")
_ledger = click.option(
    "--ledger", type=_file, help="Where is noted what was started. [default: the data folder's]"
)


@click.group(epilog="Example: wherry retrain check --hooks hooks.toml")
def retrain() -> None:
    """Start a training when a model has aged, once for each model."""


@retrain.command(epilog="Example: wherry retrain check --hooks hooks.toml, every hour by a timer")
@click.option("--hooks", "path", type=_file, required=True, help="Whom to tell (docs/drift.md).")
@_ledger
@click.option("--dry-run", is_flag=True, help="Say why, and tell nobody.")
@json_option
@server_options
def check(
    *,
    path: Path,
    ledger: Path | None,
    dry_run: bool,
    as_json: bool,
    server: str,
    token_file: Path | None,
) -> None:
    """Look whether a model should be trained anew, and tell the hooks.

    A model is a reason to train once: who was told is not told again. What failed is tried again
    by the next check. Exit 1 if a hook failed.
    """
    from wherry.documents import from_document
    from wherry.hooks import Ledger, causes, read_hooks, tell
    from wherry.monitor import FleetView

    hooks = read_hooks(path)
    answer = find_client(server, token_file).get("monitor", brief=1)
    found = causes(from_document(FleetView, answer, "monitor"), hooks.lead_seconds)
    book = Ledger(ledger or home() / "retraining.json")
    told = () if dry_run else tell(found, hooks, book, time.time)
    document = {
        "causes": [cause.to_dict() for cause in found],
        "told": [item.__dict__ for item in told],
    }
    lines = [f"{cause.bundle[:19]}: {'; '.join(cause.reasons)}" for cause in found]
    rows = [(i.cause[:16], i.bundle[:19], i.hook, i.state, i.outcome) for i in told]
    lines += table(_HEADS, rows) if rows else []
    show("wherry/retrain-check/1", document, lines or ["no model has aged"], as_json=as_json)
    failed = [item.hook for item in told if item.state == "failed"]
    if failed:
        raise GateError("Q07", ", ".join(failed))


@retrain.command("list", epilog="Example: wherry retrain list --json")
@_ledger
@json_option
def list_(*, ledger: Path | None, as_json: bool) -> None:
    """List what was started, by which hook, and what came of it."""
    from wherry.documents import to_document
    from wherry.hooks import Ledger

    found = Ledger(ledger or home() / "retraining.json").lines
    rows = [
        (
            i.cause[:16],
            i.bundle[:19],
            i.hook,
            "told" if i.done_at else f"tried {i.tries}x",
            i.outcome,
        )
        for i in found
    ]
    lines = table(_HEADS, rows) if rows else ["nothing was started"]
    document = {"lines": [to_document(line) for line in found]}
    show("wherry/retraining/1", document, lines, as_json=as_json)
