"""Keras models as .keras files; TensorFlow runs in an environment of its own.

There TensorFlow's converter writes the TFLite file and tf2onnx the ONNX file, both of the
same graph with its weights frozen in, and both are then looked at like any file from
elsewhere. The model's own scores, against which the bundle is judged, come from Keras.

tf2onnx reads that graph rather than the TFLite file or Keras's own export: it keeps a
first axis of any length, and what it does not know stays in the graph, where it is refused.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from wherry_contract.encoder import Encoder, Tensor
from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract, RawMatrix
from wherry_contract.wire import sha256_digest
from wherry_convert.environments import python_of, run_in

from . import onnx_file, tflite_file
from .base import Lowered, Scores
from .keras_archive import check_archive, sizes
from .onnx_rows import refuse_wide_rows
from .outputs import ONE_PROBABILITY, Wanted

ENVIRONMENT: Final = "tensorflow"
METHODS: Final = ("dynamic", "float16", "int8", "int16")  # of TensorFlow's quantizer
_CALIBRATED: Final = frozenset({"int8", "int16"})
_WORKER: Final = Path(__file__).with_name("keras_worker.py")
_SETTINGS: Final = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "PYTHONHASHSEED": "0",  # tf2onnx goes through sets
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # sums in one order
}
_NUMBERS: Final = ("float32", "int32", "int64")
_ONE_OR_NAMED: Final = "give it one input of shape (features,), or one named input for each feature"


@dataclass(frozen=True)
class Input:
    """An input of the model.

    Attributes:
        name: its layer's.
        width: numbers of a row that go into it.
        dtype: ``float32`` for a number, ``int32`` or ``int64`` for a category's place.
        most: categories that the model knows; 0 if it does not say.
    """

    name: str
    width: int
    dtype: str
    most: int = 0


@dataclass(frozen=True)
class _Made:
    onnx: bytes
    tflite: bytes
    refused: str
    inputs: Sequence[Any]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class KerasModel:
    """A model of classes, or of one number.

    Attributes:
        file: the .keras file's bytes.
        inputs: in the model's order.
        exported: the ONNX file that tf2onnx made of it, inputs in that order.
        digest: ``sha256:...`` of the .keras file.
        versions: of the libraries that read it.
        wanted: what the project decides by.
    """

    file: bytes
    inputs: tuple[Input, ...]
    exported: onnx_file.OnnxModel
    digest: str
    versions: Mapping[str, str]
    wanted: Wanted
    _made: dict[tuple[str, ...], _Made] = field(repr=False, compare=False)

    @property
    def family(self) -> str:
        """``neural`` or ``linear``."""
        return self.exported.family

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """The scores, by Keras itself on float32 rows.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories; one is its place in their list.

        Returns:
            float64, shape (rows,), or (rows, classes).

        Raises:
            ConvertError: K04 Keras cannot run it, K07 the model does not take these rows,
                K01 what it gives are no probabilities.
        """
        order = self._order(contract)
        self.exported.check(contract)
        if not len(raw):
            return self.exported.picked.of(np.empty(0))
        with tempfile.TemporaryDirectory(prefix="wherry-") as folder:
            model, rows, out = (Path(folder) / name for name in ("m.keras", "r.npy", "out.npy"))
            model.write_bytes(self.file)
            np.save(rows, Encoder(contract, ()).encode(raw), allow_pickle=False)
            _run("score", model, rows, out, *_named(order, folder))
            table = np.load(out, allow_pickle=False).reshape(len(raw), -1)
        return self.exported.looked_at(table, "the model's output")

    def lower(self, contract: InputContract) -> Lowered:
        """The neutral form: the graph that tf2onnx wrote.

        Raises:
            ConvertError: K01 or K02 it is none for a bundle, K07 the contract does not fit.
        """
        made = self._files(self._order(contract))
        exported = onnx_file.load(made.onnx, (), trust_pickle=False, wanted=self.wanted)
        return exported.lower(contract)

    def tflite(self, contract: InputContract) -> tflite_file.TfliteModel:
        """The TFLite file that TensorFlow's converter wrote.

        Raises:
            ConvertError: K01 or K02 it is none for a bundle, K07 the contract does not fit.
        """
        made = self._files(self._order(contract))
        if made.refused:
            raise ConvertError("K01", made.refused, cure="build it for onnxruntime")
        return tflite_file.load(made.tflite, (), trust_pickle=False, wanted=self.wanted)

    def _files(self, order: tuple[str, ...]) -> _Made:
        if order not in self._made:
            self._made[order] = _export(self.file, order)
        return self._made[order]

    def _order(self, contract: InputContract) -> tuple[str, ...]:
        """Names of the inputs as the contract has them; empty for one matrix, or its own order."""
        if len(self.inputs) == 1:
            _check_categories(self.inputs[0], contract, contract.names)
            return ()
        names = tuple(item.name for item in self.inputs)
        if set(names) != set(contract.names):
            odd = sorted(set(names) ^ set(contract.names))
            detail = f"the model's inputs and the contract's features differ: {', '.join(odd[:6])}"
            raise ConvertError("K07", detail)
        for item in self.inputs:
            _check_categories(item, contract, [item.name])
        return () if contract.names == names else tuple(contract.names)


def _check_categories(item: Input, contract: InputContract, names: Sequence[str]) -> None:
    """Refuse a place in a list that the model has no row for."""
    if item.dtype == "float32" and not item.most:
        return
    for feature in contract.features:
        if feature.name not in names:
            continue
        if not feature.categories or feature.unseen == "allow":
            detail = f"{feature.name} goes where the model looks up places in a list"
            cure = "make it a category of the contract, and let it refuse those not listed"
            raise ConvertError("K07", detail, cure=cure)
        if item.most and len(feature.categories) > item.most:
            detail = f"{feature.name} has {len(feature.categories)} categories in the contract"
            raise ConvertError("K07", f"{detail}, {item.most} in the model")


def load(
    data: bytes,
    trusted: tuple[str, ...],
    *,
    trust_pickle: bool,
    wanted: Wanted = ONE_PROBABILITY,
) -> KerasModel:
    """Read a .keras file.

    Args:
        data: the file.
        trusted: not used: layers beyond those of a list are never looked up.
        trust_pickle: not used: code in it is never run.
        wanted: what the project decides by.

    Raises:
        ConvertError: K01 or K02 the graph is none for a bundle, K04 unreadable, K05 it holds
            more than layers and tensors, K06 TensorFlow's environment is missing.
    """
    del trusted, trust_pickle
    document = check_archive(data)
    python_of(ENVIRONMENT)
    made = _export(data, ())
    exported = onnx_file.load(made.onnx, (), trust_pickle=False, wanted=wanted)
    return KerasModel(
        data,
        _inputs(made.inputs, sizes(document)),
        exported,
        sha256_digest(data),
        dict(exported.versions) | dict(made.versions),
        wanted,
        {(): made},
    )


def quantized(source: KerasModel, contract: InputContract, method: str, rows: Tensor) -> bytes:
    """A TFLite file by TensorFlow's own quantizer.

    Args:
        source: the model.
        contract: the raw features.
        method: one of `METHODS`.
        rows: float32, shape (rows, features), encoded, for the ranges of activations;
            ``dynamic`` and ``float16`` do not look at them.

    Returns:
        The file; in- and output stay float32. The same bytes for the same arguments.

    Raises:
        ConvertError: K02 no such method or no rows, K04 TensorFlow cannot, K06 its environment
            is missing, K07 model and contract do not fit.
    """
    if method not in METHODS or (method in _CALIBRATED and not len(rows)):
        detail = f"{method} on {len(rows)} rows; methods: {', '.join(METHODS)}"
        raise ConvertError("K02", detail, cure="name one of them, and give rows")
    order = source._order(contract)  # noqa: SLF001 - of this file
    with tempfile.TemporaryDirectory(prefix="wherry-") as folder:
        model, table, out = (Path(folder) / name for name in ("m.keras", "r.npy", "m.tflite"))
        model.write_bytes(source.file)
        np.save(table, np.asarray(rows, np.float32), allow_pickle=False)
        _run("quantize", model, method, table, out, *_named(order, folder))
        return out.read_bytes()


def _inputs(listed: Sequence[Any], most: Mapping[str, int]) -> tuple[Input, ...]:
    found = []
    for item in listed:
        name, shape, dtype = str(item["name"]), item["shape"][1:], str(item["dtype"])
        if dtype not in _NUMBERS:
            detail = f"its input {name} holds {dtype}"
            cure = "take float32, or int32 for a category's place in the contract's list"
            raise ConvertError("K01", detail, cure=cure)
        if None in shape or not shape:
            detail = f"its input {name} has shape {tuple(shape)}"
            raise ConvertError("K01", detail, cure=_ONE_OR_NAMED)
        found.append(Input(name, math.prod(shape), dtype, most.get(name, 0)))
    wide = [item.name for item in found if item.width != 1]
    if len(found) > 1 and wide:
        detail = f"it has {len(found)} inputs, and {wide[0]} takes more than one number"
        raise ConvertError("K01", detail, cure=_ONE_OR_NAMED)
    refuse_wide_rows(sum(item.width for item in found), "its inputs")
    return tuple(found)


def _export(data: bytes, order: tuple[str, ...]) -> _Made:
    with tempfile.TemporaryDirectory(prefix="wherry-") as folder:
        model, onnx, tflite = (Path(folder) / name for name in ("m.keras", "m.onnx", "m.tflite"))
        model.write_bytes(data)
        said = _run("export", model, onnx, tflite, *_named(order, folder))
        lite = b"" if said["refused"] else tflite.read_bytes()
        return _Made(onnx.read_bytes(), lite, said["refused"], said["inputs"], said["versions"])


def _named(order: tuple[str, ...], folder: str) -> list[Path]:
    if not order:
        return []
    path = Path(folder) / "names.json"
    path.write_text(json.dumps(order))
    return [path]


def _run(act: str, *arguments: Path | str) -> Any:
    said = run_in(ENVIRONMENT, _WORKER, [act, *map(str, arguments)], settings=_SETTINGS)
    try:
        return dict(json.loads(said.splitlines()[-1]))
    except (ValueError, IndexError, TypeError) as error:
        raise ConvertError("K04", f"Keras's program gave no answer: {said[-200:]}") from error
