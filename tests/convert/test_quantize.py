"""int8 for nets, with its price; an honest no for the rest; and the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support_convert import converted_from, fitted, numbers, scored, table

from wherry_contract.errors import ConvertError
from wherry_convert.graph import inspect_graph
from wherry_convert.parity import compare
from wherry_convert.quantize import quantize


def net(*layers: int) -> object:
    raw, label = table()
    model = make_pipeline(StandardScaler(), MLPClassifier(layers, max_iter=25, random_state=0))
    return fitted(model, raw, label)


def test_a_net_becomes_smaller_and_says_what_it_costs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, _ = table()
    _, converted = converted_from(net(96, 64, 32), numbers(5))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = quantize(converted, converted.encoder.encode(raw), threshold=0.3)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert done.bytes_after == len(done.converted.model) < done.bytes_before / 1.5
    assert {variant.floats for variant in done.variants} >= {"no layer", "first and last layer"}
    assert done.kept.difference.flips == min(
        v.difference.flips
        for v in done.variants
        if v.difference.distinct_found * 2 >= v.difference.distinct_reference
        and v.bytes < done.bytes_before
    )
    judged = np.setdiff1d(
        np.arange(len(raw)), np.linspace(0, len(raw) - 1, (len(raw) + 1) // 2).astype(int)
    )
    ours, theirs = (scored(item).scores(raw) for item in (converted, done.converted))
    found = compare(ours[judged], theirs[judged], 0.3)
    assert found == done.kept.difference
    assert found.flips + done.kept.calibrated_flips == compare(ours, theirs, 0.3).flips
    assert done.calibrated + found.rows == len(raw)
    assert 0 < found.largest < 0.2
    assert "QuantizeLinear" in done.converted.needs.operators
    assert inspect_graph(done.converted.model).ir == 7
    again = quantize(converted, converted.encoder.encode(raw), threshold=0.3)
    assert again.converted.model == done.converted.model


def test_plain_int8_leaves_few_scores_and_is_not_kept() -> None:
    raw, _ = table()
    _, converted = converted_from(net(96, 64, 32), numbers(5))
    done = quantize(converted, converted.encoder.encode(raw))
    plain = done.variants[0].difference
    assert plain.distinct_found <= 256
    assert done.kept.difference.distinct_found * 2 >= plain.distinct_reference


def test_trees_and_lines_have_nothing_to_gain() -> None:
    raw, label = table(300)
    rows = raw.astype(np.float32)
    for model, code in (
        (GradientBoostingClassifier(n_estimators=3), "K03"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "K02"),
        (make_pipeline(StandardScaler(), MLPClassifier((2,), max_iter=3)), "K02"),
    ):
        _, converted = converted_from(fitted(model, raw, label), numbers(5))
        with pytest.raises(ConvertError) as caught:
            quantize(converted, rows)
        assert caught.value.code == code
        assert "[quantize]" in caught.value.cure


@pytest.mark.parametrize("shape", [(0, 5), (10, 4), (10,)])
def test_rows_that_do_not_fit(shape: tuple[int, ...]) -> None:
    _, converted = converted_from(net(8), numbers(5))
    with pytest.raises(ConvertError, match="K07"):
        quantize(converted, np.zeros(shape, np.float32))


_PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from support_convert import numbers, scored, table
from wherry_convert.sources import load_source
from wherry_convert.to_onnx import convert
from wherry_convert.quantize import quantize
for name in sys.argv[1:]:
    done = convert(load_source("sklearn", Path(name)), numbers(5))
    if done.family == "neural":
        done = quantize(done, done.encoder.encode(table(300)[0])).converted
    steps = json.dumps(done.encoder.to_list()).encode()
    print(hashlib.sha256(done.model).hexdigest(), hashlib.sha256(steps).hexdigest())
"""


def test_same_bytes_in_any_folder_with_any_hash_seed(tmp_path: Path) -> None:
    raw, label = table(400)
    models = {
        "net": net(48, 32),
        "hist": fitted(HistGradientBoostingClassifier(max_iter=5), raw, label),
        "gb": fitted(GradientBoostingClassifier(n_estimators=5), raw, label),
    }
    for name, model in models.items():
        skops.io.dump(model, tmp_path / name)
    tests = Path(__file__).resolve().parent.parent
    seen = []
    for seed in ("0", "4711"):
        folder = tmp_path / seed
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *(str(tmp_path / name) for name in models)],
            cwd=folder,
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(tests), "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append(done.stdout)
        assert list(folder.iterdir()) == []
    assert seen[0] == seen[1]
    assert len(seen[0].splitlines()) == 3
