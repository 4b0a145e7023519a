"""Runs in PyTorch's own environment: export a checked .pt2 file to ONNX, or score rows with it.

    python torch_worker.py export MODEL.pt2 OUT.onnx
    python torch_worker.py score MODEL.pt2 ROWS.npy OUT.npy

Nothing of Wherry is installed there, so that this file imports nothing of it. Pickles are
refused by TORCH_FORCE_WEIGHTS_ONLY_LOAD, which whoever starts it sets.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

BATCH = 8192


def _load(path: str) -> Any:
    import torch

    torch.set_num_threads(1)  # sums of several threads come in any order
    return torch.export.load(path)


def export(model: str, out: str) -> dict[str, str]:
    """Write the ONNX file; returns the versions that made it."""
    import torch

    program = torch.onnx.export(_load(model), dynamo=True, verbose=False, external_data=False)
    program.save(out)
    return {name: version(name) for name in ("torch", "onnxscript")}


def score(model: str, rows: str, out: str) -> dict[str, str]:
    """Write what the module gives for rows, as float64."""
    import numpy as np
    import torch

    module, table = _load(model).module(), np.load(rows, allow_pickle=False)
    parts = []
    with torch.no_grad():
        for start in range(0, len(table), BATCH):
            found = module(torch.from_numpy(table[start : start + BATCH]))
            parts.append(found.double().numpy().reshape(len(table[start : start + BATCH]), -1))
    np.save(out, np.concatenate(parts), allow_pickle=False)
    return {}


ACTS: dict[str, Callable[..., dict[str, str]]] = {"export": export, "score": score}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(ACTS[sys.argv[1]](*sys.argv[2:])))  # noqa: T201 - its answer
