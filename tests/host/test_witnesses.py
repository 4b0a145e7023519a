"""Runtimes in environments of their own as witnesses: right, wrong, refusing, and ending."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support_convert import numbers
from support_tflite import old_runtime

from wherry.runtimes import RUNTIMES, Runtime
from wherry.witnesses import TfliteWitness, witnesses_for
from wherry_contract.encoder import Encoder
from wherry_convert.environments import FOLDER_VARIABLE, MARK
from wherry_convert.tflite_convert import tflite_needs
from wherry_convert.tflite_write import GraphWriter
from wherry_convert.to_onnx import SCORE, Converted

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")

OLD = next(item for item in RUNTIMES if item.name == "tflite-runtime")


def doubled() -> Converted:
    """Twice the input."""
    writer = GraphWriter()
    last = writer.input(1)
    options = ("MulOptions", {})
    two = writer.constant(np.array([[2]], np.float32))
    file = writer.finish(writer.add("MUL", [last, two], (1, 1), options=options))
    encoder = Encoder(numbers(1), ())
    return Converted(file, tflite_needs(file), encoder, SCORE, -1, "neural")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of environments with tflite-runtime in it."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    folder = OLD.folder
    (folder / "bin").mkdir(parents=True)
    script = f'#!/bin/sh\nexec "{old_runtime()}" "$@"\n'
    (folder / "bin" / "python").write_text(script)
    (folder / "bin" / "python").chmod(0o755)
    (folder / MARK).write_text("")
    return tmp_path


def test_a_runtime_answers_for_each_model(home: Path) -> None:
    assert home
    good = doubled()
    broken = replace(good, model=good.model[:60] + bytes(len(good.model) - 60))
    (witness,) = witnesses_for(good.needs)
    assert (witness.name, witness.version) == ("tflite-runtime", OLD.version)
    rows = np.array([[1.0], [-3.0]], np.float32)
    answers = witness.score([good, broken, replace(good, tensor="other"), good], rows)
    assert [type(answer) is str for answer in answers] == [False, True, True, False]
    assert np.asarray(answers[0]).tolist() == np.asarray(answers[3]).tolist() == [2.0, -6.0]
    assert "no output 'other'" in str(answers[2])


def test_no_environment_no_witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert witnesses_for(doubled().needs) == []
    assert witnesses_for(replace(doubled().needs, kind="onnxruntime")) == []


def test_a_program_that_ends_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started again behind each model that ended it."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    item = Runtime("gone", "1", (), "gone", 0)
    python = item.folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import os; os.abort()'\n")
    python.chmod(0o755)
    answers = TfliteWitness(item).score([doubled()] * 2, np.ones((1, 1), np.float32))
    assert all("signal 6" in str(answer) for answer in answers)
