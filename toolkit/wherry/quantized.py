"""What quantization tried, for people and as JSON; and which methods a name stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from wherry_contract.errors import ConvertError
from wherry_convert.quantize import NoCandidateError, Quantized, Variant, methods_for

SEARCH: Final = "search"
CHOICES: Final = (
    SEARCH,
    *dict.fromkeys((*methods_for("onnxruntime"), *methods_for("tflite"))),
)
HEADS: Final = (
    "",
    "method",
    "in float",
    "bytes",
    "flips",
    "calibrated",
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
        calibrated: rows that ranges of activations were taken from; the others judged.
    """

    bytes_before: int
    variants: tuple[Variant, ...]
    refused: tuple[tuple[str, str], ...]
    calibrated: int = 0

    @classmethod
    def of(cls, done: Quantized | NoCandidateError) -> Tried:
        """From what `quantize` gave or raised."""
        return cls(done.bytes_before, done.variants, done.refused, done.calibrated)

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
            "calibration_rows": self.calibrated,
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
                item.calibrated_flips,
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
            "a board's speed: only counts (`wherry bench --board`) or a real device tell",
            f"flips: on these rows; calibrated: on the {self.calibrated:,} that ranges come from",
        ]
        kept = self.kept
        if kept and kept.latency_ratio and kept.latency_ratio > SLOWER:
            found.append(f"slower than the float model: {kept.latency_ratio:.2f} times")
        if kept:
            found += [f"not claimed: {words}" for words in kept.doubts]
        if kept and kept.careful:
            found.append(kept.careful)
        larger = [item for item in self.variants if item.bytes >= self.bytes_before]
        if larger:
            names = ", ".join(dict.fromkeys(item.method for item in larger))
            found.append(f"larger than the float file: {len(larger)} candidates of {names}")
        return found + [f"not made: {what}: {why}" for what, why in self.refused]


def methods_of(name: str, kind: str) -> tuple[str, ...]:
    """The methods to try: for ``search`` all that the format, as ``tflite``, has.

    Raises:
        ConvertError: K02, the format has no such method.
    """
    known = methods_for(kind)
    if name == SEARCH:
        return known
    if name not in known:
        cure = f"use one of {', '.join(known)}, or {SEARCH}"
        raise ConvertError("K02", f"{name} does not quantize files for {kind}", cure=cure)
    return (name,)


def _variant(item: Variant) -> dict[str, Any]:
    return {
        "method": item.method,
        "floats": item.floats,
        "bytes": item.bytes,
        "flips": item.difference.flips,
        "calibrated_flips": item.calibrated_flips,
        "largest_difference": item.difference.largest,
        "distinct_scores": item.difference.distinct_found,
        "metric_drop": item.metric_drop,
        "latency_ratio": item.latency_ratio,
        "pareto": item.front,
        "kept": not item.lost,
        "lost": item.lost,
        "careful": item.careful,
        "not_claimed": list(item.doubts),
    }
