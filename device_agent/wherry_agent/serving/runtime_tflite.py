"""TFLite: the only file that imports an interpreter for it.

tflite-runtime where it has a wheel, ai-edge-litert elsewhere; both run the same file. Models
are loaded from bytes, with the built-in operators alone: no delegate and no custom operator
is ever registered. Rows go through one after the other: for the small models of a device a
batch gains nothing, and tensors of a fixed size leave nothing to allocate while it serves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

try:
    from tflite_runtime import interpreter as tflite
except ImportError:
    from ai_edge_litert import interpreter as tflite

from wherry_contract import arithmetic
from wherry_contract.encoder import Tensor
from wherry_contract.errors import ProbeError
from wherry_contract.manifest import Output, RuntimeNeeds

from .session import Scores

arithmetic.restore()  # before a row is counted: tflite-runtime changes it on ARM

_OLD_NUMPY: Final = "tflite-runtime needs pip install 'numpy<2'"


class TfliteSession:
    """A model in a TFLite interpreter, on the CPU."""

    def __init__(self, model: bytes, needs: RuntimeNeeds, output: Output) -> None:
        # an interpreter has one set of tensors, and the server has several threads
        self._lock = threading.Lock()
        self._interpreter = _interpreter(model, needs.threads)
        self._input = self._the_input()
        self._output = self._the_output(output.tensor)
        width = int(np.prod(self._output["shape"]))
        wanted = len(output.classes) or (output.column + 1 if output.column >= 0 else 1)
        if width < wanted or (output.column < 0 and width != wanted):
            raise ProbeError("P04", f"its output has {width} columns, not {wanted}")
        self._columns: Any = slice(None) if output.classes else max(0, output.column)
        self._shape = (width,) if output.classes else ()

    def _the_input(self) -> Any:
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1 or inputs[0]["shape"][:1].tolist() != [1]:
            shapes = [f"{item['name']}: {item['shape'].tolist()}" for item in inputs]
            raise ProbeError("P04", f"it should take one tensor of one row, it takes {shapes}")
        return inputs[0]

    def _the_output(self, tensor: str) -> Any:
        found = {item["name"]: item for item in self._interpreter.get_output_details()}
        if tensor not in found:
            raise ProbeError("P04", f"it has no output {tensor!r}, only {sorted(found)}")
        return found[tensor]

    def score(self, tensor: Tensor) -> Scores:
        """The scores; float32 (rows, features) -> float64 (rows,) or (rows, classes)."""
        place, shape = self._input["index"], self._input["shape"]
        found = np.empty((len(tensor), *self._shape))
        with self._lock:
            for turn, row in enumerate(_quantized(tensor, self._input)):
                self._interpreter.set_tensor(place, row.reshape(shape))
                self._interpreter.invoke()
                answer = self._interpreter.get_tensor(self._output["index"])
                found[turn] = answer.reshape(-1)[self._columns]
        scale, zero = self._output["quantization"]
        return (found - zero) * float(scale) if scale else found

    def bind(self, tensor: Tensor) -> Callable[[], float] | None:
        """Sets, invokes and gets with nothing between; nothing for several classes or integers."""
        scaled = self._input["quantization"][0] or self._output["quantization"][0]
        if self._shape or scaled:
            return None
        put, invoke, get = (
            self._interpreter.set_tensor,
            self._interpreter.invoke,
            self._interpreter.get_tensor,
        )
        row = tensor.reshape(self._input["shape"])
        inward, outward, column = self._input["index"], self._output["index"], self._columns
        lock = self._lock

        def score() -> float:
            with lock:
                put(inward, row)
                invoke()
                return float(get(outward).item(column))

        return score


def _interpreter(model: bytes, threads: int) -> Any:
    try:
        made = tflite.Interpreter(
            model_content=model,
            num_threads=threads,
            experimental_op_resolver_type=tflite.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        made.allocate_tensors()
    except SystemError as error:  # built for numpy 1, with numpy 2 it imports and dies here
        detail = f"the interpreter does not start with numpy {np.__version__}; {_OLD_NUMPY}"
        raise ProbeError("P04", detail) from error
    except (ValueError, RuntimeError) as error:
        raise ProbeError("P04", " ".join(str(error).split())[:300]) from error
    return made


def _quantized(rows: Tensor, details: Any) -> NDArray[Any]:
    """Rows in the dtype of an input; `details` are the interpreter's."""
    scale, zero = details["quantization"]
    if not scale:
        return rows
    limits = np.iinfo(details["dtype"])
    steps = np.round(rows.astype(np.float64) / scale) + zero
    return np.asarray(np.clip(steps, limits.min, limits.max), details["dtype"])
