"""Models that others trained, with their official inputs: checked, packed, scored by the agent.

Keyword spotting is MLPerf Tiny's reference model (12 classes, 49 x 10 values) on the first
300 stimuli of its accuracy set; the sine is TensorFlow Lite Micro's. What a contract of
named values cannot hold is refused: see test_tflite_files and test_onnx_file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from support_boosted import need
from support_build import wherry

from wherry.bundle_view import look
from wherry_agent.serving.inference import load_model
from wherry_convert.tflite_inspect import inspect_tflite

WORDS = (
    "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown",
)  # fmt: skip
RIGHT = 276  # of 300 stimuli, by the reference model itself
PROJECT = """
[project]
name = "others"
version = "1.0.0"
counter = 1
[source]
kind = "tflite"
path = "{path}"
[target]
runtime = "tflite"
[data]
reference = "rows.parquet"
check = "rows.parquet"
label = "label"
[output]
{output}
[input]
name = "others"
version = 1
"""


def built(folder: Path, path: Path, given: tuple[Any, Any], output: str, capsys: Any) -> Any:
    """What the agent makes of the rows, from the bundle that the command built."""
    rows, label = given
    names = [f"f{place}" for place in range(rows.shape[1])]
    table = pa.table({name: rows[:, place] for place, name in enumerate(names)})
    parquet.write_table(table.append_column("label", pa.array(label)), folder / "rows.parquet")
    features = "".join(f'[[input.features]]\nname = "{name}"\n' for name in names)
    project = folder / "project.toml"
    project.write_text(PROJECT.format(path=path, output=output) + features)
    out = folder / "others.wherry"
    done = wherry(capsys, "build", project, "--out", out, "--unsigned")
    assert done.code == 0, done.err
    view = look(out)
    assert view.parts.model == path.read_bytes()
    return load_model(view.digest, view.parts)


@pytest.mark.parametrize("name", ["kws_ref_model", "kws_ref_model_float32"])
def test_keyword_spotting_names_as_many_stimuli_right(
    name: str, shared: Path, tmp_path: Path, capsys: Any
) -> None:
    need("tflite")
    models = shared / "models"
    with np.load(models / "kws01" / "kws01_first300.npz") as found:
        steps, wanted = found["x"].reshape(300, -1).astype(float), found["y"]
    # the stimuli are steps of the int8 model's input
    entry = inspect_tflite((models / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()).inputs[0]
    rows = (steps - entry.zero_point) * entry.scale
    names = [WORDS[place] for place in wanted]
    output = f'decision = "class"\nclasses = {json.dumps(WORDS)}'
    model = built(
        tmp_path, models / "mlperf_tiny" / f"{name}.tflite", (rows, names), output, capsys
    )
    scores = model.scores(rows)
    assert scores.shape == (300, 12)
    assert abs(int((scores.argmax(axis=1) == wanted).sum()) - RIGHT) <= 2


def test_a_sine_is_a_value(shared: Path, tmp_path: Path, capsys: Any) -> None:
    need("tflite")
    path = shared / "models" / "tflite_micro" / "hello_world_float.tflite"
    rows = np.linspace(0, 6.28, 400)[:, np.newaxis]
    wanted = np.sin(rows[:, 0])
    model = built(tmp_path, path, (rows, wanted), 'decision = "value"\nthreshold = 0.9', capsys)
    scores = model.scores(rows)
    assert np.abs(scores - wanted).max() < 0.12
    assert scores.min() < -0.5
