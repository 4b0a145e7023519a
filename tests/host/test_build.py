"""`wherry build` and `check`: from a project file to a bundle that decides as its source does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from skops.io import dump
from support_build import Built, wherry, write_project

from wherry.bundle_view import look
from wherry_contract.bundle import CARD_FILE

FLIPS = "[gates]\nflips = {0}\nedge_flips = {0}\nmetric_drop = 1.0\n"


def test_trees_decide_as_their_source(built: Built) -> None:
    report = built.result.report
    assert report.failures == ()
    assert (report.flips, report.edge_flips) == (0, 0)
    assert {"clean", "missing risk", "out of range", "near a threshold"} <= report.classes.keys()
    for name, value in report.metrics["source"].to_dict().items():
        assert report.metrics["bundle"].to_dict()[name] == pytest.approx(value, abs=0.002)
    assert report.metrics["source"].auc > report.metrics["heuristic"].auc


def test_the_bundle_says_what_was_built(built: Built) -> None:
    view = look(built.bundle)
    manifest, profile = view.parts.manifest, view.parts.profile
    assert view.digest == built.result.digest
    assert (manifest.name, manifest.version, manifest.family) == ("till", "1.0.0", "till")
    assert manifest.output.threshold == built.result.report.threshold
    assert manifest.output.positive == "fraud"
    assert str(manifest.fallback) == "amount > 220"
    assert profile.rows == sum(profile.scores) == 6000
    assert profile.flagged == pytest.approx(120, abs=2)
    calibration = profile.calibration
    assert calibration is not None, "how often check rows of each score bin were fraud"
    check = parquet.read_table(built.shop / "check.parquet")
    assert sum(calibration.rows) == len(check)
    assert sum(calibration.positives) == sum(check["fraud"].to_pylist())
    assert len(view.parts.golden.rows) == 64
    assert any(None in row for row in view.parts.golden.rows)
    measured = manifest.provenance["measured"]
    assert measured["flips"] == 0
    assert measured["metrics"].keys() == {"source", "bundle", "heuristic"}
    assert view.statement is not None
    assert view.statement.counter == 3


def test_the_model_card_holds_words_and_figures(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = '[card]\npurpose = "Look twice."\nlimits = "One country."\nowner = "risk"\n'
    project = write_project(shop, more=more)
    done = wherry(capsys, "build", project, "--out", tmp_path / "a.wherry", "--unsigned")
    assert done.code == 0
    card = look(tmp_path / "a.wherry").parts.documents[CARD_FILE].decode()
    for words in ("# till 1.0.0", "Look twice.", "One country.", "| AUC | 0.", "near a threshold"):
        assert words in card
    assert str(shop) not in card


def test_a_rebuild_gives_the_same_bytes(built: Built, shop: Path, tmp_path: Path) -> None:
    """In another folder, with another hash seed, another zone, at another time."""
    elsewhere = tmp_path / "else where"
    shutil.copytree(shop, elsewhere)
    project, out = write_project(elsewhere), tmp_path / "b.wherry"
    key = built.keys / "release.key"
    command = [sys.executable, "-m", "wherry", "build", project, "--out", out, "--key", key]
    changed = os.environ | {"PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, check=True, capture_output=True, env=changed, cwd=tmp_path)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (built.bundle, out)]
    assert digests[0] == digests[1]


def test_the_command_answers_in_json_and_talks_on_stderr(
    built: Built, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "a.wherry"
    key = built.keys / "release.key"
    done = wherry(capsys, "build", write_project(shop), "--out", out, "--key", key, "--json")
    answer = json.loads(done.out)
    assert done.code == 0
    assert answer["schema"] == "wherry/build/1"
    assert answer["digest"] == built.result.digest
    assert answer["size"] == out.stat().st_size
    assert answer["gate"]["passed"] is True
    for step in ("converting to ONNX", "comparing decisions", "packing a.wherry, signing"):
        assert step in done.err
    quiet = wherry(capsys, "-q", "build", write_project(shop), "--out", out, "--unsigned")
    assert (quiet.code, quiet.err) == (0, "")


def test_the_project_names_key_and_bundle(
    built: Built,
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WHERRY_HOME", str(built.keys.parent))
    out = tmp_path / "named.wherry"
    more = f'[sign]\nkey = "release"\n[out]\nbundle = "{out}"\n'
    done = wherry(capsys, "build", write_project(shop, more=more))
    assert done.code == 0
    assert out.read_bytes() == built.bundle.read_bytes()


def test_a_net_is_quantized_and_its_flips_are_told(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = '[quantize]\nmethod = "int8"\n' + FLIPS.format(400)
    out = tmp_path / "net.wherry"
    project = write_project(shop, model="net", more=more)
    done = wherry(capsys, "build", project, "--out", out, "--unsigned", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    kept = [item for item in answer["quantized"]["variants"] if item["kept"]]
    assert len(kept) == 1
    assert kept[0]["bytes"] == answer["model_bytes"] < answer["quantized"]["bytes_before"]
    assert "QuantizeLinear" in look(out).parts.manifest.runtime.operators


def test_a_gate_that_says_no_packs_nothing(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An int8 net does flip decisions; with no budget for it that is the end."""
    more = '[quantize]\nmethod = "int8"\n' + FLIPS.format(0)
    out = tmp_path / "net.wherry"
    project = write_project(shop, model="net", more=more)
    done = wherry(capsys, "build", project, "--out", out, "--unsigned", "--json")
    answer = json.loads(done.out)
    assert done.code == 1
    assert answer["bundle"] is None
    assert answer["gate"]["flips"] + answer["gate"]["edge_flips"] > 0
    assert answer["gate"]["failures"]
    assert "error[Q01]" in done.err
    assert "Traceback" not in done.err
    assert not out.exists()
    checked = wherry(capsys, "check", project)
    assert checked.code == 1
    assert "too much:" in checked.out


