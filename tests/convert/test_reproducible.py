"""The same inputs give the same bundle: in any folder, on any day, with any hash seed, every time.

onnxmltools gives three files for three conversions of one LightGBM model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_boosted import need
from support_build import MODES, model, payments, write_project

BOOSTERS = {"xgboost": "trees.ubj", "lightgbm": "trees.txt"}
TFLITE = '[target]\nruntime = "tflite"\n'
SMALLER = "[gates]\nflips = 2000\nedge_flips = 9000\nmetric_drop = 1.0\n"
ROWS: dict[str, tuple[str, str]] = {
    "xgboost": ("xgboost", ""),
    "xgboost as TFLite": ("xgboost", TFLITE),
    "lightgbm": ("lightgbm", ""),
    "lightgbm as TFLite": ("lightgbm", TFLITE),
    "net": ("net", '[quantize]\nmethod = "int8"\n' + SMALLER),
    "net, 4 bits": ("net", '[quantize]\nmethod = "weights-int4"\n' + SMALLER),
    "net as TFLite": ("net", TFLITE),
    "net as TFLite, 8 bits": ("net", TFLITE + 'weights = "int8"\n' + SMALLER),
}
# each build twice in one process, whose clock is a year late
PROGRAM = """
import hashlib, sys, time
from pathlib import Path
real = time.time
time.time = lambda: real() - float(sys.argv[1])
from wherry.build import build
from wherry.project import load_project
for name in sys.argv[2:]:
    project = load_project(Path(name))
    for turn in "ab":
        out = build(project, out=Path(name).with_suffix("." + turn)).path
        print(Path(name).stem, hashlib.sha256(out.read_bytes()).hexdigest())
"""


def _write_models(folder: Path) -> None:
    from pyarrow import parquet
    from skops.io import dump
    from support_convert import fitted

    reference = payments(1500, 1)
    parquet.write_table(reference, folder / "reference.parquet")
    parquet.write_table(payments(800, 2), folder / "check.parquet")
    amount, mode = reference["amount"].to_numpy(), reference["mode"].to_pylist()
    risk = reference["risk"].to_numpy(zero_copy_only=False).astype(float)
    label = reference["fraud"].to_numpy()
    raw = np.c_[amount, risk, [float(MODES.index(name)) for name in mode]]
    _boosters(folder, raw, label)
    cells = np.empty((len(raw), 3), object)
    cells[:, 0], cells[:, 1], cells[:, 2] = amount, risk, mode
    dump(fitted(model("net"), cells, label), folder / "net.skops")


def _boosters(folder: Path, raw: Any, label: Any) -> None:
    xgboost, lightgbm = (
        pytest.importorskip(kind, reason=f"the extra {kind} is absent; make test-frameworks")
        for kind in BOOSTERS
    )
    data = xgboost.DMatrix(raw, label, feature_types=["float", "float", "c"])
    settings = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}
    xgboost.train(settings, data, 15).save_model(folder / BOOSTERS["xgboost"])
    data = lightgbm.Dataset(raw, label, categorical_feature=[2])
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    lightgbm.train(settings, data, 15).save_model(folder / BOOSTERS["lightgbm"])


def _projects(folder: Path) -> list[Path]:
    found = []
    for place, (kind, more) in enumerate(ROWS.values()):
        swaps = []
        if kind in BOOSTERS:
            swaps = [('kind = "sklearn"', f'kind = "{kind}"'), ("net.skops", BOOSTERS[kind])]
        path = write_project(folder, model="net", more=more, swaps=swaps)
        found.append(path.rename(folder / f"{place}.toml"))
    return found


def _build(folder: Path, seed: str, late: float) -> list[tuple[str, str]]:
    changed = {"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo" if late else "UTC", "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(late), *_projects(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | changed,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(ROWS)
    return [(name, digest) for name, _, digest in (line.partition(" ") for line in lines)]


def test_bundles_are_the_same_bytes(tmp_path: Path) -> None:
    need("tflite")
    here, there = tmp_path / "here", tmp_path / "over there"
    here.mkdir()
    _write_models(here)
    shutil.copytree(here, there)  # with today's dates
    for path in here.iterdir():
        os.utime(path, (1e9, 1e9))
    seen = {
        pair
        for folder, seed, late in ((here, "0", 0.0), (there, "4711", 3e7))
        for pair in _build(folder, seed, late)
    }
    digests = [
        [digest for name, digest in seen if name == str(place)] for place in range(len(ROWS))
    ]
    assert {name: len(found) for name, found in zip(ROWS, digests, strict=True)} == dict.fromkeys(
        ROWS, 1
    )
    assert len(seen) == len(ROWS), "what differs in its inputs differs in its bytes"
