"""Metrics, alert rules and the dashboard: against a real server, a real Prometheus, promtool."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, wait_for
from support_fleet import FAMILY, open_store, state, wherry, window
from support_labels import BUNDLE, History, World
from support_monitor import Fleet, rows
from support_town import Town, running_town
from support_watch import fetch, promtool, running_prometheus

from wherry.monitor import FleetView, Forecast, Outlook, Policy, judge
from wherry.rows import BundleRow, DeviceRow, Exposure, RolloutRow
from wherry.server.intake import Batch
from wherry.server.metrics import Facts, families
from wherry.server.metrics_api import text_of
from wherry.server.traffic import MOST_CODES, MOST_MODELS, Told, Traffic

NOTHING = FleetView(Policy(), 0.0, 0, (), (), (), (), (), ())


def facts(devices: int, *, view: FleetView = NOTHING, kinds: int = 3) -> Facts:
    """A fleet whose devices differ in everything that they can say."""
    there = [
        DeviceRow(
            f"d-{n}",
            f"family-{n % kinds}",
            {},
            1.0,
            online=n % 2 == 0,
            seen_at=1.0,
            state=state(
                f"d-{n}",
                phase=f"phase-{n % kinds}",
                bundle="sha256:" + f"{n % kinds:064x}",
                bundle_name=f"m{n % kinds}",
                bundle_version="1",
            ),
        )
        for n in range(devices)
    ]
    parts = tuple(Exposure(row.device, 0, outcome=f"o{n}") for n, row in enumerate(there))
    blank = RolloutRow("r", "", "", "", "", "wave", 0, 1, {}, {}, 0.0, 0.0, devices=parts)
    running = [replace(blank, id=f"r{n}") for n in range(min(kinds, 40))]
    return Facts({"link": True}, there, {}, running, {"wave": 3}, {}, Told({}, {}, {}), view)


def series(text: bytes) -> list[str]:
    """Its lines but for comments."""
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("devices", "kinds", "most"),
    [
        pytest.param(3, 3, 200, id="few, one by one"),
        pytest.param(2000, 2000, 200, id="all of them different"),
        pytest.param(2000, 2000, 0, id="none one by one"),
    ],
)
def test_what_devices_say_does_not_make_more_series(devices: int, kinds: int, most: int) -> None:
    text = text_of(facts(devices, kinds=kinds), most)
    lines = series(text)
    single = [line for line in lines if 'device="' in line]
    assert len(lines) - len(single) < 250
    assert bool(single) == (devices <= most)
    left_out = devices if devices > most else 0
    assert f"wherry_devices_left_out {left_out:.1f}" in lines
    counted = [line for line in lines if line.startswith("wherry_devices{")]
    assert sum(float(line.split()[-1]) for line in counted) == devices
    serving = [line for line in lines if line.startswith("wherry_devices_serving{")]
    assert sum(float(line.split()[-1]) for line in serving) == devices
    assert promtool("check", "metrics", stdin=text) == ""


def test_drift_is_told_feature_by_feature() -> None:
    fleet = Fleet(pairs=(("AMOUNT", "COUNT"),))
    for day in range(6):
        fleet.send("a", day, rows(fleet.rng, 600, shift=1.6))
    view = judge(fleet.references, fleet.windows)
    lines = series(text_of(facts(2, view=view), 10))
    amount = [x for x in lines if 'kind="shape"' in x and 'subject="AMOUNT"' in x]
    assert any(x.startswith("wherry_drift_level") and x.endswith(" 3.0") for x in amount)
    (psi,) = [float(x.split()[-1]) for x in amount if x.startswith("wherry_drift_psi")]
    (cell,) = [c for c in view.current if (c.device, c.subject, c.kind) == ("", "AMOUNT", "shape")]
    assert cell.evidence
    assert psi == pytest.approx(cell.evidence.corrected)
    found = list(families(facts(2, view=view), 10))
    keys = [(s.name, *sorted(s.labels.items())) for family in found for s in family.samples]
    assert len(keys) == len(set(keys))


def test_how_well_the_models_do_with_ends_of_intervals_and_what_is_assumed() -> None:
    rng = np.random.default_rng(8)
    history = History.begin(rng)
    for labelled in (1.0, 1.0, 0.0):
        history.add(rng, World(slope=0.4), 8000, labelled=labelled)
    spans = history.judged()
    at = Forecast("AMOUNT", "", Outlook.DUE, 0.1, 0.05, 9, "k t^2", 1.0, 2.0, 3.0)
    text = text_of(facts(2, view=replace(NOTHING, performance=spans, forecasts=(at,))), 10)
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in series(text)}

    def told(source: str, bound: str = "value") -> float:
        labels = f'among="top_tenth",bound="{bound}",bundle="{BUNDLE[7:19]}",source="{source}"'
        return found[f"wherry_model_recall{{{labels}}}"]

    estimated, labelled = spans[-1].estimated, spans[-2].realised
    assert estimated
    assert labelled
    assert told("scores") == estimated.recall_decile.value
    assert told("labels") == labelled.recall_decile.value
    assert told("scores", "low") < told("scores") < told("scores", "high")
    assert found[f'wherry_model_concept_drift{{bundle="{BUNDLE[7:19]}"}}'] == 2.0
    assert sum(name.startswith("wherry_drift_forecast") for name in found) == 3
    assert b"blind to concept drift" in text
    assert promtool("check", "metrics", stdin=text) == ""
    every = tuple(replace(item, bundle=f"sha256:{n:064x}") for item in spans for n in range(500))
    many = series(text_of(facts(2, view=replace(NOTHING, performance=every)), 10))
    assert len([line for line in many if line.startswith("wherry_model_")]) < 500


def test_sums_of_traffic_only_grow_and_stay_few(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:

        def arrive(first: int, count: int, **changes: Any) -> None:
            found = [window("a", first + n, **changes) for n in range(count)]
            store.add(Batch(1.0, [(item, item.to_bytes()) for item in found]))

        arrive(1, 3)
        traffic = Traffic(store)
        assert traffic.told() == Told({}, {}, {})
        arrive(4, 2, errors={"S01": 4})
        told = traffic.told()
        assert told.devices == {"a": 20}
        assert told.errors == {"S01": 8}
        assert {model: sums.rows for model, sums in told.models.items()} == {("other", ""): 20}
        arrive(6, 1, errors={f"E{n}": 1 for n in range(3 * MOST_CODES)})
        told = traffic.told()
        assert len(told.errors) == MOST_CODES + 1
        assert sum(told.errors.values()) == 8 + 3 * MOST_CODES

        bundles = [f"sha256:{n:064x}" for n in range(MOST_MODELS + 5)]
        for n, digest in enumerate(bundles):
            store.add_bundle(BundleRow(digest, "m", str(n), FAMILY, 1, 1, 1, "", 1.0))
            arrive(7 + n, 1, bundle=digest)
        told = traffic.told()
        assert list(told.models) == [("m", str(n)) for n in range(5, MOST_MODELS + 5)]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Three shops, and a server that tells them apart in its metrics."""
    with running_town(tmp_path_factory.mktemp("town"), "--metrics-devices", "3") as found:
        yield found


