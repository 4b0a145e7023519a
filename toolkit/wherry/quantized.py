"""What quantization tried, for people and as JSON; and which methods a name stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from wherry_convert.quantize import METHODS, NoCandidateError, Quantized, Variant

SEARCH: Final = "search"
CHOICES: Final = (SEARCH, *METHODS)
HEADS: Final = (
    "",
    "method",
    "in float",
    "bytes",
    "flips",
    "largest",
    "distinct",
    "time",
    "why not",
)
SLOWER: Final = 1.05  # times the float model's time for one row, from which on it is said


@dataclass(frozen=True)
class Tried:
    """Candidates, whether one was kept or none.

    Attributes:
        bytes_before: size of the float file.
        variants: all candidates.
        refused: what could not be made, and why.
    """

    bytes_before: int
    variants: tuple[Variant, ...]
    refused: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, done: Quantized | NoCandidateError) -> Tried:
        """From what `quantize` gave or raised."""
        return cls(done.bytes_before, done.variants, done.refused)

    @property
    def kept(self) -> Variant | None:
        """The candidate that was kept."""
        return next((variant for variant in self.variants if not variant.lost), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "bytes_before": self.bytes_before,
            "bytes_after": self.kept.bytes if self.kept else None,
            "rows": self.variants[0].difference.rows,
            "variants": [_variant(variant) for variant in self.variants],
            "refused": [{"what": what, "why": why} for what, why in self.refused],
        }

    def rows(self) -> list[Sequence[object]]:
        """Rows of a table under `HEADS`; a star marks the Pareto front."""
        return [
            (
                "*" if item.front else "",
                item.method,
                item.floats,
                f"{item.bytes:,}",
                item.difference.flips,
                f"{item.difference.largest:.3g}",
                f"{item.difference.distinct_found:,}",
                f"{item.latency_ratio:.2f}" if item.latency_ratio is not None else "",
                item.lost or "kept",
            )
            for item in self.variants
        ]

    def remarks(self) -> list[str]:
        """What a reader should know beside the table."""
        first = self.variants[0].difference
        scores = f"{first.distinct_reference:,} distinct scores on {first.rows:,} rows"
        found = [
            f"float model: {self.bytes_before:,} bytes, {scores}",
            "* no other is smaller with as few flips; time: one row here, float model = 1",
        ]
        kept = self.kept
        if kept and kept.latency_ratio and kept.latency_ratio > SLOWER:
            found.append(f"slower than the float model: {kept.latency_ratio:.2f} times")
        if kept and kept.careful:
            found.append(kept.careful)
        return found + [f"not made: {what}: {why}" for what, why in self.refused]


def methods_of(name: str) -> tuple[str, ...]:
    """The methods to try: all of them for ``search``."""
    return tuple(METHODS) if name == SEARCH else (name,)


def _variant(item: Variant) -> dict[str, Any]:
    return {
        "method": item.method,
        "floats": item.floats,
        "bytes": item.bytes,
        "flips": item.difference.flips,
        "largest_difference": item.difference.largest,
        "distinct_scores": item.difference.distinct_found,
        "metric_drop": item.metric_drop,
        "latency_ratio": item.latency_ratio,
        "pareto": item.front,
        "kept": not item.lost,
        "lost": item.lost,
        "careful": item.careful,
    }
