"""ONNX Runtime: the only file that imports it.

Models are loaded from bytes, so that references to other files lead nowhere; no library
of custom operators is ever registered. From 1.29 on the wheels report home by default;
our range stops before, and the switch is thrown all the same, before the import.
"""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

from wherry_contract.encoder import Tensor
from wherry_contract.errors import ProbeError
from wherry_contract.manifest import Output, RuntimeNeeds

from .session import Scores


class OnnxSession:
    """A model in ONNX Runtime, on the CPU."""

    def __init__(self, model: bytes, needs: RuntimeNeeds, output: Output) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = needs.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # a waiting thread must not spin: the board has other work
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class but this
            raise ProbeError("P04", " ".join(str(error).split())[:300]) from error
        self._input = self._the_input()
        self._output = self._the_output(output.tensor)
        self._column = output.column
        self._shape = (len(output.classes),) if output.classes else ()

    def _the_input(self) -> str:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            kinds = [f"{item.name}: {item.type}" for item in inputs]
            raise ProbeError("P04", f"it should take one float tensor, it takes {kinds}")
        return str(inputs[0].name)

    def _the_output(self, tensor: str) -> list[str]:
        names = [item.name for item in self._session.get_outputs()]
        if tensor not in names:
            raise ProbeError("P04", f"it has no output {tensor!r}, only {names}")
        return [tensor]

    def score(self, tensor: Tensor) -> Scores:
        """The scores; float32 (rows, features) -> float64 (rows,) or (rows, classes)."""
        (found,) = self._session.run(self._output, {self._input: tensor})
        if self._column >= 0:
            found = found[:, self._column]
        return np.asarray(found, np.float64).reshape(len(tensor), *self._shape)

    def bind(self, tensor: Tensor) -> Callable[[], float] | None:
        """Scores one row from and to memory that is bound once; nothing for several classes."""
        if self._shape:
            return None
        (found,) = self._session.run(self._output, {self._input: tensor})
        if not isinstance(found, np.ndarray) or found.dtype not in (np.float32, np.float64):
            return None
        answer = np.empty_like(found, order="C")
        binding, run = self._session.io_binding(), self._session.run_with_iobinding
        for bind, name, memory in (
            (binding.bind_input, self._input, tensor),
            (binding.bind_output, self._output[0], answer),
        ):
            bind(name, "cpu", 0, memory.dtype.type, memory.shape, memory.ctypes.data)
        place, item = max(0, self._column), answer.item

        def score() -> float:
            run(binding)
            return item(place)  # type: ignore[no-any-return]  # a float array's

        return score
