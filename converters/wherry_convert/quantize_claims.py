"""Which runtimes a quantized file may claim: those that score it as the one here.

ai-edge-quantizer's dynamic int8 loads in tflite-runtime 2.14 and gives wrong numbers
without an error. So whoever does integer arithmetic is run under each claimed runtime, and
a claim that nobody has seen come true is given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from wherry_contract.encoder import Tensor
from wherry_contract.manifest import NEVER, RuntimeNeeds

from .quantize_workshop import Outside
from .sources.base import Scores
from .to_onnx import Converted

ROWS: Final = 2048  # that a witness scores


@dataclass(frozen=True)
class Given:
    """A candidate, its scores here on the witnesses' rows, and whether arithmetic is float32."""

    converted: Converted
    scores: Scores
    portable: bool


def doubts(
    given: Sequence[Given], rows: Tensor, here: str, outside: Outside
) -> list[dict[str, str]]:
    """For each candidate, the distributions that it may not claim, each with the reason.

    Args:
        given: the candidates, all of one format.
        rows: encoded, shape (rows, features); those that `Given.scores` are of.
        here: the distribution that gave them.
        outside: its witnesses and their tolerance.
    """
    found: list[dict[str, str]] = [{} for _ in given]
    seen = {here}
    for witness in outside.witnesses:
        seen.add(witness.name)
        answers = witness.score([item.converted for item in given], rows)
        for place, (item, answer) in enumerate(zip(given, answers, strict=True)):
            words = _disagreement(item.scores, answer, outside.tolerance)
            if words:
                found[place][witness.name] = f"{witness.name} {witness.version}: {words}"
    for place, item in enumerate(given):
        for name in item.converted.needs.ranges:
            if name not in seen and not item.portable:
                found[place][name] = (
                    f"{name}: not run there; wherry doctor --install runtimes makes it possible"
                )
    return found


def _disagreement(ours: Scores, theirs: Scores | str, tolerance: float) -> str:
    if isinstance(theirs, str):
        return theirs
    gap = np.abs(ours - theirs)
    worst = float(gap.max(initial=0.0)) if np.isfinite(gap).all() else float("inf")
    return "" if worst <= tolerance else f"scores differ by up to {worst:.2g}"


def without(needs: RuntimeNeeds, names: Mapping[str, str]) -> RuntimeNeeds:
    """The same needs, claiming none of these distributions."""
    also = {name: wanted for name, wanted in needs.also.items() if name not in names}
    own = set(needs.ranges) - set(needs.also)
    return replace(needs, version=NEVER if own & set(names) else needs.version, also=also)
