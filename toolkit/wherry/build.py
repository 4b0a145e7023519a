"""From a project file to a signed bundle: convert, quantize, gate, profile, pack, sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry_contract.bundle import Parts, assemble
from wherry_contract.errors import ConvertError, WherryError
from wherry_contract.features import RawMatrix
from wherry_convert.parity import row_classes
from wherry_convert.quantize import Ahead, Quantized
from wherry_convert.scoring import Scored
from wherry_convert.sources import SourceModel, load_source
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import Converted, convert

from .data import Rows, read_rows, refuse_unknown_classes
from .files import write_durably
from .gate import BudgetExceededError, GateReport, judge, operating_threshold
from .own_metric import prepare
from .pack import pack, write_parts
from .parts import make_parts
from .profiles import load_knowledge
from .project import Project
from .quantized import Tried
from .quantizing import search
from .runtimes import Run, RuntimesDisagreeError, claimed, failures, require, run_everywhere
from .targets import BoardsRefuseError, Model, Verdict, judge_board
from .traits import traits

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

Progress = Callable[[str], None]


def _silent(_step: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Checked:
    """Everything that is known about a project before it is packed.

    Attributes:
        source: the trained model.
        converted: what goes into the bundle.
        quantized: what quantization tried and cost; None without.
        reference: the rows of training.
        check: the other rows.
        classes: check rows, and rows made from them to be hard.
        report: what the gate says; its threshold is the bundle's.
        boards: what the boards that the project names can make of it.
    """

    source: SourceModel
    converted: Converted
    quantized: Quantized | None
    reference: Rows
    check: Rows
    classes: Mapping[str, RawMatrix]
    report: GateReport
    boards: tuple[Verdict, ...] = ()

    @property
    def scorer(self) -> Scored:
        """Scores raw rows as a device will."""
        return _scorer(self.converted)


@dataclass(frozen=True)
class BuildResult:
    """A bundle that was made.

    Attributes:
        path: its file.
        digest: of its OCI manifest: its identity.
        size: of the file, in bytes.
        model_bytes: of the graph.
        report: what the gate said.
        notes: what was done that a reader of the report should know.
        signed_by: key ids.
        quantized: what quantization tried and cost; None without.
        runs: the golden vectors under every claimed version; empty if not asked for.
        boards: what the boards that the project names can make of it.
    """

    path: Path
    digest: str
    size: int
    model_bytes: int
    report: GateReport
    notes: tuple[str, ...]
    signed_by: tuple[str, ...]
    quantized: Quantized | None
    runs: tuple[Run, ...] = ()
    boards: tuple[Verdict, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "bundle": str(self.path),
            "digest": self.digest,
            "size": self.size,
            "model_bytes": self.model_bytes,
            "signed_by": list(self.signed_by),
            "notes": list(self.notes),
            "gate": self.report.to_dict(),
            "runtimes": [run.to_dict() for run in self.runs],
            "boards": [verdict.to_dict() for verdict in self.boards],
        } | quantized_dict(self.quantized)


def quantized_dict(quantized: Quantized | None) -> dict[str, Any]:
    """The JSON form of what quantization tried; empty without."""
    return {} if quantized is None else {"quantized": Tried.of(quantized).to_dict()}


def steps_of(project: Project, *, packing: bool) -> int:
    """How many steps `check` or `build` will tell."""
    more = (
        project.quantize is not None, project.runtimes == "all", packing, packing,
        packing and _runs_on_boards(project),
    )  # fmt: skip
    return 5 + sum(more)


def check(
    project: Project,
    *,
    bundle: Parts | None = None,
    trust_pickle: bool = False,
    progress: Progress = _silent,
) -> Checked:
    """Convert and compare, and stop before packing.

    Args:
        project: see `load_project`.
        bundle: compare this one instead of what the project converts to.
        trust_pickle: open a source model that is a pickle, which runs the code in it.
        progress: is told each step, in words.

    Raises:
        BoardsRefuseError: Q06, a board that the project names cannot run it.
        WherryError: files, data or model are not what the project says; a gate that says no
            raises nothing, see `GateReport.failures`.
    """
    own = prepare(project.metric, project.input) if project.metric else None
    progress(f"reading {project.source.path.name}")
    source = load_source(
        project.source.kind,
        project.source.path,
        trusted=project.source.trusted,
        trust_pickle=trust_pickle,
        wanted=project.threshold.wanted,
    )
    progress(f"reading {project.data.reference.name} and {project.data.check.name}")
    reference = read_rows(
        project.data.reference, project.input, project.data, project.threshold.wanted
    )
    rows = read_rows(project.data.check, project.input, project.data, project.threshold.wanted)
    progress(f"scoring {len(reference)} reference rows with the source model")
    reference_scores = source.scores(reference.raw, project.input)
    threshold = operating_threshold(project.threshold, reference_scores)
    converted, quantized = _convert(project, source, progress), None
    refuse_unknown_classes(rows, project.data, converted.classes)
    if project.quantize and not bundle:
        progress(f"quantizing: {project.quantize.method}")
        ahead = Ahead(len(rows), project.gates.flips)
        quantized = search(
            project, project.quantize, source, converted, reference, ahead, threshold, progress
        )
    cuts = converted.cuts
    if quantized:
        converted = quantized.converted
    if bundle:
        converted = _of_bundle(bundle, converted)
        threshold = bundle.manifest.output.threshold
    boards = _judge_boards(project, converted)
    if project.runtimes == "all":
        require(claimed(converted.needs))  # before the long work, not after it
    if project.on_boards == "required":
        from .boards.named import require_environments

        require_environments(project.target.boards)
    progress(f"comparing decisions on {len(rows)} check rows, and on rows made to be hard")
    classes = row_classes(rows.raw, project.input, cuts=cuts)
    report = judge(
        lambda raw: source.scores(raw, project.input),
        _scorer(converted).scores,
        classes,
        check=rows,
        threshold=threshold,
        budgets=project.gates,
        heuristic=project.fallback.flags(rows.raw, project.input) if project.fallback else None,
        own=own(rows.raw, rows.labels) if own else None,
        names=converted.classes,
    )
    return Checked(source, converted, quantized, reference, rows, classes, report, boards)


def _judge_boards(project: Project, converted: Converted) -> tuple[Verdict, ...]:
    """Before the long comparison: what cannot run need not be compared."""
    if not project.target.boards:
        return ()
    needs, knowledge = converted.needs, load_knowledge()
    model = Model(needs, project.board, traits(converted.model, needs.kind))
    found = tuple(judge_board(board, model, knowledge) for board in project.target.boards)
    if any(verdict.problems for verdict in found):
        raise BoardsRefuseError(found)
    return found


def _runs_on_boards(project: Project) -> bool:
    return bool(project.target.boards) and project.on_boards != "off"


def _on_boards(project: Project, checked: Checked, parts: Parts, progress: Progress) -> Checked:
    """Run what is to be packed on the boards that are named."""
    if not _runs_on_boards(project):
        return checked
    from .boards.named import run_on_boards  # which brings a server with it

    progress("running it on the boards that are named")
    found = run_on_boards(
        project.target.boards,
        checked.boards,
        assemble(parts),
        parts,
        lambda words: progress(f"  {words}"),
    )
    return replace(checked, boards=found)


def _convert(project: Project, source: SourceModel, progress: Progress) -> Converted:
    if project.target.runtime == "tflite":
        progress("converting to TFLite")
        target = project.target
        return convert_tflite(source, project.input, leaves=target.leaves, weights=target.weights)
    progress("converting to ONNX")
    return convert(source, project.input)


def _scorer(converted: Converted) -> Scored:
    return Scored(
        converted.model,
        converted.needs,
        converted.encoder,
        converted.tensor,
        converted.column,
        len(converted.classes),
    )


def _of_bundle(parts: Parts, converted: Converted) -> Converted:
    manifest = parts.manifest
    if manifest.input.digest != converted.encoder.contract.digest:
        raise ConvertError(
            "K07",
            "the bundle has another input contract than the project",
            cure="check it against the project file that it was made from",
        )
    output = manifest.output
    return Converted(
        parts.model,
        manifest.runtime,
        manifest.encoder,
        output.tensor,
        output.column,
        converted.family,
        classes=output.classes,
    )


def build(
    project: Project,
    *,
    out: Path | None = None,
    signers: Sequence[CryptoSigner] = (),
    parts_folder: Path | None = None,
    page: Path | None = None,
    trust_pickle: bool = False,
    progress: Progress = _silent,
) -> BuildResult:
    """Make a bundle. The same inputs give the same bytes.

    Args:
        project: see `load_project`.
        out: the file; the project's if it is left out.
        signers: who signs; nobody for an unsigned bundle.
        parts_folder: write the bundle's parts there too, as `wherry pack` takes them.
        page: the report's file, which is written even if nothing is packed, with the reason
            on top; the project's if it is left out.
        trust_pickle: open a source model that is a pickle, which runs the code in it.
        progress: is told each step, in words.

    Raises:
        BudgetExceededError: Q01, a budget is exceeded; nothing is packed.
        RuntimesDisagreeError: Q05, a claimed version scores otherwise; nothing is packed.
        BoardsRefuseError: Q06, a board that is named must not have it; nothing is packed.
        WherryError: files, data or model are not what the project says.
    """
    where = page or project.report
    try:
        checked = check(project, trust_pickle=trust_pickle, progress=progress)
    except WherryError as error:
        _write_refusal(project, error, where)
        raise
    if checked.report.failures:
        _write_page(project, checked, None, where)
        raise BudgetExceededError(checked.report, checked.quantized)
    progress("profiling the reference, choosing golden vectors")
    parts = make_parts(project, checked)
    runs = run_claimed(project, parts, progress)
    if failures(runs):
        _write_page(project, checked, None, where, runs)
        raise RuntimesDisagreeError(runs)
    checked = _on_boards(project, checked, parts, progress)
    if any(verdict.problems for verdict in checked.boards):
        _write_page(project, checked, None, where, runs)
        raise BoardsRefuseError(checked.boards)
    path = out or project.bundle
    progress(f"packing {path.name}" + (", signing" if signers else ""))
    if parts_folder:
        write_parts(parts, parts_folder)
    layout = pack(parts, path, counter=project.counter, signers=signers)
    result = BuildResult(
        path=path,
        digest=layout.digest,
        size=path.stat().st_size,
        model_bytes=len(parts.model),
        report=checked.report,
        notes=checked.converted.notes,
        signed_by=tuple(signer.public_key.keyid for signer in signers),
        quantized=checked.quantized,
        runs=tuple(runs),
        boards=checked.boards,
    )
    _write_page(project, checked, result, where, runs)
    return result


def _write_page(
    project: Project,
    checked: Checked,
    result: BuildResult | None,
    path: Path | None,
    runs: Sequence[Run] = (),
) -> None:
    if path:
        from .build_report.render import render

        write_durably(path, render(project, checked, result, runs).encode())


def _write_refusal(project: Project, error: WherryError, path: Path | None) -> None:
    if path:
        from .build_report.render import render_refusal

        write_durably(path, render_refusal(project, error).encode())


def run_claimed(project: Project, parts: Parts, progress: Progress = _silent) -> list[Run]:
    """Run golden vectors under every version that the bundle claims, if the project asks for it.

    Raises:
        SetupError: H06, an environment is missing.
    """
    if project.runtimes == "here":
        return []
    progress("running golden vectors under every version that the bundle claims")
    versions = claimed(parts.manifest.runtime)
    return run_everywhere(parts, versions, lambda words: progress(f"  {words}"))
