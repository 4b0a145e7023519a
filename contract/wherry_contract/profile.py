"""The reference profile: what the training data looked like, and how to count like it.

Edges are fixed, versioned with the input contract and travel in the bundle. A device
counts integers against them and nothing else; sums over devices and windows are exact.

Each feature has one row of slots, which are exclusive and add up to the rows counted:

    below | bin 0 … bin K-1 | above | missing        a number
    unseen | category 0 … category K-1 | 0 | missing   a category

Bin i of a number holds the values in (edge[i-1], edge[i]].
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .decision import class_counts, decide, winning
from .errors import ManifestError
from .features import Feature, InputContract, RawMatrix
from .histograms import SCORE_BINS, score_bins, value_bins
from .wire import MANIFEST, Domain, Fields, canonical, parse_json, sha256_digest

SCHEMA: Final = "wherry/profile"
LIMIT_BYTES: Final = 4 * 2**20
MAX_BINS: Final = 4096
BINS: Final = 10
LEAST_SHARE: Final = 0.005  # a bin holds at least this share of the reference
_SAME: Final = 2.0**-20  # of the largest value that a model gives: those that are closer are one

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class FeatureCounts:
    """The counts of one feature: exclusive slots.

    Attributes:
        bins: values in each bin, or rows of each category.
        below: numbers under the contract's minimum, or categories that are not listed.
        above: numbers over the contract's maximum.
        missing: gaps.
    """

    bins: tuple[int, ...]
    below: int = 0
    above: int = 0
    missing: int = 0

    @classmethod
    def from_fields(cls, fields: Fields) -> FeatureCounts:
        """Read the counts of one feature."""
        return cls(
            bins=fields.counts("bins", limit=MAX_BINS),
            below=fields.integer("below", 0),
            above=fields.integer("above", 0),
            missing=fields.integer("missing", 0),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; a slot that holds nothing is left out."""
        document: dict[str, Any] = {"bins": list(self.bins)}
        for name in ("below", "above", "missing"):
            if getattr(self, name):
                document[name] = getattr(self, name)
        return document

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return sum(self.bins) + self.below + self.above + self.missing

    def __add__(self, other: FeatureCounts) -> FeatureCounts:
        return FeatureCounts(
            tuple(a + b for a, b in zip(self.bins, other.bins, strict=True)),
            self.below + other.below,
            self.above + other.above,
            self.missing + other.missing,
        )


@dataclass(frozen=True)
class FeatureProfile:
    """Edges and reference counts of one feature.

    Attributes:
        name: the feature's name in the input contract.
        edges: ascending inner edges, K-1 of them for K bins; empty for a category.
        counts: of the reference.
    """

    name: str
    edges: tuple[float, ...]
    counts: FeatureCounts
    extra: Mapping[str, Any] = field(default_factory=dict)


def quantile_edges(
    values: NDArray[np.float64], bins: int = BINS, least: float = LEAST_SHARE
) -> tuple[float, ...]:
    """Inner edges that split `values` into at most `bins` bins of nearly equal content.

    Equal values stay together, so a value that fills more than one bin gets a bin of its
    own and the rest is shared out anew; no bin holds less than the share `least`.

    Args:
        values: float64, shape (n,), without NaN.
        bins: the most bins.
        least: the smallest share of a bin.

    Returns:
        Ascending edges; empty when one value holds nearly everything.
    """
    distinct, content = np.unique(values, return_counts=True)
    total, smallest = len(values), max(1.0, least * len(values))
    edges: list[float] = []
    used = filled = 0
    for value, count in zip(distinct.tolist(), content.tolist(), strict=True):
        filled += count
        left = total - used - filled
        wanted = max((total - used) / (bins - len(edges)), smallest)
        if filled >= wanted and left >= smallest and len(edges) < bins - 1:
            edges.append(value)
            used += filled
            filled = 0
    return tuple(edges)


