"""The page about a build: its figures against counting by hand, and what it may hold."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support_build import Built, wherry, write_project

from wherry.build import check
from wherry.build_report import facts
from wherry.build_report.render import render
from wherry.project import load_project

SEARCH = '[quantize]\nmethod = "int8"\n[gates]\nflips = 400\nedge_flips = 400\nmetric_drop = 1.0\n'
TIGHT = '[quantize]\nmethod = "int8"\n[gates]\nflips = 0\nedge_flips = 0\nmetric_drop = 0.0\n'


def words_of(page: str) -> str:
    """What a reader sees, without marks, in one line."""
    bare = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(bare).split())


@pytest.fixture(scope="module")
def page(built: Built, shop: Path) -> str:
    """Of the trees, which pass."""
    project = load_project(write_project(shop))
    return render(project, check(project), built.result)


def test_it_says_what_the_gate_found(page: str, built: Built) -> None:
    text = words_of(page)
    report = built.result.report
    assert "The gate is passed" in text
    assert "0 of 4,000 decisions on check rows flip" in text
    for name, found in report.classes.items():
        assert f"{name} {found.rows} {found.flips}" in text
    row = [f"{report.metrics[who].auc:.4f}" for who in ("source", "bundle", "heuristic")]
    assert f"AUC {' '.join(row)}" in text
    assert f"bundle, bytes {built.result.size:,}" in text
    assert built.result.digest in text
    assert re.search(r"PSI 0\.0\d+, corrected -?0\.\d+ \(95 %.*p = 1, n = 4,000, m = 4,000", text)


class _Marks(HTMLParser):
    """Counts elements and gathers whatever could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "iframe", "img", "object", "embed", "form", "base"}:
            self.bad.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (
                name in {"href", "src"} and not str(value).startswith("#")
            ):
                self.bad.append(f"{name}={value}")
        if tag not in {"meta", "br", "wbr", "path", "line", "rect", "circle"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "line", "rect", "circle"}:
            assert self.open.pop() == tag


def test_it_needs_nothing_else(page: str) -> None:
    marks = _Marks()
    marks.feed(page)
    assert marks.bad == []
    assert marks.open == []
    assert "default-src 'none'" in page
    assert page.count("<svg ") == page.count('role="img"') == 2
    assert "nan" not in words_of(page).lower().split()


def test_names_stay_text(built: Built, shop: Path) -> None:
    swaps = [('positive = "fraud"', 'positive = "<b onclick=x>\\u202efraud"')]
    project = load_project(write_project(shop, swaps=swaps))
    shown = render(project, check(project))
    assert "&lt;b onclick=x&gt;\ufffdfraud" in shown
    assert "<b onclick" not in shown
    assert "Nothing was packed" in words_of(shown)


