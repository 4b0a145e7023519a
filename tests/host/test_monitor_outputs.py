"""Models of several classes, and of values: served, counted, added up, judged and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from support_monitor import DAY, MONDAY
from support_outputs import rows, skops_of, write_project
from support_serving import Port, ask, infer, post, read_reply, running_port

from wherry.build import build
from wherry.bundle_view import look
from wherry.monitor import FleetView, Reference, judge
from wherry.project import load_project
from wherry.report.data import ReportData, read_data
from wherry.report.render import render
from wherry.rows import StoredWindow
from wherry_agent.config import Limits
from wherry_agent.serving.counter import Counter, Tally
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_contract.bundle import Parts
from wherry_contract.decision import class_counts, decide
from wherry_contract.errors import MessageError
from wherry_contract.messages import Place
from wherry_contract.window import Window

FOREST = skops_of(RandomForestClassifier(9, max_depth=6, random_state=0), "names")
BOOSTED = skops_of(GradientBoostingRegressor(n_estimators=20, random_state=0), "values")
RAW = rows().raw


@dataclass(frozen=True)
class Made:
    """A bundle that was built, loaded."""

    digest: str
    parts: Parts

    @property
    def served(self) -> Served:
        """What an agent serves of it."""
        return Served.by_model(load_model(self.digest, self.parts))


def made(folder: Path, model: bytes, output: str, label: str) -> Made:
    folder.mkdir(exist_ok=True)
    project = write_project(folder, "sklearn", model, output, label, "onnxruntime")
    done = build(load_project(project), out=folder / "a.wherry")
    return Made(done.digest, look(folder / "a.wherry").parts)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("classes")
    return made(folder, FOREST(), 'decision = "class"\nleast = 0.6', "names")


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("values")
    return made(folder, BOOSTED(), 'decision = "value"\nthreshold = 100.0', "values")


# --- the serving port -------------------------------------------------------------------


@pytest.fixture(scope="module")
def port(classes: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with running_port(tmp_path_factory.mktemp("port"), classes.served) as running:
        yield running


def asked(raw: Any, **more: Any) -> dict[str, Any]:
    tensor = {
        "name": "input",
        "shape": list(raw.shape),
        "datatype": "FP64",
        "data": raw.ravel().tolist(),
    }
    return {"inputs": [tensor]} | more


def test_the_port_answers_labels_and_every_score(port: Port, classes: Made) -> None:
    status, answer = ask(port, infer(asked(RAW[:40]), model="till"))
    assert status == 200
    found = {item["name"]: item for item in answer["outputs"]}
    assert list(found) == ["score", "flagged", "score_bin", "label", "scores"]
    assert found["scores"]["shape"] == [40, 3]
    model = classes.served.model
    assert model
    scores = model.scores(RAW[:40])
    assert np.array_equal(np.reshape(found["scores"]["data"], (40, 3)), scores)
    names = [*classes.parts.manifest.output.classes, ""]
    wanted = [names[place] for place in decide(scores, 0.6)]
    assert found["label"]["data"] == wanted
    assert "" in wanted
    assert found["flagged"]["data"] == [name != "" for name in wanted]


def test_labels_travel_as_bytes_too(port: Port) -> None:
    body = json.dumps(
        asked(RAW[:3], outputs=[{"name": "label", "parameters": {"binary_data": True}}])
    )
    with port.connect() as client:
        client.sendall(post("/v2/models/till/infer", body.encode()))
        _, headers, answer = read_reply(client)
    tail = answer[int(headers["inference-header-content-length"]) :]
    found = []
    while tail:
        size = int.from_bytes(tail[:4], "little")
        found.append(tail[4 : 4 + size].decode())
        tail = tail[4 + size :]
    _, plain = ask(port, infer(asked(RAW[:3], outputs=[{"name": "label"}]), model="till"))
    assert found == plain["outputs"][0]["data"]


def test_the_ports_metadata_names_the_classes(port: Port) -> None:
    _, said = ask(port, b"GET /v2/models/till HTTP/1.1\r\nHost: till\r\n\r\n")
    outputs = {item["name"]: (item["datatype"], item["shape"]) for item in said["outputs"]}
    assert outputs["label"] == ("BYTES", [-1])
    assert outputs["scores"] == ("FP64", [-1, 3])
    assert said["parameters"]["classes"] == ["high", "low", "mid"]


def test_a_model_of_one_score_has_no_labels(values: Made, tmp_path: Path) -> None:
    with running_port(tmp_path, values.served) as running:
        document = asked(RAW[:2], outputs=[{"name": "label"}])
        status, answer = ask(running, infer(document, model="till"))
        assert (status, answer["code"]) == (400, "S02")
        _, answer = ask(running, infer(asked(RAW[:2]), model="till"))
    found = {item["name"]: item["data"] for item in answer["outputs"]}
    assert found["flagged"] == [score >= 100.0 for score in found["score"]]
    assert max(found["score"]) > 1


# --- windows ----------------------------------------------------------------------------


def counted(made: Made, raw: Any, seq: int = 1, *, at: float = MONDAY) -> Window:
    """The window in which an agent counts rows."""
    served = made.served
    assert served.model
    counter = Counter(made.digest, served.manifest, served.profile)
    answers = served.model.answer(raw)
    assert not isinstance(answers, str)
    counter.add(raw, answers, at, 90.0)
    return counter.close("rows").window(Place("till-a", "0" * 16, seq, 1))


def test_windows_of_classes_add_up(classes: Made) -> None:
    parts = [counted(classes, RAW[:300]), counted(classes, RAW[300:])]
    whole = counted(classes, RAW)
    assert tuple(map(sum, zip(*(part.classes for part in parts), strict=True))) == whole.classes
    model = classes.served.model
    assert model
    assert list(whole.classes) == class_counts(decide(model.scores(RAW), 0.6), 3).tolist()
    assert whole.flagged == sum(whole.classes[:3])
    assert Window.from_bytes(whole.to_bytes()) == whole


def test_a_window_whose_classes_do_not_add_up_is_refused(classes: Made) -> None:
    window = counted(classes, RAW)
    wrong = replace(window, classes=(window.classes[0] + 1, *window.classes[1:]))
    with pytest.raises(MessageError, match="classes"):
        Window.from_bytes(wrong.to_bytes())


def test_a_scorer_counts_what_it_answers(classes: Made) -> None:
    from support_device import HandClock

    tallies: list[Tally] = []
    scorer = Scorer(Limits(), HandClock(), tallies.append)
    scorer.swap(classes.served)
    served = scorer.served
    assert served
    for start in range(0, 100, 10):
        scorer.answer(RAW[start : start + 10], served, started=0.0, at=MONDAY)
    scorer.stop()
    (tally,) = tallies
    assert tally.classes == counted(classes, RAW[:100]).classes
    assert sum(tally.classes) == tally.rows == 100


# --- the monitor ------------------------------------------------------------------------


def watched(made: Made, *, shift: float) -> FleetView:
    """Three quiet weeks, then one in which amounts are other ones."""
    chance = np.random.default_rng(2)
    windows = []
    for day in range(28):
        raw = RAW[: len(RAW) // 2][chance.integers(0, len(RAW) // 2, 500)]
        if day >= 21:
            raw = raw * [shift, 1, 1]
        window = counted(made, raw, day + 1, at=MONDAY + day * DAY + 3600)
        windows.append(StoredWindow("till-a", {}, window.closed + 60, window))
    manifest = made.parts.manifest
    known = {made.digest: Reference(made.parts.profile, manifest.input, manifest.output)}
    return judge(known, windows)


def page_of(view: FleetView) -> str:
    """The report, through its data's own file."""
    data = ReportData(
        made_at=MONDAY + 29 * DAY,
        select={},
        view=view,
        bundles=(),
        devices=(),
        rollouts=(),
        events=(),
        counters={},
    )
    return render(read_data(json.dumps(data.to_dict()).encode()))


