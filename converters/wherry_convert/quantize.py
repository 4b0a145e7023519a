"""Integer arithmetic for neural nets, with the layers that decide left in float.

Static quantization (QDQ) by onnxruntime: uint8 activations whose ranges come from
calibration rows, int8 weights for each channel. Weights use 7 of their 8 bits, since
products of 8-bit values saturate on x86 without VNNI, and one file must decide the same
on every board. "Accuracy did not drop" hides what int8 does near the threshold, so a few
variants are tried, with the first and the last layer left in float or not, and judged by
decisions that flip.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from wherry_contract.encoder import Tensor
from wherry_contract.errors import ConvertError

from .graph import parse, seal
from .parity import Difference, compare
from .scoring import Scored
from .to_onnx import SCORE, Converted, runtime_needs

CALIBRATION_ROWS: Final = 4096
_LAYERS: Final = ("MatMul", "Gemm")
_LEAVE_OUT: Final = "leave [quantize] out for this model"


@dataclass(frozen=True)
class Variant:
    """One way of quantizing, and what it costs.

    Attributes:
        floats: which layers stay in float, in words.
        bytes: size of the file.
        difference: against the float model, on the calibration rows.
    """

    floats: str
    bytes: int
    difference: Difference


@dataclass(frozen=True)
class Quantized:
    """The variant that was kept, and all that were tried.

    Attributes:
        converted: the model; its scores differ from the float one's.
        bytes_before: size of the float file.
        kept: the variant that was kept.
        variants: all of them, the kept one too.
    """

    converted: Converted
    bytes_before: int
    kept: Variant
    variants: tuple[Variant, ...]

    @property
    def bytes_after(self) -> int:
        """Size of the file that was kept."""
        return self.kept.bytes


def quantize(converted: Converted, calibration: Tensor, *, threshold: float = 0.5) -> Quantized:
    """Quantize a neural net to int8.

    A variant counts if it is smaller than the float file. Of those that keep at least half
    of the float model's distinct scores (of all, if none does), the one with the fewest
    flipped decisions is kept; of several, the smallest.

    Args:
        converted: a model of family ``neural``.
        calibration: float32, shape (rows, features), as the encoder makes it; activation
            ranges come from at most `CALIBRATION_ROWS` of them, flips from all.
        threshold: the operating threshold.

    Raises:
        ConvertError: K03 it is a tree model, K02 there is nothing to gain, K07 no rows that fit.
    """
    layers = _layers(converted, calibration)
    reference = _scores(converted, calibration)
    tried = []
    for words, floats in _choices(layers):
        candidate = _static(converted, _spread(calibration), floats)
        found = compare(reference, _scores(candidate, calibration), threshold)
        tried.append((Variant(words, len(candidate.model), found), candidate))
    smaller = [pair for pair in tried if pair[0].bytes < len(converted.model)]
    if not smaller:
        raise ConvertError(
            "K02",
            f"every int8 file is larger than the float one of {len(converted.model)} bytes",
            cure=_LEAVE_OUT,
        )
    kept, model = min(smaller, key=lambda pair: _rank(pair[0]))
    note = f"static int8, in float: {kept.floats}"
    return Quantized(
        replace(model, notes=(*converted.notes, note)),
        len(converted.model),
        kept,
        tuple(variant for variant, _ in tried),
    )


def _layers(converted: Converted, calibration: Tensor) -> list[str]:
    if converted.family == "trees":
        raise ConvertError("K03", "its thresholds and leaves are no matrix products")
    if converted.family != "neural":
        raise ConvertError("K02", f"a {converted.family} model is small as it is", cure=_LEAVE_OUT)
    features = len(converted.encoder.contract.names)
    if calibration.ndim != 2 or calibration.shape[1] != features or not len(calibration):
        raise ConvertError("K07", f"calibration rows of shape {calibration.shape} do not fit")
    return [node.name for node in parse(converted.model).graph.node if node.op_type in _LAYERS]


def _rank(variant: Variant) -> tuple[bool, int, int]:
    found = variant.difference
    coarse = found.distinct_found * 2 < found.distinct_reference
    return coarse, found.flips, variant.bytes


def _choices(layers: list[str]) -> list[tuple[str, list[str]]]:
    if len(layers) < 2:
        return [("no layer", [])]
    ends = [
        ("no layer", []),
        ("last layer", layers[-1:]),
        ("first layer", layers[:1]),
    ]
    return ends if len(layers) == 2 else [*ends, ("first and last layer", [layers[0], layers[-1]])]


def _spread(rows: Tensor) -> Tensor:
    if len(rows) <= CALIBRATION_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, CALIBRATION_ROWS).astype(np.int64)]


def _scores(converted: Converted, rows: Tensor) -> Any:
    scored = Scored(
        converted.model, converted.needs, converted.encoder, converted.tensor, converted.column
    )
    return scored.score_tensor(rows)


class _Reader:
    """Hands rows to the calibrator, in the shape that it asks for."""

    def __init__(self, rows: Tensor, name: str) -> None:
        self._parts = iter([{name: rows}])

    def get_next(self) -> dict[str, Tensor] | None:
        """The next batch, or None at the end."""
        return next(self._parts, None)


def _static(converted: Converted, rows: Tensor, floats: list[str]) -> Converted:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = parse(converted.model)
    reader = _Reader(rows, model.graph.input[0].name)
    with tempfile.TemporaryDirectory(prefix="wherry-") as folder, _quiet():
        made = Path(folder) / "model.onnx"
        quantize_static(
            model,
            made,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_LAYERS),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=floats,
        )
        sealed = seal(parse(made.read_bytes()), SCORE)
    return replace(converted, model=sealed, needs=runtime_needs(sealed))


@contextmanager
def _quiet() -> Iterator[None]:
    # it advises on pre-processing through the root logger
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
