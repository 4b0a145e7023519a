"""Source model in, TFLite file and encoder out: as `to_onnx`, for boards without onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from wherry_contract.encoder import Encoder
from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract
from wherry_contract.manifest import RuntimeNeeds

from .forest import Forest
from .sources.base import SourceModel
from .sources.keras_file import KerasModel, quantized
from .sources.tflite_file import TfliteModel
from .sources.tflite_file import load as load_tflite
from .tflite_dense import network_tflite
from .tflite_inspect import inspect_tflite, refuse_tflite
from .tflite_trees import forest_tflite, rank_all
from .to_onnx import SCORE, Converted

RUNTIME_RANGE: Final = ">=2.14,<2.15"
ALSO: Final = {"ai-edge-litert": ">=2.3,<2.4"}
LEAVES: Final = ("float32", "int16")
WEIGHTS: Final = ("float32", "float16", "int8")


def convert_tflite(
    source: SourceModel,
    contract: InputContract,
    *,
    leaves: str = "float32",
    weights: str = "float32",
) -> Converted:
    """Turn a source model into a TFLite file that decides the same.

    Args:
        source: as `load_source` read it.
        contract: the raw features, in the order of the model's columns or by its names.
        leaves: of trees; ``int16`` makes the file smaller, and scores differ: whether
            decisions do is for the gate to say.
        weights: of nets, one of `WEIGHTS`; likewise.

    Returns:
        The same bytes for the same source and contract.

    Raises:
        ConvertError: K01 it cannot be converted, K02 a part would convert wrongly,
            K06 a library is missing, K07 model and contract do not fit.
    """
    if isinstance(source, KerasModel):
        return _by_tensorflow(source, contract, weights)
    if isinstance(source, TfliteModel):
        return _as_it_is(source, contract)
    if weights != "float32" and source.family != "neural":
        raise ConvertError("K02", "only nets have weights", cure="leave [target] weights out")
    lowered = source.lower(contract)
    steps, notes = lowered.steps, lowered.notes
    if isinstance(lowered.body, Forest):
        forest, half = lowered.body, leaves == "int16"
        if half:
            forest, steps, more = rank_all(forest, contract.names, steps)
            notes += (f"16-bit leaves; ranked for them: {', '.join(more) or 'nothing'}",)
        model = forest_tflite(forest, len(contract.names), half=half)
    elif leaves != "float32":
        raise ConvertError("K02", "only trees have leaves", cure="leave [target] leaves out")
    else:
        model = network_tflite(lowered.body, len(contract.names), weights=weights)
        notes += (f"{weights} weights",) if weights != "float32" else ()
    return Converted(
        model,
        tflite_needs(model),
        Encoder(contract, steps),
        SCORE,
        lowered.column,
        source.family,
        notes,
        lowered.cuts,
        lowered.picked.classes,
    )


def _by_tensorflow(source: KerasModel, contract: InputContract, weights: str) -> Converted:
    if weights == "float32":
        return replace(_as_it_is(source.tflite(contract), contract), family=source.family)
    if weights != "float16":
        detail = f"TensorFlow's converter keeps no weights as {weights} with arithmetic in float32"
        raise ConvertError("K02", detail, cure="say float16, or quantize it")
    made = quantized(source, contract, weights, np.empty((0, 0), np.float32))
    file = load_tflite(made, (), trust_pickle=False, wanted=source.wanted)
    return replace(_as_it_is(file, contract), family=source.family)


def _as_it_is(source: TfliteModel, contract: InputContract) -> Converted:
    source.check(contract)
    return Converted(
        source.file,
        tflite_needs(source.file),
        Encoder(contract, ()),
        source.tensor,
        source.picked.column,
        source.family,
        source.notes,
        classes=source.picked.classes,
    )


def tflite_needs(model: bytes) -> RuntimeNeeds:
    """What a TFLite file asks of a runtime.

    Raises:
        ConvertError: K01 or K02 it may not be in a bundle, K04 it is none.
    """
    facts = inspect_tflite(model)
    refuse_tflite(facts)
    return RuntimeNeeds(
        "tflite", RUNTIME_RANGE, facts.schema, facts.versions, facts.operators, also=ALSO
    )
