"""Adding windows up: each once, into its bucket, if it belongs to a known reference. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wherry.rows import StoredWindow
from wherry_contract.histograms import LATENCY_BINS
from wherry_contract.window import Window

from .compare import Row
from .subjects import Key, Reference, window_rows
from .view import DAY, WEEK, Health, Policy, Refusal

FLEET = ""  # the id of no device: all of them together
_MOST_BUCKETS = 7  # that one window may span, or a week


@dataclass
class _Sum:
    """What one device did in one bucket, or all of them did."""

    windows: int = 0
    rows: int = 0
    flagged: int = 0
    fallback: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: Row = field(default_factory=lambda: np.zeros(LATENCY_BINS, np.int64))

    def add(self, window: Window) -> None:
        self.windows += 1
        self.rows += window.rows
        self.flagged += window.flagged
        self.fallback += window.fallback
        self.errors.update(window.errors)
        self.latency += np.array(window.latency, np.int64)


@dataclass(frozen=True)
class Tally:
    """Sums of windows.

    Attributes:
        buckets: start -> device -> key -> counts; the device `FLEET` is the sum of all.
        latest: bundle -> when its newest window closed, with the edges it counted against.
        health: by time and device.
        refusals: windows that were left out.
        windows: how many were added.
        devices: that sent them.
    """

    buckets: Mapping[float, Mapping[str, Mapping[Key, Row]]]
    latest: Mapping[str, tuple[float, str]]
    health: tuple[Health, ...]
    refusals: tuple[Refusal, ...]
    windows: int
    devices: tuple[str, ...]


def add_up(
    references: Mapping[str, Reference], windows: Iterable[StoredWindow], policy: Policy
) -> Tally:
    """Add windows up; order, repeats and how rows were cut into windows change nothing.

    A window lies in the bucket of its middle. What counted against other edges than its
    bundle's reference is refused: its sums would be nonsense. So is a window of no one time:
    one payment with a wild time would take all the others of its window along.

    Args:
        references: by bundle.
        windows: of the devices that are looked at.
        policy: the length of a bucket.
    """
    buckets: dict[float, dict[str, dict[Key, Row]]] = {}
    sums: dict[tuple[float, str], _Sum] = defaultdict(_Sum)
    latest: dict[str, tuple[float, str]] = {}
    refused: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    once = _once(windows)
    ahead = _runs_ahead(once)
    for stored in once:
        window, device = stored.window, stored.device
        reason = _reason_against(references.get(window.bundle), window)
        reason = reason or _reason_of_time(stored, policy, ahead=ahead)
        if reason:
            counted = refused[device, reason, window.bundle, window.edges]
            counted[0] += 1
            counted[1] += window.rows
            continue
        start = policy.bucket((window.opened + window.closed) / 2)
        bucket = buckets.setdefault(start, {})
        rows = window_rows(window)
        for place in (FLEET, device):
            _add_rows(bucket.setdefault(place, {}), rows)
            sums[start, place].add(window)
        newest = max(latest.get(window.bundle, (0.0, "")), (window.closed, window.edges))
        latest[window.bundle] = newest
    return Tally(
        buckets={start: buckets[start] for start in sorted(buckets)},
        latest=latest,
        health=tuple(_health(*key, sums[key], policy) for key in sorted(sums)),
        refusals=tuple(Refusal(*key, *refused[key]) for key in sorted(refused)),
        windows=sum(item.windows for (_, place), item in sums.items() if place == FLEET),
        devices=tuple(sorted({place for _, place in sums} - {FLEET})),
    )


def _once(windows: Iterable[StoredWindow]) -> Sequence[StoredWindow]:
    """Each place once."""
    found = {}
    for stored in windows:
        place = stored.window.place
        found[stored.device, place.spool, place.seq] = stored
    return list(found.values())


def _reason_against(reference: Reference | None, window: Window) -> str:
    if reference is None:
        return "the bundle is not in the depot"
    profile = reference.profile
    if window.edges != profile.edges_id:
        return "counted against other edges"
    if len(window.classes) != len(profile.classes):
        return "other classes than its bundle has"
    slots = {item.name: len(item.counts.bins) for item in profile.features}
    if {name: len(counts.bins) for name, counts in window.features.items()} != slots:
        return "other features or bins than its edges have"
    return ""


def _runs_ahead(windows: Sequence[StoredWindow]) -> bool:
    """Whether the fleet as a whole lives later than the server, as when payments are replayed."""
    ahead = sum(_is_ahead(stored) for stored in windows)
    return 2 * ahead >= len(windows)


def _is_ahead(stored: StoredWindow) -> bool:
    return stored.window.closed > stored.received_at + DAY


def _reason_of_time(stored: StoredWindow, policy: Policy, *, ahead: bool) -> str:
    window = stored.window
    if window.closed - window.opened > max(WEEK, _MOST_BUCKETS * policy.bucket_seconds):
        return "its payments lie too far apart for one window: look for a wrong time among them"
    if _is_ahead(stored) and not ahead:
        return "its payments lie in the future: look for a wrong clock"
    return ""


def _add_rows(sums: dict[Key, Row], rows: Mapping[Key, Row]) -> None:
    for key, row in rows.items():
        before = sums.get(key)
        sums[key] = row if before is None else before + row


def _health(start: float, device: str, found: _Sum, policy: Policy) -> Health:
    return Health(
        device=device,
        opened=start,
        closed=start + policy.bucket_seconds,
        windows=found.windows,
        rows=found.rows,
        flagged=found.flagged,
        fallback=found.fallback,
        errors=dict(sorted(found.errors.items())),
        latency=tuple(found.latency.tolist()),
    )
