"""A window: what a device counted of one stretch of traffic. Specification: SPEC-mqtt.md, 7."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .features import NAME
from .histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS, TEMPERATURE_BINS
from .manifest import MAX_CLASSES
from .messages import Place, close_payload, is_count, open_payload
from .oci import DIGEST
from .shadow import ShadowCounts
from .slots import MAX_PAIR_CELLS, MAX_PAIRS, FeatureCounts, split_pair
from .when import to_text
from .wire import MESSAGE, Fields

_NAME: Final = re.compile(NAME)


@dataclass(frozen=True)
class Window:
    """One drift-and-telemetry window: integer counts and nothing else of what was scored.

    Attributes:
        bundle: the model that scored; windows are cut when it changes.
        edges: the edges that were counted against; only windows that share it add up.
        opened: first moment, Unix seconds (of the payments, if the application says when).
        closed: last moment.
        rows: rows scored, by model or fallback.
        flagged: rows at or above the threshold; of classes, rows that were decided.
        fallback: rows that the fallback rule answered.
        errors: refused or failed rows by error code; they are not among `rows`.
        features: counts by feature name.
        scores: 64 bins of what the model scored (`Output.bins`).
        latency: 40 bins of the time from request to answer: one count for each answered
            request, however many rows it had, so they need not add up to `rows`.
        reason: what closed it: ``rows``, ``time``, ``switch`` or ``stop``.
        classes: of a model that decides between classes, how often it decided each, in the
            manifest's order, and behind them how often none; empty for other models.
        flagged_scores: of `scores`, the rows that were flagged; empty if they were not counted.
        near: of the rows that the model scored and did not flag, those whose score lies in the
            threshold's bin or in one of the two below it.
        memory: 40 bins of the agent's memory, one count for each look at it; may be empty.
        temperature: 32 bins of the board's temperature; empty without a sensor.
        pairs: cells of two features' slots, by ``NAME*NAME``, for the pairs of the profile.
        probing: what the probing monitor counted, by word; empty if it found nothing.
        shadow: what was counted of a shadow beside the model since the window before; rows that
            are still before it when the window closes come in the next.
    """

    place: Place
    bundle: str
    edges: str
    opened: float
    closed: float
    rows: int
    flagged: int
    fallback: int
    errors: Mapping[str, int]
    features: Mapping[str, FeatureCounts]
    scores: tuple[int, ...]
    latency: tuple[int, ...]
    reason: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[int, ...] = ()
    flagged_scores: tuple[int, ...] = ()
    near: int = 0
    memory: tuple[int, ...] = ()
    temperature: tuple[int, ...] = ()
    pairs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    probing: Mapping[str, int] = field(default_factory=dict)
    shadow: ShadowCounts | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Window:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03; G01 also if the counts do not add up.
        """
        fields = open_payload(data, "window")
        features, pairs = fields.table("features"), fields.table("pairs", {})
        shadow = fields.mapping("shadow", {})
        window = cls(
            place=Place.from_fields(fields),
            bundle=fields.text("bundle", "", pattern=DIGEST),
            edges=fields.text("edges", pattern=DIGEST),
            opened=fields.moment("opened"),
            closed=fields.moment("closed"),
            rows=fields.integer("rows"),
            flagged=fields.integer("flagged", 0),
            fallback=fields.integer("fallback", 0),
            errors=_counts_by_name(fields, "errors"),
            features={name: FeatureCounts.read(features, name) for name in list(features.rest())},
            scores=fields.counts("scores", limit=SCORE_BINS),
            latency=fields.counts("latency", limit=LATENCY_BINS),
            reason=fields.choice("reason", ("rows", "time", "switch", "stop")),
            classes=fields.counts("classes", [], limit=MAX_CLASSES + 1),
            flagged_scores=fields.counts("flagged_scores", [], limit=SCORE_BINS),
            near=fields.integer("near", 0),
            memory=fields.counts("memory", [], limit=MEMORY_BINS),
            temperature=fields.counts("temperature", [], limit=TEMPERATURE_BINS),
            pairs={
                name: pairs.counts(name, limit=MAX_PAIR_CELLS)
                for name in list(pairs.rest())[: MAX_PAIRS + 1]
            },
            probing=_counts_by_name(fields, "probing"),
            shadow=ShadowCounts.from_fields(Fields(shadow, "window.shadow", MESSAGE))
            if shadow
            else None,
            extra=fields.rest(),
        )
        window._check(fields)
        return window

    def _check(self, fields: Fields) -> None:
        if len(self.scores) != SCORE_BINS or len(self.latency) != LATENCY_BINS:
            raise fields.error("scores", f"{SCORE_BINS} bins, and latency {LATENCY_BINS}")
        if any(counts.rows != self.rows for counts in self.features.values()):
            raise fields.error("features", "counts that add up to rows")
        if sum(self.scores) + self.fallback != self.rows or self.flagged > self.rows:
            raise fields.error("scores", "counts that add up to rows")
        if self.classes and sum(self.classes) != sum(self.scores):
            raise fields.error("classes", "counts that add up to those of scores")
        names = (*self.features, *self.errors, *self.probing)
        if not all(map(_NAME.fullmatch, names)):
            raise fields.error("features", f"by names like {NAME}, and errors too")
        self._check_flagged(fields)
        self._check_sizes(fields)
        if self.closed < self.opened:
            raise fields.error("closed", "not before opened")

    def _check_flagged(self, fields: Fields) -> None:
        if not self.flagged_scores:
            return
        bins = len(self.flagged_scores) == SCORE_BINS
        if not bins or any(a > b for a, b in zip(self.flagged_scores, self.scores, strict=True)):
            raise fields.error("flagged_scores", "in no bin more than scores")
        if self.near + sum(self.flagged_scores) > sum(self.scores):
            raise fields.error("near", "of the rows that were scored and not flagged")

    def _check_sizes(self, fields: Fields) -> None:
        if len(self.memory) not in (0, MEMORY_BINS):
            raise fields.error("memory", f"{MEMORY_BINS} bins or none")
        if len(self.temperature) not in (0, TEMPERATURE_BINS):
            raise fields.error("temperature", f"{TEMPERATURE_BINS} bins or none")
        if len(self.pairs) > MAX_PAIRS:
            raise fields.error("pairs", f"at most {MAX_PAIRS}")
        for name, cells in self.pairs.items():
            if sum(cells) != self.rows or not set(split_pair(name)) <= set(self.features):
                raise fields.error("pairs", "of the window's features, and add up to rows")

    def to_bytes(self) -> bytes:
        """The payload."""
        document: dict[str, Any] = {
            "bundle": self.bundle,
            "edges": self.edges,
            "opened": to_text(self.opened),
            "closed": to_text(self.closed),
            "rows": self.rows,
            "flagged": self.flagged,
            "fallback": self.fallback,
            "errors": dict(self.errors),
            "reason": self.reason,
            "features": {name: counts.to_dict() for name, counts in self.features.items()},
            "scores": list(self.scores),
            "latency": list(self.latency),
        }
        for name in ("classes", "flagged_scores", "memory", "temperature"):
            if getattr(self, name):
                document[name] = list(getattr(self, name))
        if self.near:
            document["near"] = self.near
        if self.pairs:
            document["pairs"] = {name: list(cells) for name, cells in self.pairs.items()}
        if self.probing:
            document["probing"] = dict(self.probing)
        if self.shadow:
            document["shadow"] = self.shadow.to_dict()
        return close_payload("window", self.place.to_dict() | document, self.extra)


def _counts_by_name(fields: Fields, name: str) -> dict[str, int]:
    found = fields.mapping(name, {})
    if not all(is_count(value) for value in found.values()):
        raise fields.error(name, "counts by name")
    return found