def page(town: Town, name: str) -> bytes:
    """What a scraper gets, with a token of the server's folder."""
    status, text = fetch(town.server.client.url, "/metrics", (town.server.data / name).read_text())
    assert status == HTTPStatus.OK
    return text


def test_the_scrapers_token_opens_the_metrics_and_nothing_else(town: Town) -> None:
    url, mine = town.server.client.url, town.server.data / "metrics.token"
    assert mine.stat().st_mode & 0o077 == 0
    assert page(town, "metrics.token").startswith(b"# HELP wherry_")
    assert page(town, "token").startswith(b"# HELP wherry_")
    for token, path in ((mine.read_text(), "/api/v1/devices"), ("", "/metrics"), ("x", "/metrics")):
        assert fetch(url, path, token)[0] == HTTPStatus.UNAUTHORIZED


def test_a_real_prometheus_scrapes_it_and_runs_rules_and_dashboard(
    town: Town, tmp_path: Path
) -> None:
    said = wherry(town.server.data, "watch", "files", "-o", str(tmp_path)).stderr
    assert "dashboard.json" in said
    config = tmp_path / "prometheus.yml"
    assert "SUCCESS" in promtool("check", "config", str(config))
    # a test does not wait half a minute between two scrapes
    config.write_text(config.read_text().replace("30s", "1s"))
    with running_prometheus(config) as prometheus:
        answered = 'sum(wherry_rows_total{model="fraud"})'  # of all six days, for the server began before them
        before = wait_for(lambda: prometheus.values('up{job="wherry"} == 1'), what=prometheus.said)
        assert before
        for day in range(2, 6):
            town.day(day, doubled="till-2" if day > 2 else "")
        town.await_stored()
        wait_for(
            lambda: [v for _, v in prometheus.values(answered) if v == 6 * 3 * 500], what=answered
        )
        online = prometheus.values('wherry_devices{presence="online"}')
        assert [value for _, value in online] == [3.0]
        acts = 'wherry_device_drift_alerts{device="till-2"} > 0'
        wait_for(lambda: prometheus.values(acts), what=acts)
        assert not prometheus.values('wherry_device_drift_alerts{device="till-1"} > 0')
        firing = 'ALERTS{alertname="WherryDevicesDrift"}'
        wait_for(lambda: prometheus.values(firing), seconds=60, what=firing)
        for query in _queries(tmp_path / "dashboard.json"):
            prometheus.ask("query", query=query)
        known = set(prometheus.ask("label/__name__/values"))
        used = set(re.findall(r"\bwherry_\w+", (tmp_path / "dashboard.json").read_text()))
        used |= set(re.findall(r"\bwherry_\w+", (tmp_path / "alerts.yml").read_text()))
        # while there are none, and for a model that was built without labels
        absent = {"wherry_rollout_devices", "wherry_row_errors_total"}
        absent |= {"wherry_model_recall", "wherry_model_precision"}
        assert used - known <= absent
    assert promtool("check", "metrics", stdin=page(town, "metrics.token")) == ""


def _queries(path: Path) -> list[str]:
    """The dashboard's, with Grafana's variables filled in."""
    panels = json.loads(path.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(found) > 15
    return [query.replace("$__rate_interval", "1m") for query in found]


def test_rules_fire_when_they_should(tmp_path: Path) -> None:
    shutil.copy(str(files("wherry.watch") / "files" / "alerts.yml"), tmp_path)
    shutil.copy(ROOT / "tests" / "host" / "data" / "alerts.test.yml", tmp_path)
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "alerts.yml"))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "alerts.test.yml"))


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    found = json.loads((files("wherry.watch") / "files" / "dashboard.json").read_text())
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    spots = [panel["gridPos"] for panel in found["panels"]]
    assert all(spot["x"] + spot["w"] <= 24 for spot in spots)
    source = found["templating"]["list"][0]
    assert all(p["datasource"]["uid"] == f"${{{source['name']}}}" for p in found["panels"])


def test_where_no_server_is_no_files_are_made(tmp_path: Path) -> None:
    found = wherry(tmp_path, "watch", "files", "-o", str(tmp_path / "out"), ok=3)
    assert "H07" in found.stderr
    assert not (tmp_path / "out").exists()
