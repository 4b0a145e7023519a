"""`wherry convert` and `wherry quantize`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import json_option, say, show, table

if TYPE_CHECKING:
    from wherry.quantized import Tried
    from wherry_convert.to_onnx import Converted

# `wherry.quantized.CHOICES`, which would load numpy for `--help`; a test holds them together
METHODS = (
    "search",
    "int8",
    "int8-signed",
    "int16",
    "dynamic",
    "float16",
    "weights-int8",
    "weights-int4",
    "dynamic-channel",
    "written-float16",
    "written-int8",
)
# `wherry_convert.sources.KINDS`, likewise
KINDS = ("sklearn", "xgboost", "lightgbm", "onnx", "torch", "keras", "tflite")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("model", type=_FILE)
@click.option(
    "-o",
    "--out",
    type=_FILE,
    required=True,
    help="The ONNX file to write, or a TFLite one, OUT.tflite; OUT.json describes it.",
)
@click.option(
    "--input",
    "contract",
    type=_FILE,
    required=True,
    help="TOML file with the [input] features, and [output] if it has one: a project file.",
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="sklearn",
    help="The model's framework.",
)
@click.option("--trusted", multiple=True, help="A type that a skops file may hold; repeatable.")
@click.option(
    "--trust-pickle", is_flag=True, help="Open a pickle or joblib file, which runs its code."
)
@json_option
def convert(
    model: Path,
    out: Path,
    contract: Path,
    kind: str,
    trusted: tuple[str, ...],
    *,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Turn a trained model into ONNX or TFLite.

    The graph takes the same decisions as the model on raw values in double precision, or
    the model is refused with what to change. Values that need double precision are
    prepared by the encoder, which stands in OUT.json.

    Example: wherry convert model.skops -o model.onnx --input project.toml
    """
    from wherry.conversion import Source, convert_file, read_contract

    features, output = read_contract(contract)
    source = Source(kind, model, trusted, trust_pickle, output)
    done = convert_file(source, features, out)
    say(f"wrote {out} and {out.name}.json")
    show("wherry/convert/1", _facts(done), _converted_lines(done), as_json=as_json)


@click.command()
@click.argument("model", type=_FILE)
@click.option(
    "-o", "--out", type=_FILE, required=True, help="The file to write; OUT.json describes it."
)
@click.option(
    "--data", type=_FILE, required=True, help="Parquet or CSV file with rows of raw values."
)
@click.option(
    "--rows", type=click.IntRange(1), default=20_000, show_default=True, help="At most so many."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Flips are counted at this score.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="search",
    show_default=True,
    help="One way, or a search through all.",
)
@click.option("--label", default="", help="Column with 0 and 1; recall in the first decile.")
@click.option("--flips", type=click.IntRange(0), help="Budget: decisions that may change.")
@click.option("--bytes", "size", type=click.IntRange(1), help="Budget: largest file.")
@click.option(
    "--distinct-share", type=click.FloatRange(0, 1), help="Budget: share of distinct scores left."
)
@click.option("--metric-drop", type=float, help="Budget: drop of the recall; with --label.")
@click.option(
    "--latency-ratio",
    type=click.FloatRange(0),
    help="Budget: time for one row in times of the float model's, measured here.",
)
@json_option
def quantize(
    model: Path,
    out: Path,
    data: Path,
    *,
    rows: int,
    threshold: float,
    method: str,
    label: str,
    as_json: bool,
    size: int | None,
    **budgets: Any,
) -> None:
    """Make a model smaller, and show what it costs.

    For neural nets that `wherry convert` wrote, ONNX or TFLite. Every candidate is run on
    the rows; the table shows each one's price and why it was not kept. With --flips the
    smallest file that keeps all budgets is kept, without it the one with the fewest flipped
    decisions. Exit code 1 if none keeps the budgets.

    Example: wherry quantize model.onnx -o small.onnx --data train.parquet --flips 5
    """
    from wherry.conversion import Wanted, quantize_file
    from wherry.quantized import Tried
    from wherry_convert.quantize import Budgets, NoCandidateError

    if budgets["metric_drop"] is not None and not label:
        raise click.UsageError("--metric-drop needs --label")
    wanted = Wanted(method, Budgets(bytes=size, **budgets), rows, threshold, label)
    try:
        done = quantize_file(model, data, out, wanted, lambda words: say(f"  {words}"))
    except NoCandidateError as error:
        tried = Tried.of(error)
        show("wherry/quantize/1", tried.to_dict(), quantized_lines(tried), as_json=as_json)
        raise
    say(f"wrote {out} and {out.name}.json")
    tried = Tried.of(done)
    show("wherry/quantize/1", tried.to_dict(), quantized_lines(tried), as_json=as_json)


def _facts(done: Converted) -> dict[str, Any]:
    return {
        "family": done.family,
        "bytes": len(done.model),
        "runtime": done.needs.to_dict(),
        "encoder_steps": len(done.encoder.steps),
        "notes": list(done.notes),
    }


def _converted_lines(done: Converted) -> Iterator[str]:
    opsets = ", ".join(f"{name or 'ai.onnx'} {n}" for name, n in sorted(done.needs.opsets.items()))
    yield f"family     {done.family}"
    yield f"bytes      {len(done.model):,}"
    file = "schema" if done.needs.kind == "tflite" else "IR"
    yield f"runtime    {done.needs.words}, {file} {done.needs.ir}, {opsets}"
    yield f"operators  {', '.join(done.needs.operators)}"
    yield f"encoder    {len(done.encoder.steps)} steps"
    for note in done.notes:
        yield f"note       {note}"


def quantized_lines(tried: Tried) -> list[str]:
    """What was tried, as a table with remarks."""
    from wherry.quantized import HEADS

    return [*table(HEADS, tried.rows()), *tried.remarks()]
