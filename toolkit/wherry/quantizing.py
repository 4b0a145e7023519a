"""The search for a smaller net in a build: with its boards, its gate and the runtimes it claims."""

from __future__ import annotations

from collections.abc import Callable

from wherry_convert.quantize import Ahead, Metric, Outside, Quantized, quantize
from wherry_convert.sources import SourceModel
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import Converted

from .data import Rows
from .metrics import recall_at
from .profiles import load_knowledge
from .project import Project, Quantize
from .quantized import methods_of
from .targets import Model, judge_board
from .traits import traits
from .witnesses import witnesses_for


def search(  # noqa: PLR0917 - what a build has at hand
    project: Project,
    wanted: Quantize,
    source: SourceModel,
    converted: Converted,
    reference: Rows,
    ahead: Ahead,
    threshold: float,
    progress: Callable[[str], None],
) -> Quantized:
    """Quantize a project's net.

    Args:
        project: its boards and the tolerance of its golden vectors.
        wanted: method and budgets.
        source: the trained model.
        converted: the float file.
        reference: rows for ranges, and, others of them, for judging.
        ahead: the gate.
        threshold: the operating threshold.
        progress: is told each candidate, in words.

    Raises:
        ConvertError: K02, K03, K06 or K07.
        NoCandidateError: Q01.
    """
    kind = converted.needs.kind
    return quantize(
        converted,
        converted.encoder.encode(reference.raw),
        threshold=threshold,
        methods=methods_of(wanted.method, kind),
        budgets=wanted.budgets,
        metric=_recall(reference),
        progress=lambda words: progress(f"  {words}"),
        outside=Outside(
            witnesses_for(converted.needs),
            project.golden.tolerance,
            lambda candidate: _unfit(project, candidate),
            ahead,
            (lambda weights: convert_tflite(source, project.input, weights=weights))
            if kind == "tflite"
            else None,
        ),
    )


def _unfit(project: Project, candidate: Converted) -> str:
    """Why a board that the project names cannot run it; "" if all can."""
    if not project.target.boards:
        return ""
    needs, knowledge = candidate.needs, load_knowledge()
    model = Model(needs, project.board, traits(candidate.model, needs.kind))
    verdicts = [judge_board(board, model, knowledge) for board in project.target.boards]
    return "; ".join(
        f"{verdict.board}: {what}" for verdict in verdicts for what, _cure in verdict.problems
    )


def _recall(rows: Rows) -> Metric | None:
    labels = rows.labels
    if labels is None:
        return None
    return lambda scores, places: recall_at(labels[places], scores)
