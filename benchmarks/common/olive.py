"""Olive in an environment of its own: `olive run` with a configuration as its documentation says.

Its `optimize` calibrates on texts, so that a table needs a data set of its own. requests and
datasets are imported by it and not installed with it. The PyTorch is pinned to the build
without CUDA where the index has one.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from common.venvs import environment

VERSION: Final = "0.13.0"
PACKAGES: Final = (
    f"olive-ai=={VERSION}",
    "torch==2.13.0",
    "onnxruntime==1.28.0",
    "onnx<2",
    "protobuf<7",
    "requests",
    "datasets",
)
_SCRIPT: Final = """
import numpy as np, torch
from olive.data.registry import Registry

class Rows(torch.utils.data.Dataset):
    def __init__(self, path):
        self.rows = np.load(path)
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, place):
        return {"input": self.rows[place]}, 0

@Registry.register_dataset()
def bench_rows(data_dir, **_more):
    return Rows(data_dir)
"""


def _config(more: dict[str, Any]) -> dict[str, Any]:
    data = {
        "name": "rows",
        "type": "DataContainer",
        "user_script": "script.py",
        "load_dataset_config": {"type": "bench_rows", "params": {"data_dir": "rows.npy"}},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "default_dataloader", "batch_size": 1},
    }
    quantize = {"type": "OnnxStaticQuantization", "data_config": "rows", "quant_preprocess": True}
    return {
        "input_model": {"type": "ONNXModel", "model_path": "f.onnx"},
        "data_configs": [data],
        "passes": {"quantize": quantize | more},
        "output_dir": "out",
        "cache_dir": "cache",
    }


def olive_static(model: bytes, rows: Any, **more: Any) -> bytes:
    """Static int8 by Olive.

    Args:
        model: the float file.
        rows: float32, shape (rows, features), to calibrate with.
        more: settings of the pass.

    Raises:
        RuntimeError: it could not be installed, or failed; its last line.
    """
    python = environment("olive", PACKAGES) / "bin"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "f.onnx").write_bytes(model)
        np.save(folder / "rows.npy", rows)
        (folder / "script.py").write_text(_SCRIPT)
        (folder / "config.json").write_text(json.dumps(_config(more)))
        done = subprocess.run(
            [str(python / "olive"), "run", "--config", "config.json", "--disable_telemetry"],
            cwd=folder,
            env=os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        out = folder / "out" / "model.onnx"
        if not out.exists():
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise RuntimeError(lines[-1] if lines else "it wrote no model")
        return out.read_bytes()
