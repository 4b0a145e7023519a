"""What the page says, section by section, as plain values for the template. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wherry.monitor import ALERTS, FLAGGED, SCORE, Cell, Decision, FleetView, Kind, totals, words

from .data import ReportData, RolloutLine

MOST_COLUMNS: Final = 12
MOST_DEVICES: Final = 500
MOST_EVENTS: Final = 80
_MARKS: Final = {
    Decision.ACT: "\u25b2\u25b2",
    Decision.WARN: "\u25b2",
    Decision.WATCH: "\u25c6",
    Decision.STABLE: "",
    Decision.CALENDAR: "week",
    Decision.NO_BASELINE: "new",
    Decision.WAITING: "few rows",
}
_WHOLE: Final = (Kind.SHAPE, Kind.PAIR, Kind.SCORE, Kind.FLAGGED, Kind.CLASSES)
_STATES: Final = {
    Decision.ACT: "Drifted",
    Decision.WARN: "Drifted",
    Decision.WATCH: "Watching",
    Decision.STABLE: "Quiet",
    Decision.WAITING: "Not enough data",
    Decision.NO_BASELINE: "Beginning",
    Decision.CALENDAR: "Beginning",
}


@dataclass(frozen=True)
class Tile:
    """One field of the table of features and places.

    Attributes:
        tone: names its colour.
        text: the PSI less its mean under no drift, or what else there is to say.
        hint: the rule, in full.
    """

    tone: str
    text: str
    hint: str


def tone(decision: Decision) -> str:
    """The name of a decision's colour in the page's style."""
    return {Decision.WAITING: "mute", Decision.CALENDAR: "mute", Decision.NO_BASELINE: "mute"}.get(
        decision, str(decision)
    )


def state(decision: Decision) -> str:
    """The state of the fleet in a word or two."""
    return _STATES[decision]


def subjects(view: FleetView) -> list[str]:
    """What is judged, the gravest first, the model's answers last among equals."""
    worst: dict[str, int] = {}
    for cell in sorted(view.current, key=_size, reverse=True):
        worst[cell.subject] = min(worst.get(cell.subject, 99), words.gravity(cell))
    order = {name: number for number, name in enumerate(worst)}
    return sorted(worst, key=lambda n: (worst[n] > 2, n in (SCORE, FLAGGED), worst[n], order[n]))


def places(view: FleetView) -> list[str]:
    """All devices together, then single ones: what drifted, what is watched, the rest."""
    worst: dict[str, int] = {}
    for cell in view.current:
        worst[cell.device] = min(worst.get(cell.device, 99), words.gravity(cell))
    ordered = sorted(
        [*words.segments(view), *view.devices], key=lambda device: (worst.get(device, 99), device)
    )
    return ["", *ordered]


def grid(view: FleetView) -> tuple[list[str], list[tuple[str, list[Tile]]]]:
    """The heads and rows of the table of features and places."""
    columns = places(view)[: MOST_COLUMNS + 1]
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in view.current:
        found.setdefault((cell.subject, cell.device), []).append(cell)
    rows = [
        (name, [tile(found.get((name, device), ())) for device in columns])
        for name in subjects(view)
    ]
    return [words.place(device) for device in columns], rows


def tile(cells: Sequence[Cell]) -> Tile:
    """What there is to say of cells of one place and time: of the gravest."""
    if not cells:
        return Tile("mute", "", "nothing was counted")
    worst = min(cells, key=lambda cell: (words.gravity(cell), cell.kind not in _WHOLE))
    evidence = worst.evidence
    mark = _MARKS[worst.decision]
    if evidence is None:
        text = mark or "alike"
    elif evidence.expected is None:
        text = f"{mark} {max(0.0, evidence.corrected):.2f}".strip()
    elif worst.kind == Kind.FLAGGED or worst.decision != Decision.STABLE:
        kind = "" if worst.kind == Kind.FLAGGED else f" {worst.kind}"
        points = round(100 * evidence.corrected, 1) + 0.0  # never -0.0
        text = f"{mark} {points:+.1f}{kind}".strip()
    else:
        text = "0.00"
    hint = f"{words.span(worst.opened, worst.closed)}: {worst.decision}: {worst.rule}"
    return Tile(tone(worst.decision), text, hint)


def alerts(view: FleetView) -> list[dict[str, str]]:
    """One line for everything that drifted or is watched, with all of its figures."""
    cells = [cell for cell in view.current if cell.decision in (*ALERTS, Decision.WATCH)]
    return [line(cell) for cell in sorted(cells, key=_order)]


def _order(cell: Cell) -> tuple[int, bool, str, bool, float]:
    answer = cell.subject in (SCORE, FLAGGED)
    return (words.gravity(cell), not cell.device, cell.device, answer, -_size(cell))


