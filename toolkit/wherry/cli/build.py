"""`wherry build`, `check` and `pack`: from a project file to a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .convert import quantized_lines
from .output import json_option, say, show, steps, table

if TYPE_CHECKING:
    from wherry.build import BuildResult
    from wherry.gate import GateReport
    from wherry.runtimes import Run
    from wherry.targets import BoardsRefuseError, Verdict

_file = click.Path(dir_okay=False, path_type=Path)
_folder = click.Path(file_okay=False, path_type=Path)
_pickle_option = click.option(
    "--trust-pickle", is_flag=True, help="Open a source model that is a pickle; it runs its code."
)


@click.command
@click.argument("project", type=_file)
@click.option("--out", type=_file, help="The bundle's file, instead of the project's [out].")
@click.option(
    "--key", "keys", multiple=True, help="Sign with this key (name or file), instead of [sign]."
)
@click.option("--unsigned", is_flag=True, help="Sign with no key.")
@click.option("--parts", type=_folder, help="Write the parts to this folder too, for `pack`.")
@click.option("--report", type=_file, help="Write a page about it, instead of [out] report.")
@_pickle_option
@json_option
def build(
    project: Path,
    *,
    out: Path | None,
    keys: tuple[str, ...],
    unsigned: bool,
    parts: Path | None,
    report: Path | None,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Make a signed bundle from a project file.

    Converts the source model, compares its decisions with the source's on raw data, and
    packs and signs only if no budget of the project is exceeded (exit code 1 if one is;
    the page of --report is written all the same).

    Example: wherry build examples/fraud_terminals/project.toml
    """
    from wherry.build import build as make
    from wherry.build import quantized_dict, steps_of
    from wherry.folder import home
    from wherry.gate import BudgetExceededError
    from wherry.keys import load_named
    from wherry.project import load_project
    from wherry.quantized import Tried
    from wherry.runtimes import RuntimesDisagreeError
    from wherry.targets import BoardsRefuseError
    from wherry.verified import record, words
    from wherry_convert.quantize import NoCandidateError

    loaded = load_project(project)
    named = () if unsigned else keys or tuple(filter(None, [loaded.key]))
    signers = load_named(named)
    try:
        with steps(steps_of(loaded, packing=True)) as tell:
            result = make(
                loaded,
                out=out,
                signers=signers,
                parts_folder=parts,
                page=report,
                trust_pickle=trust_pickle,
                progress=tell,
            )
    except NoCandidateError as error:
        tried = Tried.of(error)
        answer: dict[str, Any] = {"bundle": None, "quantized": tried.to_dict()}
        show("wherry/build/1", answer, quantized_lines(tried), as_json=as_json)
        raise
    except BudgetExceededError as error:
        answer = {"bundle": None, "gate": error.report.to_dict()}
        answer |= quantized_dict(error.quantized)
        lines = [*_report_lines(error.report), "", *_quantized_lines(error.quantized)]
        show("wherry/build/1", answer, lines, as_json=as_json)
        raise
    except RuntimesDisagreeError as error:
        answer = {"bundle": None, "runtimes": [run.to_dict() for run in error.runs]}
        show("wherry/build/1", answer, _run_lines(error.runs), as_json=as_json)
        raise
    except BoardsRefuseError as error:
        answer = {"bundle": None} | _refused(error)
        show("wherry/build/1", answer, _board_lines(error.verdicts), as_json=as_json)
        raise
    if ran := {item.board: words(item.run["verdicts"]) for item in result.boards if item.run}:
        record(home(), result.digest, ran)
    if not signers:
        say("nobody signed it: no device takes it before `wherry sign`")
    show("wherry/build/1", result.to_dict(), _build_lines(result), as_json=as_json)


