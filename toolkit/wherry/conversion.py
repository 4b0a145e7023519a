"""Convert and quantize single files: what `wherry convert` and `wherry quantize` call.

Beside `model.onnx` stands its description, `model.onnx.json`: input contract, encoder,
runtime and output, which the graph alone cannot say. `wherry build` needs neither; it does
all steps in one go.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from wherry_contract.encoder import MAX_STEPS, Encoder
from wherry_contract.errors import SetupError
from wherry_contract.features import InputContract, RawMatrix
from wherry_contract.manifest import RuntimeNeeds
from wherry_contract.wire import PROJECT, Fields, canonical, parse_json
from wherry_convert.quantize import Quantized, quantize
from wherry_convert.sources import load_source
from wherry_convert.to_onnx import Converted, convert

from .files import write_durably

SCHEMA: Final = "wherry/converted"
LIMIT_BYTES: Final = 4 * 2**20
MODEL_LIMIT_BYTES: Final = 512 * 2**20
FAMILIES: Final = ("trees", "neural", "linear")


@dataclass(frozen=True)
class Source:
    """The file to convert, and how far it is trusted (`wherry_convert.sources.load_source`)."""

    kind: str
    path: Path
    trusted: Sequence[str] = ()
    trust_pickle: bool = False


def convert_file(source: Source, contract: InputContract, out: Path) -> Converted:
    """Convert a model file and write the graph and its description.

    Raises:
        ConvertError: K01 to K07.
        SetupError: H02.
        StoreError: D01 or D06.
    """
    model = load_source(
        source.kind, source.path, trusted=source.trusted, trust_pickle=source.trust_pickle
    )
    converted = convert(model, contract)
    origin = {"kind": source.kind, "digest": model.digest, "versions": dict(model.versions)}
    _write(converted, out, origin)
    return converted


def quantize_file(path: Path, data: Path, out: Path, *, rows: int, threshold: float) -> Quantized:
    """Quantize a converted model and write it with its description.

    Args:
        path: the graph; its description stands beside it.
        data: rows of raw values, for the ranges of activations and for counting flips.
        out: the graph to write.
        rows: at most so many, spread over the file.
        threshold: the operating threshold.

    Raises:
        ConvertError: K02, K03, K04 or K07.
        SetupError: H02 or H10.
        StoreError: D01 or D06.
    """
    converted, origin = read_converted(path)
    raw = read_rows(data, converted.encoder.contract, rows)
    done = quantize(converted, converted.encoder.encode(raw), threshold=threshold)
    _write(done.converted, out, origin)
    return done


def read_contract(path: Path) -> InputContract:
    """The `[input]` of a TOML file, be it a project file or one that holds only that.

    Raises:
        SetupError: H01 or H02.
    """
    try:
        document = tomllib.loads(_read(path, LIMIT_BYTES).decode())
    except (ValueError, RecursionError) as error:  # TOML or UTF-8 that is none
        raise SetupError("H01", f"{path.name} is not valid TOML: {error}") from error
    return InputContract.from_fields(Fields(document, path.name, PROJECT).table("input"))


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
        column=output.integer("column", low=-1, high=4096),
        family=fields.choice("family", FAMILIES),
        notes=fields.texts("notes", []),
    )
    return converted, fields.mapping("source", {})


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise SetupError("H02", f"{path} has more than {limit} bytes")
    return data


def _write(converted: Converted, out: Path, origin: dict[str, Any]) -> None:
    document = {
        "schema": f"{SCHEMA}/1",
        "family": converted.family,
        "runtime": converted.needs.to_dict(),
        "input": converted.encoder.contract.to_dict(),
        "encoder": converted.encoder.to_list(),
        "output": {"tensor": converted.tensor, "column": converted.column},
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


def _table(path: Path, names: list[str]) -> Any:
    from pyarrow import csv, parquet

    if path.suffix == ".csv":
        return csv.read_csv(path, convert_options=csv.ConvertOptions(include_columns=names))
    return parquet.read_table(path, columns=names)