def _size(cell: Cell) -> float:
    return abs(cell.evidence.corrected) if cell.evidence else 0.0


def line(cell: Cell) -> dict[str, str]:
    """All figures of a cell, in words."""
    value, corrected, interval = words.figures(cell.evidence)
    evidence = cell.evidence
    return {
        "tone": tone(cell.decision),
        "mark": _MARKS[cell.decision],
        "decision": str(cell.decision),
        "where": words.place(cell.device),
        "device": "" if "=" in cell.device else cell.device,
        "what": words.subject(cell),
        "since": words.day(cell.since) if cell.since else "",
        "span": words.span(cell.opened, cell.closed),
        "n": f"{evidence.n:,}" if evidence else "",
        "m": f"{evidence.m:,}" if evidence else "",
        "against": cell.against,
        "is_share": "yes" if evidence and evidence.expected is not None else "",
        "value": value,
        "corrected": corrected,
        "interval": interval,
        "p": words.chance(evidence.p) if evidence else "",
        "q": words.chance(evidence.q) if evidence else "",
        "rule": cell.rule,
        "by": ", ".join(cell.explained_by),
    }


def health(data: ReportData) -> list[dict[str, str]]:
    """How each place did, over the whole time."""
    rows = []
    for item in totals(data.view.health)[: MOST_DEVICES + 1]:
        quantiles = [item.latency_us(share) for share in (0.5, 0.95, 0.99)]
        p50, p95, p99 = ("" if us is None else f"{us / 1000:.3g}" for us in quantiles)
        errors = [f"{code} {count:,}" for code, count in item.errors.items()]
        rows.append(
            {
                "where": words.place(item.device),
                "rows": f"{item.rows:,}",
                "flagged": words.percent(item.flagged / item.rows) if item.rows else "",
                "fallback": f"{item.fallback:,}",
                "errors": ", ".join(errors) or "0",
                "p50": p50,
                "p95": p95,
                "p99": p99,
            }
        )
    return rows


def devices(data: ReportData) -> list[dict[str, str]]:
    """The table of devices."""
    decisions = dict(words.tale(data.view))
    return [
        {
            "device": row.device,
            "online": "online" if row.online else "away",
            "runs": f"{row.bundle_name} {row.bundle_version}".strip() or "nothing",
            "trust": f"{row.trust}, by its rule" if row.fallback else row.trust,
            "phase": row.phase,
            "labels": " ".join(f"{name}={value}" for name, value in sorted(row.labels.items())),
            "seen": words.day(row.seen_at) if row.seen_at else "never",
            "lost": f"{row.lost:,}",
            "agent": f"{row.agent}, {row.runtime}" if row.runtime else row.agent,
            "behind": "; ".join(row.behind),
            "judged": decisions.get(row.device, "no window"),
        }
        for row in data.devices[:MOST_DEVICES]
    ]


def probings(data: ReportData) -> list[dict[str, str]]:
    """Where somebody seemed to feel for the threshold: a line for each device and sign, latest first."""
    found: dict[tuple[str, str], list[float]] = {}
    for event in data.events:
        if event.code == "probing":
            found.setdefault((event.device, event.text), []).append(event.at)
    ordered = sorted(found.items(), key=lambda item: -max(item[1]))
    return [
        {"device": device, "text": text, "times": str(len(at)), "last": words.day(max(at))}
        for (device, text), at in ordered[:MOST_EVENTS]
    ]


def waves(line: RolloutLine) -> list[dict[str, str]]:
    """What came of each wave of a rollout."""
    found = []
    for wave in sorted({item.wave for item in line.devices}):
        mine = [item for item in line.devices if item.wave == wave]
        counts = Counter(item.outcome or _unsettled(item.offered_at) for item in mine)
        failed = [item for item in mine if item.code]
        found.append(
            {
                "wave": "canary" if wave == 0 else f"wave {wave}",
                "devices": str(len(mine)),
                "outcome": ", ".join(f"{count} {name}" for name, count in counts.most_common()),
                "why": words.listed(
                    [f"{item.device}: {item.code} {item.detail}".strip() for item in failed], 3
                ),
            }
        )
    return found


def _unsettled(offered_at: float) -> str:
    return "under way" if offered_at else "never asked"


def expected_flags(view: FleetView) -> float | None:
    """The share that the reference flags, if it is one for all that is shown."""
    shares = {
        cell.evidence.expected
        for cell in view.current
        if cell.kind == Kind.FLAGGED and not cell.device and cell.evidence
    }
    return shares.pop() if len(shares) == 1 else None
