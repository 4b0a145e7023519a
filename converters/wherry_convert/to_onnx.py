"""Source model in, ONNX graph and encoder out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Encoder
from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract
from wherry_contract.manifest import RuntimeNeeds
from wherry_contract.versions import in_range

from .forest import Forest, forest_graph
from .graph import inspect_graph, parse, seal
from .sources.base import SourceModel

RUNTIME_RANGE: Final = ">=1.27,<1.29"
SCORE: Final = "score"


@dataclass(frozen=True)
class Converted:
    """A model that a bundle can hold.

    Attributes:
        model: the ONNX file.
        needs: what runs it.
        encoder: from raw rows to its input.
        tensor: the output that holds the scores.
        column: the column of the score; -1 if there is just the one, or classes.
        family: ``trees``, ``neural`` or ``linear``.
        notes: what was done that a reader of the report should know.
        cuts: where decisions change, in raw values, ascending, by feature name.
        classes: names of the columns, if the decision is between them.
    """

    model: bytes
    needs: RuntimeNeeds
    encoder: Encoder
    tensor: str
    column: int
    family: str
    notes: tuple[str, ...] = ()
    cuts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def convert(source: SourceModel, contract: InputContract) -> Converted:
    """Turn a source model into a graph that decides the same.

    Args:
        source: as `load_source` read it.
        contract: the raw features, in the order of the model's columns or by its names.

    Returns:
        The same bytes for the same source and contract.

    Raises:
        ConvertError: K01 it cannot be converted, K02 a part would convert wrongly,
            K06 a library is missing or too new, K07 model and contract do not fit.
    """
    check_protobuf(version("protobuf"))
    lowered = source.lower(contract)
    if isinstance(lowered.body, Forest):
        model, tensor = forest_graph(lowered.body, len(contract.names)), SCORE
    else:
        model, tensor = parse(lowered.body.model), lowered.body.tensor
    sealed = seal(model, tensor)
    encoder = Encoder(contract, lowered.steps)
    return Converted(
        sealed,
        runtime_needs(sealed),
        encoder,
        SCORE,
        lowered.column,
        source.family,
        lowered.notes,
        lowered.cuts,
        lowered.picked.classes,
    )


def runtime_needs(model: bytes) -> RuntimeNeeds:
    """What a sealed model asks of a runtime.

    Raises:
        ConvertError: K04.
    """
    facts = inspect_graph(model)
    return RuntimeNeeds("onnxruntime", RUNTIME_RANGE, facts.ir, facts.opsets, facts.operators)


def check_protobuf(found: str) -> None:
    """Refuse a protobuf with which conversions fail.

    Args:
        found: the version that is installed.

    Raises:
        ConvertError: K06.
    """
    if not in_range(found, "<7"):
        detail = f"protobuf {found} breaks conversions; it must be below 7"
        raise ConvertError("K06", detail, cure="pip install 'protobuf<7'")
