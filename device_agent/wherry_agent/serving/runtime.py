"""Which runtime runs a model: one file for each."""

from __future__ import annotations

import contextlib
import importlib
import platform
import sys
from typing import Final

from wherry_agent.installed import installed_version
from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install
from wherry_contract.manifest import Output, RuntimeNeeds

from .session import Session

# distribution -> kind of model that it runs; of those of a kind the first that is here counts
KINDS: Final = {
    "onnxruntime": "onnxruntime",
    "tflite-runtime": "tflite",
    "ai-edge-litert": "tflite",
}
_MODULES: Final = {"onnxruntime": "runtime_onnx", "tflite": "runtime_tflite"}

# what a 64-bit kernel says to a 32-bit program -> what that program is
_AS_32_BITS: Final = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}


def architecture(machine: str = "", bits: int = 0) -> str:
    """What wheels are for: the interpreter's architecture, not the kernel's.

    A 32-bit system on a 64-bit kernel is told that it is an ``aarch64``, or an ``armv8l``.

    Args:
        machine: as ``uname -m`` says it; this one's if empty.
        bits: of the interpreter; this one's if 0.
    """
    machine, bits = machine or platform.machine(), bits or sys.maxsize.bit_length() + 1
    return _AS_32_BITS.get(machine, machine) if bits == 32 else machine


def runtimes() -> dict[str, str]:
    """Names and versions of the runtimes that are installed here, without importing them.

    Raises:
        SetupError: H06, there is none.
    """
    found: dict[str, str] = {}
    kinds: set[str] = set()
    for name, kind in KINDS.items():
        if kind not in kinds:
            with contextlib.suppress(ImportError):
                found[name] = installed_version(name)
                kinds.add(kind)
    if not found:
        detail = f"no inference runtime; {how_to_install('agent')}, or the extra agent-tflite"
        raise SetupError("H06", detail)
    return found


def installed() -> tuple[str, str]:
    """Name and version of the first of them.

    Raises:
        SetupError: H06, there is none.
    """
    return next(iter(runtimes().items()))


def preload() -> None:
    """Import the runtimes that are installed, so that their memory is not counted later.

    Raises:
        SetupError: H06, there is none, or one that cannot be imported.
    """
    for name in runtimes():
        try:
            importlib.import_module(f".{_MODULES[KINDS[name]]}", __package__)
        except (ImportError, OSError) as error:  # a wheel for another board
            raise SetupError("H06", f"{name}: {' '.join(str(error).split())[:200]}") from error


def open_session(model: bytes, needs: RuntimeNeeds, output: Output) -> Session:
    """Load a model from bytes with the runtime that it names.

    Raises:
        ProbeError: P04, it cannot be loaded.
    """
    if needs.kind == "tflite":
        from .runtime_tflite import TfliteSession

        return TfliteSession(model, needs, output)
    from .runtime_onnx import OnnxSession

    return OnnxSession(model, needs, output)
