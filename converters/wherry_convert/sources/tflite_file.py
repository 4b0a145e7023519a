"""TFLite files from elsewhere: looked into, held against what a board takes, and kept as they are.

The source model is the file itself, run by the interpreter that is here. It must take one
tensor of one row and give probabilities of classes, or a value; quantized tensors are given
and read in their own steps. What else is asked for is refused with what to export instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

import numpy as np

from wherry_contract.encoder import Encoder
from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract, RawMatrix
from wherry_contract.wire import sha256_digest
from wherry_convert.tflite_inspect import TensorFacts, TfliteFacts, inspect_tflite, refuse_tflite
from wherry_convert.tflite_scoring import TfliteRunner

from .base import Lowered, Scores
from .onnx_file import pick_column, refuse_other_than_probabilities
from .onnx_rows import refuse_wide_rows
from .outputs import ONE_PROBABILITY, Picked, Wanted

_LIBRARIES: Final = ("ai-edge-litert", "tflite", "numpy")
_KINDS: Final = ("float32", "int8", "uint8", "int16")
_ONE_ROW: Final = "convert it with one input of shape (1, features)"


@dataclass(frozen=True)
class TfliteModel:
    """A file that gives probabilities of classes, or one number.

    Attributes:
        file: its bytes, which score, and which the bundle will hold.
        tensor: name of the output.
        picked: what of it is looked at.
        features: how many numbers a row has.
        notes: what a reader of the report should know.
        digest: ``sha256:...`` of the file.
        family: ``neural``; nobody knows better from outside.
        versions: of the libraries that read it.
        value: whether the one number is no probability.
    """

    file: bytes
    tensor: str
    picked: Picked
    features: int
    notes: tuple[str, ...]
    digest: str
    family: str = "neural"
    versions: Mapping[str, str] = field(default_factory=dict)
    value: bool = False

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """The scores, by the file itself.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories; one is its place in their list.

        Returns:
            float64, shape (rows,), or (rows, classes).

        Raises:
            ConvertError: K07 the model does not take these rows, K01 what it gives are no
                probabilities.
        """
        self.check(contract)
        if not len(raw):
            return self.picked.of(np.empty(0))
        runner = TfliteRunner(self.file, 1, self.tensor)
        found = self.picked.of(runner.run(Encoder(contract, ()).encode(raw)))
        if not self.value:
            refuse_other_than_probabilities(found, f"its output {self.tensor}")
        return found

    def lower(self, contract: InputContract) -> Lowered:
        """There is no way back from TFLite.

        Raises:
            ConvertError: K01, always; K07, the contract does not fit either.
        """
        self.check(contract)
        raise ConvertError(
            "K01", "a TFLite file cannot become ONNX", cure='say runtime = "tflite" in [target]'
        )

    def check(self, contract: InputContract) -> None:
        """Refuse a contract that does not fit.

        Raises:
            ConvertError: K07.
        """
        if self.features != len(contract.names):
            detail = f"the file takes {self.features} numbers, the contract has"
            raise ConvertError("K07", f"{detail} {len(contract.names)} features")
        gaps = [item.name for item in contract.features if item.missing == "allow"]
        if gaps:
            detail = (
                f"the contract allows {gaps[0]} to be missing, and nobody knows what the file does"
            )
            raise ConvertError("K07", detail, cure="let the contract refuse it")


def load(
    data: bytes,
    trusted: tuple[str, ...],
    *,
    trust_pickle: bool,
    wanted: Wanted = ONE_PROBABILITY,
) -> TfliteModel:
    """Read a TFLite file.

    Args:
        data: the file.
        trusted: not used: nothing in a graph runs but operators.
        trust_pickle: likewise.
        wanted: what the project decides by.

    Raises:
        ConvertError: K01 operators, inputs or outputs that no bundle may hold, K02 it keeps
            state between rows, K04 unreadable, K06 a library is missing.
    """
    del trusted, trust_pickle
    facts = inspect_tflite(data)
    refuse_tflite(facts)
    features = _features(facts)
    (output, picked) = _score(facts, wanted)
    TfliteRunner(data, 1, output).run(np.zeros((1, features), np.float32))
    return TfliteModel(
        file=data,
        tensor=output,
        picked=picked,
        value=wanted.decision == "value",
        features=features,
        notes=(f"the graph is the file's own; quantization: {facts.quantization}",),
        digest=sha256_digest(data),
        versions={library: version(library) for library in _LIBRARIES},
    )


def _features(facts: TfliteFacts) -> int:
    if len(facts.inputs) != 1:
        listed = ", ".join(item.name for item in facts.inputs[:6]) or "none"
        raise ConvertError("K01", f"it has {len(facts.inputs)} inputs: {listed}", cure=_ONE_ROW)
    (entry,) = facts.inputs
    _check_numbers(entry)
    if len(entry.shape) < 2 or entry.shape[0] not in {1, -1} or min(entry.shape[1:]) < 1:
        detail = f"its input {entry.name} has shape {entry.shape}"
        raise ConvertError("K01", detail, cure=_ONE_ROW)
    what = f"its input {entry.name} has shape {entry.shape}"
    return refuse_wide_rows(int(np.prod(entry.shape[1:])), what)


def _score(facts: TfliteFacts, wanted: Wanted) -> tuple[str, Picked]:
    if len(facts.outputs) != 1:
        listed = ", ".join(item.name for item in facts.outputs[:6]) or "none"
        cure = "convert it with one output, the probabilities"
        raise ConvertError("K01", f"it has {len(facts.outputs)} outputs: {listed}", cure=cure)
    (end,) = facts.outputs
    _check_numbers(end)
    width = int(np.prod(end.shape[1:])) if len(end.shape) > 1 else 1
    return end.name, pick_column(wanted, width, f"its output {end.name}")


def _check_numbers(item: TensorFacts) -> None:
    if item.dtype not in _KINDS or (item.dtype != "float32" and not item.scale):
        detail = f"{item.name} holds {item.dtype} without a scale"
        raise ConvertError("K01", detail, cure="convert it with float32 or quantized tensors")
