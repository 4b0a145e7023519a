"""A real agent under load with a shadow: payments notice nothing of it, whatever it does."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Mosquitto, wait_for
from support_agent import Depot, Made, make_bundle, order_for, running_depot, signed_order
from support_app import AgentProcess, Fleet, Traffic

from wherry_contract.assignment import ShadowPlan
from wherry_contract.shadow import ShadowCounts

LIVE, OTHER = make_bundle("1.0.0"), make_bundle("2.0.0", bias=-1.5)
FAILING = make_bundle("3.0.0", flaw="nan")
PAID = [{"AMOUNT": 7.0 * place, "NIGHTS": place % 5, "RISK": place % 7} for place in range(40)]


@pytest.fixture(scope="module")
def depot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Depot]:
    with running_depot(tmp_path_factory.mktemp("depot"), LIVE, OTHER, FAILING) as running:
        yield running


@pytest.fixture
def fleet(mosquitto: Mosquitto) -> Iterator[Fleet]:
    with Fleet(mosquitto) as listening:
        yield listening


def serving(folder: Path, mosquitto: Mosquitto, depot: Depot, **limits: float) -> AgentProcess:
    limits = {"window_rows": 30} | limits
    return AgentProcess(folder, broker=mosquitto.url, depot=depot.url, **limits)


def commit_live(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.order(signed_order(order_for(LIVE.digest, 1)))
    wait_for(lambda: agent.ask()[0] == 200, seconds=60, what=agent.log)
    with Traffic(agent):
        wait_for(lambda: agent.trust == "good", seconds=60, what=agent.log)
    wait_for(lambda: agent.phase == "idle", seconds=60, what=agent.log)


def shadow(fleet: Fleet, made: Made, rows: int = 10**6, then: str = "wait") -> None:
    plan = ShadowPlan(rows, 0, then)
    order = order_for(made.digest, 2, rollout="r2", mode="shadow", shadow=plan)
    fleet.order(signed_order(order))


def answers(agent: AgentProcess) -> list[bytes]:
    """What the port says, byte for byte, to the same payments."""
    client = http.client.HTTPConnection(*agent.address, timeout=30)
    found = []
    for place, row in enumerate(PAID):
        client.request(
            "POST", "/v2/models/fraud/infer", json.dumps({"rows": [row], "id": str(place)})
        )
        found.append(client.getresponse().read())
    client.close()
    return found  # fmt: skip


def counted(fleet: Fleet) -> list[ShadowCounts]:
    return [item.shadow for item in list(fleet.windows.values()) if item.shadow]


def rows(fleet: Fleet) -> int:
    return sum(item.rows for item in counted(fleet))


def test_answers_are_the_same_bytes_and_a_restart_and_a_live_order_go_on(
    tmp_path: Path, mosquitto: Mosquitto, depot: Depot, fleet: Fleet
) -> None:
    agent = serving(tmp_path, mosquitto, depot)
    try:
        agent.start()
        commit_live(agent, fleet)
        before = answers(agent)
        shadow(fleet, OTHER)
        wait_for(lambda: agent.phase == "shadow", seconds=60, what=agent.log)
        with Traffic(agent) as till:
            wait_for(lambda: rows(fleet) > 60, seconds=60, what=agent.log)
            assert answers(agent) == before
        assert (till.failures, till.bundles) == ([], {LIVE.digest})
        agent.kill()  # in the middle
        agent.start()
        assert (agent.phase, agent.serving) == ("shadow", LIVE.digest)
        seen = rows(fleet)
        with Traffic(agent) as till:
            wait_for(lambda: rows(fleet) > seen + 60, seconds=60, what=agent.log)
            assert answers(agent) == before
            fleet.order(signed_order(order_for(OTHER.digest, 3, rollout="r2")))
            wait_for(lambda: agent.serving == OTHER.digest, seconds=60, what=agent.log)
            wait_for(lambda: agent.trust == "good", seconds=60, what=agent.log)
        assert till.failures == []
        assert {item.bundle for item in counted(fleet)} == {OTHER.digest}
        assert sum(item.differing for item in counted(fleet)) > 0
    finally:
        agent.kill()


@pytest.mark.parametrize(
    ("made", "limits", "code", "off"),
    [
        pytest.param(OTHER, {"shadow_cpu_percent": 0.01}, "U16", "cpu", id="slow"),
        pytest.param(OTHER, {"shadow_mib": 0.001}, "U16", "memory", id="large"),
        pytest.param(FAILING, {}, "U15", "", id="failing"),
    ],
)
def test_a_shadow_that_cannot_go_on_touches_no_payment(  # noqa: PLR0917 - a row of cases
    tmp_path: Path,
    mosquitto: Mosquitto,
    depot: Depot,
    fleet: Fleet,
    made: Made,
    limits: dict[str, float],
    code: str,
    off: str,
) -> None:
    agent = serving(tmp_path / "agent", mosquitto, depot, **limits)
    try:
        agent.start()
        commit_live(agent, fleet)
        before = answers(agent)
        shadow(fleet, made)
        with Traffic(agent) as till:
            large = [{"AMOUNT": 5000.0, "NIGHTS": 1, "RISK": 1}] * 6
            wait_for(lambda: agent.ask(*large)[0] == 200 and code in fleet.codes(), seconds=60)
            wait_for(
                lambda: agent.phase == ("shadow" if off else "idle"), seconds=60, what=agent.log
            )
            assert answers(agent) == before
            if off:
                wait_for(lambda: off in {item.off for item in counted(fleet)}, seconds=60)
        assert (till.failures, till.bundles) == ([], {LIVE.digest})
        assert agent.serving == LIVE.digest
    finally:
        agent.kill()