def test_check_takes_a_bundle_instead(
    built: Built, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = wherry(capsys, "check", write_project(shop), "--bundle", built.bundle, "--json")
    answer = json.loads(done.out)
    assert (done.code, answer["schema"], answer["passed"]) == (0, "wherry/check/1", True)
    net = write_project(shop, model="net", more=FLIPS.format(0))
    other = wherry(capsys, "check", net, "--bundle", built.bundle)
    assert other.code == 1, "the trees do not decide as the net does"
    swapped = write_project(shop, swaps=[("maximum = 1000.0", "maximum = 900.0")])
    foreign = wherry(capsys, "check", swapped, "--bundle", built.bundle)
    assert (foreign.code, "K07" in foreign.err) == (3, True)


def test_a_given_threshold_is_the_bundles(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = write_project(shop, swaps=[("flag_share = 0.02", "threshold = 0.25")])
    out = tmp_path / "a.wherry"
    assert wherry(capsys, "build", project, "--out", out, "--unsigned").code == 0
    assert look(out).parts.manifest.output.threshold == 0.25


def test_a_pickle_is_opened_only_by_who_says_so(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = write_project(shop, swaps=[("trees.skops", "trees.joblib")])
    refused = wherry(capsys, "check", project)
    assert (refused.code, "error[K05]" in refused.err) == (3, True)
    assert "--trust-pickle" in refused.err
    assert wherry(capsys, "check", project, "--trust-pickle").code == 0
    out = tmp_path / "a.wherry"
    arguments = ("build", project, "--trust-pickle", "--out", out, "--unsigned")
    assert wherry(capsys, *arguments).code == 0


def _constant(folder: Path) -> None:
    from sklearn.dummy import DummyClassifier

    dump(DummyClassifier().fit([[0.0]] * 2, [0, 1]), folder / "dummy.skops")


BAD = [
    pytest.param([("trees.skops", "absent.skops")], "H02", id="no model"),
    pytest.param([("trees.skops", "reference.parquet")], "K05", id="a table for a model"),
    pytest.param([("trees.skops", "empty.skops")], "K04", id="an empty model"),
    pytest.param([("trees.skops", "dummy.skops")], "K01", id="a model that is not known"),
    pytest.param([('check = "check.parquet"', 'check = "absent.parquet"')], "H02", id="no data"),
    pytest.param([('check = "check.parquet"', 'check = "trees.skops"')], "H10", id="no table"),
    pytest.param([('label = "fraud"', 'label = "chargeback"')], "H10", id="no label column"),
    pytest.param([('label = "fraud"', 'label = "card"')], "H10", id="a label of many classes"),
    pytest.param([('name = "amount"', 'name = "sum"'), ('"amount"\nop', '"sum"\nop')], "H10", id="no feature column"),
    pytest.param([('missing = "allow"', 'missing = "refuse"')], "H10", id="gaps that are refused"),
    pytest.param([('"chip", "contactless", ', '"chip", ')], "H10", id="a category is not listed"),
    pytest.param([("[data]", '[sign]\nkey = "./absent.key"\n[data]')], "H02", id="no key"),
    pytest.param([("[data]", "[quantize]\n[data]")], "K03", id="int8 for trees"),
]  # fmt: skip


@pytest.mark.parametrize(("swaps", "code"), BAD)
def test_bad_input_is_one_coded_answer(
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    swaps: list[tuple[str, str]],
    code: str,
) -> None:
    _constant(shop)
    (shop / "empty.skops").write_bytes(b"")
    out = tmp_path / "a.wherry"
    project = write_project(shop, swaps=swaps)
    done = wherry(capsys, "build", project, "--out", out)
    assert f"error[{code}]" in done.err
    assert done.code == (1 if code.startswith("T") else 3)
    assert "next:" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not out.exists()
    loud = wherry(capsys, "-vv", "build", project, "--out", out)
    assert "Traceback" in loud.err
    assert f"error[{code}]" in loud.err


def test_a_bundle_that_cannot_be_written(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "a.wherry"
    done = wherry(capsys, "build", write_project(shop), "--out", out, "--unsigned")
    assert (done.code, "error[D06]" in done.err) == (3, True)


def test_the_fraud_handbooks_payments(shared: Path, tmp_path: Path) -> None:
    """Real columns in Parquet: integers of every width, times in milliseconds, 14 features."""
    from pyarrow import parquet

    from wherry.data import read_rows
    from wherry.project import load_project

    source = shared / "payments" / "fdh_features_2018-07.parquet"
    names = [name for name in parquet.read_schema(source).names if name != "TRANSACTION_ID"]
    features = "".join(f'[[input.features]]\nname = "{name}"\n' for name in names)
    path = tmp_path / "project.toml"
    path.write_text(
        '[project]\nname = "a"\nversion = "1"\ncounter = 1\n'
        '[source]\nkind = "sklearn"\npath = "x"\n'
        f'[data]\nreference = "{source}"\ncheck = "{source}"\n[output]\nthreshold = 0.5\n'
        f'[input]\nname = "a"\nversion = 1\n{features}'
    )
    project = load_project(path)
    rows = read_rows(source, project.input, project.data)
    assert rows.raw.shape == (296_928, 14)
    assert rows.labels is None
    wanted = parquet.read_table(source, columns=[names[3]])[names[3]].to_numpy()
    np.testing.assert_array_equal(rows.raw[:, 3], wanted.astype(float))


def test_on_a_terminal_a_bar_moves_to_its_end(shop: Path, tmp_path: Path) -> None:

    project = write_project(
        shop, model="net", more='[quantize]\nmethod = "weights-int8"\n' + FLIPS.format(400)
    )
    command = [sys.executable, "-m", "wherry", "build", project, "--unsigned"]
    reader, writer = pty.openpty()
    try:
        done = subprocess.run(
            [*command, "--out", tmp_path / "a.wherry"],
            stdout=subprocess.PIPE,
            stderr=writer,
            check=False,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(writer)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says EIO where the other end is closed
            while part := os.read(reader, 65_536):
                shown += part
    finally:
        os.close(reader)
    text = shown.decode()
    assert done.returncode == 0, text
    assert "weights-int8, no layer in float" in text
    assert "100%" in text
    assert text.count("\r") > 8
