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

from .calibration import Calibration
from .decision import class_counts, decide, winning
from .errors import ManifestError
from .features import Feature, InputContract, RawMatrix
from .histograms import SCORE_BINS, score_bins, value_bins
from .slots import (
    MAX_BINS,
    MAX_PAIR_CELLS,
    MAX_PAIRS,
    FeatureCounts,
    SlotCounter,
    pair_name,
)
from .wire import MANIFEST, Domain, Fields, canonical, parse_json, sha256_digest

SCHEMA: Final = "wherry/profile"
LIMIT_BYTES: Final = 4 * 2**20
BINS: Final = 10
LEAST_SHARE: Final = 0.005  # a bin holds at least this share of the reference
_SAME: Final = 2.0**-20  # of the largest value that a model gives: those that are closer are one


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


@dataclass(frozen=True)
class PairProfile:
    """Reference counts of two features together.

    Attributes:
        features: their names.
        counts: the first feature's slots, and in each of them the second's.
    """

    features: tuple[str, str]
    counts: tuple[int, ...]

    @property
    def name(self) -> str:
        """As windows call it."""
        return pair_name(*self.features)


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
        pairs: features that are also counted together.
        calibration: how often labelled rows of each score bin are positive, if that is known.
    """

    contract: str
    version: int
    features: tuple[FeatureProfile, ...]
    scores: tuple[int, ...] = (0,) * SCORE_BINS
    flagged: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[int, ...] = ()
    pairs: tuple[PairProfile, ...] = ()
    calibration: Calibration | None = None

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
            pairs=tuple(_read_pair(item) for item in fields.tables("pairs", [], limit=MAX_PAIRS)),
            calibration=Calibration.from_fields(fields.table("calibration", {})),
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
        if self.pairs:
            document["pairs"] = [
                {"features": list(item.features), "counts": list(item.counts)}
                for item in self.pairs
            ]
        if self.calibration:
            document["calibration"] = self.calibration.to_dict()
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
        return SlotCounter(
            contract.features,
            [item.edges for item in self.features],
            pair_places(contract, [item.features for item in self.pairs]),
        )

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
        self._check_pairs(contract)

    def _check_pairs(self, contract: InputContract) -> None:
        slots = {item.name: len(item.counts.bins) + 3 for item in self.features}
        pair_places(contract, [pair.features for pair in self.pairs])
        for pair in self.pairs:
            if len(pair.counts) != slots[pair.features[0]] * slots[pair.features[1]]:
                raise ManifestError("M08", f"the profile's cells of {pair.name} do not fit")
            if sum(pair.counts) != self.rows:
                raise ManifestError("M08", f"the profile counts other rows of {pair.name}")


def _read_feature(fields: Fields) -> FeatureProfile:
    edges = fields.numbers("edges", [], limit=MAX_BINS)
    if any(b <= a for a, b in pairwise(edges)):
        raise fields.error("edges", "an ascending list")
    name, counts = fields.text("name"), FeatureCounts.from_fields(fields)
    return FeatureProfile(name, edges, counts, fields.rest())


def _read_pair(fields: Fields) -> PairProfile:
    names = fields.texts("features", limit=2)
    if len(names) != 2:
        raise fields.error("features", "the names of two features")
    return PairProfile((names[0], names[1]), fields.counts("counts", limit=MAX_PAIR_CELLS))


def pair_places(
    contract: InputContract, pairs: Sequence[tuple[str, str]]
) -> tuple[tuple[int, int], ...]:
    """The columns of each pair.

    Raises:
        ManifestError: M08, too many, a pair twice, or not of two features of the contract.
    """
    found = []
    for first, second in pairs:
        if first == second or not {first, second} <= set(contract.names):
            raise ManifestError("M08", f"{first} and {second} are no pair of the contract's")
        found.append((contract.names.index(first), contract.names.index(second)))
    if len(found) > MAX_PAIRS or len({frozenset(item) for item in found}) != len(found):
        raise ManifestError("M08", f"at most {MAX_PAIRS} pairs, and each once")
    return tuple(found)


def build_profile(
    contract: InputContract,
    raw: RawMatrix,
    scores: NDArray[np.float64],
    threshold: float,
    *,
    bins: int = BINS,
    score_edges: Sequence[float] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> ReferenceProfile:
    """The reference profile of training rows.

    Args:
        contract: names, ranges and categories.
        raw: float64, shape (rows, features).
        scores: float64, shape (rows,) or (rows, classes), the model's on those rows.
        threshold: the operating threshold.
        bins: the most bins of a feature.
        score_edges: of the histogram of a value; none for a probability (`Output.edges`).
        pairs: names of features that are also counted together.

    Raises:
        ManifestError: M08, a pair that is none, or that has too many cells.
    """
    edges = [
        _reference_edges(feature, raw[:, j], bins) for j, feature in enumerate(contract.features)
    ]
    places = pair_places(contract, pairs)
    _check_cells(contract, edges, places)
    counter = SlotCounter(contract.features, edges, places)
    slots = counter.zeros()
    counter.add(slots, raw)
    features = tuple(
        FeatureProfile(feature.name, inner, counts)
        for feature, inner, counts in zip(
            contract.features, edges, counter.split(slots), strict=True
        )
    )
    shown = winning(scores)
    found = value_bins(shown, score_edges) if score_edges else score_bins(shown)
    classes = () if scores.ndim == 1 else class_counts(decide(scores, threshold), scores.shape[1])
    return ReferenceProfile(
        contract.name,
        contract.version,
        features,
        tuple(np.bincount(found, minlength=SCORE_BINS).tolist()),
        int((shown >= threshold).sum()),
        classes=tuple(map(int, classes)),
        pairs=tuple(
            PairProfile((first, second), cells)
            for (first, second), cells in zip(pairs, counter.split_pairs(slots), strict=True)
        ),
    )


def _check_cells(
    contract: InputContract, edges: Sequence[Sequence[float]], pairs: Sequence[tuple[int, int]]
) -> None:
    slots = [
        (len(feature.categories) or len(inner) + 1) + 3
        for feature, inner in zip(contract.features, edges, strict=True)
    ]
    for first, second in pairs:
        cells = slots[first] * slots[second]
        if cells > MAX_PAIR_CELLS:
            name = pair_name(contract.names[first], contract.names[second])
            detail = f"{name} has {cells} cells, at most {MAX_PAIR_CELLS} are counted"
            raise ManifestError("M08", detail)


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
