"""TFLite files, written operator by operator through the schema library, without TensorFlow.

The schema library (`tflite` on the package index) is generated from TensorFlow's own
`schema.fbs`; it only knows how tables are laid out. The same graph gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install

SCHEMA_VERSION: Final = 3
_ALIGNMENT: Final = 16  # of constants, as the schema demands
# the operators that are written here, with the version that their form of use asks for
VERSIONS: Final = {
    "ADD": 1, "CAST": 1, "CONCATENATION": 1, "CONV_2D": 1, "DEQUANTIZE": 2, "DIV": 1, "ELU": 1, "EXP": 1,
    "FULLY_CONNECTED": 1,
    "GATHER": 5, "GELU": 1, "GREATER": 1, "LEAKY_RELU": 1, "LOGISTIC": 1, "MUL": 1, "NOT_EQUAL": 1, "PADV2": 1, "RELU": 1, "RESHAPE": 1,
    "SELECT_V2": 1, "SOFTMAX": 1, "SUB": 1, "SUM": 1, "TANH": 1,
}  # fmt: skip
_KINDS: Final = {
    "float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int16": "INT16",
    "int8": "INT8", "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip


# the schema's table of options of an operator, and what it holds
Options = tuple[str, Mapping[str, float]]


@dataclass(frozen=True)
class _Tensor:
    name: str
    kind: str  # a dtype of numpy, by name
    shape: tuple[int, ...]  # rows as 1: the interpreter resizes
    buffer: int


@dataclass(frozen=True)
class _Operator:
    name: str
    inputs: tuple[int, ...]
    output: int
    options: tuple[str, tuple[tuple[str, float], ...]]


@dataclass
class GraphWriter:
    """A graph of one input and one output, that grows at its end; tensors are numbers."""

    _tensors: list[_Tensor] = field(default_factory=list)
    _operators: list[_Operator] = field(default_factory=list)
    _buffers: list[bytes] = field(default_factory=lambda: [b""])
    _entry: int = 0

    def input(self, columns: int) -> int:
        """The one input, float32 (rows, columns)."""
        self._entry = self._tensor("input", "float32", (1, columns), 0)
        return self._entry

    def constant(self, values: NDArray[Any]) -> int:
        """A tensor that is known; int8 is quantized in steps of 1."""
        self._buffers.append(np.ascontiguousarray(values).tobytes())
        kind = values.dtype.name
        return self._tensor(f"c{len(self._tensors)}", kind, values.shape, len(self._buffers) - 1)

    def add(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        *,
        kind: str = "float32",
        options: Options = ("", {}),
    ) -> int:
        """Add an operator and return its output.

        Args:
            name: of the builtin operator, one of `VERSIONS`.
            inputs: tensors.
            shape: of the output, with 1 for rows.
            kind: dtype of the output.
            options: the schema's table of options and what it should hold.
        """
        if name not in VERSIONS:
            raise ValueError(f"{name} is not written here")
        output = self._tensor(f"t{len(self._tensors)}", kind, tuple(shape), 0)
        table, values = options
        self._operators.append(
            _Operator(name, tuple(inputs), output, (table, tuple(values.items())))
        )
        return output

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape, with 1 for rows."""
        return self._tensors[tensor].shape

    def kind(self, tensor: int) -> str:
        """A tensor's dtype, by numpy's name."""
        return self._tensors[tensor].kind

    def _tensor(self, name: str, kind: str, shape: tuple[int, ...], buffer: int) -> int:
        self._tensors.append(_Tensor(name, kind, shape, buffer))
        return len(self._tensors) - 1

    def finish(self, output: int) -> bytes:
        """The file; `output` is the graph's one output and is called ``score``.

        Raises:
            ConvertError: K06, the schema library is missing.
        """
        try:
            import flatbuffers
            import tflite
        except ImportError as error:
            raise ConvertError("K06", how_to_install("tflite")) from error
        return _File(flatbuffers.Builder(sum(map(len, self._buffers)) + 4096), tflite).write(
            self._tensors, self._operators, self._buffers, (self._entry, output)
        )


