"""Inputs that leave the contract: the rule answers, it is told, and the model comes back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_agent import Made, make_bundle, reference_rows
from support_device import HandClock

from wherry_agent.config import Limits
from wherry_agent.link.fact import Fact
from wherry_agent.serving.counter import Counter, Tally
from wherry_agent.serving.inference import Answers, load_model
from wherry_agent.serving.oip import write_answer
from wherry_agent.serving.oip_request import Asked
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_agent.serving.stand_in import NoStrays, StandIn
from wherry_agent.store import BlobStore, StatePair
from wherry_agent.update.record import DeviceRecord
from wherry_agent.update.shelf import Shelf, slot_for
from wherry_agent.update.strays import FILE, KeptStrays
from wherry_contract.errors import ManifestError
from wherry_contract.features import RawMatrix
from wherry_contract.manifest import Manifest
from wherry_contract.messages import Place
from wherry_contract.reaction import InputWatch, Reaction, Verdict
from wherry_contract.states import SlotTrust
from wherry_contract.window import Window
from wherry_contract.wire import canonical, parse_json

MADE = make_bundle(reaction=Reaction(missing_share=0.4, outside_share=0.2, rows=100))
PLAIN = make_bundle("2.0.0")
INPUTS = MADE.parts.manifest.input


class Told(NoStrays):
    """Remembers why inputs were not trusted, each change once."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def note(self, digest: str, verdict: Verdict, by: str) -> None:
        """Take a verdict."""
        del digest, by
        if bool(verdict.why) != bool(self.words and self.words[-1]):
            self.words.append(verdict.why)


class Bench:
    """A scorer and what it told."""

    def __init__(self) -> None:
        strays = Told()
        self.told = strays.words
        self.windows: list[Tally] = []
        limits = Limits(window_rows=10**6)
        self.scorer = Scorer(limits, HandClock(), self.windows.append, strays=strays)
        self.served = Served.by_model(load_model(MADE.digest, MADE.parts))
        self.scorer.swap(self.served)

    def pay(self, rows: int, *, missing: float = 0.0, outside: float = 0.0) -> list[Answers]:
        """Payments one by one, a share of them odd; the buffer is emptied behind them."""
        raw = reference_rows(INPUTS, rows, 4)
        raw[: round(missing * rows), 1] = np.nan
        raw[: round(outside * rows), 0] = 2e6
        found = [self.answer(raw[place : place + 1]) for place in range(rows)]
        self.scorer.tick()
        return found

    def answer(self, raw: RawMatrix) -> Answers:
        """One request."""
        return self.scorer.answer(raw, self.served, started=0.0, at=1.8e9)


STORIES = [
    pytest.param([{}, {}], [False, False], id="as agreed"),
    pytest.param([{"missing": 0.3}, {"outside": 0.15}], [False, False], id="some is odd"),
    pytest.param([{"missing": 0.5}, {}], [True, False], id="gaps, and then none"),
    pytest.param([{"outside": 0.25}, {}], [True, False], id="out of range, and then not"),
    pytest.param([{"missing": 0.5}, {"missing": 0.3}], [True, True], id="not yet half as few"),
    pytest.param([{"missing": 0.5}, {"missing": 0.15}], [True, False], id="few enough"),
    pytest.param([{"missing": 0.5}, {"outside": 0.5}, {}], [True, True, False], id="another reason"),
]  # fmt: skip


@pytest.mark.parametrize(("days", "away"), STORIES)
def test_the_rule_answers_while_inputs_are_not_as_agreed(
    days: list[dict[str, float]], away: list[bool]
) -> None:
    bench = Bench()
    for day, expected in zip(days, away, strict=True):
        bench.pay(100, **day)
        assert bool(bench.scorer.away) is expected
        answers = bench.answer(np.array([[500.0, 1.0, 0.0]]))
        assert answers.fallback is expected
        assert ("left the contract" in answers.failure) is expected
        bench.scorer.stop()
        bench.pay(99)  # with the one above it is a round of its own, and as agreed
        bench.pay(100, **day)
    changes = [bool(word) for word in bench.told]
    assert all(a != b for a, b in pairwise(changes))  # told once each


def test_what_is_said_names_the_feature_and_no_value() -> None:
    bench = Bench()
    bench.pay(100, missing=0.5)
    bench.pay(100)
    bench.pay(100, outside=0.5)
    assert bench.told == ["NIGHTS is often missing", "", "AMOUNT is often out of its range"]


