"""The planner's looks over modelled devices, from the first order to the last of them. Pure."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from wherry.gates.evidence import Numbers, Pair, Side, baseline, differences
from wherry.gates.judge import Inputs
from wherry.gates.rules import Rules
from wherry.outcomes import SILENT
from wherry.rows import Decision, DeviceRow, Exposure, RolloutRow
from wherry.server.rollout import (
    Look,
    Policy,
    Report,
    can_ask,
    gates_due,
    judge,
    settle,
    way_back,
)
from wherry.server.trial import sides
from wherry.server.verdict import TABLE, E, said_of
from wherry.server.waves import Candidate, plan_waves
from wherry_contract.messages import State
from wherry_contract.states import Outcome, SlotTrust, UpdateState
from wherry_contract.states import RolloutState as R

from .links import REQUESTS, Habits, Links
from .shops import BOARDS, MODELS, Shops, together

_KEY: Final = "k" * 64
_OLD, _NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64
_FAMILY: Final = "simulated"
_SESSION: Final = "0" * 16
_BEFORE_HOURS: Final = 24.0


@dataclass(frozen=True)
class Scene:
    """What is simulated.

    Attributes:
        devices: how many.
        model: of `shops.MODELS`.
        policy: as a push would order it; soak in seconds must be said.
        size: of the bundle in bytes, as a device fetches it.
        tick: seconds between two looks of the planner.
        limit: seconds after which nobody looks any more.
    """

    devices: int
    model: str = "same"
    policy: Policy = field(default_factory=lambda: Policy(soak_seconds=1800))
    habits: Habits = field(default_factory=Habits)
    size: int = 500_000
    seed: int = 1
    tick: float = 300.0
    limit: float = 3 * 86_400.0


@dataclass(frozen=True)
class Outcomes:
    """What came of it.

    Attributes:
        state: the rollout's, at the end.
        seconds: from the first order to that state.
        reached: seconds until 50, 95 and 99 % of all devices had committed; nothing where
            that did not come to be.
        exposed: devices on which the new model was live at some time.
        exposed_seconds: added up over them, until they were back or the end.
        fetched: bytes.
        peak: requests in the busiest second.
        decisions: every one, with its figures.
    """

    state: str
    seconds: float
    reached: dict[str, float | None]
    exposed: int
    exposed_seconds: float
    fetched: int
    peak: int
    decisions: tuple[Decision, ...]

    @property
    def reason(self) -> str:
        """Of the decision that ended it, or of the last one."""
        ends = [step for step in self.decisions if step.after == R.ABORTED]
        last = ends or self.decisions[-1:]
        return last[0].reason if last else ""


def simulate(scene: Scene) -> Outcomes:
    """Roll a bundle out to modelled devices.

    Raises:
        RolloutError: R06, a wave is wrong.
    """
    world = _World(scene)
    while world.step():
        pass
    return world.outcomes()


class _World:
    """Devices, and the rollout that they are in."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.now = scene, 0.0
        self.links = Links(scene.devices, scene.habits, scene.seed)
        self.shops = Shops(scene.devices, scene.seed)
        self.names = [f"d{place:07}" for place in range(scene.devices)]
        self.number = {name: place for place, name in enumerate(self.names)}
        self.rows = {name: self._first_row(place) for place, name in enumerate(self.names)}
        self.row = self._rollout()
        self.reports: dict[str, Report] = {}
        self.happens: list[tuple[float, int, int, str]] = []
        self.latest: dict[int, int] = {}  # the sequence that a device acts on
        self.live: dict[int, float] = {}
        self.lived = 0.0
        self.exposed: set[int] = set()
        self.committed: list[float] = []
        self.fetches: Counter[int] = Counter()
        self.pairs: dict[str, tuple[float, Pair]] = {}
        self.ended = 0.0
        for place in range(scene.devices):
            self._await_change(place)

    def _first_row(self, place: int) -> DeviceRow:
        state = State(
            device=self.names[place],
            agent="",
            runtime="",
            runtime_version="",
            architecture="",
            labels={},
            session=_SESSION,
            spool=_SESSION,
            phase=UpdateState.IDLE,
            rollout="",
            sequences={},
            active="a",
            bundle=_OLD,
            bundle_name="",
            bundle_version="",
            trust=SlotTrust.GOOD,
            fallback=False,
            started_at=0.0,
            reported_at=0.0,
        )
        labels = {"board": BOARDS[self.shops.board[place]], "site": str(self.shops.site[place])}
        up = self.links.is_up(place, 0.0)
        return DeviceRow(self.names[place], _FAMILY, labels, 0.0, up, _SESSION, 0.0, state)

    def _rollout(self) -> RolloutRow:
        policy = self.scene.policy
        found = [Candidate(row.device, row.labels, not row.online) for row in self.rows.values()]
        waves = plan_waves(found, policy.shares, f"{self.scene.seed}")
        if policy.gates:
            ends = [sum(map(len, waves[: place + 1])) for place in range(len(waves))]
            many = sum(can_ask(policy.gates, end, self.scene.devices - end) for end in ends)
            gates = dict(policy.gates) | {"waves": many} if many else {}
            policy = replace(policy, gates=gates)
        exposures = tuple(
            Exposure(name, wave) for wave, names in enumerate(waves) for name in names
        )
        return RolloutRow(
            id=f"simulated-{self.scene.seed}",
            bundle=_NEW,
            name="simulated",
            version="1",
            family=_FAMILY,
            state=R.CANARY,
            wave=0,
            waves=len(waves),
            select={},
            policy=policy.to_dict(),
            created_at=0.0,
            changed_at=0.0,
            devices=exposures,
        )

    # --- time -------------------------------------------------------------------------

    def step(self) -> bool:
        """Look once, and let time pass; whether it goes on."""
        if self.row.state not in (R.DONE, R.REVERTED):
            while self._look() and self.row.state not in (R.DONE, R.REVERTED):
                pass  # what follows at once
        elif not self.ended:
            self.ended = self.now
        waiting = any(what != "change" for _, _, _, what in self.happens)
        if self.now >= self.scene.limit or (self.ended and not waiting):
            return False
        self.now += self.scene.tick
        while self.happens and self.happens[0][0] <= self.now:
            at, place, sequence, what = heapq.heappop(self.happens)
            getattr(self, f"_on_{what}")(at, place, sequence)
        return True

    def _await(self, at: float, place: int, sequence: int, what: str) -> None:
        if at < math.inf:
            heapq.heappush(self.happens, (at, place, sequence, what))

    def _await_change(self, place: int) -> None:
        self._await(self.links.next_change(place, self.now), place, 0, "change")

    def _on_change(self, at: float, place: int, _: int) -> None:
        """A device comes or goes."""
        up = self.links.is_up(place, at + 1.0)
        self._set(place, at, online=up)
        self._await(self.links.next_change(place, at + 1.0), place, 0, "change")

    def _on_take(self, at: float, place: int, sequence: int) -> None:
        """A device hears of an order; only the latest is there to be heard."""
        if self.latest.get(place) != sequence:
            return
        fetch = self.links.fetch_at(place, at)
        going_back = self._is_ending()
        self._tell(place, at, sequences={_KEY: sequence}, phase=UpdateState.FETCH)
        if going_back:
            self._await(fetch + 1.0, place, sequence, "back")
            return
        self.fetches[int(fetch)] += REQUESTS
        if self.links.refuses(place):
            self._await(fetch, place, sequence, "refuse")
        else:
            switch = self.links.switch_at(place, fetch, self.scene.size)
            self._await(switch, place, sequence, "switch")

    def _on_refuse(self, at: float, place: int, _: int) -> None:
        self.reports[self.names[place]] = Report(Outcome.REFUSED, "U01", "no room")
        self._tell(place, at, phase=UpdateState.IDLE)

    def _on_switch(self, at: float, place: int, sequence: int) -> None:
        if self.latest.get(place) != sequence:
            return
        self.live[place] = at
        self.exposed.add(place)
        self._tell(place, at, phase=UpdateState.SOAK, bundle=_NEW, trust=SlotTrust.UNPROVEN)
        rows = max(0, self.scene.policy.soak_rows)
        soak = max(float(self.scene.policy.soak_seconds), rows / self.shops.rate[place] * 3600)
        self._await(at + soak, place, sequence, "commit")

    def _on_commit(self, at: float, place: int, sequence: int) -> None:
        if self.latest.get(place) != sequence:
            return
        self.committed.append(at)
        # it is known when it is there to say so
        self._await(self.links.next_up(place, at), place, sequence, "say")

    def _on_say(self, at: float, place: int, sequence: int) -> None:
        if self.latest.get(place) == sequence:
            self._tell(place, at, phase=UpdateState.IDLE, trust=SlotTrust.GOOD)

    def _on_back(self, at: float, place: int, _: int) -> None:
        if place in self.live:
            self.lived += at - self.live.pop(place)
        self._tell(place, at, phase=UpdateState.IDLE, bundle=_OLD, trust=SlotTrust.GOOD)

    def _tell(self, place: int, at: float, **said: Any) -> None:
        """A device reports, if it is there; its next report says all of it."""
        row = self.rows[self.names[place]]
        assert row.state  # noqa: S101 - every modelled device has one
        seen = at if row.online else row.seen_at
        state = replace(row.state, **said)
        self.rows[self.names[place]] = replace(row, state=state, seen_at=seen)

    def _set(self, place: int, at: float, *, online: bool) -> None:
        row = self.rows[self.names[place]]
        self.rows[self.names[place]] = replace(row, online=online, seen_at=at)

    # --- the planner ------------------------------------------------------------------

    def _is_ending(self) -> bool:
        return self.row.state in (R.ABORTED, R.REVERTING, R.REVERTED)

    def _look(self) -> bool:
        """One look; whether it moved the rollout."""
        policy = Policy.from_dict(self.row.policy)
        look = Look(self.now, -1e9, _KEY, self.rows, self.reports)
        settled = tuple(
            settle(item, _NEW, look, policy.silent_seconds) if _is_open(item) else item
            for item in self.row.devices
        )
        row = replace(self.row, devices=settled)
        if gates_due(row, look):
            look = replace(look, inputs=self._inputs(row, Rules.from_dict(policy.gates)))
        verdict = judge(row, look)
        after = TABLE[R(row.state), verdict.event]
        wave = row.wave + (verdict.event == E.PASSED)
        moved = after != row.state or wave != row.wave
        if moved or verdict.results:
            figures = dict(verdict.figures)
            if verdict.results:
                figures["gates_said"] = said_of(verdict)
                figures["gate_results"] = [item.to_dict() for item in verdict.results]
            made = Decision(
                self.now, row.state, verdict.event, str(after), wave, figures, verdict.reason
            )
            row = replace(row, decisions=(*row.decisions, made))
        self.row = replace(row, state=str(after), wave=wave)
        self._give_orders()
        return moved

    def _give_orders(self) -> None:
        if self.row.state in (R.CANARY, R.WAVE):
            wave = self.row.wave
            due = [item for item in self.row.devices if item.wave <= wave and not item.offered_at]
        elif self.row.state == R.REVERTING:
            due = way_back(self.row.devices)
        else:
            return
        back = self._is_ending()
        new = {}
        for item in due:
            place, sequence = self.number[item.device], item.sequence + 1
            self.latest[place] = sequence
            self._await(self.links.next_up(place, self.now), place, sequence, "take")
            times: dict[str, Any] = {"reverted_at" if back else "offered_at": max(self.now, 1e-3)}
            new[item.device] = replace(item, sequence=sequence, previous=_OLD, **times)
        if new:
            devices = tuple(new.get(item.device, item) for item in self.row.devices)
            self.row = replace(self.row, devices=devices)

    def _inputs(self, row: RolloutRow, rules: Rules) -> Inputs:
        """Traffic before and after, of canary and control, as their windows would say it."""
        canary, control = sides(row, rules.most_devices)
        base = baseline(self._pair(item, row) for item in (*canary, *control))

        def changes(items: Iterable[Exposure]) -> Numbers:
            pairs = {item.device: self._pair(item, row) for item in items}
            return differences(pairs, base, rules.least_rows)

        made = sum(
            bool(item.figures.get("gates")) and item.figures["wave"] == row.wave
            for item in row.decisions
        )
        seed = f"{row.id}\n{row.wave}"
        return Inputs(made + 1, changes(canary), changes(control), (), seed)

    def _pair(self, item: Exposure, row: RolloutRow) -> Pair:
        """A device's traffic up to now; what was drawn once is not drawn again."""
        place = self.number[item.device]
        is_new = item.outcome == Outcome.COMMITTED
        # since when it is after: for a control device, since the wave's devices had committed
        begun = [i.settled_at for i in row.devices[:64] if i.outcome == Outcome.COMMITTED]
        start = (item.settled_at if is_new else min(begun, default=self.now)) / 3600
        model = MODELS[self.scene.model if is_new else "same"]
        key = f"{item.device} {is_new}"
        until, pair = self.pairs.get(key, (start, Pair(Side(), Side())))
        if not pair.before.rows:
            before = self.shops.traffic(place, _BEFORE_HOURS, start - 25, MODELS["same"])
            pair = Pair(before, pair.after)
        if self.now / 3600 > until:
            more = self.shops.traffic(place, self.now / 3600 - until, until, model)
            pair = Pair(pair.before, together(pair.after, more))
        self.pairs[key] = (self.now / 3600, pair)
        return pair

    # --- what came of it --------------------------------------------------------------

    def outcomes(self) -> Outcomes:
        """As of now."""
        times = sorted(self.committed)
        reached: dict[str, float | None] = {}
        for percent in (50, 95, 99):
            need = math.ceil(percent / 100 * self.scene.devices)
            good = len(times) >= need and self.row.state == R.DONE
            reached[str(percent)] = round(times[need - 1], 1) if good else None
        lived = self.lived + sum(self.now - at for at in self.live.values())
        return Outcomes(
            state=self.row.state,
            seconds=self.ended or self.now,
            reached=reached,
            exposed=len(self.exposed),
            exposed_seconds=round(lived, 1),
            fetched=len(self.exposed) * self.scene.size,
            peak=max(self.fetches.values(), default=0),
            decisions=self.row.decisions,
        )


def _is_open(item: Exposure) -> bool:
    return bool(item.offered_at) and item.outcome not in (Outcome.COMMITTED, SILENT)
