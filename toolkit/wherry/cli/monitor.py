"""`wherry monitor` and `wherry report`: what the fleet's windows say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from wherry.client import find_client
from wherry_contract.errors import GateError, LinkError, SetupError

from .live import follow
from .options import select_option, server_options
from .output import Seconds, json_option, say, show, table

if TYPE_CHECKING:
    from wherry.monitor import Cell, FleetView, Health
    from wherry.report.data import ReportData

_HEADS: Final = (
    "where", "what", "span", "n", "m", "value", "corrected", "interval", "p", "decision",
)  # fmt: skip
_HEALTH_HEADS: Final = (
    "where", "rows", "flagged", "by rule", "errors", "p50 ms", "p95 ms", "p99 ms", "judged",
)  # fmt: skip

_since_option = click.option(
    "--since", type=Seconds(), help="How far to look back from the newest payments, as 7d."
)
_by_option = click.option(
    "--by",
    metavar="LABEL",
    multiple=True,
    help="Judge devices that share this label's value as if they were one; may be repeated.",
)
_hours_option = click.option(
    "--same-hours",
    is_flag=True,
    help="Compare what the week moves with the same hours of earlier weeks, not by whole weeks.",
)
_bucket_option = click.option(
    "--bucket",
    type=Seconds(),
    help="Length of a time bucket; it divides a week or is some of them. [default: 1d]",
)


@click.command(epilog="Example: wherry monitor --since 7d --select site=paris")
@_since_option
@select_option
@_by_option
@_bucket_option
@_hours_option
@click.option("--all", "every", is_flag=True, help="Every device and every span, not just news.")
@click.option(
    "--watch",
    is_flag=True,
    help="Keep looking: a live screen on a terminal, else all of it when it changes;"
    " with --json a line for each change. Ends with Ctrl-C.",
)
@click.option(
    "--interval", type=Seconds(), default="5s", show_default=True, help="How often --watch looks."
)
@json_option
@server_options
def monitor(
    *,
    since: float | None,
    select: tuple[tuple[str, str], ...],
    by: tuple[str, ...],
    bucket: float | None,
    same_hours: bool,
    every: bool,
    watch: bool,
    interval: float,
    as_json: bool,
    server: str,
    token_file: Path | None,
) -> None:
    """Show health, latency and drift of the fleet.

    All devices together are compared with the model's reference, each device with its own
    earlier days. Exit 1 if something has drifted: it changed, by more than a little, in two
    of three spans. What the figures mean stands in docs/drift.md.
    """
    client = find_client(server, token_file)
    query = _query(since, select, by, bucket, same_hours=same_hours) | (
        {} if every or as_json else {"brief": 1}
    )
    if watch:
        follow(
            lambda: client.get("monitor", **query),
            lambda found: _lines(_read(found), every=every),
            interval,
            as_json=as_json,
        )
    found = client.get("monitor", **query)
    view = _read(found)
    show("wherry/monitor/1", found, _lines(view, every=every), as_json=as_json)
    if names := _drifted(view):
        from wherry.monitor.words import listed

        raise GateError("Q03", listed(names, 12), cure="see the lines above and docs/drift.md")


def _drifted(view: FleetView) -> list[str]:
    """What has drifted, in words."""
    from wherry.monitor import concept_drift
    from wherry.monitor.words import place, subject

    found = dict.fromkeys(f"{place(cell.device)}: {subject(cell)}" for cell in view.alerts)
    return [*found, *("what a score means" for _ in concept_drift(view.performance))]


def _query(
    since: float | None,
    select: tuple[tuple[str, str], ...],
    by: tuple[str, ...],
    bucket: float | None,
    *,
    same_hours: bool,
) -> dict[str, Any]:
    labels = [f"{name}={value}" for name, value in select]
    found = {"since": since, "bucket": bucket, "select": labels, "by": list(by)}
    return found | ({"same_hours": 1} if same_hours else {})


def _read(document: Mapping[str, Any]) -> FleetView:
    from wherry.documents import from_document
    from wherry.monitor import FleetView

    try:
        return from_document(FleetView, document, "monitor")
    except ValueError as error:
        raise LinkError("L07", str(error)) from error


def _lines(view: FleetView, *, every: bool) -> Iterable[str]:
    from wherry.monitor.words import headline, number, span

    state, sentences = headline(view)
    yield f"{state.upper()}: {' '.join(sentences)}"
    for item in view.refusals:
        what = f"{number(item.windows, 'window')} of {item.device}, {number(item.rows, 'row')}"
        yield f"left out: {what}: {item.reason}"
    if not view.windows:
        return
    yield ""
    opened = min(item.opened for item in view.health)
    yield f"{number(view.windows, 'window')}; payments of {span(opened, view.newest)}, UTC"
    yield from _health_lines(view)
    yield ""
    cells = [cell for cell in view.cells if every or _is_news(cell)]
    if cells:
        yield from _cell_lines(cells, every=every)
    if not every:
        yield from _waiting_lines(view)
    yield from _outlook_lines(view, every=every)


def _outlook_lines(view: FleetView, *, every: bool) -> Iterable[str]:
    """How well the models do, and until when."""
    from wherry.monitor import Outlook
    from wherry.monitor.performance_words import FORECAST_HEADS, HEADS, forecast_lines, lines

    if view.performance:
        yield ""
        yield from table(HEADS, lines(view.performance))
    dates = [
        item
        for item in view.forecasts
        if every or item.bundle or item.outlook != Outlook.OPEN  # of features only what is near
    ]
    if dates:
        yield ""
        yield from table(FORECAST_HEADS, forecast_lines(dates))


def _is_news(cell: Cell) -> bool:
    """All that was judged for the fleet; of single devices what moved."""
    from wherry.monitor import ALERTS, Decision

    if not cell.current or cell.decision == Decision.WAITING:
        return False
    return not cell.device or cell.decision in (*ALERTS, Decision.WATCH)


def _waiting_lines(view: FleetView) -> Iterable[str]:
    """One line for each place whose comparisons wait for rows."""
    from wherry.monitor import Decision
    from wherry.monitor.words import number, place

    for item in view.standing:
        waiting = item.counts.get(Decision.WAITING, 0)
        if waiting:
            what = number(waiting, "comparison")
            where = place(item.device)
            yield f"not enough data at {where}: {item.rows} of {item.needed} rows; {what} wait"


def _health_lines(view: FleetView) -> Iterable[str]:
    from wherry.monitor import totals
    from wherry.monitor.words import place, tale

    judged = dict(tale(view))
    rows = [
        (
            place(item.device),
            item.rows,
            f"{100 * item.flagged / max(1, item.rows):.2f}%",
            item.fallback,
            sum(item.errors.values()),
            *_latencies(item),
            judged.get(place(item.device), ""),
        )
        for item in totals(view.health)
    ]
    return table(_HEALTH_HEADS, rows)


def _latencies(item: Health) -> tuple[str, str, str]:
    found = [item.latency_us(share) for share in (0.5, 0.95, 0.99)]
    first, second, third = ("-" if us is None else f"{us / 1000:.3g}" for us in found)
    return first, second, third


def _cell_lines(cells: Iterable[Cell], *, every: bool) -> Iterable[str]:
    from wherry.monitor.words import chance, figures, gravity, place, span, subject

    rows = []
    order = sorted(cells, key=lambda cell: (0 if every else gravity(cell), cell.device))
    for cell in order:
        evidence = cell.evidence
        rows.append(
            (
                place(cell.device),
                subject(cell),
                span(cell.opened, cell.closed),
                evidence.n if evidence else cell.rows,
                evidence.m if evidence else "-",
                *figures(evidence),
                chance(evidence.p) if evidence else "-",
                f"{cell.decision}: {cell.rule}",
            )
        )
    return table(_HEADS, rows)


@click.command(epilog="Example: wherry report -o fleet.html --since 30d")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("wherry-report.html"),
    show_default=True,
    help="The file to write.",
)
@_since_option
@select_option
@_by_option
@_bucket_option
@_hours_option
@click.option(
    "--from",
    "source",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Make it from this file, which --json printed, and ask no server.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print what it is made of, and write no file."
)
@server_options
def report(
    *,
    out: Path,
    since: float | None,
    select: tuple[tuple[str, str], ...],
    by: tuple[str, ...],
    bucket: float | None,
    same_hours: bool,
    source: Path | None,
    as_json: bool,
    server: str,
    token_file: Path | None,
) -> None:
    """Write the fleet's report as one HTML file.

    It needs no network and no program but a browser, and holds no row of data: drift by
    feature and time, scores, latency, rollouts, devices and events.
    """
    if source is None:
        document = find_client(server, token_file).get(
            "report-data", **_query(since, select, by, bucket, same_hours=same_hours)
        )
        if as_json:
            show("wherry/report-data/1", document, [], as_json=True)
            return
        data = _parse(document)
    else:
        data = _load(source)
        if as_json:
            show("wherry/report-data/1", data.to_dict(), [], as_json=True)
            return
    from wherry.report.render import render

    page = render(data)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SetupError("H03", f"{out}: {error.strerror}") from error
    say(f"{out}: {len(page.encode()):,} bytes")


def _parse(document: Mapping[str, Any]) -> ReportData:
    from wherry.documents import from_document
    from wherry.report.data import ReportData

    try:
        return from_document(ReportData, document, "report data")
    except ValueError as error:
        raise LinkError("L07", str(error)) from error


def _load(path: Path) -> ReportData:
    from wherry.report.data import LIMIT_BYTES, read_data

    try:
        with path.open("rb") as stream:
            return read_data(stream.read(LIMIT_BYTES + 1))
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
