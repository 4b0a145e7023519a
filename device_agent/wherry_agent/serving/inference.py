"""From raw rows to answers: encoder, session, threshold, and the rule when they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wherry_contract.bundle import Parts
from wherry_contract.decision import decide, winning
from wherry_contract.encoder import Tensor
from wherry_contract.features import RawMatrix
from wherry_contract.histograms import score_bins
from wherry_contract.manifest import Manifest, Output
from wherry_contract.rule import Rule

from .runtime import open_session
from .session import Scores, Session


@dataclass(frozen=True)
class Answers:
    """What a batch of rows is told.

    Attributes:
        scores: float64, shape (rows,), of classes the highest; 1 or 0 where the rule answered.
        flagged: bool, shape (rows,), whether the score reaches the threshold.
        bins: int64, shape (rows,), the score's bin of 64.
        fallback: whether something else answered instead of the model.
        failure: why, in words.
        previous: digest of the bundle whose model did; nothing if it was the rule.
        classes: float64, shape (rows, classes), every score; nothing for a model of one.
        decisions: int64, shape (rows,), the decided class of each row, -1 for none; likewise.
    """

    scores: Scores
    flagged: NDArray[np.bool_]
    bins: NDArray[np.int64]
    fallback: bool = False
    failure: str = ""
    previous: str = ""
    classes: Scores | None = None
    decisions: NDArray[np.int64] | None = None

    @property
    def source(self) -> str:
        """Who answered: ``model``, ``previous`` or ``rule``."""
        if not self.fallback:
            return "model"
        return "previous" if self.previous else "rule"

    def first(self, manifest: Manifest, bundle: str) -> Answer:
        """What the first row is told by this bundle."""
        label: str | None = None
        if self.decisions is not None:
            place = int(self.decisions[0])
            label = manifest.output.classes[place] if place >= 0 else ""
        return Answer(
            float(self.scores[0]),
            bool(self.flagged[0]),
            int(self.bins[0]),
            self.source,
            self.previous or bundle,
            label,
            () if self.classes is None else tuple(self.classes[0].tolist()),
            self.failure,
        )


class Answer(NamedTuple):
    """What one row is told; a tuple, since making one is a part of every payment's wait.

    Attributes:
        score: the model's; of classes the highest; 1 or 0 where the rule answered.
        flagged: whether it reaches the threshold.
        score_bin: its bin of 64.
        source: ``model``, ``previous`` for the previous bundle's, or ``rule``.
        bundle: digest of the bundle that answered.
        label: the decided class, "" for none; nothing for a model of one score.
        scores: of every class, in the order of the manifest.
        failure: why the model did not answer, in words.
    """

    score: float
    flagged: bool
    score_bin: int
    source: str
    bundle: str
    label: str | None = None
    scores: tuple[float, ...] = ()
    failure: str = ""


class Model:
    """A bundle that is loaded and can score."""

    def __init__(self, digest: str, parts: Parts, session: Session) -> None:
        self.digest = digest
        self.manifest: Manifest = parts.manifest
        self.profile = parts.profile
        self._session = session

    def scores(self, raw: RawMatrix) -> Scores:
        """The model's scores, float64 (rows,), or (rows, classes).

        Args:
            raw: float64, shape (rows, features).
        """
        return self._session.score(self.manifest.encoder.encode(raw))

    def bind(self, tensor: Tensor) -> Callable[[], float] | None:
        """A shorter way to one row's score, if there is one; see `Session.bind`."""
        return self._session.bind(tensor)

    def answer(self, raw: RawMatrix) -> Answers | str:
        """Answers, or what went wrong in words: a runtime error, or a score that is none."""
        try:
            scores = self.scores(raw)
        except Exception as error:  # noqa: BLE001 - whatever a runtime throws, a payment goes on
            return f"{type(error).__name__}: {error}"[:200]
        if not np.isfinite(scores).all():
            return "a score is not finite"
        output = self.manifest.output
        if output.classes:
            return _between_classes(scores, output)
        bins = output.bins(scores) if output.edges else score_bins(scores)
        return Answers(scores, scores >= output.threshold, bins)


def _between_classes(scores: Scores, output: Output) -> Answers:
    decisions = decide(scores, output.threshold)
    return Answers(
        winning(scores), decisions >= 0, output.bins(scores), classes=scores, decisions=decisions
    )


def load_model(digest: str, parts: Parts) -> Model:
    """Open the runtime on a bundle's model.

    Raises:
        ProbeError: P04.
    """
    return Model(
        digest, parts, open_session(parts.model, parts.manifest.runtime, parts.manifest.output)
    )


def rule_answer(rule: Rule, raw: RawMatrix, manifest: Manifest, failure: str) -> Answers:
    """What the fallback rule says; its scores are 1 and 0."""
    flagged = rule.flags(raw, manifest.input)
    scores = flagged.astype(np.float64)
    bins = manifest.output.bins(scores)
    return Answers(scores, flagged, bins, fallback=True, failure=failure)
