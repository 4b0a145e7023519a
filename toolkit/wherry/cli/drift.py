"""`wherry drift`: what the monitor would have said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wherry_contract.errors import GateError

from .output import Seconds, json_option, progress, show, table

if TYPE_CHECKING:
    from wherry.replay import Replayed

_file = click.Path(dir_okay=False, path_type=Path)


@click.group
def drift() -> None:
    """Replay history as if devices had sent it."""


@drift.command
@click.argument("data", type=_file)
@click.option("--model", "bundle", type=_file, required=True, help="The bundle that scores.")
@click.option("--time", default="", help="Column that says when: a time, a date, Unix seconds.")
@click.option(
    "--rows-per-day",
    type=click.IntRange(1),
    help="How many rows make a day, where no column says when.",
)
@click.option("--device", default="", help="Column that says where; else all is one device.")
@click.option(
    "--bucket", type=Seconds(), default="1d", show_default=True, help="Length of a time bucket."
)
@click.option(
    "--window-rows",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Rows after which a device closes its window.",
)
@click.option(
    "--window",
    type=Seconds(),
    default="60m",
    show_default=True,
    help="Time after which a device closes its window.",
)
@click.option(
    "--same-hours",
    is_flag=True,
    help="Compare what the week moves with the same hours of earlier weeks, not by whole weeks.",
)
@json_option
def replay(
    data: Path,
    *,
    bundle: Path,
    time: str,
    rows_per_day: int | None,
    device: str,
    bucket: float,
    window_rows: int,
    window: float,
    same_hours: bool,
    as_json: bool,
) -> None:
    """Play a table through a bundle, and say when drift would have been seen.

    DATA is Parquet or CSV, in the order of time. Its rows are encoded, scored and counted by the
    agent's own code, go through the server's ingest, and are judged bucket by bucket. Exit 1 if
    there would have been an alert.

    Example: wherry drift replay payments.parquet --model fraud.wherry --time paid_at --device shop
    """
    if bool(time) == bool(rows_per_day):
        raise click.UsageError("one of --time and --rows-per-day is needed")
    from wherry.bundle_view import look
    from wherry.documents import to_document
    from wherry.monitor import Policy
    from wherry.replay import History
    from wherry.replay import replay as play
    from wherry.replay.history import count_rows

    history = History(data, time, rows_per_day or 0, device)
    view = look(bundle)
    with progress(f"replaying {data.name}", count_rows(history)) as step:
        found = play(
            history,
            view.digest,
            view.parts,
            policy=replace(Policy(), bucket_seconds=bucket, same_hours=same_hours),
            window_rows=window_rows,
            window_minutes=window / 60,
            step=step,
        )
    show("wherry/drift-replay/1", to_document(found), _lines(found), as_json=as_json)
    if found.alarms:
        names = dict.fromkeys(alarm.cell.subject for alarm in found.alarms)
        raise GateError("Q03", ", ".join(names), cure="see the lines above and docs/drift.md")


def _lines(found: Replayed) -> Iterator[str]:
    from wherry.monitor.words import chance, day, figures, number, place, subject

    refused = "".join(f"; {rows} refused by {code}" for code, rows in found.refused.items())
    yield (
        f"{number(found.rows, 'row')} of {number(found.devices, 'device')} in"
        f" {number(found.windows, 'window')}{refused}"
    )
    for item in found.view.refusals:
        yield f"left out: {number(item.windows, 'window')} of {item.device}: {item.reason}"
    if not found.alarms:
        yield "nothing would have been raised"
        return
    yield ""
    heads = ("seen on", "until", "where", "what", "decision", "n", "m", "value", "corrected", "interval", "p", "most")  # fmt: skip
    rows = []
    for alarm in found.alarms:
        cell, evidence = alarm.cell, alarm.cell.evidence
        rows.append(
            (
                day(alarm.at),
                day(alarm.until) if alarm.until else "the end",
                place(cell.device),
                subject(cell),
                str(cell.decision),
                evidence.n if evidence else "",
                evidence.m if evidence else "",
                *figures(evidence),
                chance(evidence.p) if evidence else "",
                ", ".join(cell.explained_by),
            )
        )
    yield from table(heads, rows)
