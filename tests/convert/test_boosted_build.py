"""From a model of XGBoost or LightGBM to a bundle that the agent scores as its source does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_boosted import TO, need
from support_build import MODES, payments, wherry, write_project

from wherry.bundle_view import look
from wherry.cli.convert import convert as convert_command
from wherry.data import read_rows
from wherry.doctor import examine
from wherry.project import load_project
from wherry_agent.serving.inference import load_model
from wherry_convert.sources import KINDS, load_source

FILES = {"xgboost": "trees.ubj", "lightgbm": "trees.txt"}


def _train(kind: str, raw: Any, label: Any, path: Path) -> None:
    """Codes of the third column are places in the contract's list."""
    library = pytest.importorskip(kind, reason=f"the extra {kind} is absent; make test-frameworks")
    if kind == "xgboost":
        data = library.DMatrix(raw, label, feature_types=["float", "float", "c"])
        settings = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}
        library.train(settings, data, 30).save_model(path)
    else:
        data = library.Dataset(raw, label, categorical_feature=[2])
        settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
        library.train(settings, data, 30).save_model(path)


@pytest.fixture(params=sorted(FILES))
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """The framework, and a project file beside its model and data."""
    from pyarrow import parquet

    kind = str(request.param)
    reference = payments(4000, 1)
    mode = [float(MODES.index(name)) for name in reference["mode"].to_pylist()]
    risk = reference["risk"].to_numpy(zero_copy_only=False).astype(float)
    raw = np.c_[reference["amount"].to_numpy(), risk, mode]
    _train(kind, raw, reference["fraud"].to_numpy(), tmp_path / FILES[kind])
    parquet.write_table(reference, tmp_path / "reference.parquet")
    parquet.write_table(payments(3000, 2), tmp_path / "check.parquet")
    return kind, _project(kind, tmp_path)


def _project(kind: str, folder: Path, more: str = "") -> Path:
    swaps = [('kind = "sklearn"', f'kind = "{kind}"'), ("trees.skops", FILES[kind])]
    return write_project(folder, swaps=swaps, more=more)


@pytest.mark.parametrize("runtime", sorted(TO))
def test_the_agent_decides_as_the_source(
    runtime: str, shop: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    need(runtime)
    kind, path = shop
    if runtime == "tflite":
        path = _project(kind, path.parent, '[target]\nruntime = "tflite"\n')
    bundle = path.with_name("out.wherry")
    done = wherry(capsys, "build", path, "--out", bundle, "--unsigned", "--json")
    assert done.code == 0, done.err
    view, project = look(bundle), load_project(path)
    check = read_rows(project.data.check, project.input, project.data).raw
    scores = load_model(view.digest, view.parts).scores(check)
    source = load_source(kind, project.source.path)
    threshold = view.parts.manifest.output.threshold
    wanted = source.scores(check, project.input)
    assert np.array_equal(scores >= threshold, wanted >= threshold)
    assert 0 < (scores >= threshold).sum() < len(scores)
    assert np.abs(scores - wanted).max() < 1e-6
    assert view.parts.manifest.provenance["measured"]["edge_flips"] == 0
    assert view.parts.manifest.provenance["source"]["kind"] == kind


def test_the_command_converts(
    shop: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, path = shop
    out = tmp_path / "model.onnx"
    command = ("convert", path.with_name(FILES[kind]), "-o", out, "--input", path)
    done = wherry(capsys, *command, "--kind", kind, "--json")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "model.onnx.json").read_text())["source"]["kind"] == kind
    wrong = wherry(capsys, *command, "--kind", "sklearn")
    assert wrong.code == 3
    assert "K05" in wrong.err
    assert "Traceback" not in wrong.err


def test_the_command_knows_every_kind() -> None:
    (option,) = (found for found in convert_command.params if found.name == "kind")
    assert tuple(option.type.choices) == KINDS  # type: ignore[attr-defined]


def test_doctor_names_the_frameworks(tmp_path: Path) -> None:
    found = [f for f in examine(tmp_path, ()) if f.use.startswith("source models of")]
    assert {finding.what.removesuffix("-cpu") for finding in found} >= {"xgboost", "lightgbm"}
    assert all(finding.cure for finding in found if finding.found == "absent")


@pytest.mark.parametrize("kind", sorted(FILES))
def test_the_wrong_file_is_a_coded_error(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(kind, reason=f"the extra {kind} is absent; make test-frameworks")
    (tmp_path / "model").write_bytes(b"PK\x03\x04 not this")
    (tmp_path / "input.toml").write_text(
        '[input]\nname = "a"\nversion = 1\n[[input.features]]\nname = "b"\n'
    )
    out = tmp_path / "model.onnx"
    command = ("convert", tmp_path / "model", "-o", out, "--input", tmp_path / "input.toml")
    done = wherry(capsys, *command, "--kind", kind)
    assert done.code == 3
    assert "K04" in done.err
    assert not out.exists()
