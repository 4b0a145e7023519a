"""`[metric]`: a business metric of the project's own, measured beside the others and gated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_build import wherry, write_project

from wherry.bundle_view import look
from wherry.data import read_rows
from wherry.own_metric import OwnFigures, columns_of
from wherry.project import load_project
from wherry_contract.features import InputContract
from wherry_convert.sources import load_source

SAVED = """
import numpy as np

def saved(labels, scores, rows, threshold):
    flagged = scores >= threshold
    assert set(rows) == {"amount", "risk", "mode"}
    return rows["amount"][flagged & labels].sum() - 2 * flagged.sum()

def distinct(labels, scores, rows, threshold):
    return len(np.unique(scores))
"""
INT8 = '[quantize]\nmethod = "int8"\n[gates]\nflips = 400\nedge_flips = 400\nmetric_drop = 1.0\n'


def section(function: str, drop: str = "", path: str = "worth.py") -> str:
    return f'[metric]\npath = "{path}"\nfunction = "{function}"\n{drop}\n'


@pytest.fixture
def out(shop: Path, tmp_path: Path) -> Path:
    (shop / "worth.py").write_text(SAVED)
    return tmp_path / "till.wherry"


def test_it_stands_beside_the_others_and_is_not_packed(
    out: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = write_project(shop, more=section("saved")), tmp_path / "page.html"
    done = wherry(capsys, "build", path, "--out", out, "--unsigned", "--report", page)
    assert done.code == 0, done.err
    project = load_project(path)
    rows = read_rows(project.data.check, project.input, project.data)
    scores = load_source("sklearn", project.source.path).scores(rows.raw, project.input)
    parts = look(out).parts
    flagged = scores >= parts.manifest.output.threshold
    wanted = rows.raw[flagged & np.asarray(rows.labels), 0].sum() - 2 * flagged.sum()
    (line,) = (line for line in done.out.splitlines() if line.startswith("saved"))
    assert line.split()[1:3] == [f"{wanted:.6g}"] * 2
    assert len(line.split()) == 4, "source, bundle, heuristic"
    assert f'<td class="n">{wanted:.6g}</td>' in page.read_text()
    assert f"| saved | {wanted:.6g} |" in parts.documents["model-card.md"].decode()
    assert b"def saved" not in out.read_bytes()


def test_its_drop_is_gated(out: Path, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_project(shop, model="net", more=INT8 + section("distinct"))
    done = wherry(capsys, "check", path, "--json")
    assert done.code == 1
    answer = json.loads(done.out)
    (failure,) = answer["failures"]
    assert failure.startswith("distinct drops by ")
    found = answer["own_metric"]["found"]
    assert found["source"] > found["bundle"]
    allowed = section("distinct", "drop = 1e9")
    path = write_project(shop, model="net", more=INT8 + allowed)
    assert wherry(capsys, "build", path, "--out", out, "--unsigned").code == 0


@pytest.mark.parametrize(
    ("source", "bundle", "failed"),
    [(5.0, 5.0, False), (5.0, 4.0, False), (5.0, 3.9, True), (5.0, 9.0, False)],
)
def test_the_budget(source: float, bundle: float, *, failed: bool) -> None:
    figures = OwnFigures("saved", 1.0, {"source": source, "bundle": bundle})
    assert bool(figures.failure) == failed


BAD = [
    pytest.param(SAVED, section("spared"), "H13", "no function 'spared'", id="no such function"),
    pytest.param(SAVED, section("np"), "H13", "no function 'np'", id="no function at all"),
    pytest.param("def f(:\n", section("f"), "H13", "SyntaxError", id="no Python"),
    pytest.param(
        "1 / 0\n", section("f"), "H13", "line 1: ZeroDivisionError", id="it fails at once"
    ),
    pytest.param(
        "def f(a, b, c, d):\n    return c['x']\n",
        section("f"),
        "H13",
        "line 2: KeyError: 'x'",
        id="it fails later",
    ),
    pytest.param(
        "def f(a):\n    return 1\n", section("f"), "H13", "TypeError", id="other arguments"
    ),
    pytest.param(
        "def f(*a):\n    return float('nan')\n", section("f"), "H13", "gave nan", id="no figure"
    ),
    pytest.param("def f(*a):\n    return 'x'\n", section("f"), "H13", "ValueError", id="a word"),
    pytest.param(
        "def f(a, b, rows, d):\n    rows['amount'][0] = 9\n    return 1\n",
        section("f"),
        "H13",
        "read-only",
        id="it changes rows",
    ),
    pytest.param(SAVED, section("saved", path="no.py"), "H02", "no.py", id="no file"),
    pytest.param(SAVED, section("saved", "drop = -1"), "H01", "drop", id="a negative budget"),
    pytest.param(SAVED, section("a b"), "H01", "function", id="no name"),
]


@pytest.mark.parametrize(("code", "more", "error", "says"), BAD)
def test_bad_input_is_one_coded_answer(  # noqa: PLR0917 - pytest hands them in by name
    code: str, more: str, error: str, says: str, out: Path, shop: Path, capsys: Any
) -> None:
    (shop / "worth.py").write_text(code)
    done = wherry(capsys, "build", write_project(shop, more=more), "--out", out, "--unsigned")
    assert done.code == 3
    assert f"error[{error}]" in done.err
    assert says in done.err
    assert "Traceback" not in done.err
    assert not out.exists()


def test_it_needs_labels(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_project(shop, more=section("saved"), swaps=[('label = "fraud"\n', "")])
    done = wherry(capsys, "check", path)
    assert done.code == 3
    assert "H01" in done.err
    assert "label" in done.err


def test_columns_are_what_was_sent() -> None:
    colors = {"dtype": "category", "categories": ["red", "blue"], "unseen": "allow"}
    features = [{"name": "n", "missing": "allow"}, {"name": "c", "missing": "allow"} | colors]
    contract = InputContract.from_dict({"name": "t", "version": 1, "features": features})
    sent: dict[str, list[Any]] = {"n": [1.5, None, 2.0, 3.0], "c": ["blue", "red", None, "pink"]}
    found = columns_of(contract.columns(sent), contract)
    assert np.array_equal(found["n"], [1.5, np.nan, 2.0, 3.0], equal_nan=True)
    assert found["c"].tolist() == ["blue", "red", None, ""]
