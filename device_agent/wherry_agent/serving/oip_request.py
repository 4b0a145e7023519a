"""Inference requests of the Open Inference Protocol v2: from bytes to a raw matrix. Pure.

Three ways to send rows, all judged by the same input contract:

- one tensor ``input`` [rows, features], for models without categories;
- one tensor for each feature, [rows] or [rows, 1], BYTES for a category;
- raw named rows, ``{"rows": [{"TX_AMOUNT": 12.5}]}``, an addition of ours.

Tensors may travel as JSON or by Triton's binary tensor data extension. Limits and types
are looked at before anything is built.

github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md;
github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import InputError, ServingError
from wherry_contract.features import InputContract, RawMatrix, RawValue
from wherry_contract.when import to_seconds

TENSOR: Final = "input"
DTYPES: Final[Mapping[str, str]] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
OUTPUTS: Final[Mapping[str, str]] = {"score": "FP64", "flagged": "BOOL", "score_bin": "INT64"}
# of a model that decides between classes; a row that is undecided has the label ""
CLASS_OUTPUTS: Final[Mapping[str, str]] = {**OUTPUTS, "label": "BYTES", "scores": "FP64"}
_ID_LIMIT: Final = 256  # characters


@dataclass(frozen=True)
class Wanted:
    """An output that the client asks for, and whether its bytes are wanted raw."""

    name: str
    binary: bool = False


@dataclass(frozen=True)
class Asked:
    """A request whose form is right; its values are not looked at yet.

    Attributes:
        id: the client's own; "" if it gave none.
        rows: how many there are.
        at: when the payments happened, Unix seconds; nothing if the client does not say.
        wanted: outputs in the order of the answer.
        named: rows by name, or
        columns: values by feature, or
        table: float64, shape (rows, anything).
    """

    id: str
    rows: int
    at: float | None
    wanted: tuple[Wanted, ...]
    named: Sequence[Mapping[str, RawValue]] | None = None
    columns: Mapping[str, Sequence[RawValue]] = field(default_factory=dict)
    table: RawMatrix | None = None

    @property
    def one(self) -> Mapping[str, RawValue] | None:
        """The row, if it is a single one by name and every output is wanted as JSON."""
        return self.named[0] if self.named and self.rows == 1 and self.wanted is _EVERY else None

    def matrix(self, contract: InputContract, also: frozenset[str]) -> RawMatrix:
        """The raw matrix: float64, shape (rows, features).

        Args:
            contract: of the model that is asked.
            also: names that the application may send besides the contract's.

        Raises:
            InputError: C01 to C06.
        """
        if self.named is not None:
            return contract.matrix(self.named, also=also)
        if self.table is not None:
            return contract.check_matrix(self.table)
        known = frozenset(contract.names)
        kept = {n: v for n, v in self.columns.items() if n in known or n not in also}
        if not kept:
            raise InputError("C06", "no input is a feature of this model")
        return contract.columns(kept)


def read_infer(
    body: bytes, json_length: int, *, most_rows: int, outputs: Mapping[str, str] = OUTPUTS
) -> Asked:
    """Read the body of an inference request.

    Args:
        body: as it came; its size was checked.
        json_length: how much of it is JSON, -1 for all (Inference-Header-Content-Length).
        most_rows: the limit of rows.
        outputs: what the model gives, and its datatypes.

    Raises:
        ServingError: S02 malformed, S03 too many rows.
        InputError: C04 a number that JSON does not have, C06 no rows or odd shapes.
    """
    if not -1 <= json_length <= len(body):
        raise ServingError("S02", "Inference-Header-Content-Length is not within the body")
    if json_length >= 0:
        document, tail = _parse(body[:json_length]), memoryview(body)[json_length:]
    else:
        document, tail = _parse(body), memoryview(b"")
    common = _read_common(document, outputs)
    if "rows" in document:
        if "inputs" in document:
            _refuse("send either rows or inputs")
        if tail:
            _refuse("bytes follow the request")
        return _read_rows(document["rows"], common, most_rows)
    return _read_tensors(document.get("inputs"), tail, common, most_rows)


def _refuse(detail: str) -> NoReturn:
    raise ServingError("S02", detail)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document = _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ServingError("S02", f"the body is no JSON: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        _refuse("the body is no JSON object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise InputError("C04", f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        _refuse(f"{twice[:64]!r} occurs twice")
    return found


# made once: making it takes as long as reading a row
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


@dataclass(frozen=True)
class _Common:
    id: str
    at: float | None
    wanted: tuple[Wanted, ...]


def _read_common(document: Mapping[str, Any], outputs: Mapping[str, str]) -> _Common:
    parameters = document.get("parameters")
    if parameters is None:
        parameters = {}
    elif not isinstance(parameters, dict):
        _refuse("parameters should be an object")
    name = document.get("id", "")
    if not isinstance(name, str) or len(name) > _ID_LIMIT:
        _refuse(f"id should be a string of at most {_ID_LIMIT} characters")
    listed = document.get("outputs")
    if listed is None and "binary_data_output" not in parameters:
        every = _EVERY if outputs is OUTPUTS else tuple(map(Wanted, outputs))
        return _Common(name, _read_at(parameters), every)
    binary = _flag(parameters, "binary_data_output")
    return _Common(name, _read_at(parameters), _read_wanted(listed, outputs, binary=binary))


def _read_at(parameters: Mapping[str, Any]) -> float | None:
    at = parameters.get("at")
    if at is None:
        return None
    try:
        return to_seconds(at)
    except (TypeError, ValueError):
        _refuse("parameters.at should be a time like 2026-11-24T07:54:29Z")


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        _refuse(f"{name} should be true or false")
    return value


_EVERY: Final = tuple(map(Wanted, OUTPUTS))


def _read_wanted(listed: object, outputs: Mapping[str, str], *, binary: bool) -> tuple[Wanted, ...]:
    if listed is None:
        return tuple(Wanted(name, binary) for name in outputs)
    found = []
    for item in _objects(listed, "outputs"):
        name, parameters = item.get("name"), item.get("parameters") or {}
        if not isinstance(name, str) or name not in outputs:
            _refuse(f"outputs are {', '.join(outputs)}")
        if not isinstance(parameters, dict) or "classification" in parameters:
            _refuse("the classification extension is not supported")
        found.append(Wanted(name, _flag(parameters, "binary_data", default=binary)))
    if len({item.name for item in found}) != len(found):
        _refuse("an output is listed twice")
    return tuple(found)


def _objects(value: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        _refuse(f"{name} should be a list of objects")
    return value


def _check_rows(rows: int, most: int) -> None:
    if rows < 1:
        raise InputError("C06", "there are no rows")
    if rows > most:
        raise ServingError("S03", f"{rows} rows, at most {most} are taken at a time")


def _read_rows(rows: object, common: _Common, most: int) -> Asked:
    named = _objects(rows, "rows")
    _check_rows(len(named), most)
    return Asked(common.id, len(named), common.at, common.wanted, named=named)


@dataclass(frozen=True)
class _Given:
    """A tensor of a request, its shape checked and not yet its values."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any  # JSON, nested or flat
    raw: memoryview | None

    @property
    def cells(self) -> int:
        return int(np.prod(self.shape, dtype=object))