class SlotCounter:
    """Counts blocks of raw rows into slots; the device's hot path and the host's alike.

    One `searchsorted` a feature finds the slot directly: the edges are framed so that
    below, above and missing (NaN sorts last) are slots like any other.
    """

    def __init__(self, features: Sequence[Feature], edges: Sequence[Sequence[float]]) -> None:
        self._frames = [
            _frame(feature, inner) for feature, inner in zip(features, edges, strict=True)
        ]
        sizes = [len(frame) + 1 for frame in self._frames]
        # indices are of the machine's own width: `bincount` takes no others on a 32-bit board
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)

    def zeros(self) -> Counts:
        """An empty row of slots for all features, to be handed to `add`."""
        return np.zeros(int(self._starts[-1]), np.int64)

    def add(self, counts: Counts, raw: RawMatrix) -> None:
        """Count a block into `counts`.

        Args:
            counts: int64, as `zeros` makes it; changed in place.
            raw: float64, shape (rows, features).
        """
        slots = np.empty(raw.shape, np.intp)
        for place, frame in enumerate(self._frames):
            slots[:, place] = frame.searchsorted(raw[:, place])
        slots += self._starts[:-1]
        counts += np.bincount(slots.ravel(), minlength=len(counts))

    def split(self, counts: Counts) -> tuple[FeatureCounts, ...]:
        """The counts of each feature, from the row of slots."""
        found = []
        for start, end in zip(self._starts[:-1], self._starts[1:], strict=True):
            below, *bins, above, missing = counts[start:end].tolist()
            found.append(FeatureCounts(tuple(bins), below, above, missing))
        return tuple(found)


def _frame(feature: Feature, inner: Sequence[float]) -> NDArray[np.float64]:
    """Edges around the inner ones, such that slot 0 is below and the last is missing."""
    if feature.dtype == "category":
        last = len(feature.categories) - 0.5
        return np.array([-0.5, *(np.arange(len(feature.categories) - 1) + 0.5), last, math.inf])
    low = -math.inf if feature.minimum is None else np.nextafter(feature.minimum, -math.inf)
    high = math.inf if feature.maximum is None else feature.maximum
    # an edge outside the range would fold a bin into the wrong slot; it is pulled to the border
    clipped = np.clip(np.array(inner, np.float64), low, high)
    return np.array([low, *clipped, high, math.inf])


@dataclass(frozen=True)
class ReferenceProfile:
    """What the training data looked like: edges, counts, and the model's scores on it.

    Attributes:
        contract: name of the input contract.
        version: version of the input contract.
        features: in the contract's order.
        scores: int, 64 bins of the model's scores on reference rows (`Output.bins`).
        flagged: how many of those rows the model flags; of classes how many it decides.
        classes: of classes, how often each was decided, and behind them how often none.
    """

    contract: str
    version: int
    features: tuple[FeatureProfile, ...]
    scores: tuple[int, ...] = (0,) * SCORE_BINS
    flagged: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[int, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes, domain: Domain = MANIFEST) -> ReferenceProfile:
        """Read `profile.json`.

        Raises:
            ManifestError: M01 to M04.
        """
        fields = Fields(
            parse_json(data, limit=LIMIT_BYTES, what="profile", domain=domain), "profile", domain
        )
        fields.schema(SCHEMA)
        profile = cls(
            contract=fields.text("contract"),
            version=fields.integer("version", low=1),
            features=tuple(_read_feature(item) for item in fields.tables("features")),
            scores=fields.counts("scores", limit=SCORE_BINS),
            flagged=fields.integer("flagged"),
            classes=fields.counts("classes", []),
            extra=fields.rest(),
        )
        if len(profile.scores) != SCORE_BINS:
            raise fields.error("scores", f"a list of {SCORE_BINS} counts")
        if profile.classes and sum(profile.classes) != sum(profile.scores):
            raise fields.error("classes", "counts that add up to those of scores")
        return profile

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        features = [
            {"name": item.name, "edges": list(item.edges)}
            | item.counts.to_dict()
            | dict(item.extra)
            for item in self.features
        ]
        document = {
            "schema": f"{SCHEMA}/1",
            "contract": self.contract,
            "version": self.version,
            "features": features,
            "scores": list(self.scores),
            "flagged": self.flagged,
        }
        if self.classes:
            document["classes"] = list(self.classes)
        return canonical(document | dict(self.extra))

    @property
    def rows(self) -> int:
        """How many reference rows were counted."""
        return self.features[0].counts.rows if self.features else 0

    @cached_property
    def edges_id(self) -> str:
        """Names the edges, not the counts: windows that share it can be added up.

        Edges stand in it as their bits, since every language prints doubles its own way.
        """
        features = [
            {
                "name": item.name,
                "edges": [struct.pack(">d", edge + 0.0).hex() for edge in item.edges],
                "bins": len(item.counts.bins),
            }
            for item in self.features
        ]
        return sha256_digest(
            canonical({"contract": self.contract, "version": self.version, "features": features})
        )

    def counter(self, contract: InputContract) -> SlotCounter:
        """The counter for this profile's edges.

        Raises:
            ManifestError: M08 if profile and contract do not belong together.
        """
        self.check(contract)
        return SlotCounter(contract.features, [item.edges for item in self.features])

    def check(self, contract: InputContract) -> None:
        """Refuse a profile that was not made for this contract.

        Raises:
            ManifestError: M08.
        """
        names = tuple(item.name for item in self.features)
        ours = (self.contract, self.version, names)
        theirs = (contract.name, contract.version, contract.names)
        if ours != theirs:
            raise ManifestError("M08", "the profile was made for another input contract")
        for item, feature in zip(self.features, contract.features, strict=True):
            bins = len(feature.categories) or len(item.edges) + 1
            if len(item.counts.bins) != bins or (feature.categories and item.edges):
                raise ManifestError("M08", f"the profile's bins of {item.name} do not fit")
            if item.counts.rows != self.rows:
                raise ManifestError("M08", f"the profile counts other rows of {item.name}")


