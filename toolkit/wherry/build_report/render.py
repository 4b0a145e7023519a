"""The report as one HTML file: no script, no network, readable on a phone, light and dark.

Names come from project files and models: the template escapes all, control characters are
made visible, and the page's own policy forbids scripts and loading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wherry.card import CLASS_HEADS, class_rows, worth_rows
from wherry.quantized import HEADS, Tried
from wherry.report.drawing import Picture, draw, templates
from wherry.runtimes import HEADS as RUN_HEADS
from wherry.runtimes import Run, failures
from wherry.runtimes import rows as run_rows
from wherry.targets import HEADS as BOARD_HEADS
from wherry.targets import BoardsRefuseError
from wherry.targets import rows as board_rows
from wherry_contract.decision import winning
from wherry_contract.errors import WherryError
from wherry_contract.psi import PsiResult
from wherry_convert.quantize import NoCandidateError

from . import charts, facts

if TYPE_CHECKING:
    from wherry.build import BuildResult, Checked
    from wherry.metrics import Labels, Scores
    from wherry.project import Project

_TEMPLATE: Final = "page.html.j2"
_REFUSED: Final = "refused.html.j2"
_TOOLS: Final = ("source", "bundle")


@dataclass(frozen=True)
class Table:
    """Cells under heads; the first column names the row, numbers stand to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


def render(
    project: Project,
    checked: Checked,
    result: BuildResult | None = None,
    runs: Sequence[Run] = (),
) -> str:
    """The page.

    Args:
        project: what was asked for.
        checked: what was compared.
        result: what was packed; None if the gate said no.
        runs: golden vectors under every claimed version; empty if not asked for.
    """
    environment = templates(Path(__file__).parent)
    return environment.get_template(_TEMPLATE).render(_page(project, checked, result, runs))


def render_refusal(project: Project, error: WherryError) -> str:
    """The page of a build that stopped before decisions were compared.

    Args:
        project: what was asked for.
        error: why it stopped; the verdicts of boards and the candidates of a search that it
            brings are shown.
    """
    verdicts = error.verdicts if isinstance(error, BoardsRefuseError) else ()
    reasons = [f"{v.board}: {what}" for v in verdicts for what, _cure in v.problems]
    page = {
        "name": f"{project.name} {project.version}",
        "code": error.code,
        "title": error.title,
        "reasons": reasons or [error.detail or error.title],
        "cure": error.cure.rstrip("."),
        "boards": Table(BOARD_HEADS, board_rows(verdicts)),
        "tried": _tried(Tried.of(error)) if isinstance(error, NoCandidateError) else None,
        "wanted": _wanted(project),
    }
    return templates(Path(__file__).parent).get_template(_REFUSED).render(page)


def _wanted(project: Project) -> Table:
    rows: list[Sequence[object]] = [
        ("source", f"{project.source.kind}, {project.source.path.name}"),
        ("runtime", project.target.runtime),
        ("boards", ", ".join(board.name for board in project.target.boards) or "any"),
    ]
    if project.quantize:
        asked = {name: value for name, value in vars(project.quantize.budgets).items() if value}
        budgets = ", ".join(f"{name} {value:,}" for name, value in asked.items())
        rows.append(("quantization", f"{project.quantize.method}; {budgets or 'no budgets'}"))
    return Table(("", ""), rows)


def _tried(tried: Tried) -> dict[str, Any]:
    return {
        "table": Table(HEADS, tried.rows()),
        "remarks": tried.remarks(),
        "picture": draw(
            charts.pareto(tried),
            "Bytes and flips",
            "green: the one kept" if tried.kept else "none was kept",
        ),
    }