def _read_tensors(listed: object, tail: memoryview, common: _Common, most: int) -> Asked:
    given: dict[str, _Given] = {}
    used = 0
    for item in _objects(listed, "inputs"):
        tensor, used = _read_tensor(item, tail, used)
        if tensor.name in given:
            _refuse(f"input {tensor.name!r} occurs twice")
        given[tensor.name] = tensor
    if used != len(tail):
        _refuse(f"{len(tail) - used} bytes follow the last tensor")
    if not given:
        _refuse("there is no input")
    rows = next(iter(given.values())).shape[0]
    _check_rows(rows, most)
    if set(given) == {TENSOR}:
        table = _table(given[TENSOR])
        return Asked(common.id, rows, common.at, common.wanted, table=table)
    columns = {name: _column(tensor, rows) for name, tensor in given.items()}
    return Asked(common.id, rows, common.at, common.wanted, columns=columns)


def _read_tensor(item: Mapping[str, Any], tail: memoryview, used: int) -> tuple[_Given, int]:
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not name or len(name) > 64:
        _refuse("an input needs a name")
    if not isinstance(datatype, str) or datatype not in {*DTYPES, "BYTES"}:
        _refuse(f"input {name!r}: datatypes are {', '.join(DTYPES)} and BYTES")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or not _are_sizes(shape):
        _refuse(f"input {name!r}: the shape should be [rows] or [rows, columns]")
    parameters = item.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        if not isinstance(item.get("data"), list):
            _refuse(f"input {name!r} has no data")
        return _Given(name, datatype, tuple(shape), item["data"], None), used
    if type(size) is not int or not 0 <= size <= len(tail) - used or "data" in item:
        _refuse(f"input {name!r}: binary_data_size does not fit the body")
    raw = tail[used : used + size]
    return _Given(name, datatype, tuple(shape), None, raw), used + size


