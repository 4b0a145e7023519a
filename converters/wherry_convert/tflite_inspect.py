"""What a TFLite file is made of, read through the schema library and never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install
from wherry_contract.operators import forbidden

MAGIC: Final = b"TFL3"
_BUILTIN_SLOT: Final = 10  # of OperatorCode.builtin_code
_NO_CUSTOM: Final = "convert it again with built-in operators only (no SELECT_TF_OPS)"
_NO_OTHERS: Final = "build it of layers that boards run; wherry_contract/operators.py lists them"
_MOST: Final = 100_000  # tensors, operators or buffers


@dataclass(frozen=True)
class TensorFacts:
    """An input or an output.

    Attributes:
        name: as the file says.
        dtype: as ``float32`` or ``int8``.
        shape: -1 where any size goes.
        scale: what a step of a quantized tensor is worth; 0 if it is not quantized.
        zero_point: which integer stands for zero.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class TfliteFacts:
    """What a file is made of.

    Attributes:
        schema: version of the schema.
        versions: the version of each builtin operator; a custom one as ``CUSTOM:name``.
        inputs: of the first subgraph.
        outputs: likewise.
        subgraphs: more than one where there is control flow.
        state: whether it keeps variables from one row to the next.
        weights: bytes of constants by dtype.
        activations: dtypes of what is computed, in- and outputs too.
    """

    schema: int
    versions: Mapping[str, int]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    subgraphs: int
    state: bool
    weights: Mapping[str, int]
    activations: tuple[str, ...]

    @property
    def operators(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(sorted(self.versions))

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(self.weights.values())

    @property
    def precision(self) -> str:
        """ModelPack's word for the weights: the dtype of most of their bytes."""
        return max(self.weights, key=lambda name: self.weights[name], default="float32")

    @property
    def quantization(self) -> str:
        """How it is quantized, in words."""
        if "int16" in self.activations and "int8" in self.weights:
            return "int8 weights, int16 activations"
        if "int8" in self.activations or "uint8" in self.activations:
            return "int8 weights and activations"
        return {"int8": "int8 weights", "float16": "float16 weights"}.get(self.precision, "none")


def is_tflite(model: bytes) -> bool:
    """Whether the bytes claim to be a TFLite file."""
    return model[4:8] == MAGIC


def inspect_tflite(model: bytes) -> TfliteFacts:
    """Read what a file is made of.

    Raises:
        ConvertError: K04 it is no TFLite file, K06 the schema library is missing.
    """
    try:
        import tflite
    except ImportError as error:
        raise ConvertError("K06", how_to_install("tflite")) from error
    if not is_tflite(model):
        raise ConvertError("K04", "the file is no TFLite model")
    try:
        return _facts(tflite.Model.GetRootAs(model, 0), _Names(tflite))
    except ConvertError:
        raise
    except Exception as error:  # a broken offset may end in any error of struct, numpy or utf-8
        raise ConvertError("K04", "the TFLite file is damaged") from error


class _Names:
    """The schema's names for its numbers."""

    def __init__(self, schema: Any) -> None:
        self.operators = _by_number(schema.BuiltinOperator)
        self.types = {k: name.lower() for k, name in _by_number(schema.TensorType).items()}


def _by_number(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _count(number: int) -> range:
    if number > _MOST:
        raise ConvertError("K04", f"the TFLite file lists {number} parts")
    return range(number)


def _facts(model: Any, names: _Names) -> TfliteFacts:
    codes = [_code(model.OperatorCodes(k), names) for k in _count(model.OperatorCodesLength())]
    graphs = [model.Subgraphs(k) for k in _count(model.SubgraphsLength())]
    used: dict[str, int] = {}
    weights: dict[str, int] = {}
    activations: set[str] = set()
    state = False
    for graph in graphs:
        for k in _count(graph.OperatorsLength()):
            name, version = codes[graph.Operators(k).OpcodeIndex()]
            used[name] = max(version, used.get(name, 1))
        for tensor in _tensors(graph):
            kind, size = names.types[tensor.Type()], model.Buffers(tensor.Buffer()).DataLength()
            state = state or bool(tensor.IsVariable())
            if size:
                weights[kind] = weights.get(kind, 0) + size
            else:
                activations.add(kind)
    first = graphs[0]
    return TfliteFacts(
        schema=model.Version(),
        versions=used,
        inputs=_ends(first, [first.Inputs(k) for k in _count(first.InputsLength())], names),
        outputs=_ends(first, [first.Outputs(k) for k in _count(first.OutputsLength())], names),
        subgraphs=len(graphs),
        state=state,
        weights=weights,
        activations=tuple(sorted(activations)),
    )


def _code(code: Any, names: _Names) -> tuple[str, int]:
    # files from before 2020 have the number in a field of eight bits, later ones in both
    name = names.operators[max(_builtin(code), code.DeprecatedBuiltinCode())]
    if name == "CUSTOM":
        name = f"CUSTOM:{(code.CustomCode() or b'?').decode()[:64]}"
    return name, code.Version()


def _builtin(code: Any) -> int:
    """The field itself: the library answers with the old one for every low number.

    A file with the number in the new field alone would pass as ADD, whatever it runs.
    """
    table = code._tab  # noqa: SLF001 - the library has no other way to it
    place = table.Offset(_BUILTIN_SLOT)
    if not place:
        return 0
    start = place + table.Pos
    return int.from_bytes(table.Bytes[start : start + 4], "little", signed=True)


def _tensors(graph: Any) -> Iterator[Any]:
    for k in _count(graph.TensorsLength()):
        yield graph.Tensors(k)


def _ends(graph: Any, places: list[int], names: _Names) -> tuple[TensorFacts, ...]:
    return tuple(_end(graph.Tensors(place), names) for place in places)


def _end(tensor: Any, names: _Names) -> TensorFacts:
    known = [tensor.ShapeSignature(k) for k in _count(tensor.ShapeSignatureLength())]
    shape = known or [tensor.Shape(k) for k in _count(tensor.ShapeLength())]
    found = tensor.Quantization()
    scaled = found is not None and found.ScaleLength() == 1
    return TensorFacts(
        name=(tensor.Name() or b"").decode(),
        dtype=names.types[tensor.Type()],
        shape=tuple(int(size) for size in shape),
        scale=float(found.Scale(0)) if scaled else 0.0,
        zero_point=int(found.ZeroPoint(0)) if scaled and found.ZeroPointLength() else 0,
    )


def refuse_tflite(facts: TfliteFacts) -> None:
    """Refuse a file that no bundle may hold.

    Raises:
        ConvertError: K01 operators outside the allow-list, or several subgraphs; K02 it keeps
            state from one row to the next.
    """
    if facts.state:
        detail = (
            "it keeps variables from one row to the next, so a score depends on who came before"
        )
        raise ConvertError("K02", detail, cure="convert it without state, or unroll the sequence")
    outside = forbidden(facts.operators, "tflite")
    if outside:
        listed = ", ".join(outside[:8])
        custom = any(name.startswith("CUSTOM") for name in outside)
        cure = _NO_CUSTOM if custom else _NO_OTHERS
        raise ConvertError(
            "K01", f"its graph needs operators that no bundle may hold: {listed}", cure=cure
        )
    if facts.subgraphs != 1:
        raise ConvertError("K01", f"it has {facts.subgraphs} subgraphs; a bundle's graph has one")
