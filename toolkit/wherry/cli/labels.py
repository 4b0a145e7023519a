"""`wherry labels`: what turned out to be fraud, weeks later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from wherry.client import find_client

from .options import server_options
from .output import json_option, progress, show, table

if TYPE_CHECKING:
    from wherry.labels import Found

_file = click.Path(dir_okay=False, path_type=Path)
_HEADS: Final = ("batch", "from", "labels", "positive", "payments of", "taken at")


@click.group(epilog="Example: wherry labels import chargebacks.csv --answers answers.jsonl")
def labels() -> None:
    """Bring in labels that came later, and list them."""


@labels.command("import", epilog="Example: wherry labels import counts.csv --day 2018-07-14")
@click.argument("file", type=_file)
@click.option(
    "--answers", "log", type=_file, help="The application's log of answers, to look ids up in."
)
@click.option("--day", default="", help="Of all payments, where no column says it: 2018-07-14.")
@click.option("--batch", default="", help="Names these labels. [default: the file's digest]")
@click.option("--dry-run", is_flag=True, help="Count, and send nothing.")
@json_option
@server_options
def import_(
    file: Path,
    *,
    log: Path | None,
    day: str,
    batch: str,
    dry_run: bool,
    as_json: bool,
    server: str,
    token_file: Path | None,
) -> None:
    """Count labels and bring them to the server, each batch once.

    FILE is CSV, Parquet or JSON lines: bundle, score_bin, label, day, and count and weight if
    they are not 1; or, with --answers, request_id and label. Only counts leave this machine.
    """
    from wherry.documents import to_document
    from wherry.labels import read_labels

    total = file.stat().st_size // 40 if file.exists() else 1  # rows, by a guess
    with progress(f"counting {file.name}", total) as step:
        found = read_labels(file, log, day=day, batch=batch, step=step)
    document = {
        "batch": found.batch.batch,
        "labels": found.batch.labels,
        "positives": found.batch.positives,
        "unknown": found.unknown,
        "unmatched": found.unmatched,
        "answers": found.answers,
        "unlabelled": found.unlabelled,
        "unlabelled_flagged": found.unlabelled_flagged,
    }
    answer: Mapping[str, Any] = {}
    if not dry_run:
        answer = find_client(server, token_file).post("labels", to_document(found.batch))
    document |= {"added": bool(answer.get("added")), "sent": not dry_run}
    document["bundles_unknown"] = list(answer.get("bundles_unknown", []))
    show("wherry/labels-import/1", document, _lines(found, document), as_json=as_json)


def _lines(found: Found, document: Mapping[str, Any]) -> Iterator[str]:
    known = f"{found.batch.labels} labels, {found.batch.positives} of them positive"
    how = "added" if document["added"] else "were there already" if document["sent"] else "not sent"
    yield f"{known}: {how} (batch {found.batch.batch})"
    if found.unknown:
        yield f"{found.unknown} rows have no label yet and were passed over"
    if found.unmatched:
        yield f"{found.unmatched} labels are of requests that are not in the log"
    if found.answers:
        yield (
            f"{found.unlabelled} of {found.answers} answers have no label,"
            f" {found.unlabelled_flagged} of them flagged: a declined payment yields none"
        )
    else:
        yield "declined payments yield no label: where none came, the estimate stands"
    for bundle in document["bundles_unknown"]:
        yield f"the depot has no bundle {bundle}: its labels wait for it"


@labels.command("list", epilog="Example: wherry labels list --json")
@json_option
@server_options
def list_(*, as_json: bool, server: str, token_file: Path | None) -> None:
    """List the batches that were brought in."""
    document = find_client(server, token_file).get("labels")
    rows = [
        (
            line["batch"][:19],
            line["source"],
            line["labels"],
            line["positives"],
            f"{(line['first'] or '-')[:10]} to {(line['last'] or '-')[:10]}",
            line["added_at"][:16],
        )
        for line in document["batches"]
    ]
    lines = table(_HEADS, rows) if rows else ["no labels have come"]
    show("wherry/labels/1", document, lines, as_json=as_json)