def _read_feature(fields: Fields) -> FeatureProfile:
    edges = fields.numbers("edges", [], limit=MAX_BINS)
    if any(b <= a for a, b in pairwise(edges)):
        raise fields.error("edges", "an ascending list")
    name, counts = fields.text("name"), FeatureCounts.from_fields(fields)
    return FeatureProfile(name, edges, counts, fields.rest())


def build_profile(
    contract: InputContract,
    raw: RawMatrix,
    scores: NDArray[np.float64],
    threshold: float,
    *,
    bins: int = BINS,
    score_edges: Sequence[float] = (),
) -> ReferenceProfile:
    """The reference profile of training rows.

    Args:
        contract: names, ranges and categories.
        raw: float64, shape (rows, features).
        scores: float64, shape (rows,) or (rows, classes), the model's on those rows.
        threshold: the operating threshold.
        bins: the most bins of a feature.
        score_edges: of the histogram of a value; none for a probability (`Output.edges`).
    """
    edges = [
        _reference_edges(feature, raw[:, j], bins) for j, feature in enumerate(contract.features)
    ]
    counter = SlotCounter(contract.features, edges)
    slots = counter.zeros()
    counter.add(slots, raw)
    features = tuple(
        FeatureProfile(feature.name, inner, counts)
        for feature, inner, counts in zip(
            contract.features, edges, counter.split(slots), strict=True
        )
    )
    shown = winning(scores)
    places = value_bins(shown, score_edges) if score_edges else score_bins(shown)
    classes = () if scores.ndim == 1 else class_counts(decide(scores, threshold), scores.shape[1])
    return ReferenceProfile(
        contract.name,
        contract.version,
        features,
        tuple(np.bincount(places, minlength=SCORE_BINS).tolist()),
        int((shown >= threshold).sum()),
        classes=tuple(map(int, classes)),
    )


def value_edges(scores: NDArray[np.float64]) -> tuple[float, ...]:
    """Edges for the histogram of a regressor's values: bins of nearly equal content.

    They lie between scores and never on one: few leaves give few scores, with many rows each,
    and the last bit of a board's float32 sum must not move those to another bin.

    Args:
        scores: float64, shape (rows,), the model's on reference rows.

    Returns:
        At least one, at most 63.
    """
    unit = float(np.abs(scores).max(initial=0.0)) * _SAME or 1.0
    steps = np.round(scores / unit)
    distinct = np.unique(steps)
    edges = np.array(quantile_edges(steps, SCORE_BINS) or (float(np.median(steps)),))
    above = np.append(distinct, distinct[-1] + 2)[np.searchsorted(distinct, edges, side="right")]
    return tuple(((edges + above) / 2 * unit).tolist())


def _reference_edges(feature: Feature, column: NDArray[np.float64], bins: int) -> tuple[float, ...]:
    if feature.dtype == "category":
        return ()
    low = -math.inf if feature.minimum is None else feature.minimum
    high = math.inf if feature.maximum is None else feature.maximum
    inside = column[(column >= low) & (column <= high)]
    edges = quantile_edges(inside, bins) if len(inside) else ()
    return tuple(edge for edge in edges if edge < high)
