"""What the peers share: the model by ONNX Runtime, rows encoded by hand as their user would."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class PlainModel:
    """A session with one thread, and the ranks of each column."""

    def __init__(self, folder: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = str(Path(folder) / "model.onnx")
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._edges = json.loads((Path(folder) / "edges.json").read_text())

    def score(self, values: list[float]) -> float:
        """The score of a row in the order of the columns."""
        row = np.array([[*map(bisect_left, self._edges, values)]], np.float32)
        (found,) = self._session.run(["score"], {"input": row})
        return float(found[0, 0])


def columns(document: dict[str, Any]) -> list[float]:
    """A row of an Open Inference Protocol request with one tensor."""
    data: list[float] = document["inputs"][0]["data"]
    return data


def reply(name: str, score: float) -> dict[str, Any]:
    """The protocol's answer."""
    output = {"name": "score", "datatype": "FP64", "shape": [1], "data": [score]}
    return {"model_name": name, "outputs": [output]}
