"""What runs a model: one small protocol, one file for each runtime."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Tensor
from wherry_contract.errors import SetupError
from wherry_contract.manifest import Output, RuntimeNeeds

Scores = NDArray[np.float64]

_DISTRIBUTIONS: Final = {"onnxruntime": "onnxruntime"}


class Session(Protocol):
    """A loaded model."""

    def score(self, tensor: Tensor) -> Scores:
        """Probabilities of the positive class.

        Args:
            tensor: float32, shape (rows, features).

        Returns:
            float64, shape (rows,).
        """
        ...


def installed() -> tuple[str, str]:
    """Name and version of the runtime that is installed here, without importing it.

    Raises:
        SetupError: H06, there is none.
    """
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            return name, version(distribution)
        except ImportError:
            continue
    raise SetupError("H06", "no inference runtime; pip install 'wherry[agent]'")


def open_session(model: bytes, needs: RuntimeNeeds, output: Output) -> Session:
    """Load a model from bytes with the runtime that it names.

    Raises:
        ProbeError: P04, it cannot be loaded.
    """
    from .runtime_onnx import OnnxSession

    return OnnxSession(model, needs, output)
