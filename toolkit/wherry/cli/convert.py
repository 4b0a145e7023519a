"""`wherry convert` and `wherry quantize`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import json_option, say, show, table

if TYPE_CHECKING:
    from wherry_convert.quantize import Quantized, Variant
    from wherry_convert.to_onnx import Converted

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("model", type=_FILE)
@click.option(
    "-o", "--out", type=_FILE, required=True, help="The ONNX file to write; OUT.json describes it."
)
@click.option(
    "--input",
    "contract",
    type=_FILE,
    required=True,
    help="TOML file with the [input] features: a project file, or one with only that.",
)
@click.option(
    "--kind",
    type=click.Choice(["sklearn", "xgboost", "lightgbm"]),
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
    """Turn a trained model into ONNX.

    The graph takes the same decisions as the model on raw values in double precision, or
    the model is refused with what to change. Values that need double precision are
    prepared by the encoder, which stands in OUT.json.

    Example: wherry convert model.skops -o model.onnx --input project.toml
    """
    from wherry.conversion import Source, convert_file, read_contract

    source = Source(kind, model, trusted, trust_pickle)
    done = convert_file(source, read_contract(contract), out)
    say(f"wrote {out} and {out.name}.json")
    show("wherry/convert/1", _facts(done), _converted_lines(done), as_json=as_json)


@click.command()
@click.argument("model", type=_FILE)
@click.option(
    "-o", "--out", type=_FILE, required=True, help="The ONNX file to write; OUT.json describes it."
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
@json_option
def quantize(
    model: Path, out: Path, data: Path, rows: int, threshold: float, *, as_json: bool
) -> None:
    """Make a model smaller, and show what it costs.

    Static int8 for neural nets that `wherry convert` wrote. Variants leave the first or
    the last layer in float; the one with the fewest flipped decisions is kept, and of
    several the smallest.

    Example: wherry quantize model.onnx -o small.onnx --data train.parquet --threshold 0.2
    """
    from wherry.conversion import quantize_file

    done = quantize_file(model, data, out, rows=rows, threshold=threshold)
    say(f"wrote {out} and {out.name}.json")
    show("wherry/quantize/1", _costs(done), _quantized_lines(done), as_json=as_json)


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
    yield f"runtime    {done.needs.kind} {done.needs.version}, IR {done.needs.ir}, {opsets}"
    yield f"operators  {', '.join(done.needs.operators)}"
    yield f"encoder    {len(done.encoder.steps)} steps"
    for note in done.notes:
        yield f"note       {note}"


def _variant(variant: Variant, *, kept: bool) -> dict[str, Any]:
    return {
        "floats": variant.floats,
        "bytes": variant.bytes,
        "flips": variant.difference.flips,
        "largest_difference": variant.difference.largest,
        "distinct_scores": variant.difference.distinct_found,
        "kept": kept,
    }


def _costs(done: Quantized) -> dict[str, Any]:
    return {
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "rows": done.kept.difference.rows,
        "variants": [_variant(item, kept=item is done.kept) for item in done.variants],
    }


def _quantized_lines(done: Quantized) -> list[str]:
    heads = ("in float", "bytes", "flips", "largest", "distinct", "")
    rows = [
        (
            item.floats,
            f"{item.bytes:,}",
            item.difference.flips,
            f"{item.difference.largest:.3g}",
            f"{item.difference.distinct_found:,}",
            "kept" if item is done.kept else "",
        )
        for item in done.variants
    ]
    before = f"float model: {done.bytes_before:,} bytes, {done.kept.difference.distinct_reference:,} distinct scores"
    return [f"{before}; {done.kept.difference.rows:,} rows", *table(heads, rows)]
