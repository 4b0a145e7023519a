"""Scoring on the host with the runtime that the devices use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Encoder, Tensor
from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install
from wherry_contract.features import RawMatrix
from wherry_contract.manifest import RuntimeNeeds

from .sources.base import Scores

Run = Callable[[Tensor], NDArray[Any]]  # rows in, what the output holds for each

BATCH: Final = 65_536  # rows at a time, so that a large table does not need large buffers


class Scored:
    """A converted model that can score raw rows.

    Args:
        model: the file.
        needs: what runs it.
        encoder: from raw rows to its input.
        tensor: the output that holds the scores.
        column: the column of the score; -1 if there is just the one, or classes.
        classes: how many columns the decision is between; 0 for one score.

    Raises:
        ConvertError: K06 the runtime is missing, K04 it cannot load the model.
    """

    def __init__(  # noqa: PLR0917 - what a bundle says of its model, in its order
        self,
        model: bytes,
        needs: RuntimeNeeds,
        encoder: Encoder,
        tensor: str,
        column: int,
        classes: int = 0,
    ) -> None:
        self._shape = (classes,) if classes else ()
        self._encoder = encoder
        self._column = column
        self._run = _RUNNERS[needs.kind](model, needs.threads, tensor)

    def scores(self, raw: RawMatrix) -> Scores:
        """The scores of raw rows.

        Args:
            raw: float64, shape (rows, features).

        Returns:
            float64, shape (rows,), or (rows, classes).
        """
        parts = [
            self.score_tensor(self._encoder.encode(raw[start : start + BATCH]))
            for start in range(0, len(raw), BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, *self._shape))

    def score_tensor(self, tensor: Tensor) -> Scores:
        """Likewise, for rows that are encoded: float32 (rows, features)."""
        found = self._run(tensor)
        if self._column >= 0:
            found = found[:, self._column]
        return np.asarray(found, np.float64).reshape(len(tensor), *self._shape)


def _onnx(model: bytes, threads: int, tensor: str) -> Run:
    session = _open(model, threads)
    name = str(session.get_inputs()[0].name)
    return lambda rows: np.asarray(session.run([tensor], {name: rows})[0])


def _tflite(model: bytes, threads: int, tensor: str) -> Run:
    from .tflite_scoring import TfliteRunner

    return TfliteRunner(model, threads, tensor).run


_RUNNERS: Final[Mapping[str, Callable[[bytes, int, str], Run]]] = {
    "onnxruntime": _onnx,
    "tflite": _tflite,
}


def _open(model: bytes, threads: int) -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise ConvertError("K06", how_to_install("host")) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class but this
        raise ConvertError("K04", " ".join(str(error).split())[:300]) from error
