"""Which runtime runs a model: one file for each."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from wherry_contract.errors import SetupError
from wherry_contract.manifest import Output, RuntimeNeeds

from .session import Session

_DISTRIBUTIONS: Final = {"onnxruntime": "onnxruntime"}


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