def test_the_rules_rows_are_counted_as_such_and_judge_no_model() -> None:
    bench = Bench()
    bench.pay(100, missing=0.5)
    bench.pay(40, missing=0.5)
    assert (bench.scorer.progress.rows, bench.scorer.progress.failures) == (100, 0)
    bench.scorer.stop()
    (tally,) = bench.windows
    assert (tally.rows, tally.fallback, sum(tally.scores)) == (140, 40, 100)
    assert tally.features["NIGHTS"].missing == 70  # the monitor sees them all
    Window.from_bytes(tally.window(Place("shop-1", "0" * 16, 1, 1)).to_bytes())


def test_another_model_begins_with_trust_and_without_a_reaction_nothing_happens() -> None:
    bench = Bench()
    bench.pay(100, missing=0.5)
    assert bench.scorer.away
    bench.served = Served.by_model(load_model(PLAIN.digest, PLAIN.parts))
    bench.scorer.swap(bench.served)
    assert not any(item.fallback for item in bench.pay(300, missing=0.9))
    assert bench.scorer.away == ""


def test_what_the_reference_had_is_no_reason() -> None:
    """A column that was half empty when the model was trained may be half empty now."""
    profile = MADE.parts.profile
    half = replace(profile.features[1].counts, bins=(profile.rows // 2,), missing=profile.rows // 2)
    usual = replace(
        profile, features=(profile.features[0], replace(profile.features[1], counts=half))
    )
    raw = np.full((100, 2), 1.0)
    raw[:60, 1] = np.nan
    watch = InputWatch(Reaction(missing_share=0.2, rows=20), usual)
    watch.see(raw, np.ones(raw.shape, np.uint8))
    assert watch.away == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"missing_share": 0},
        {"outside_share": 1.5},
        {"rows": 5},
        {"rows": "many"},
        {"answer": "nobody"},
        {"fallback": None},
    ],
)
def test_manifests_that_are_refused(wrong: dict[str, Any]) -> None:
    document = parse_json(MADE.parts.manifest.to_bytes(), limit=10**6, what="manifest")
    if "fallback" in wrong:
        del document["fallback"]
    else:
        document["reaction"] |= wrong
    with pytest.raises(ManifestError, match="M04"):
        Manifest.from_bytes(canonical(document))


def test_a_manifest_keeps_its_reaction() -> None:
    read = Manifest.from_bytes(MADE.parts.manifest.to_bytes())
    assert read.reaction == Reaction(0.4, 0.2, 100)


# --- over a restart, and by the model before ------------------------------------------------

ASKS = make_bundle("3.0.0", reaction=Reaction(0.4, 0.2, 100, answer="previous"))
BEFORE = make_bundle(features=2)  # it reads AMOUNT and NIGHTS, and no RISK


class Till:
    """One start of what scores on a device with two slots."""

    def __init__(self, folder: Path, previous: Made = BEFORE, trust: str = "good") -> None:
        self.facts: list[Fact] = []
        blobs = BlobStore(folder)
        record = DeviceRecord(active="b")
        for name, made in (("a", previous), ("b", ASKS)):
            for digest, data in {made.digest: made.layout.manifest, **made.layout.blobs}.items():
                blobs.put(digest, data)
            slot = slot_for(made.digest, made.parts.manifest, 1, SlotTrust(trust))
            record = record.with_slot(name, slot)
        shelf = Shelf(folder, blobs, Limits())
        strays = KeptStrays(StatePair(folder, FILE), shelf, self.facts.append, lambda: record)
        self.scorer = Scorer(Limits(), HandClock(), lambda _: None, strays=strays)
        self.served = shelf.load(ASKS.digest)
        self.scorer.swap(self.served)
        self.scorer.tick()

    def pay(self, *, missing: int = 0, risk: int = 0, rows: int = 100) -> Answers:
        """Payments, some without NIGHTS and some with a RISK that cannot be; then one more."""
        raw = reference_rows(ASKS.parts.manifest.input, rows, 4)
        raw[:missing, 1], raw[:risk, 2] = np.nan, 2e6
        self.scorer.answer(raw, self.served, started=0.0, at=1.8e9)
        self.scorer.tick()
        return self.scorer.answer(raw[-1:], self.served, started=0.0, at=1.8e9)


def _source(answers: Answers) -> Any:
    asked = Asked("", 1, None, ())
    body, _ = write_answer(asked, "x", answers, ASKS.parts.manifest, ASKS.digest)
    return parse_json(body, limit=10**5, what="answer")["parameters"]


