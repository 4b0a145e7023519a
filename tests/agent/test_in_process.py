"""`from wherry_agent import Scorer`: the port's answers without the port."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import wait_for
from support_agent import Made, make_bundle, reference_rows
from support_serving import ask, infer, make_served, running_port

from wherry_agent import Scorer
from wherry_agent.config import Limits
from wherry_agent.serving.counter import Tally
from wherry_agent.store import BlobStore, StatePair
from wherry_agent.update.record import DeviceRecord, Slot
from wherry_contract.errors import InputError, ServingError
from wherry_contract.states import SlotTrust

ONE, TWO = make_bundle(category=True), make_bundle("2.0.0", category=True, bias=-2.0)
PLAIN, BROKEN = make_bundle(), make_bundle("3.0.0", flaw="nan")
RULELESS = make_bundle("4.0.0", flaw="nan", rule=False)
ROW = {"AMOUNT": 12.5, "NIGHTS": 2, "RISK": 3, "KIND": "food"}


def serve(folder: Path, made: Made) -> None:
    """What an agent does to its state folder when it switches."""
    blobs = BlobStore(folder)
    for digest, data in {made.digest: made.layout.manifest, **made.layout.blobs}.items():
        blobs.put(digest, data)
    pair = StatePair(folder)
    pair.load()
    slot = Slot(made.digest, 1, "fraud", "1", SlotTrust.GOOD)
    pair.save(DeviceRecord(active="a").with_slot("a", slot).to_dict())


@pytest.fixture
def windows() -> list[Tally]:
    """Windows that were closed."""
    return []


@pytest.fixture
def scorer(tmp_path: Path, windows: list[Tally]) -> Iterator[Scorer]:
    """One on a state folder."""
    serve(tmp_path, ONE)
    with Scorer(tmp_path, windows=windows.append) as made:
        yield made


def rows_of(made: Made, count: int) -> list[dict[str, Any]]:
    """Named rows, some with gaps and unseen categories."""
    features = made.parts.manifest.input.features
    rows = []
    for place, raw in enumerate(reference_rows(made.parts.manifest.input, count).tolist()):
        row = dict(zip((item.name for item in features), raw, strict=True))
        if "KIND" in row:
            row["KIND"] = "new" if place % 7 == 0 else ("food", "fuel")[place % 2]
        if place % 5 == 0:
            row["NIGHTS"] = None
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    "made", [pytest.param(PLAIN, id="numbers"), pytest.param(ONE, id="a category")]
)
def test_the_same_answers_as_the_port(tmp_path: Path, made: Made) -> None:
    rows = rows_of(made, 40)
    serve(tmp_path, made)
    with running_port(tmp_path, make_served(made)) as port, Scorer(tmp_path) as scorer:
        status, answer = ask(port, infer({"rows": rows}))
        alone = [scorer.score(row) for row in rows]
        together = scorer.score_many(rows)
    assert status == 200
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    assert [item.score for item in alone] == pytest.approx(found["score"], abs=1e-7)
    assert [item.flagged for item in alone] == found["flagged"] == together.flagged.tolist()
    assert {(item.source, item.bundle) for item in alone} == {("model", made.digest)}
    assert together.scores.tolist() == found["score"]


def test_rows_as_names_as_a_list_and_as_a_matrix(tmp_path: Path) -> None:
    serve(tmp_path, PLAIN)
    raw = reference_rows(PLAIN.parts.manifest.input, 30)
    raw[::4, 1] = np.nan
    with Scorer(tmp_path) as scorer:
        listed = [scorer.score(row) for row in raw.tolist()]
        named = [scorer.score(dict(zip(scorer.features, row, strict=True))) for row in raw.tolist()]
        several = [
            scorer.score_many(row[np.newaxis]).first(PLAIN.parts.manifest, scorer.bundle)
            for row in raw
        ]
    assert listed == named == several


def test_short_and_general_ways_count_alike(tmp_path: Path) -> None:
    raw = reference_rows(PLAIN.parts.manifest.input, 700)
    counted = []
    for short in (True, False):
        windows: list[Tally] = []
        serve(tmp_path, PLAIN)
        with Scorer(tmp_path, windows=windows.append) as scorer:
            for row in raw:
                if short:
                    scorer.score(row.tolist(), at=1.5e9)
                else:
                    scorer.score_many(row[np.newaxis], at=1.5e9)
        (window,) = windows
        counted.append(
            (
                window.features,
                window.scores,
                window.flagged,
                window.near,
                window.opened,
                window.rows,
            )
        )
        assert sum(window.latency) == 700
    assert counted[0] == counted[1]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": (ROW | {"OTHER": 1}, "C01"),
    "missing": ({"NIGHTS": 2}, "C02"),
    "text for a number": (ROW | {"AMOUNT": "12"}, "C03"),
    "too large": (ROW | {"AMOUNT": 1e39}, "C04"),
}


@pytest.mark.parametrize(("row", "code"), BAD.values(), ids=BAD.keys())
def test_bad_rows_are_refused_and_counted(
    scorer: Scorer, windows: list[Tally], row: dict[str, Any], code: str
) -> None:
    with pytest.raises(InputError, match=code):
        scorer.score(row)
    with pytest.raises(InputError, match=code):
        scorer.score_many([ROW, row])
    assert scorer.score(ROW).source == "model"
    scorer.close()
    assert windows[0].errors == {code: 3}
    assert windows[0].rows == 1


def test_no_rows_and_wrong_widths(scorer: Scorer) -> None:
    for bad in ([], np.empty((0, 4)), np.zeros((2, 3))):
        with pytest.raises(InputError, match=r"C06|C03"):
            scorer.score_many(bad)


def test_it_follows_the_agent(tmp_path: Path, scorer: Scorer, windows: list[Tally]) -> None:
    before = scorer.score(ROW)
    serve(tmp_path, TWO)
    wait_for(lambda: scorer.bundle == TWO.digest, what="the new bundle")
    after = scorer.score(ROW)
    assert (before.bundle, after.bundle) == (ONE.digest, TWO.digest)
    assert before.score != after.score
    wait_for(lambda: windows, what="the window that was cut")
    assert [(item.bundle, item.reason) for item in windows] == [(ONE.digest, "switch")]


def test_a_model_taken_out_of_service_gives_way_to_the_rule_and_may_come_back(
    tmp_path: Path, scorer: Scorer
) -> None:
    assert scorer.score(ROW).source == "model"
    pair = StatePair(tmp_path)
    record = DeviceRecord.from_dict(pair.load() or {})
    bad = replace(record.slots["a"], trust=SlotTrust.BAD)
    pair.save(replace(record.with_slot("a", bad), active="").to_dict())
    assert scorer.refresh() is True
    assert scorer.score(ROW).source == "rule"
    assert scorer.refresh() is False
    pair.save(record.to_dict())
    assert scorer.refresh() is True
    assert scorer.score(ROW).source == "model"


def test_a_record_that_is_gone_changes_nothing(tmp_path: Path, scorer: Scorer) -> None:
    for path in tmp_path.glob("state.*"):
        path.unlink()
    assert scorer.refresh() is False
    assert scorer.score(ROW).source == "model"


def test_it_may_be_told(tmp_path: Path, scorer: Scorer) -> None:
    assert scorer.refresh() is False
    serve(tmp_path, TWO)
    scorer.refresh()
    assert scorer.bundle == TWO.digest


def test_what_cannot_be_loaded_changes_nothing(tmp_path: Path, scorer: Scorer) -> None:
    serve(tmp_path, TWO)
    for path in (tmp_path / "blobs").rglob(TWO.digest.partition(":")[2]):
        path.write_bytes(b"damaged")
    with pytest.raises(Exception, match=r"B0|D0"):
        scorer.refresh()
    assert scorer.score(ROW).bundle == ONE.digest


def test_the_rule_answers_where_the_model_fails(tmp_path: Path) -> None:
    serve(tmp_path, BROKEN)
    with Scorer(tmp_path) as scorer:
        good = scorer.score({"AMOUNT": 10.0, "RISK": 1})
        found = [scorer.score({"AMOUNT": 2000.0, "NIGHTS": 0, "RISK": 1}) for _ in range(3)]
    assert good.source == "model"
    assert {(item.source, item.score, item.flagged) for item in found} == {("rule", 1.0, True)}
    assert found[0].failure == "a score is not finite"


def test_without_a_rule_a_failure_is_told(tmp_path: Path) -> None:
    serve(tmp_path, RULELESS)
    with Scorer(tmp_path) as scorer, pytest.raises(ServingError, match="S05"):
        scorer.score({"AMOUNT": 2000.0, "NIGHTS": 0, "RISK": 1})


def test_a_bundle_file_will_do_for_a_trial(tmp_path: Path) -> None:
    path = tmp_path / "fraud.wherry"
    path.write_bytes(ONE.to_tar())
    with Scorer(path, also=["SHOP"]) as scorer:
        assert scorer.bundle == ONE.digest
        assert scorer.score(ROW | {"SHOP": 4}).source == "model"


def test_an_empty_folder_and_a_closed_scorer(tmp_path: Path, scorer: Scorer) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ServingError, match="S05"):
        Scorer(empty)
    scorer.close()
    with pytest.raises(ServingError, match="S05"):
        scorer.score(ROW)


def test_what_is_listed_and_no_number_is_refused_and_counted(tmp_path: Path) -> None:
    serve(tmp_path, PLAIN)
    windows: list[Tally] = []
    bad = {"C03": ["1.5", 2.0, 3.0], "C04": [10**400, 2, 3], "C06": [[1.0, 2.0], 2.0, 3.0]}
    with Scorer(tmp_path, windows=windows.append) as scorer:
        for code, row in bad.items():
            with pytest.raises(InputError, match=code):
                scorer.score(row)  # type: ignore[arg-type]  # that it is wrong is the point
        with pytest.raises(InputError, match="C03"):
            scorer.score_many(np.array([["1.5", "2", "3"]]))  # type: ignore[arg-type]  # likewise
        assert scorer.score([1.0, None, 3.0]).source == "model"  # type: ignore[list-item]  # a gap
    assert windows[0].errors == {"C03": 2, "C04": 1, "C06": 1}


def test_a_mapping_that_makes_values_up_is_asked_only_for_what_it_holds(tmp_path: Path) -> None:
    serve(tmp_path, PLAIN)
    with Scorer(tmp_path) as scorer:
        held = scorer.score({"AMOUNT": 12, "RISK": 3})
        assert scorer.score(Counter(AMOUNT=12, RISK=3)).score == held.score
        with pytest.raises(InputError, match="C02"):
            scorer.score(Counter(AMOUNT=12))


def test_tables_laid_out_by_columns_count_beside_single_rows(tmp_path: Path) -> None:
    serve(tmp_path, PLAIN)
    windows: list[Tally] = []
    table = np.asfortranarray(reference_rows(PLAIN.parts.manifest.input, 5))
    with Scorer(tmp_path, windows=windows.append) as scorer:
        scorer.score(table[0].tolist())
        scorer.score_many(table)
    slots = [item.slots for item in windows[0].features.values()]
    assert [sum(counts) for counts in slots] == [6, 6, 6]


def test_who_takes_windows_may_score_and_fail(tmp_path: Path) -> None:
    serve(tmp_path, PLAIN)
    taken: list[int] = []
    row = {"AMOUNT": 12.5, "NIGHTS": 2, "RISK": 3}

    def take(window: Tally) -> None:
        taken.append(window.rows)
        if len(taken) == 1:
            scorer.score(row)
        raise ValueError("a fault of the application")

    with Scorer(tmp_path, windows=take, limits=Limits(window_rows=3)) as scorer:
        for _ in range(3):
            scorer.score(row)
        wait_for(lambda: taken, what="the window")
        serve(tmp_path, TWO)
        wait_for(lambda: scorer.bundle == TWO.digest, what="the new bundle")
    assert taken == [3, 1]


def test_threads_share_one(scorer: Scorer, windows: list[Tally]) -> None:
    rows = rows_of(ONE, 50)
    expected = [scorer.score(row).score for row in rows]
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(
            place for _ in range(10) for place, row in enumerate(rows)
            if abs(scorer.score(row).score - expected[place]) > 1e-7
        )  # fmt: skip

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scorer.close()
    assert wrong == []
    assert sum(item.rows for item in windows) == 50 + 4 * 10 * 50


def test_importing_the_package_stays_cheap() -> None:
    code = "import sys, wherry_agent; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
