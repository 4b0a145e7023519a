"""The judgement in words, for the terminal and the report alike. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from .view import DAY, Cell, Decision, Evidence, FleetView, Kind

ALL: Final = "all devices"
_LISTED: Final = 5
_KINDS: Final = {
    Kind.SHAPE: "",
    Kind.MISSING: " missing",
    Kind.RANGE: " out of range",
    Kind.UNSEEN: " unseen",
    Kind.PAIR: "",
    Kind.SCORE: "",
    Kind.FLAGGED: "",
    Kind.CLASSES: "",
}
_GRAVITY: Final = (
    Decision.ACT,
    Decision.WARN,
    Decision.WATCH,
    Decision.STABLE,
    Decision.WAITING,
    Decision.NO_BASELINE,
    Decision.CALENDAR,
)


def place(device: str) -> str:
    """A device's id, or that it is all of them."""
    return device or ALL


def subject(cell: Cell) -> str:
    """What was judged, as ``TX_AMOUNT missing``."""
    return cell.subject + _KINDS[cell.kind]


def _spoken(cell: Cell) -> str:
    answers = {
        Kind.SCORE: "the model's scores",
        Kind.FLAGGED: "the flagged share",
        Kind.CLASSES: "the decided classes",
    }
    return answers.get(cell.kind, subject(cell))


def gravity(cell: Cell) -> int:
    """0 for the gravest decision."""
    return _GRAVITY.index(cell.decision)


def day(moment: float) -> str:
    """The day of a moment, UTC; the time too if it is not midnight."""
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
    return text.removesuffix(" 00:00")


def span(opened: float, closed: float) -> str:
    """A span of time, as ``2018-07-23 to 2018-07-29``; its last day is the last that is in it."""
    if opened % DAY or closed % DAY:
        return f"{day(opened)} to {day(closed)}"
    last = day(closed - DAY)
    return last if closed - opened <= DAY else f"{day(opened)} to {last}"


def percent(share: float) -> str:
    """A share with as many digits as it needs."""
    return f"{100 * share:.3g} %"


def chance(value: float) -> str:
    """A probability; what is smaller than anyone cares about is not spelled out."""
    return "<1e-9" if value < 1e-9 else f"{value:.2g}"


def figures(found: Evidence | None) -> tuple[str, str, str]:
    """Value, value less its mean under no drift, and interval; a share has from and to."""
    if found is None:
        return ("-", "-", "-")
    if found.expected is None or found.actual is None:
        interval = f"{found.low:.3f} to {found.high:.3f}"
        return (f"{found.value:.3f}", f"{found.corrected:.3f}", interval)
    interval = f"{100 * found.low:+.2g} to {100 * found.high:+.2g} points"
    moved = f"{percent(found.expected)} to {percent(found.actual)}"
    return (moved, f"{100 * found.corrected:+.2g} points", interval)


def listed(words: Sequence[str], most: int = _LISTED) -> str:
    """``a, b and 3 more``."""
    if len(words) <= most:
        return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
    return f"{', '.join(words[:most])} and {len(words) - most} more"


def headline(view: FleetView) -> tuple[Decision, list[str]]:
    """The state of the fleet, and what there is to say about it, sentence by sentence."""
    if not view.windows:
        return Decision.WAITING, ["No window has arrived that could be judged."]
    state = min((cell.decision for cell in view.current), key=_GRAVITY.index, default=None)
    state = state or Decision.WAITING
    alerts = _by_place(view.alerts)
    said = [_moved(device, cells) for device, cells in list(alerts.items())[:_LISTED]]
    if len(alerts) > _LISTED:
        said.append(f"{len(alerts) - _LISTED} more devices have drifted.")
    watched = _by_place(cell for cell in view.current if cell.decision == Decision.WATCH)
    if watched:
        names = [
            f"{listed(list(dict.fromkeys(map(_spoken, cells))))} at {place(device)}"
            for device, cells in watched.items()
        ]
        said.append(f"Seen once and watched: {listed(names)}.")
    quiet = [device for device in view.devices if device not in alerts and device not in watched]
    if quiet and not (alerts or watched):
        verb = "is" if len(quiet) == 1 else "are"
        said.append(f"{number(len(quiet), 'device')} {verb} quiet; nothing has drifted.")
    elif quiet:
        said.append(f"Quiet: {listed(quiet)}.")
    return state, said


def number(count: int, word: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _by_place(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Single devices first: that one of them moved explains that all together did."""
    found: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=_order):
        found.setdefault(cell.device, []).append(cell)
    return found


def _order(cell: Cell) -> tuple[Any, ...]:
    answer = cell.kind in (Kind.SCORE, Kind.FLAGGED, Kind.CLASSES)
    moved = cell.evidence.corrected if cell.evidence else 0.0
    return (not cell.device, cell.device, answer, gravity(cell), -abs(moved))


def _moved(device: str, cells: Sequence[Cell]) -> str:
    begun = min(cell.since for cell in cells)
    names = list(dict.fromkeys(map(_spoken, cells)))
    verb = "has" if names == ["the flagged share"] or names == [subject(cells[0])] else "have"
    where = f"At {device}" if device else "Over all devices together"
    return f"{where}, {listed(names)} {verb} moved since {day(begun)}."


def tale(view: FleetView) -> list[tuple[str, str]]:
    """For each place how many of its things are judged how, the gravest first."""
    known = {item.device: item.counts for item in view.standing}
    counted: dict[str, Counter[str]] = {}
    for cell in view.current if not known else ():
        counted.setdefault(cell.device, Counter())[cell.decision] += 1
    found = []
    for device in ("", *segments(view), *view.devices):
        counts = known.get(device) or counted.get(device) or {}
        said = [f"{counts[name]} {name}" for name in _GRAVITY if counts.get(name)]
        found.append((place(device), ", ".join(said) or "nothing"))
    return found


def segments(view: FleetView) -> list[str]:
    """Names of the groups of devices that were judged like devices."""
    return [item.device for item in view.standing if "=" in item.device]
