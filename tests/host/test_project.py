"""The project file: its reference page, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT
from support_build import FEATURES, PROJECT, write_project

from wherry.drift_settings import Drift
from wherry.project import KNOWN, LIMIT_BYTES, load_project
from wherry_contract.errors import SetupError
from wherry_contract.reaction import Reaction

PAGE = (ROOT / "docs" / "project.md").read_text()
FIELDS = [(section, name) for section, names in KNOWN.items() for name in names if section]


def _section(title: str) -> str:
    match = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, title
    return match[1]


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_every_field_is_described(section: str, name: str) -> None:
    assert f"| `{name}` |" in _section(section)


def test_nothing_is_described_that_is_not_there() -> None:
    for section in KNOWN:
        if section:
            # a field has a default and a meaning; tables of two columns tell of other things
            rows = r"^\| `(\w+)` \|[^|\n]+\|."
            described = re.findall(rows, _section(section), re.MULTILINE)
            assert set(described) == set(KNOWN[section])


def test_the_pages_example_loads(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example
    (tmp_path / "project.toml").write_text(example[1])
    project = load_project(tmp_path / "project.toml")
    assert project.name == "fraud"
    assert project.input.names == ("TX_AMOUNT", "TERMINAL_RISK_7D", "ENTRY_MODE")
    assert project.bundle == tmp_path / "build" / "fraud-1.0.0.wherry"


def test_defaults_are_the_pages(tmp_path: Path) -> None:
    project = load_project(write_project(tmp_path))
    assert (project.gates.flips, project.gates.edge_flips, project.gates.metric_drop) == (
        0,
        0,
        0.002,
    )
    assert (project.golden.rows, project.golden.tolerance) == (64, 1e-6)
    assert (project.soak.rows, project.soak.seconds) == (200, 1800)
    assert project.family == project.name
    assert not project.quantize
    assert project.key == ""


def test_edge_flips_follow_flips(tmp_path: Path) -> None:
    assert load_project(write_project(tmp_path, more="[gates]\nflips = 7\n")).gates.edge_flips == 7


@pytest.mark.parametrize(
    ("key", "found"),
    [("release", "release"), ("keys/mine.key", "{}/keys/mine.key"), ("/far/a.key", "/far/a.key")],
)
def test_a_key_is_a_name_or_a_path(tmp_path: Path, key: str, found: str) -> None:
    project = load_project(write_project(tmp_path, more=f'[sign]\nkey = "{key}"\n'))
    assert project.key == found.format(tmp_path)


BAD = [
    pytest.param("[gate]\nflips = 1\n", (), "did you mean 'gates'?", id="section misspelt"),
    pytest.param("[gates]\nflip = 1\n", (), "did you mean 'flips'?", id="field misspelt"),
    pytest.param("", [("maximum", "maximun")], "did you mean 'maximum'?", id="feature field"),
    pytest.param("", [('op = ">"', 'opp = ">"')], "did you mean 'op'?", id="condition field"),
    pytest.param("[zebra]\n", (), "known: project, source", id="nothing near"),
    pytest.param("[gates]\nflips = -1\n", (), "gates.flips should be an integer", id="negative"),
    pytest.param("[gates]\nflips = true\n", (), "gates.flips", id="flag for a count"),
    pytest.param('[gates]\nflips = "0"\n', (), "gates.flips", id="string for a count"),
    pytest.param("[gates]\nmetric_drop = nan\n", (), "metric_drop", id="NaN"),
    pytest.param("[gates]\nmetric_drop = 2\n", (), "metric_drop", id="drop over 1"),
    pytest.param("", [('"till"', '"Till 1"')], "project.name", id="name is no slug"),
    pytest.param("", [("counter = 3", "counter = 0")], "project.counter", id="counter 0"),
    pytest.param("", [("counter = 3", "")], "project.counter should be there", id="no counter"),
    pytest.param("", [('"sklearn"', '"abacus"')], "source.kind", id="unknown framework"),
    pytest.param("", [("flag_share = 0.02", "")], "output.threshold", id="no threshold"),
    pytest.param(
        "", [("flag_share", "threshold = 0.5\nflag_share")], "not both", id="two thresholds"
    ),
    pytest.param("", [("= 0.02", "= 1.0")], "output.flag_share", id="flags everything"),
    pytest.param(
        "",
        [("flag_share = 0.02", "threshold = 800")],
        'decision = "value"',
        id="a value's threshold",
    ),
    pytest.param("", [("value = 220.0", 'value = "x"')], "does not fit", id="rule on a string"),
    pytest.param(
        "", [('feature = "amount"', 'feature = "sum"')], "does not fit", id="rule feature"
    ),
    pytest.param("", [('name = "risk"', 'name = "amount"')], "names of their own", id="twins"),
    pytest.param("", [("= 1000.0", "= -1.0")], "not above maximum", id="range upside down"),
    pytest.param("", [(', "stripe"]', ', "chip"]')], "without repeats", id="category twice"),
    pytest.param('[quantize]\nmethod = "int4"\n', (), "quantize.method", id="unknown method"),
    pytest.param("[golden]\nrows = 5000\n", (), "golden.rows", id="too many vectors"),
    pytest.param("[golden]\ntolerance = 0.5\n", (), "golden.tolerance", id="tolerance of nothing"),
    pytest.param("[soak]\nrows = 1.5\n", (), "soak.rows", id="half a row"),
    pytest.param('[drift]\npairs = ["amount"]\n', (), "drift.pairs", id="a pair is two"),
    pytest.param('[drift]\npairs = [["amount", "x"]]\n', (), "no pair", id="pair of no feature"),
    pytest.param("[drift.reaction]\nrows = 3\n", (), "reaction.rows", id="reaction to a few"),
    pytest.param("[drift.reaction]\nshare = 3\n", (), "did you mean", id="reaction misspelt"),
    pytest.param("[project]\n", (), "not valid TOML", id="section twice"),
    pytest.param("x = [\n", (), "not valid TOML", id="no TOML"),
    pytest.param(f"x = {'[' * 9000}{']' * 9000}\n", (), "not valid TOML", id="nested too deep"),
    pytest.param("#" * LIMIT_BYTES, (), "more than", id="too large"),
]


@pytest.mark.parametrize(("more", "swaps", "words"), BAD)
def test_a_wrong_file_is_refused(
    tmp_path: Path, more: str, swaps: list[tuple[str, str]], words: str
) -> None:
    with pytest.raises(SetupError) as caught:
        load_project(write_project(tmp_path, more=more, swaps=swaps))
    assert caught.value.code == "H01"
    assert words in caught.value.detail
    assert "docs/project.md" in caught.value.cure


def test_what_devices_count_together_and_do_by_themselves(tmp_path: Path) -> None:
    more = '[drift]\npairs = [["amount", "mode"]]\n[drift.reaction]\nmissing_share = 0.5\n'
    drift = load_project(write_project(tmp_path, more=more)).drift
    assert drift == Drift((("amount", "mode"),), Reaction(missing_share=0.5))
    assert load_project(write_project(tmp_path)).drift == Drift((), None)


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "H02"), (b"\xff\xfe", "H01"), (b"", "H01"), (b"project = 1", "H01")],
    ids=["absent", "no UTF-8", "empty", "a number for a section"],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "project.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError) as caught:
        load_project(path)
    assert caught.value.code == code


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        load_project(tmp_path)
    assert caught.value.code == "H02"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(PROJECT.format(model="trees") + FEATURES)
    project = load_project(tmp_path / "project.toml")
    assert project.source.path == tmp_path / "trees.skops"
    assert project.data.check == tmp_path / "check.parquet"
