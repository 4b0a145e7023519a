"""Delayed labels: counted where they are, added up exactly, each batch once."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from support_agent import make_bundle
from support_build import wherry
from support_fleet import running_server

from wherry.labels import LabelRow, read_labels
from wherry.labels.counts import merged
from wherry.server.database import Database
from wherry.server.labels import LabelStore
from wherry_contract.errors import RolloutError, SetupError
from wherry_contract.histograms import SCORE_BINS

BUNDLE = "sha256:" + "b" * 64
DAY = "2018-07-14"
Row = dict[str, Any]

COUNTS: list[Row] = [
    {"bundle": BUNDLE, "score_bin": 3, "label": 0, "count": 40, "weight": 1, "day": DAY},
    {"bundle": BUNDLE, "score_bin": 40, "label": 1, "count": 2, "weight": 1, "day": DAY},
    {"bundle": BUNDLE, "score_bin": 40, "label": 0, "count": 5, "weight": 5, "day": DAY},
]


def _write(path: Path, rows: Sequence[Row]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_counts_of_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    found = read_labels(_write(tmp_path / f"counts.{kind}", COUNTS)).batch
    assert (found.labels, found.positives) == (47, 2)
    plain, sampled = found.rows
    assert (plain.weight, sampled.weight) == (1.0, 5.0)
    assert (plain.negatives[3], plain.positives[40], sampled.negatives[40]) == (40, 2, 5)
    assert found.batch.startswith("sha256:")


def _answer(name: str, bins: Sequence[int], flagged: Sequence[bool], source: str = "model") -> Row:
    """As the agent answers, and when the application asked."""
    outputs = [
        {"name": "score_bin", "datatype": "INT32", "shape": [len(bins)], "data": list(bins)},
        {"name": "flagged", "datatype": "BOOL", "shape": [len(bins)], "data": list(flagged)},
    ]
    parameters = {"bundle": BUNDLE, "source": source}
    at = f"{DAY}T23:59:59+00:00"
    return {"id": name, "parameters": parameters, "outputs": outputs, "at": at}


def test_ids_are_looked_up_in_the_log_of_answers(tmp_path: Path) -> None:
    log = _write(
        tmp_path / "answers.jsonl",
        [
            _answer("r1", [3, 40], [False, True]),
            _answer("r2", [41], [True]),
            _answer("r3", [5], [False]),
            _answer("by-rule", [0], [True], source="rule"),
        ],
    )
    labels = [
        {"request_id": "r1", "row": 0, "label": 0},
        {"request_id": "r1", "row": 1, "label": 1},
        {"request_id": "r1", "row": 1, "label": 1},  # told twice
        {"request_id": "r3", "row": "", "label": ""},  # nobody knows yet
        {"request_id": "elsewhere", "row": 0, "label": 1},
    ]
    found = read_labels(_write(tmp_path / "labels.csv", labels), log)
    (row,) = found.batch.rows
    assert (row.negatives[3], row.positives[40]) == (1, 1)
    assert (found.batch.labels, found.unknown, found.unmatched) == (2, 1, 1)
    assert (found.answers, found.unlabelled, found.unlabelled_flagged) == (4, 2, 1)


def test_a_plain_log_does_too(tmp_path: Path) -> None:
    log = _write(
        tmp_path / "answers.csv",
        [{"request_id": 7, "bundle": BUNDLE, "score_bin": 9, "at": 1_531_526_400.5}],
    )
    found = read_labels(_write(tmp_path / "l.jsonl", [{"id": 7, "label": True}]), log)
    assert found.batch.rows[0].positives[9] == 1
    assert found.batch.rows[0].day == 1_531_526_400.0


def _with(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: _write(folder / "x.csv", [COUNTS[0] | changes])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(_with(label=2), "row 1: label should be 0 or 1", id="label"),
        pytest.param(_with(score_bin=64), "score_bin should be", id="bin"),
        pytest.param(_with(score_bin=1.5), "score_bin should be", id="half a bin"),
        pytest.param(_with(count=-1), "count should be", id="count"),
        pytest.param(_with(weight="nan"), "weight should be a number", id="no weight"),
        pytest.param(_with(weight=0), "weight a positive number", id="weight 0"),
        pytest.param(_with(bundle="fraud"), "no digest", id="bundle"),
        pytest.param(_with(bundle=""), "bundle should be a text", id="no bundle"),
        pytest.param(_with(day=""), "say --day", id="no day"),
        pytest.param(_with(day="tomorrow"), "row 1", id="day"),
        pytest.param(lambda folder: folder / "none.csv", "none.csv", id="no file"),
        pytest.param(lambda folder: _text(folder / "x.jsonl", "[1]\n"), "no object", id="list"),
        pytest.param(lambda folder: _text(folder / "x.parquet", "PAR"), "x.parquet", id="parquet"),
        pytest.param(lambda folder: _text(folder / "x.txt", ""), "should end in", id="kind"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(SetupError, match=words):
        read_labels(make(tmp_path))


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("changed", ["answer", "label"])
def test_an_id_that_means_two_things(tmp_path: Path, changed: str) -> None:
    bins = ([3], [4]) if changed == "answer" else ([3], [3])
    log = _write(tmp_path / "a.jsonl", [_answer("r", part, [False]) for part in bins])
    labels = [{"id": "r", "label": 0}, {"id": "r", "label": int(changed == "label")}]
    with pytest.raises(SetupError, match=r"request 'r' (was answered otherwise|had another label)"):
        read_labels(_write(tmp_path / "l.jsonl", labels), log)


def _row(day: int, weight: float, seed: int) -> LabelRow:
    rng = np.random.default_rng(seed)
    counts = (tuple(rng.integers(0, 9, SCORE_BINS).tolist()) for _ in range(2))
    return LabelRow(BUNDLE, day * 86_400.0, weight, *counts)


rows = st.lists(
    st.builds(_row, st.integers(0, 2), st.sampled_from((1.0, 2.5)), st.integers(0, 99)),
    max_size=6,
)


@given(rows, st.randoms())
def test_they_add_up_in_any_order_and_any_parts(found: list[LabelRow], chance: Any) -> None:
    other = list(found)
    chance.shuffle(other)
    whole = merged(found)
    assert merged(other) == whole
    cut = len(other) // 2
    assert merged([*merged(other[:cut]), *merged(other[cut:])]) == whole
    assert sum(sum(r.negatives) for r in whole) == sum(sum(r.negatives) for r in found)


def test_a_batch_counts_once(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.sqlite")
    store = LabelStore(database)
    first = read_labels(_write(tmp_path / "counts.csv", COUNTS)).batch
    assert store.sums() == {}
    assert [store.add(first, 1.0), store.add(first, 2.0)] == [True, False]
    named = read_labels(_write(tmp_path / "more.csv", COUNTS[:1]), batch="july").batch
    assert store.add(named, 3.0)
    again = read_labels(_write(tmp_path / "more.csv", COUNTS[1:]), batch="july").batch
    with pytest.raises(RolloutError, match="holds other labels") as raised:
        store.add(again, 4.0)
    assert raised.value.code == "R06"
    ((day, sums),) = LabelStore(database).sums()[BUNDLE].items()
    assert day == 1_531_526_400.0
    assert (sums.counted, sums.hits) == (87, 2)
    assert sums.weight[40] == 27.0
    assert [line.labels for line in store.batches()] == [47, 40]
    database.close()


def test_the_command_brings_them_to_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "counts.csv", COUNTS)
    with running_server(tmp_path / "data") as server:
        monkeypatch.setenv("WHERRY_HOME", str(server.data))
        dry = wherry(capsys, "labels", "import", path, "--dry-run")
        assert "not sent" in dry.out
        first = wherry(capsys, "labels", "import", path, "--json")
        document = json.loads(first.out)
        assert (document["added"], document["labels"], document["positives"]) == (True, 47, 2)
        assert document["bundles_unknown"] == [BUNDLE]
        second = wherry(capsys, "labels", "import", path)
        assert "were there already" in second.out
        assert "declined payments yield no label" in second.out
        listed = json.loads(wherry(capsys, "labels", "list", "--json").out)
        assert [line["labels"] for line in listed["batches"]] == [47]
        assert "2018-07-14" in wherry(capsys, "labels", "list").out
        hooks = _text(tmp_path / "hooks.toml", "lead_days = 14\n")
        checked = wherry(capsys, "retrain", "check", "--hooks", hooks)
        assert (checked.code, checked.out) == (0, "no model has aged\n")
        assert "nothing was started" in wherry(capsys, "retrain", "list").out
        bad = {"batch": "x", "source": "x", "rows": [{"bundle": BUNDLE}]}
        with pytest.raises(RolloutError, match="rows"):
            server.client.post("labels", bad)


def test_what_a_response_carries_is_what_labels_need() -> None:
    """The agent's answer names the bundle, and each row's score bin among its outputs."""
    from wherry_agent.serving.oip import outputs_of

    assert "score_bin" in outputs_of(make_bundle().parts.manifest)