def _are_sizes(shape: Sequence[object]) -> bool:
    return all(type(size) is int and 0 <= size < 2**31 for size in shape)


def _column(tensor: _Given, rows: int) -> Sequence[RawValue]:
    if tensor.cells != rows or tensor.shape[0] != rows:
        raise InputError("C06", f"{tensor.name} has shape {list(tensor.shape)}, wanted is [{rows}]")
    if tensor.datatype == "BYTES":
        return _strings(tensor)
    values: list[RawValue] = _numbers(tensor).tolist()
    return values


def _table(tensor: _Given) -> RawMatrix:
    if tensor.datatype == "BYTES":
        raise InputError("C03", "the tensor should hold numbers; send categories by name")
    if len(tensor.shape) != 2:
        raise InputError("C06", f"{tensor.name} has shape {list(tensor.shape)}, not 2 dimensions")
    return _numbers(tensor).reshape(tensor.shape)


def _numbers(tensor: _Given) -> NDArray[np.float64]:
    """The tensor's numbers, flat; JSON null becomes NaN, which means missing."""
    if tensor.raw is not None:
        dtype = np.dtype(DTYPES[tensor.datatype])
        if len(tensor.raw) != tensor.cells * dtype.itemsize:
            _refuse(f"input {tensor.name!r}: its bytes do not fit its shape")
        return np.frombuffer(tensor.raw, dtype).astype(np.float64)
    flat = _flat(tensor)
    if not {type(value) for value in flat} <= {float, int, bool, type(None)}:
        raise InputError("C03", f"{tensor.name} should hold numbers")
    try:
        return np.array(flat, np.float64)
    except OverflowError:  # an integer of more than 308 digits
        raise InputError("C04", f"{tensor.name} is infinite or too large") from None


def _flat(tensor: _Given) -> list[Any]:
    flat = list(_leaves(tensor.data, len(tensor.shape)))
    if len(flat) != tensor.cells:
        shape = list(tensor.shape)
        raise InputError("C06", f"{tensor.name} has {len(flat)} values, its shape is {shape}")
    return flat


def _leaves(data: list[Any], depth: int) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list) and depth > 1:
            yield from _leaves(item, depth - 1)
        else:
            yield item


def _strings(tensor: _Given) -> list[RawValue]:
    if tensor.raw is None:
        return _flat(tensor)
    found: list[RawValue] = []
    place, raw = 0, tensor.raw
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "little")
        end = place + 4 + size
        if end > len(raw):
            _refuse(f"input {tensor.name!r}: a string is cut off")
        found.append(bytes(raw[place + 4 : end]).decode(errors="replace"))
        place = end
    if len(found) != tensor.cells:
        raise InputError("C06", f"{tensor.name} has {len(found)} strings, not {tensor.cells}")
    return found
