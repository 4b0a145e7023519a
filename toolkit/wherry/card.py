"""The model card: what people say about a model, and what was measured, as one Markdown page.

Sections after Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. Nothing in it
depends on the date or the machine, so that a rebuild gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wherry_contract.features import Feature
from wherry_contract.manifest import Manifest, Output

from .gate import GateReport
from .project import Card
from .worth import Worth

_NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "recall_first_decile": "recall in the first decile",
    "card_precision_100": "card precision@100",
    "flagged": "flagged at the threshold",
    "precision": "precision at the threshold",
    "recall": "recall at the threshold",
    "accuracy": "accuracy",
    "macro_recall": "mean recall of the classes",
    "decided": "decided at all",
    "r2": "R2",
    "mae_saved": "mean error saved against the median",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
}


def metric_rows(metrics: Mapping[str, Worth]) -> list[list[str]]:
    """A row for each metric: its name, then a figure for each model."""
    tables = [found.to_dict() for found in metrics.values()]
    names = [name for name in _NAMES if any(name in table for table in tables)]
    return [
        [_NAMES[name], *(f"{table[name]:.4f}" if name in table else "" for table in tables)]
        for name in names
    ]


def worth_rows(report: GateReport) -> list[list[str]]:
    """Likewise, and the project's own metric below."""
    rows = metric_rows(report.metrics)
    if report.own:
        found = report.own.found
        rows.append([report.own.name, *(f"{found[name]:.6g}" for name in report.metrics)])
    return rows


def class_rows(report: GateReport) -> list[list[str]]:
    """A row for each class of rows: rows, flips, largest difference, distinct scores."""
    return [
        [
            name,
            f"{found.rows}",
            f"{found.flips}",
            f"{found.largest:.2g}",
            f"{found.distinct_reference}",
            f"{found.distinct_found}",
        ]
        for name, found in report.classes.items()
    ]


CLASS_HEADS = ("rows", "count", "flips", "largest difference", "scores, source", "scores, bundle")


def model_card(
    manifest: Manifest, card: Card, report: GateReport, *, rows: Mapping[str, int]
) -> bytes:
    """The page.

    Args:
        manifest: of the bundle.
        card: what the project says.
        report: what the gate measured.
        rows: how many rows each table had.
    """
    return ("\n".join(_lines(manifest, card, report, rows)) + "\n").encode()


def _lines(
    manifest: Manifest, card: Card, report: GateReport, rows: Mapping[str, int]
) -> Iterator[str]:
    yield f"# {manifest.name} {manifest.version}"
    yield from ("", f"Family `{manifest.family}`.")
    for title, text in (
        ("What it is for", card.purpose),
        ("What it is not for", card.limits),
        ("Whom to ask", card.owner),
    ):
        if text:
            yield from ("", f"## {title}", "", text.strip())
    output = manifest.output
    yield from ("", "## Output", "")
    yield output_words(output)
    if manifest.fallback:
        yield f"Where no model can answer, this rule does: `{manifest.fallback}`."
    yield from ("", "## Input", "", f"Contract `{manifest.input.name}` {manifest.input.version}.")
    heads = ("feature", "kind", "unit", "range", "missing", "supplied by")
    yield from ("", *_table(heads, [_feature(item) for item in manifest.input.features]))
    yield from ("", "## Worth", "")
    yield f"{rows['reference']} reference rows, {rows['check']} check rows."
    if report.metrics:
        yield from ("", *_table(("metric", *report.metrics), worth_rows(report)))
    else:
        yield "No label was named, so it was not measured."
    yield from ("", "## Decisions against the source model", "")
    yield from _table(CLASS_HEADS, class_rows(report))


def output_words(output: Output) -> str:
    """What a model answers, in a sentence."""
    if output.classes:
        least = f" of at least {output.threshold:.9g}" if output.threshold > 0 else ""
        names = ", ".join(f"`{name}`" for name in output.classes[:20])
        return f"The class with the highest probability{least}, of {len(output.classes)}: {names}."
    what = "A value" if output.edges else f"A probability of `{output.positive}`"
    return f"{what}; {output.threshold:.9g} and above is flagged."


def _feature(feature: Feature) -> list[str]:
    kind = feature.dtype
    if feature.categories:
        kind = f"category of {len(feature.categories)}"
    low = "" if feature.minimum is None else f"{feature.minimum:g}"
    high = "" if feature.maximum is None else f"{feature.maximum:g}"
    span = f"{low} to {high}" if low or high else ""
    return [feature.name, kind, feature.unit, span, feature.missing, feature.supplied_by]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
