"""The report: one page that needs nothing else, and in which strangers' text stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from support_labels import History, World
from support_monitor import BUNDLE, DAY, MONDAY, Fleet, rows

from wherry.monitor import Forecast, Outlook, judge
from wherry.report.data import (
    SCHEMA,
    BundleLine,
    DecisionLine,
    DeviceLine,
    EventLine,
    ExposureLine,
    ReportData,
    RolloutLine,
    read_data,
)
from wherry.report.drawing import plain
from wherry.report.render import render
from wherry_contract.errors import SetupError

NOW = 1.7955e9
EVIL = "<script>alert(1)</script>\" onload='x' {{ 7 * 7 }} \u202e\x1b[31m&amp;"


def _device(name: str, **changes: Any) -> DeviceLine:
    line = DeviceLine(
        device=name,
        family="fraud",
        labels={"site": "paris"},
        online=True,
        seen_at=NOW,
        phase="idle",
        bundle=BUNDLE,
        bundle_name="fraud",
        bundle_version="1.0.0",
        trust="good",
        fallback=False,
        agent="0.1.0",
        lost=0,
    )
    return replace(line, **changes)


def _rollout(devices: int = 2) -> RolloutLine:
    exposed = ExposureLine("till-1", 0, "refused", "P01", "row 3", NOW, NOW + 8, NOW + 9)
    silent = ExposureLine("till-2", 1, "", "", "", 0.0, 0.0, 0.0)
    more = [
        ExposureLine(f"till-{n}", 1, "committed", "", "", NOW, NOW + 9, 0.0)
        for n in range(3, devices + 1)
    ]
    step = DecisionLine(NOW + 9, "canary", "aborted", 0, "1 failed, 0 may")
    return RolloutLine(
        id="r2-fraud-1-1-0",
        name="fraud",
        version="1.1.0",
        bundle=BUNDLE,
        state="reverted",
        waves=2,
        created_at=NOW,
        changed_at=NOW + 10,
        stopped="",
        devices=(exposed, silent, *more),
        decisions=(step,),
    )


def _fleet(days: int = 7, count: int = 400, devices: str = "ab") -> Fleet:
    fleet = Fleet()
    fleet.quiet_days([f"till-{name}" for name in devices], 0, days - 3, count)
    for day in range(days - 3, days):
        for name in devices:
            shift = 2.0 if name == "a" else 1.0
            fleet.send(f"till-{name}", day, rows(fleet.rng, count, shift=shift))
    return fleet


def _data(fleet: Fleet, **changes: Any) -> ReportData:
    data = ReportData(
        made_at=NOW,
        select={},
        view=judge(fleet.references, fleet.windows),
        bundles=(BundleLine(BUNDLE, "fraud", "1.0.0", ("pi3: onnxruntime 1.27.0: exact",)),),
        devices=(_device("till-a"), _device("till-b", online=False)),
        rollouts=(_rollout(),),
        events=(EventLine(NOW, "till-a", "error", "P01", "golden vectors disagree"),),
        counters={"windows": 14},
    )
    return replace(data, **changes)


@pytest.fixture(scope="module")
def data() -> ReportData:
    """Two shops, one of which drifts, and a rollout that was refused."""
    return _data(_fleet())


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    """Its page."""
    return render(data)


class _Reader(HTMLParser):
    """Collects what a browser would do with a page."""

    VOID = frozenset({"meta", "wbr", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def text_of(page: str) -> str:
    """What a person reads."""
    return re.sub(r"\s+", " ", "".join(_Reader(page).words))


def test_it_says_what_moved_and_where(page: str) -> None:
    text = text_of(page)
    assert "Drifted At till-a, AMOUNT, the model's scores and the flagged share" in text
    assert "have moved since 2018-07-27." in text
    assert "Quiet: till-b." in text
    assert "act AMOUNT at till-a, since 2018-07-27" in text
    assert "m 1,650 of the baseline" in text, "four quiet days, and fifty rows of the other shop"
    for figure in ("corrected", "95 %:", "n 400 rows", "p <1e-9", "in 2 of 3"):
        assert figure in text
    assert "r2-fraud-1-1-0: reverted" in text
    assert "till-1: P01 row 3" in text
    assert "golden vectors disagree" in text


def test_it_needs_nothing_else(page: str) -> None:
    found = _Reader(page)
    assert found.open == [], "tags that are not closed"
    assert not {"script", "link", "img", "iframe", "object", "form"} & found.tags
    targets = [value for name, value in found.attributes if name in ("href", "src", "xlink:href")]
    assert all(target.startswith("#") for target in targets)
    anchors = {value for name, value in found.attributes if name == "id"}
    assert {target[1:] for target in targets} <= anchors
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page


def test_pictures_are_drawn_and_have_names(page: str, data: ReportData) -> None:
    pictures = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    subjects = {cell.subject for cell in data.view.cells} - {"flagged"}
    assert len(pictures) >= len(subjects) + 4  # scores, latency, flags, a rollout
    for picture in pictures:
        root = ET.fromstring(picture)  # noqa: S314 - it was made a moment ago
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root.get("viewBox")
        assert int(root.get("width", "999")) <= 400, "too wide for a phone"
        assert "var(--" in picture, "its colours would not follow the page's"


def test_strangers_text_stays_text(data: ReportData) -> None:
    strange = replace(
        data,
        select={"site": EVIL},
        devices=(_device("till-a", labels={EVIL: EVIL}, agent=EVIL, phase=EVIL),),
        events=(EventLine(NOW, EVIL, "error", EVIL, EVIL),),
        bundles=(BundleLine(BUNDLE, EVIL, EVIL, (EVIL,)),),
        rollouts=(
            replace(
                _rollout(),
                stopped=EVIL,
                name=EVIL,
                devices=(ExposureLine(EVIL, 0, EVIL, EVIL, EVIL, NOW, NOW + 1, 0.0),),
                decisions=(DecisionLine(NOW, EVIL, EVIL, 0, EVIL),),
            ),
        ),
    )
    page = render(strange)
    found = _Reader(page)
    assert "script" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "{{ 7 * 7 }}" in page, "it is shown as it is, not computed"
    for picture in re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL):
        ET.fromstring(picture)  # noqa: S314 - that it can be parsed is the test


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ntext\tstays", "plain\ntext\tstays"),
        ("a\x00b", "a\ufffdb"),
        ("\x1b[2J", "\ufffd[2J"),
        ("\u202egpj.exe", "\ufffdgpj.exe"),
        ("\uffff\ud800", "\ufffd\ufffd"),
        ("na\u00efve \u2615", "na\u00efve \u2615"),
    ],
)
def test_characters_that_hide_are_shown(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_an_empty_fleet_has_a_page() -> None:
    nothing = _data(Fleet(), devices=(), rollouts=(), events=(), bundles=())
    text = text_of(render(nothing))
    assert "Not enough data No window has arrived that could be judged." in text
    for section in ("There is nothing to judge yet", "There was none", "No device is enrolled"):
        assert section in text


def test_a_fleet_without_latency_or_scored_rows_has_a_page() -> None:
    fleet = Fleet()
    fleet.send("till-a", 0, rows(fleet.rng, 300), latency=(0,) * 40)
    assert "not enough data" in text_of(render(_data(fleet)))


def test_its_size_depends_on_the_fleet_and_not_on_its_rows() -> None:
    few, many = (render(_data(_fleet(count=count))) for count in (400, 4000))
    assert len(many) == pytest.approx(len(few), rel=0.1)


def test_a_large_fleet_is_cut_and_that_is_said() -> None:
    fleet = Fleet()
    names = [f"till-{n:03}" for n in range(40)]
    fleet.quiet_days(names, 0, 2, 300)
    many = tuple(_device(f"d{n}") for n in range(600))
    events = tuple(EventLine(NOW + n, "d1", "info", "x", str(n)) for n in range(300))
    page = render(_data(fleet, devices=many, events=events, rollouts=(_rollout(100),)))
    text = text_of(page)
    assert "28 more devices are not in this table; none of them is worse." in text
    assert "100 more devices are not listed" in text
    assert "220 earlier events are not shown" in text
    assert "70 more are not drawn" in text
    assert len(page) < 2_000_000


# --- kept as a file -------------------------------------------------------------------------


def test_it_can_be_kept_and_made_again(data: ReportData, page: str) -> None:
    kept = json.dumps(data.to_dict()).encode()
    again = read_data(kept)
    assert again.to_dict() == data.to_dict()
    assert text_of(render(again)) == text_of(page)
    assert again.view.newest == MONDAY + 7 * DAY


def test_what_a_newer_version_adds_is_passed_over(data: ReportData) -> None:
    document = data.to_dict() | {"later": 1}
    document["view"]["cells"][0]["later"] = [1]
    assert read_data(json.dumps(document).encode()).to_dict() == data.to_dict()


def _without(path: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document.pop(path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(_without("schema"), "schema", id="no schema"),
        pytest.param(lambda d: d.update(schema="wherry/report-data/2"), SCHEMA, id="from later"),
        pytest.param(_without("view"), "view is not there", id="no view"),
        pytest.param(lambda d: d.update(devices={}), "devices should be a list", id="no list"),
        pytest.param(
            lambda d: d["view"]["cells"][0].update(decision="maybe"),
            "cells[0].decision should be one of",
            id="unknown word",
        ),
        pytest.param(
            lambda d: d["view"]["cells"][0].update(rows="many"),
            "cells[0].rows should be of the type int",
            id="text for a number",
        ),
        pytest.param(
            lambda d: d["view"]["cells"][0].update(rows=True),
            "cells[0].rows should be of the type int",
            id="truth for a number",
        ),
        pytest.param(
            lambda d: d.update(made_at="yesterday"),
            "made_at should be a time like",
            id="no time",
        ),
        pytest.param(
            lambda d: d["counters"].update(windows=1.5),
            "counters.windows should be of the type int",
            id="half a window",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(
    data: ReportData, spoil: Callable[[dict[str, Any]], Any], says: str
) -> None:
    document = json.loads(json.dumps(data.to_dict()))
    spoil(document)
    with pytest.raises(SetupError) as caught:
        read_data(json.dumps(document).encode())
    assert caught.value.code == "H02"
    assert says in caught.value.detail
    assert "wherry report --json" in caught.value.cure


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 100])
def test_bytes_that_are_no_document_are_refused(raw: bytes) -> None:
    with pytest.raises(SetupError) as caught:
        read_data(raw)
    assert caught.value.code == "H02"


def test_how_well_the_models_do_and_until_when() -> None:
    """Estimate and labels, verdict and what is assumed; dates, and "not determined"."""
    rng = np.random.default_rng(8)
    history = History.begin(rng)
    for _ in range(3):
        history.add(rng, World(slope=0.4), 8000)
    at = MONDAY + 60 * DAY
    dated = Forecast("AMOUNT", "", Outlook.DUE, 0.1, 0.05, 9, "k t^2", at, at + DAY, at + 2 * DAY)
    vague = Forecast("COUNT", "", Outlook.OPEN, 0.1, 0.0, 9, "it does not grow")
    data = _data(_fleet())
    view = replace(data.view, performance=history.judged(), forecasts=(vague, dated))
    page = render(read_data(json.dumps(replace(data, view=view).to_dict()).encode()))
    text = re.sub(r"<[^>]+>", " ", page).replace("\u200b", "")
    assert "blind to concept drift" in text
    assert "Declined payments yield no label" in text
    assert "concept drift: 0." in text
    assert text.count("Recall in the top tenth, ") == 1
    assert text.index("2018-09-22") < text.index("not determined"), "dates come first"


def test_who_feels_for_the_threshold_is_told_by_device_and_sign() -> None:
    data = _data(_fleet())
    assert "feels for the threshold" not in render(data)
    told = [EventLine(MONDAY + n, "d1", "warning", "probing", "repeats near") for n in range(3)]
    told.append(EventLine(MONDAY, "d2", "warning", "probing", "velocity"))
    page = render(replace(data, events=(*data.events, *told)))
    part = page[page.index("feels for the threshold") :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", part)[:8]
    assert [cells[:3], cells[4:7]] == [["d1", "repeats near", "3"], ["d2", "velocity", "1"]]