def _page(
    project: Project, checked: Checked, result: BuildResult | None, runs: Sequence[Run]
) -> dict[str, Any]:
    report = checked.report
    shown = {who: winning(found) for who, found in report.scores.items()}
    scores, unfit = _finite(shown)
    shift = facts.shift(scores["source"], scores["bundle"])
    return {
        "name": f"{project.name} {project.version}",
        "family": checked.converted.family,
        "failures": [
            *report.failures,
            *failures(runs),
            *(f"{item.board}: {what}" for item in checked.boards for what, _cure in item.problems),
        ],
        "sentences": list(_sentences(checked, result)),
        "meaning": _meaning(project, checked),
        "flips": Table(CLASS_HEADS, class_rows(report)),
        "metrics": Table(("metric", *report.metrics), worth_rows(report)),
        "resolution": _resolution(scores),
        "calibration": _calibration(checked.check.labels, shown),
        "labelled": checked.check.labels is not None,
        "unfit": unfit,
        "psi": None if shift.psi is None else _psi(shift.psi),
        "shift": _shift(shift),
        "runs": Table(RUN_HEADS, run_rows(runs)),
        "boards": Table(BOARD_HEADS, board_rows(checked.boards)),
        "size": _size(project, checked, result),
        "tried": _tried(Tried.of(checked.quantized)) if checked.quantized else None,
        "budgets": _budgets(project, checked),
        "notes": checked.converted.notes,
        "made_from": _made_from(project, checked, result),
    }


def _meaning(project: Project, checked: Checked) -> str:
    threshold, names = f"{checked.report.threshold:.9g}", checked.converted.classes
    if names:
        least = f", if that is at least {threshold}" * (checked.report.threshold > 0)
        return f"The likeliest class is decided{least}, of {', '.join(names[:20])}."
    what = "value" if project.threshold.wanted.decision == "value" else "score"
    return f"A {what} of {threshold} and above is flagged as {project.threshold.positive}."


def _finite(scores: Mapping[str, Scores]) -> tuple[dict[str, Scores], int]:
    """The scores of rows to which both models give one, and how many rows have none."""
    fit = np.isfinite(scores["source"]) & np.isfinite(scores["bundle"])
    return {who: found[fit] for who, found in scores.items()}, int((~fit).sum())


def _sentences(checked: Checked, result: BuildResult | None) -> Iterator[str]:
    report = checked.report
    made = sum(found.rows for found in report.classes.values()) - len(checked.check)
    yield (
        f"{report.flips:,} of {len(checked.check):,} decisions on check rows flip, "
        f"and {report.edge_flips:,} of {made:,} on rows made to be hard."
    )
    if result:
        yield f"Packed: {result.size:,} bytes, of which model {result.model_bytes:,}."
    else:
        yield "Nothing was packed."


def _resolution(scores: Mapping[str, Scores]) -> Table:
    found = {who: facts.resolution(scores[who]) for who in _TOOLS}
    names = {
        "distinct": "distinct scores",
        "distinct_top": "distinct scores in the top decile",
        "tied": "rows that share their score",
        "largest_tie": "most rows with one score",
    }
    rows = [
        (words, *(f"{getattr(found[who], name):,}" for who in _TOOLS))
        for name, words in names.items()
    ]
    return Table(("", *_TOOLS), rows)


def _calibration(labels: Labels | None, scores: Mapping[str, Scores]) -> dict[str, Any] | None:
    if labels is None or labels.dtype != np.bool_:
        return None
    fit = np.isfinite(scores["source"]) & np.isfinite(scores["bundle"])
    truth, kept = labels[fit], {who: scores[who][fit] for who in _TOOLS}
    edges = facts.calibration_edges(kept["source"])
    groups = {who: facts.calibration(truth, kept[who], edges) for who in _TOOLS}
    rows = [
        (
            who,
            f"{group.rows:,}",
            f"{group.promised:.3%}",
            f"{group.positives:,}",
            f"{group.rate:.3%}",
            f"{group.low:.3%} to {group.high:.3%}",
        )
        for who in _TOOLS
        for group in groups[who]
    ]
    sums = [
        (
            words,
            *(f"{figure:.5f}" for figure in figures),
        )
        for words, figures in (
            (
                "mean distance of score and share",
                [facts.calibration_error(groups[w]) for w in _TOOLS],
            ),
            ("Brier score", [facts.brier(truth, kept[w]) for w in _TOOLS]),
        )
    ]
    note = f"{len(truth):,} check rows; bars: 95 % interval of the share; dashed: exact"
    heads = ("of", "rows", "mean score", "positive", "share", "95 % interval")
    return {
        "picture": draw(charts.reliability(groups), "Reliability", note),
        "groups": Table(heads, rows),
        "sums": Table(("", *_TOOLS), sums),
    }