@click.command
@click.argument("project", type=_file)
@click.option("--bundle", type=_file, help="Check this bundle, not what the project makes now.")
@_pickle_option
@json_option
def check(project: Path, *, bundle: Path | None, trust_pickle: bool, as_json: bool) -> None:
    """Compare decisions with the source model.

    As `build`, but nothing is packed; exit code 1 if a budget is exceeded, or if golden
    vectors fail under a runtime version that the bundle claims ([gates] runtimes = "all"),
    or if a board of [target] boards cannot run it.

    Example: wherry check examples/fraud_terminals/project.toml
    """
    from wherry.build import check as compare
    from wherry.build import quantized_dict, run_claimed, steps_of
    from wherry.bundle_view import look
    from wherry.gate import BudgetExceededError
    from wherry.parts import make_parts
    from wherry.project import load_project
    from wherry.runtimes import RuntimesDisagreeError, failures
    from wherry.targets import BoardsRefuseError

    loaded = load_project(project)
    parts = look(bundle).parts if bundle else None
    runs = []
    try:
        with steps(steps_of(loaded, packing=False)) as tell:
            checked = compare(loaded, bundle=parts, trust_pickle=trust_pickle, progress=tell)
            if loaded.runtimes == "all" and not checked.report.failures:
                runs = run_claimed(loaded, parts or make_parts(loaded, checked), tell)
    except BoardsRefuseError as error:
        lines = _board_lines(error.verdicts)
        show("wherry/check/1", _refused(error), lines, as_json=as_json)
        raise
    report = checked.report
    answer = report.to_dict() | {"runtimes": [run.to_dict() for run in runs]}
    answer["boards"] = [verdict.to_dict() for verdict in checked.boards]
    answer |= quantized_dict(checked.quantized)
    lines = [*_report_lines(report), "", *_quantized_lines(checked.quantized)]
    lines += [*_run_lines(runs), *_board_lines(checked.boards)]
    show("wherry/check/1", answer, lines, as_json=as_json)
    if report.failures:
        raise BudgetExceededError(report)
    if failures(runs):
        raise RuntimesDisagreeError(runs)


@click.command
@click.argument("folder", type=_folder)
@click.option("--out", required=True, type=_file, help="The bundle's file.")
@click.option("--key", "keys", multiple=True, help="Sign with this key, a name or a file.")
@click.option(
    "--counter", type=click.IntRange(1), help="Release counter that is signed; with --key."
)
def pack(folder: Path, *, out: Path, keys: tuple[str, ...], counter: int | None) -> None:
    """Put model, profile and golden vectors into a bundle.

    FOLDER holds model.onnx, wherry.json, profile.json, golden.json and perhaps
    model-card.md, as `wherry build --parts FOLDER` writes them. The graph is compared with
    the manifest, and the golden vectors are scored here, before anything is packed.

    Example: wherry pack parts --out fraud-1.0.0.wherry --key release --counter 1
    """
    from wherry.keys import load_named
    from wherry.pack import pack as write
    from wherry.pack import read_parts

    if keys and counter is None:
        raise click.UsageError("--key needs --counter")
    signers = load_named(keys)
    say(f"reading {folder}, scoring its golden vectors")
    layout = write(read_parts(folder), out, counter=counter or 0, signers=signers)
    say(f"packed {out}" + (f", signed by {len(signers)}" if signers else ", signed by nobody"))
    click.echo(layout.digest)


def _build_lines(result: BuildResult) -> Iterator[str]:
    yield from _report_lines(result.report)
    yield ""
    yield from _quantized_lines(result.quantized)
    yield from _run_lines(result.runs)
    yield from _board_lines(result.boards)
    yield from (f"note: {note}" for note in result.notes)
    yield f"bundle  {result.path}"
    yield f"digest  {result.digest}"
    yield f"size    {result.size:,} bytes, of which model {result.model_bytes:,}"
    yield f"signed  {', '.join(keyid[:12] for keyid in result.signed_by) or 'by nobody'}"


def _quantized_lines(quantized: Any) -> Iterable[str]:
    from wherry.quantized import Tried

    return [] if quantized is None else [*quantized_lines(Tried.of(quantized)), ""]


def _run_lines(runs: Sequence[Run]) -> list[str]:
    from wherry.runtimes import HEADS, rows

    return [*table(HEADS, rows(runs)), ""] if runs else []


def _refused(error: BoardsRefuseError) -> dict[str, Any]:
    return {"boards": [verdict.to_dict() for verdict in error.verdicts]}


def _board_lines(verdicts: Sequence[Verdict]) -> list[str]:
    from wherry.targets import HEADS, rows

    return [*table(HEADS, rows(verdicts)), ""] if verdicts else []


def _report_lines(report: GateReport) -> Iterator[str]:
    from wherry.card import CLASS_HEADS, class_rows, worth_rows

    if report.metrics:
        yield from table(("metric", *report.metrics), worth_rows(report))
        yield ""
    yield from table(CLASS_HEADS, class_rows(report))
    yield report.decided_by
    for failure in report.failures:
        yield f"too much: {failure}"
