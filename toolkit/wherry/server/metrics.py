"""The fleet as Prometheus metrics: pure, from facts to families.

How many series there are is bounded by settings, never by what devices say (docs/watching.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from wherry import __version__
from wherry.monitor import Cell, Decision, FleetView, Kind
from wherry.monitor.words import gravity
from wherry.rows import DeviceRow, RolloutRow
from wherry_contract.histograms import LATENCY_EDGES_US
from wherry_contract.states import Outcome, RolloutState, UpdateState

from .metrics_quality import gauge, quality, short
from .traffic import OTHER, Sums, Told

MOST_FAMILIES: Final = 20
MOST_MODELS: Final = 20
MOST_ROLLOUTS: Final = 10
MOST_CELLS: Final = 300
# every other edge of the contract's bins: powers of two from 64 us to 0.52 s
_EDGES: Final = tuple(range(11, len(LATENCY_EDGES_US), 2))
_LEVELS: Final[Mapping[Decision, int]] = {
    Decision.STABLE: 0,
    Decision.WATCH: 1,
    Decision.WARN: 2,
    Decision.ACT: 3,
}
_SHARES: Final = (Kind.MISSING, Kind.RANGE, Kind.UNSEEN, Kind.FLAGGED)
_STORED: Final = {
    "windows": ("wherry_windows_stored", "Windows that were stored, since the store was made."),
    "events": ("wherry_events_stored", "Events that were stored, since the store was made."),
    "duplicates": ("wherry_messages_duplicate", "Messages that had been stored before."),
    "incidents": ("wherry_messages_refused", "Messages that were not taken."),
}
_Key = TypeVar("_Key", bound=tuple[str, ...])


@dataclass(frozen=True)
class Facts:
    """What metrics are made of.

    Attributes:
        parts: the server's parts by name, and whether they go on.
        devices: every enrolled one.
        lost: messages that a device dropped before they arrived, by id; empty where
            devices are too many to be shown one by one.
        running: rollouts that have not ended.
        rollouts: how many there are, by state.
        counters: the store's.
        told: what windows brought.
        view: the judgement.
    """

    parts: Mapping[str, bool]
    devices: Sequence[DeviceRow]
    lost: Mapping[str, int]
    running: Sequence[RolloutRow]
    rollouts: Mapping[str, int]
    counters: Mapping[str, int]
    told: Told
    view: FleetView


def families(facts: Facts, most_devices: int) -> Iterator[Metric]:
    """Every family.

    Args:
        facts: of one moment.
        most_devices: a larger fleet has no series for single devices.
    """
    yield gauge("build_info", "The server's version.", ["version"], [((__version__,), 1)])
    parts = [((name,), int(good)) for name, good in facts.parts.items()]
    yield gauge("part_up", "Whether a part of the server goes on.", ["part"], parts)
    yield from _fleet(facts.devices)
    yield from _rollouts(facts)
    for name, (metric, text) in _STORED.items():
        yield CounterMetricFamily(metric, text, value=facts.counters.get(name, 0))
    yield from _traffic(facts.told)
    yield from _drift(facts.view)
    yield from quality(facts.view)
    yield from _single(facts, most_devices)


def _counter(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    found = CounterMetricFamily(f"wherry_{name}", text, labels=labels)
    for values, value in rows:
        found.add_metric(values, value)
    return found


def _most(counts: Counter[_Key], limit: int, rest: _Key) -> list[tuple[_Key, int]]:
    """The largest counts, and the sum of the others under a name of their own."""
    found = counts.most_common(limit)
    others = sum(counts.values()) - sum(count for _, count in found)
    return [*found, *([(rest, others)] if others else [])]


def _fleet(devices: Sequence[DeviceRow]) -> Iterator[Metric]:
    families: Counter[tuple[str]] = Counter((row.family,) for row in devices)
    kept = {family for (family,), _ in families.most_common(MOST_FAMILIES)}
    presence: Counter[tuple[str, str]] = Counter()
    for row in devices:
        family = row.family if row.family in kept else OTHER
        for word in ("online", "offline"):
            presence[family, word] += row.online == (word == "online")
    text = "Enrolled devices, by whether the broker holds their connection."
    yield gauge("devices", text, ["family", "presence"], presence.items())
    states = [row.state for row in devices if row.state]
    phases = Counter(state.phase for state in states)
    rows = [((str(phase),), phases.get(phase, 0)) for phase in UpdateState]
    yield gauge("devices_in_phase", "Devices by the phase of their update.", ["phase"], rows)
    models = Counter((s.bundle_name, s.bundle_version) for s in states if s.bundle)
    shown = _most(models, MOST_MODELS, (OTHER, ""))
    yield gauge("devices_serving", "Devices by the model they serve.", ["model", "version"], shown)
    by_rule = sum(state.fallback for state in states)
    yield gauge("devices_on_fallback", "Devices whose rule answers.", [], [((), by_rule)])


def _rollouts(facts: Facts) -> Iterator[Metric]:
    rows = [((str(state),), facts.rollouts.get(state, 0)) for state in RolloutState]
    yield gauge("rollouts", "Rollouts by state.", ["state"], rows)
    parts = [
        (
            (rollout.id, outcome),
            sum((item.outcome or "open") == outcome for item in rollout.devices),
        )
        for rollout in facts.running[-MOST_ROLLOUTS:]
        for outcome in (*map(str, Outcome), "silent", "open")
    ]
    text = "Devices of rollouts that have not ended, by outcome."
    yield gauge("rollout_devices", text, ["rollout", "outcome"], parts)


def _traffic(told: Told) -> Iterator[Metric]:
    labels = ["model", "version"]
    models = told.models.items()
    text = "Rows answered, in windows that arrived since the start."
    yield _counter("rows", text, labels, [(model, sums.rows) for model, sums in models])
    rows = [(model, sums.flagged) for model, sums in models]
    yield _counter("rows_flagged", "Of them flagged.", labels, rows)
    rows = [(model, sums.by_rule) for model, sums in models]
    yield _counter("rows_by_rule", "Of them answered by the fallback rule.", labels, rows)
    codes = [((code,), count) for code, count in told.errors.items()]
    yield _counter("row_errors", "Rows that were refused or failed.", ["code"], codes)
    text = "From request to answer on the device; without a sum, for devices count bins alone."
    latency = HistogramMetricFamily("wherry_request_duration_seconds", text, labels=labels)
    for model, sums in models:
        latency.add_metric(model, _buckets(sums), sum_value=None)
    yield latency


def _buckets(sums: Sums) -> list[tuple[str, float]]:
    found = [(f"{LATENCY_EDGES_US[b] / 1e6:g}", float(sum(sums.latency[: b + 1]))) for b in _EDGES]
    return [*found, ("+Inf", float(sum(sums.latency)))]


def _drift(view: FleetView) -> Iterator[Metric]:
    names = {bundle: item for item in view.references for bundle in item.bundles}
    cells = sorted((cell for cell in view.current if not cell.device), key=gravity)
    labels = ["subject", "kind", "edges", "bundle"]
    shown = [(_labels(cell), cell) for cell in cells[:MOST_CELLS]]
    levels = [(key, _LEVELS.get(cell.decision, -1)) for key, cell in shown]
    text = (
        "How a comparison of all devices stands: 0 stable, 1 watch, 2 warn, 3 act, -1 not judged."
    )
    yield gauge("drift_level", text, labels, levels)
    known = [(key, cell.kind, cell.evidence) for key, cell in shown if cell.evidence]
    rows = [(key, item.corrected) for key, kind, item in known if kind not in _SHARES]
    text = "PSI against the reference, less its mean under no drift."
    yield gauge("drift_psi", text, labels, rows)
    rows = [(key, item.value) for key, kind, item in known if kind in _SHARES]
    yield gauge("drift_share_change", "How far a share has moved, 0 to 1.", labels, rows)
    worst: Counter[Decision] = Counter()
    for item in view.standing:
        if item.device:
            worst[next((d for d in (*_WORST, Decision.STABLE) if item.counts.get(d)), _NONE)] += 1
    counts = [((str(decision),), worst[decision]) for decision in (*_WORST, Decision.STABLE, _NONE)]
    text = "Devices by the gravest of their own comparisons."
    yield gauge("drift_devices", text, ["decision"], counts)
    text = "End of the newest payments that were judged."
    yield gauge("drift_newest_timestamp_seconds", text, [], [((), view.newest)])
    left_out = sum(item.windows for item in view.refusals)
    text = "Windows that could not be judged, as of a bundle that is not in the depot."
    yield gauge("windows_left_out", text, [], [((), left_out)])
    cut = max(0, len(cells) - MOST_CELLS)
    yield gauge("drift_cells_left_out", "Comparisons without a series.", [], [((), cut)])
    references = [((r.contract, str(r.version), short(r.edges)), r.rows) for r in names.values()]
    text = "Rows of the references that are compared with."
    labels = ["contract", "contract_version", "edges"]
    yield gauge("drift_reference_rows", text, labels, sorted(set(references))[:MOST_MODELS])


_WORST: Final = (Decision.ACT, Decision.WARN, Decision.WATCH)
_NONE: Final = Decision.WAITING


def _labels(cell: Cell) -> tuple[str, str, str, str]:
    return cell.subject, str(cell.kind), short(cell.edges), short(cell.bundle)


def _single(facts: Facts, most: int) -> Iterator[Metric]:
    """Series of single devices, if they are few."""
    too_many = len(facts.devices) > most
    left_out = len(facts.devices) if too_many else 0
    text = "Devices without series of their own, because there are more than the limit."
    yield gauge("devices_left_out", text, [], [((), left_out)])
    devices = [] if too_many else facts.devices
    rows = [((row.device,), float(row.online)) for row in devices]
    yield gauge("device_online", "Whether the broker holds its connection.", ["device"], rows)
    rows = [((row.device,), row.seen_at) for row in devices if row.seen_at]
    text = "When anything last came from it, by the server's clock."
    yield gauge("device_seen_timestamp_seconds", text, ["device"], rows)
    rows = [((r.device,), float(r.state.fallback)) for r in devices if r.state]
    yield gauge("device_on_fallback", "Whether its rule answers.", ["device"], rows)
    rows = [((row.device,), facts.told.devices.get(row.device, 0)) for row in devices]
    text = "Rows it answered, in windows that arrived since the start."
    yield _counter("device_rows", text, ["device"], rows)
    rows = [((r.device,), facts.lost[r.device]) for r in devices if r.device in facts.lost]
    text = "Messages it dropped before they arrived."
    yield gauge("device_lost_messages", text, ["device"], rows)
    few = {row.device for row in devices}
    rows = [
        ((item.device,), sum(item.counts.get(decision, 0) for decision in _WORST[:2]))
        for item in facts.view.standing
        if item.device in few
    ]
    yield gauge("device_drift_alerts", "Its comparisons that warn or act.", ["device"], rows)