class _File:
    """Lays a graph out; whatever can be shared is written once."""

    def __init__(self, builder: Any, schema: Any) -> None:
        self._builder = builder
        self._schema = schema
        self._ints: dict[tuple[int, ...], int] = {}
        self._options: dict[Any, int] = {}
        self._steps = 0

    def write(
        self,
        tensors: Sequence[_Tensor],
        operators: Sequence[_Operator],
        buffers: Sequence[bytes],
        ends: tuple[int, int],
    ) -> bytes:
        names = sorted({operator.name for operator in operators})
        data = self._tables([self._buffer(item) for item in buffers])
        codes = self._tables([self._code(name) for name in names])
        listed = self._tables(
            [self._tensor(t, "score" if k == ends[1] else t.name) for k, t in enumerate(tensors)]
        )
        steps = self._tables([self._operator(item, names) for item in operators])
        graph = self._table(
            "SubGraph",
            Tensors=listed,
            Inputs=self._vector(ends[:1]),
            Outputs=self._vector(ends[1:]),
            Operators=steps,
        )
        model = self._table(
            "Model",
            Version=SCHEMA_VERSION,
            OperatorCodes=codes,
            Subgraphs=self._tables([graph]),
            Description=self._builder.CreateString("wherry"),
            Buffers=data,
        )
        self._builder.Finish(model, b"TFL3")
        return bytes(self._builder.Output())

    def _table(self, name: str, **cells: float) -> int:
        getattr(self._schema, f"{name}Start")(self._builder)
        for cell, value in cells.items():
            getattr(self._schema, f"{name}Add{cell}")(self._builder, value)
        return int(getattr(self._schema, f"{name}End")(self._builder))

    def _tables(self, places: Sequence[int]) -> int:
        self._builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self._builder.PrependUOffsetTRelative(place)
        return int(self._builder.EndVector())

    def _vector(self, values: tuple[int, ...]) -> int:
        if values not in self._ints:
            self._builder.StartVector(4, len(values), 4)
            for value in reversed(values):
                self._builder.PrependInt32(value)
            self._ints[values] = int(self._builder.EndVector())
        return self._ints[values]

    def _buffer(self, data: bytes) -> int:
        if not data:
            return self._table("Buffer")
        self._builder.StartVector(1, len(data), _ALIGNMENT)
        self._builder.head -= len(data)
        self._builder.Bytes[self._builder.head : self._builder.head + len(data)] = data
        return self._table("Buffer", Data=self._builder.EndVector())

    def _code(self, name: str) -> int:
        code = getattr(self._schema.BuiltinOperator, name)
        # readers from before 2020 know only the eight bits
        return self._table(
            "OperatorCode",
            DeprecatedBuiltinCode=min(code, 127),
            Version=VERSIONS[name],
            BuiltinCode=code,
        )

    def _tensor(self, tensor: _Tensor, name: str) -> int:
        cells = {
            "Shape": self._vector(tensor.shape),
            "Type": getattr(self._schema.TensorType, _KINDS[tensor.kind]),
            "Buffer": tensor.buffer,
            "Name": self._builder.CreateSharedString(name),
        }
        if tensor.kind == "int8":
            cells["Quantization"] = self._steps_of_one()
        return self._table("Tensor", **cells)

    def _steps_of_one(self) -> int:
        if not self._steps:
            scale = self._builder.CreateNumpyVector(np.ones(1, np.float32))
            zero = self._builder.CreateNumpyVector(np.zeros(1, np.int64))
            self._steps = self._table("QuantizationParameters", Scale=scale, ZeroPoint=zero)
        return self._steps

    def _operator(self, operator: _Operator, names: Sequence[str]) -> int:
        cells: dict[str, int] = {
            "OpcodeIndex": names.index(operator.name),
            "Inputs": self._vector(operator.inputs),
            "Outputs": self._vector((operator.output,)),
        }
        table, values = operator.options
        if table:
            if operator.options not in self._options:
                self._options[operator.options] = self._table(table, **dict(values))
            cells["BuiltinOptionsType"] = getattr(self._schema.BuiltinOptions, table)
            cells["BuiltinOptions"] = self._options[operator.options]
        return self._table("Operator", **cells)
