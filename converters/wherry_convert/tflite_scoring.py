"""Scoring TFLite models on the host, with an interpreter that devices have.

It runs in any environment that has one: that of tflite-runtime has no more than numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wherry_contract import arithmetic
from wherry_contract.encoder import Tensor
from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install


def interpreter_kind() -> tuple[str, Any]:
    """Name of the distribution that interprets TFLite files here, and its module.

    Raises:
        ConvertError: K06, there is none.
    """
    try:
        from tflite_runtime import interpreter
    except ImportError:
        try:
            from ai_edge_litert import interpreter
        except ImportError as error:
            raise ConvertError("K06", how_to_install("tflite")) from error
        return "ai-edge-litert", interpreter
    arithmetic.restore()
    return "tflite-runtime", interpreter


class TfliteRunner:
    """A TFLite model that scores one row after the other.

    Args:
        model: the file.
        threads: for one inference.
        tensor: the output that holds probabilities.

    Raises:
        ConvertError: K06 no interpreter, K04 it cannot load the model.
    """

    def __init__(self, model: bytes, threads: int, tensor: str) -> None:
        _, module = interpreter_kind()
        try:
            self._interpreter = module.Interpreter(
                model_content=model,
                num_threads=threads,
                experimental_op_resolver_type=(
                    module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                ),
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, SystemError) as error:
            raise ConvertError("K04", " ".join(str(error).split())[:300]) from error
        self._input = self._interpreter.get_input_details()[0]
        outputs = {item["name"]: item for item in self._interpreter.get_output_details()}
        if tensor not in outputs:
            raise ConvertError("K04", f"it has no output {tensor!r}, only {sorted(outputs)}")
        self._output = outputs[tensor]

    def run(self, rows: Tensor) -> NDArray[np.float64]:
        """What the output holds for each row.

        Args:
            rows: float32, shape (rows, features).

        Returns:
            float64, shape (rows, values of the output).

        Raises:
            ConvertError: K07 the input has another size, K04 the interpreter gives up.
        """
        shape = self._input["shape"]
        if rows.shape[1] != np.prod(shape):
            detail = f"{rows.shape[1]} features for an input of shape {shape.tolist()}"
            raise ConvertError("K07", detail)
        found = []
        try:
            for row in quantized(rows, self._input):
                self._interpreter.set_tensor(self._input["index"], row.reshape(shape))
                self._interpreter.invoke()
                found.append(self._interpreter.get_tensor(self._output["index"]).reshape(-1))
        except (ValueError, RuntimeError) as error:
            raise ConvertError("K04", " ".join(str(error).split())[:300]) from error
        width = int(np.prod(self._output["shape"]))
        table = np.array(found).reshape(len(rows), width)
        return dequantized(table, self._output)


def quantized(rows: Tensor, details: Any) -> NDArray[Any]:
    """Rows in the dtype of an input; `details` are the interpreter's."""
    scale, zero = details["quantization"]
    if details["dtype"] is np.float32 or not scale:
        return np.asarray(rows, details["dtype"])
    limits = np.iinfo(details["dtype"])
    steps = np.round(rows.astype(np.float64) / scale) + zero
    return np.asarray(np.clip(steps, limits.min, limits.max), details["dtype"])


def dequantized(values: NDArray[Any], details: Any) -> NDArray[np.float64]:
    """Values of an output as numbers."""
    scale, zero = details["quantization"]
    wide = values.astype(np.float64)
    quantized_too = details["dtype"] is not np.float32 and bool(scale)
    return (wide - zero) * float(scale) if quantized_too else wide