def test_drifting_classes_are_seen_and_shown(classes: Made) -> None:
    calm, moved = watched(classes, shift=1.0), watched(classes, shift=4.0)
    assert not calm.refusals
    assert not calm.alerts
    kinds = {(cell.subject, str(cell.kind)) for cell in moved.alerts}
    assert ("classes", "classes") in kinds
    assert ("f0", "shape") in kinds
    slots = next(cell.slots for cell in moved.cells if cell.kind == "classes" and cell.slots)
    assert [slot.label for slot in slots] == ["high", "low", "mid", "undecided"]
    assert "the decided classes" in page_of(moved)


def test_drifting_values_are_seen_and_shown(values: Made) -> None:
    calm, moved = watched(values, shift=1.0), watched(values, shift=4.0)
    assert not calm.alerts
    assert {"score", "flagged", "f0"} <= {cell.subject for cell in moved.alerts}
    assert moved.scores[0].edges == values.parts.manifest.output.edges
    edge = f"{moved.scores[0].edges[0]:.4g}"
    assert f"&gt;{edge}&lt;" in page_of(moved) or f">{edge}<" in page_of(moved)


def test_a_window_of_other_classes_is_left_out(classes: Made) -> None:
    window = replace(counted(classes, RAW), classes=(len(RAW), 0))
    manifest = classes.parts.manifest
    known = {classes.digest: Reference(classes.parts.profile, manifest.input, manifest.output)}
    view = judge(known, [StoredWindow("till-a", {}, window.closed, window)])
    assert [item.reason for item in view.refusals] == ["other classes than its bundle has"]