def test_the_model_before_answers_if_it_reads_nothing_that_strayed(tmp_path: Path) -> None:
    till = Till(tmp_path)
    answers = till.pay(risk=50)
    assert answers.fallback
    before = load_model(BEFORE.digest, BEFORE.parts)
    raw = reference_rows(ASKS.parts.manifest.input, 100, 4)[-1:, :2]
    assert answers.scores == pytest.approx(before.scores(raw))
    assert _source(answers) == {"bundle": BEFORE.digest, "source": "previous"}
    # a second feature goes, and that one it reads
    assert _source(till.pay(risk=50, missing=60)) == {"bundle": ASKS.digest, "source": "rule"}
    assert _source(till.pay()) == {"bundle": ASKS.digest, "source": "model"}
    assert [fact.text for fact in till.facts] == [
        "RISK is often out of its range: fraud 1.0.0 answers",
        "inputs are as agreed: the model answers",
    ]


@pytest.mark.parametrize(
    ("previous", "trust", "odd"),
    [
        pytest.param(BEFORE, "good", {"missing": 60}, id="it reads what strayed"),
        pytest.param(PLAIN, "good", {"risk": 50}, id="it reads all"),
        pytest.param(BEFORE, "unproven", {"risk": 50}, id="it has not proven itself"),
        pytest.param(make_bundle(features=4), "good", {"risk": 50}, id="it wants more"),
    ],
)
def test_where_the_model_before_cannot_the_rule_answers(
    tmp_path: Path, previous: Made, trust: str, odd: dict[str, int]
) -> None:
    till = Till(tmp_path, previous, trust)
    assert _source(till.pay(**odd))["source"] == "rule"
    assert till.facts[0].text.endswith("the rule answers")


def test_the_verdict_outlives_a_restart_and_is_told_once(tmp_path: Path) -> None:
    Till(tmp_path).pay(risk=50)
    again = Till(tmp_path)
    assert _source(again.pay(rows=1))["source"] == "previous"
    assert not again.facts
    again.pay(rows=98)
    assert [fact.code for fact in again.facts] == ["inputs.back"]
    assert not Till(tmp_path).scorer.away


def test_another_bundle_does_not_inherit_it_and_a_damaged_file_trusts(tmp_path: Path) -> None:
    Till(tmp_path).pay(risk=50)
    till = Till(tmp_path)
    till.scorer.swap(Served.by_model(load_model(MADE.digest, MADE.parts)))
    assert not till.scorer.away
    till.scorer.tick()
    till.scorer.swap(till.served)  # and it is not back with the one before
    assert not till.scorer.away
    Till(tmp_path).pay(risk=50)
    for path in tmp_path.glob(f"{FILE}.*"):
        path.write_bytes(b"torn")
    assert not Till(tmp_path).scorer.away


def test_a_stand_in_answers_in_the_same_terms() -> None:
    model, manifest = load_model(BEFORE.digest, BEFORE.parts), ASKS.parts.manifest
    assert StandIn.between(model, manifest, ())
    value = replace(manifest.output, edges=tuple(float(x) for x in range(63)))
    assert StandIn.between(model, replace(manifest, output=value), ()) is None


def test_what_the_model_before_decides_is_no_class_of_the_present_one() -> None:
    names = ("high", "low")
    manifest = ASKS.parts.manifest
    manifest = replace(manifest, output=replace(manifest.output, column=-1, classes=names))
    counter = Counter(ASKS.digest, manifest, ASKS.parts.profile)
    raw = reference_rows(manifest.input, 2)
    own = Answers(
        np.array([0.9, 0.8]), np.array([True, True]), np.array([40, 39]),
        classes=np.array([[0.9, 0.1], [0.2, 0.8]]), decisions=np.array([0, 1]),
    )  # fmt: skip
    counter.add(raw, own, 1.8e9, 50.0)
    counter.add(raw, replace(own, fallback=True, previous=BEFORE.digest), 1.8e9, 50.0)
    sent = counter.close("stop").window(Place("shop-1", "00c0ffee00c0ffee", 1, 1))
    read = Window.from_bytes(sent.to_bytes())  # it refuses what does not add up
    assert (read.rows, read.fallback, read.classes) == (4, 2, (1, 1, 0))


def test_a_manifest_says_who_answers_only_where_it_is_not_the_rule() -> None:
    assert b'"answer"' not in MADE.parts.manifest.to_bytes()
    read = Manifest.from_bytes(ASKS.parts.manifest.to_bytes())
    assert read.reaction == Reaction(0.4, 0.2, 100, answer="previous")
