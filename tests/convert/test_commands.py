"""`wherry convert` and `wherry quantize`, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support_convert import fitted, numbers, scored, table, through_skops

from wherry.cli import run
from wherry.cli.convert import KINDS as KINDS_IN_MENU
from wherry.cli.convert import METHODS
from wherry.conversion import read_converted, read_rows
from wherry.quantized import CHOICES
from wherry_contract.errors import WherryError
from wherry_convert.sources import KINDS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models, a contract and rows."""
    raw, label = table(600)
    net = make_pipeline(StandardScaler(), MLPClassifier((64, 48, 32), max_iter=10))
    skops.io.dump(fitted(net, raw, label), tmp_path / "net.skops")
    trees = fitted(GradientBoostingClassifier(n_estimators=4), raw, label)
    skops.io.dump(trees, tmp_path / "trees.skops")
    features = "".join(f'[[input.features]]\nname = "f{place}"\n' for place in range(5))
    (tmp_path / "input.toml").write_text(f'[input]\nname = "test"\nversion = 1\n{features}')
    columns = {f"f{place}": raw[:, place] for place in range(5)} | {"label": label}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    return tmp_path


def convert(folder: Path, model: str, *more: str) -> int:
    """Run `wherry convert`."""
    out, contract = str(folder / "out" / "m.onnx"), str(folder / "input.toml")
    return run(["-q", "convert", str(folder / model), "-o", out, "--input", contract, *more])


def quantize(folder: Path, *more: str) -> int:
    """Run `wherry quantize` on what `convert` wrote."""
    made, out = str(folder / "out" / "m.onnx"), str(folder / "out" / "small.onnx")
    return run(["-q", "quantize", made, "-o", out, "--data", str(folder / "rows.parquet"), *more])


def test_convert_then_quantize(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(folder, "net.skops") == 0
    assert "family     neural" in capsys.readouterr().out
    assert quantize(folder, "--json", "--threshold", "0.3") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "wherry/quantize/1"
    assert document["bytes_after"] < document["bytes_before"]
    assert [item["kept"] for item in document["variants"]].count(True) == 1
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == ["m.onnx", "m.onnx.json", "small.onnx", "small.onnx.json"]
    small, origin = read_converted(folder / "out" / "small.onnx")
    assert origin["kind"] == "sklearn"
    assert len(small.model) == document["bytes_after"]


def test_a_search_within_budgets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(folder, "net.skops") == 0
    capsys.readouterr()
    assert quantize(folder, "--flips", "600", "--label", "label", "--metric-drop", "0.5") == 0
    table = capsys.readouterr().out
    assert " kept" in table
    assert "larger than the one kept" in table
    assert quantize(folder, "--bytes", "10", "--json", "--method", "int8") == 1
    out, error = capsys.readouterr()
    document = json.loads(out)
    assert document["bytes_after"] is None
    assert all("budget 10" in item["lost"] for item in document["variants"])
    assert "error[Q01]" in error
    assert quantize(folder, "--label", "f0") == 3
    assert "H10" in capsys.readouterr().err
    assert quantize(folder, "--metric-drop", "0.1") == 2


def test_the_menu_of_methods_is_the_table_of_methods() -> None:
    assert METHODS == CHOICES


def test_the_menu_of_kinds_is_the_table_of_kinds() -> None:
    assert KINDS_IN_MENU == KINDS


def test_a_net_of_several_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, label = table(600)
    net = make_pipeline(StandardScaler(), MLPClassifier((64, 48), max_iter=10, random_state=0))
    model = fitted(net, raw, label + (raw[:, 0] > np.median(raw[:, 0])))
    skops.io.dump(model, folder / "three.skops")
    assert convert(folder, "three.skops") == 3
    assert "decision = " in capsys.readouterr().err
    with (folder / "input.toml").open("a") as stream:
        stream.write('[output]\ndecision = "class"\n')
    assert convert(folder, "three.skops") == 0
    converted, _ = read_converted(folder / "out" / "m.onnx")
    assert converted.classes == ("0", "1", "2")
    assert scored(converted).scores(raw) == pytest.approx(model.predict_proba(raw), abs=1e-6)
    capsys.readouterr()
    assert quantize(folder) == 3
    assert "judged by one probability" in capsys.readouterr().err


def test_the_two_files_are_enough_to_score(folder: Path) -> None:
    assert convert(folder, "trees.skops", "--json") == 0
    converted, _ = read_converted(folder / "out" / "m.onnx")
    raw, _ = table(600)
    source = through_skops(
        skops.io.load(folder / "trees.skops", trusted=["sklearn.tree._tree.Tree"])
    )
    gap = np.abs(scored(converted).scores(raw) - source.scores(raw, numbers(5)))
    assert gap.max() < 1e-6


def test_trees_are_not_quantized(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(folder, "trees.skops") == 0
    assert quantize(folder) == 3
    assert "error[K03]" in capsys.readouterr().err
    assert not (folder / "out" / "small.onnx").exists()


BAD = [
    ("no model", ["convert", "none.skops", "-o", "m.onnx", "--input", "input.toml"], 3, "H02"),
    ("no contract", ["convert", "net.skops", "-o", "m.onnx", "--input", "none.toml"], 3, "H02"),
    ("a wrong contract", ["convert", "net.skops", "-o", "m.onnx", "--input", "net.skops"], 3, "H01"),
    ("no skops", ["convert", "input.toml", "-o", "m.onnx", "--input", "input.toml"], 3, "K05"),
    ("no out", ["convert", "net.skops", "--input", "input.toml"], 2, "--out"),
    ("a folder is in the way", ["convert", "net.skops", "-o", "net.skops/m", "--input", "input.toml"], 3, "D06"),
    ("no description", ["quantize", "net.skops", "-o", "q.onnx", "--data", "rows.parquet"], 3, "H02"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"), [pytest.param(*row[1:], id=row[0]) for row in BAD]
)
def test_bad_input(  # noqa: PLR0917 - pytest hands them in by name
    arguments: list[str],
    exit_code: int,
    says: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert run(arguments) == exit_code
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_rows(folder: Path, tmp_path: Path) -> None:
    contract = numbers(5)
    assert read_rows(folder / "rows.parquet", contract, 100).shape == (100, 5)
    written = folder / "rows.csv"
    written.write_text("f4,f3,f2,f1,f0\n5,4,3,2,1\n")
    assert read_rows(written, contract, 10).tolist() == [[1, 2, 3, 4, 5]]
    for name, text, code in (
        ("lacks.csv", "f0,f1\n1,2\n", "H10"),
        ("empty.csv", "f0,f1,f2,f3,f4\n", "H10"),
        ("words.csv", "f0,f1,f2,f3,f4\na,b,c,d,e\n", "C03"),
        ("bad.parquet", "PAR1", "H10"),
    ):
        (folder / name).write_text(text)
        with pytest.raises(WherryError) as caught:
            read_rows(folder / name, contract, 10)
        assert caught.value.code == code
