"""Convert and quantize single files: what `wherry convert` and `wherry quantize` call.

Beside `model.onnx` stands its description, `model.onnx.json`: input contract, encoder,
runtime and output, which the graph alone cannot say. `wherry build` needs neither; it does
all steps in one go.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from wherry_contract.encoder import MAX_STEPS, Encoder
from wherry_contract.errors import ConvertError, SetupError
from wherry_contract.features import InputContract, RawMatrix
from wherry_contract.manifest import MAX_CLASSES, RuntimeNeeds
from wherry_contract.wire import PROJECT, Fields, canonical, parse_json
from wherry_convert.quantize import Budgets, Metric, Outside, Quantized, quantize
from wherry_convert.sources import load_source, outputs
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import Converted, convert

from .files import read_bounded, write_durably
from .metrics import recall_at
from .output import read_output
from .quantized import SEARCH, methods_of
from .witnesses import witnesses_for

SCHEMA: Final = "wherry/converted"
LIMIT_BYTES: Final = 4 * 2**20
MODEL_LIMIT_BYTES: Final = 512 * 2**20
FAMILIES: Final = ("trees", "neural", "linear")
_JUDGED: Final = outputs.ONE_PROBABILITY.decision


@dataclass(frozen=True)
class Source:
    """The file to convert, and how far it is trusted (`wherry_convert.sources.load_source`)."""

    kind: str
    path: Path
    trusted: Sequence[str] = ()
    trust_pickle: bool = False
    output: outputs.Wanted = outputs.ONE_PROBABILITY


def convert_file(source: Source, contract: InputContract, out: Path) -> Converted:
    """Convert a model file and write the graph and its description.

    Args:
        source: the file.
        contract: the raw features.
        out: the graph to write; a TFLite file if its name ends so, else ONNX.

    Raises:
        ConvertError: K01 to K07.
        SetupError: H02.
        StoreError: D01 or D06.
    """
    model = load_source(
        source.kind,
        source.path,
        trusted=source.trusted,
        trust_pickle=source.trust_pickle,
        wanted=source.output,
    )
    make = convert_tflite if out.suffix == ".tflite" else convert
    converted = make(model, contract)
    origin = {
        "kind": source.kind,
        "digest": model.digest,
        "versions": dict(model.versions),
        "decision": source.output.decision,
    }
    _write(converted, out, origin)
    return converted


@dataclass(frozen=True)
class Wanted:
    """How to quantize, and at what price.

    Attributes:
        method: a name in `quantized.CHOICES`.
        budgets: what it may cost.
        rows: at most so many, spread over the file.
        threshold: the operating threshold.
        label: the column with 1 for the positive class; "" for no business metric.
    """

    method: str = SEARCH
    budgets: Budgets = field(default_factory=Budgets)
    rows: int = 20_000
    threshold: float = 0.5
    label: str = ""


def quantize_file(
    path: Path, data: Path, out: Path, wanted: Wanted, progress: Callable[[str], None] | None = None
) -> Quantized:
    """Quantize a converted model and write it with its description.

    Args:
        path: the graph; its description stands beside it.
        data: rows of raw values, for the ranges of activations and for counting flips.
        out: the graph to write.
        wanted: method, budgets, rows and threshold.
        progress: is told each candidate, in words.

    Raises:
        ConvertError: K02, K03, K04 or K07.
        NoCandidateError: Q01, nothing keeps the budgets; nothing is written.
        SetupError: H02 or H10.
        StoreError: D01 or D06.
    """
    converted, origin = read_converted(path)
    if origin.get("decision", _JUDGED) != _JUDGED:
        detail = f"candidates are judged by one probability, and {path.name} gives none"
        raise ConvertError("K02", detail, cure="use it as it is")
    raw = read_rows(data, converted.encoder.contract, wanted.rows)
    done = quantize(
        converted,
        converted.encoder.encode(raw),
        threshold=wanted.threshold,
        methods=methods_of(wanted.method, converted.needs.kind),
        budgets=wanted.budgets,
        metric=_metric(data, wanted) if wanted.label else None,
        progress=progress,
        outside=Outside(witnesses_for(converted.needs)),
    )
    _write(done.converted, out, origin)
    return done


def read_contract(path: Path) -> tuple[InputContract, outputs.Wanted]:
    """The `[input]` of a TOML file, and what its `[output]` decides by, if it has one.

    Raises:
        SetupError: H01 or H02.
    """
    try:
        document = tomllib.loads(_read(path, LIMIT_BYTES).decode())
    except (ValueError, RecursionError) as error:  # TOML or UTF-8 that is none
        raise SetupError("H01", f"{path.name} is not valid TOML: {error}") from error
    fields = Fields(document, path.name, PROJECT)
    contract = InputContract.from_fields(fields.table("input"))
    if "output" not in document:
        return contract, outputs.ONE_PROBABILITY
    return contract, read_output(fields.table("output")).wanted


def description_of(path: Path) -> Path:
    """Where the description of a graph stands."""
    return path.with_name(path.name + ".json")


def read_converted(path: Path) -> tuple[Converted, dict[str, Any]]:
    """A converted model from its two files, and where it came from.

    Raises:
        ManifestError: M01 to M04, the description is wrong.
        SetupError: H02.
    """
    beside = description_of(path)
    document = parse_json(_read(beside, LIMIT_BYTES), limit=LIMIT_BYTES, what=beside.name)
    fields = Fields(document, beside.name)
    fields.schema(SCHEMA)
    contract = InputContract.from_fields(fields.table("input"))
    output = fields.table("output")
    converted = Converted(
        model=_read(path, MODEL_LIMIT_BYTES),
        needs=RuntimeNeeds.from_fields(fields.table("runtime")),
        encoder=Encoder.from_fields(fields.tables("encoder", limit=MAX_STEPS), contract, fields),
        tensor=output.text("tensor", limit=256),
        classes=output.texts("classes", [], limit=MAX_CLASSES),
        column=output.integer("column", low=-1, high=4096),
        family=fields.choice("family", FAMILIES),
        notes=fields.texts("notes", []),
    )
    return converted, fields.mapping("source", {})


def _read(path: Path, limit: int) -> bytes:
    return read_bounded(path, limit, partial(SetupError, "H02"))


def _write(converted: Converted, out: Path, origin: dict[str, Any]) -> None:
    document = {
        "schema": f"{SCHEMA}/1",
        "family": converted.family,
        "runtime": converted.needs.to_dict(),
        "input": converted.encoder.contract.to_dict(),
        "encoder": converted.encoder.to_list(),
        "output": {
            "tensor": converted.tensor,
            "column": converted.column,
            "classes": list(converted.classes),
        },
        "notes": list(converted.notes),
        "source": origin,
    }
    write_durably(out, converted.model)
    write_durably(description_of(out), canonical(document))


def read_rows(path: Path, contract: InputContract, limit: int) -> RawMatrix:
    """Raw rows from a parquet or CSV file, spread evenly over it.

    Args:
        path: the file; columns that are no features are passed over.
        contract: the features.
        limit: at most so many rows.

    Raises:
        SetupError: H02 or H10.
        InputError: C02 to C05, a row does not fit the contract.
    """
    import pyarrow as pa

    if not path.is_file():
        raise SetupError("H02", f"{path}: no such file")
    names = list(contract.names)
    try:
        table = _table(path, names)
        places = np.linspace(0, len(table) - 1, min(limit, len(table))).astype(np.int64)
        columns = {name: table[name].take(places).to_pylist() for name in names}
    except (pa.ArrowException, KeyError, OSError) as error:
        raise SetupError("H10", f"{path.name}: {' '.join(str(error).split())[:200]}") from error
    if not len(places):
        raise SetupError("H10", f"{path.name} holds no rows")
    return contract.columns(columns)


def _metric(path: Path, wanted: Wanted) -> Metric:
    import pyarrow as pa

    try:
        column = _table(path, [wanted.label])[wanted.label]
        places = np.linspace(0, len(column) - 1, min(wanted.rows, len(column))).astype(np.int64)
        labels = np.asarray(column.take(places).to_pylist(), np.float64)
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        detail = f"{path.name}, label {wanted.label}: {' '.join(str(error).split())[:200]}"
        raise SetupError("H10", detail) from error
    if set(np.unique(labels)) != {0.0, 1.0}:
        raise SetupError("H10", f"{path.name}: {wanted.label} should hold 0 and 1, both of them")
    return lambda scores, places: recall_at(labels[places] == 1, scores)


def _table(path: Path, names: list[str]) -> Any:
    from pyarrow import csv, parquet

    if path.suffix == ".csv":
        return csv.read_csv(path, convert_options=csv.ConvertOptions(include_columns=names))
    return parquet.read_table(path, columns=names)