def _psi(found: PsiResult) -> str:
    interval = f"95 %: {found.low:.4f} to {found.high:.4f}"
    text = (
        f"PSI {found.psi:.5f}, corrected {found.corrected:.5f} ({interval}), "
        f"p = {found.p:.3g}, n = {found.n:,}, m = {found.m:,}, {found.slots} groups."
    )
    if not found.enough:
        text += f" Not enough data: {found.needed:,} rows are needed to judge."
    return text


def _shift(found: facts.Shift) -> dict[str, Any] | None:
    if not found.edges:
        return None
    edges = [f"{edge:.4g}" for edge in found.edges]
    labels = [
        f"below {edges[0]}",
        *(f"{low} to {high}" for low, high in pairwise(edges)),
        f"{edges[-1]} and more",
    ]
    rows = [
        (label, f"{before:,}", f"{now:,}")
        for label, before, now in zip(labels, found.source, found.bundle, strict=True)
    ]
    note = "bar: bundle; tick: source"
    picture: Picture = draw(charts.groups_of(found, labels), "Scores by group", note)
    return {"picture": picture, "groups": Table(("score", *_TOOLS), rows)}


def _size(project: Project, checked: Checked, result: BuildResult | None) -> Table:
    raw = checked.check.raw
    paces = {
        "source": facts.pace(lambda rows: checked.source.scores(rows, project.input), raw),
        "bundle": facts.pace(checked.scorer.scores, raw),
    }
    of_source = project.source.path.stat().st_size
    before = checked.quantized.bytes_before if checked.quantized else None
    rows: list[Sequence[object]] = [
        ("model file, bytes", f"{of_source:,}", f"{len(checked.converted.model):,}"),
        ("one row here, median, microseconds", *(f"{paces[w].median:,.0f}" for w in _TOOLS)),
        ("one row here, 95 % quantile", *(f"{paces[w].slow:,.0f}" for w in _TOOLS)),
    ]
    if before:
        rows.insert(1, ("before quantization, bytes", "", f"{before:,}"))
    if result:
        rows.append(("bundle, bytes", "", f"{result.size:,}"))
    return Table(("", *_TOOLS), rows)


def _budgets(project: Project, checked: Checked) -> Table:
    report, gates = checked.report, project.gates
    rows: list[Sequence[object]] = [
        ("flips on check rows", f"{gates.flips:,}", f"{report.flips:,}"),
        ("flips on rows made to be hard", f"{gates.edge_flips:,}", f"{report.edge_flips:,}"),
    ]
    if report.metrics:
        after = report.metrics["bundle"].ranked()
        drop = max(value - after[name] for name, value in report.metrics["source"].ranked().items())
        rows.append(("largest drop of a metric", f"{gates.metric_drop:g}", f"{drop:.5f}"))
    if report.own:
        drop = report.own.found["source"] - report.own.found["bundle"]
        rows.append((f"drop of {report.own.name}", f"{report.own.drop:g}", f"{drop:.6g}"))
    return Table(("budget", "allowed", "found"), rows)


def _made_from(project: Project, checked: Checked, result: BuildResult | None) -> Table:
    versions = ", ".join(f"{name} {version}" for name, version in checked.source.versions.items())
    rows: list[Sequence[object]] = [
        ("source", f"{project.source.kind}, {versions}"),
        ("source model", checked.source.digest),
        ("reference rows", f"{len(checked.reference):,}, {checked.reference.digest}"),
        ("check rows", f"{len(checked.check):,}, {checked.check.digest}"),
    ]
    if result:
        rows.append(("bundle", result.digest))
        rows.append(("signed by", ", ".join(result.signed_by) or "nobody"))
    return Table(("", ""), rows)