def test_the_command_writes_it(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = SEARCH + f'[out]\nreport = "{tmp_path / "named.html"}"\n'
    project = write_project(shop, model="net", more=more)
    out = tmp_path / "net.wherry"
    assert wherry(capsys, "build", project, "--out", out, "--unsigned").code == 0
    text = words_of((tmp_path / "named.html").read_text())
    assert "Quantization" in text
    assert "before quantization, bytes" in text
    assert re.search(r"int8 .* kept", text)
    given = tmp_path / "deep" / "given.html"
    done = wherry(capsys, "build", project, "--out", out, "--unsigned", "--report", given)
    assert done.code == 0
    assert given.stat().st_size > 20_000


def test_a_failed_gate_leaves_a_page_and_no_bundle(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, out = write_project(shop, model="net", more=TIGHT), tmp_path / "net.wherry"
    page = tmp_path / "no.html"
    done = wherry(capsys, "build", project, "--out", out, "--unsigned", "--report", page)
    assert done.code == 1
    assert not out.exists()
    text = words_of(page.read_text())
    assert "The gate says no" in text
    assert "the budget is 0" in text
    assert "Nothing was packed" in text


BOARD = '[target]\nboards = ["pi5", "pos-armv7"]\n'
NOTHING = '[quantize]\nmethod = "int8"\nbytes = 10\n'


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(("trees", BOARD, 1, "pos-armv7: "), id="a board"),
        pytest.param(("net", NOTHING, 1, "Quantization"), id="a search that keeps nothing"),
        pytest.param(("trees", NOTHING, 3, "does nothing for trees (K03)"), id="a conversion"),
    ],
)
def test_whatever_stops_a_build_is_on_the_page(
    row: tuple[str, str, int, str],
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, more, code, says = row
    project, out = write_project(shop, model=model, more=more), tmp_path / "no.wherry"
    page = tmp_path / "no.html"
    done = wherry(capsys, "build", project, "--out", out, "--unsigned", "--report", page)
    assert done.code == code
    assert not out.exists()
    shown = page.read_text()
    text = words_of(shown)
    assert text.index("Nothing was packed") < text.index("Why") < text.index("What to do")
    assert says in text
    marks = _Marks()
    marks.feed(shown)
    assert (marks.bad, marks.open) == ([], [])
    if model == "net":
        assert "budget 10" in text
        assert shown.count("<svg ") == 1
    if code == 1 and model == "trees":
        assert text.count("pi5") == 2, "asked for, and in the table of boards"


def test_without_labels_it_says_so(shop: Path) -> None:
    project = load_project(write_project(shop, swaps=[('label = "fraud"\n', "")]))
    text = words_of(render(project, check(project)))
    assert text.count("No label was named, so it was not measured.") == 2


# --- figures -----------------------------------------------------------------------------


def test_resolution_counts_ties() -> None:
    scores = np.array([0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.9, 0.9])
    found = facts.resolution(scores)
    assert (found.distinct, found.tied, found.largest_tie, found.distinct_top) == (6, 7, 3, 1)


def test_calibration_counts_every_row_once() -> None:
    draw = np.random.default_rng(3)
    scores = draw.beta(1, 20, 20_000)
    labels = draw.random(20_000) < scores
    groups = facts.calibration(labels, scores, facts.calibration_edges(scores))
    assert len(groups) == 10
    assert sum(group.rows for group in groups) == 20_000
    assert sum(group.positives for group in groups) == labels.sum()
    assert facts.calibration_error(groups) < 0.005
    half = facts.calibration(labels, scores / 2, facts.calibration_edges(scores))
    assert facts.calibration_error(half) > 0.02
    # a promise that is kept is inside nearly every interval
    assert sum(group.low <= group.promised <= group.high for group in groups) >= 8


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    [
        pytest.param(0, 10, 0.0, 0.2775, id="none"),
        pytest.param(10, 10, 0.7225, 1.0, id="all"),
        pytest.param(5, 10, 0.2366, 0.7634, id="half"),
    ],
)
def test_wilson(hits: int, rows: int, low: float, high: float) -> None:
    assert facts.wilson(hits, rows) == pytest.approx((low, high), abs=1e-4)


def test_a_shift_is_seen_and_none_is_not() -> None:
    scores = np.random.default_rng(1).random(5000)
    same, moved = facts.shift(scores, scores), facts.shift(scores, scores**1.3)
    assert same.psi is not None
    assert moved.psi is not None
    assert (same.psi.psi, same.psi.p, same.psi.n, same.psi.m) == (0, 1, 5000, 5000)
    assert same.source == same.bundle == (500,) * 10
    assert moved.psi.low > 0.01
    assert moved.psi.p < 1e-6


@pytest.mark.parametrize(
    ("scores", "groups"),
    [pytest.param([0.2] * 300, 1, id="one"), pytest.param([0.2] * 290 + [0.7] * 10, 1, id="rare"),
     pytest.param([0.2] * 200 + [0.7] * 100, 2, id="two")],
)  # fmt: skip
def test_few_scores_make_few_groups(scores: list[float], groups: int) -> None:
    found = facts.shift(np.array(scores), np.array(scores))
    assert len(found.source) == groups
    assert (found.psi is None) == (groups == 1)


def test_pace_is_of_single_rows() -> None:
    seen: list[int] = []
    found = facts.pace(lambda rows: seen.append(len(rows)), np.zeros((3, 2)))
    assert set(seen) == {1}
    assert 0 < found.median <= found.slow
