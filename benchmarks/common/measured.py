"""What both of the compiler's tables measure alike."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnxruntime

ALERTS: Final = 0.01
MADE: Final = 1024  # rows of each class that is made to be hard


def session_of(model: bytes) -> Callable[[Any], Any]:
    """Scores of float32 rows by one thread of onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name, output = session.get_inputs()[0].name, session.get_outputs()[-1].name
    return lambda rows: np.asarray(session.run([output], {name: rows})[0], np.float64)


def timed(make: Callable[[], bytes]) -> tuple[bytes, float]:
    """A file, and the seconds it took; what the tool says goes to stderr."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        model = make()
    return model, time.perf_counter() - began
