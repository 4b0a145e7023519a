"""Smaller neural nets within budgets, with every candidate's price shown.

"Accuracy did not drop" hides what 8-bit integers do near the threshold: decisions flip, and
a few dozen distinct scores are left. So every candidate is judged by decisions that flip at
the operating threshold on rows that no range was taken from, by distinct scores, by a
business metric, by bytes, and by its time for one row beside the float model's. ONNX and
TFLite files are searched alike. Same model, rows and budgets give the same bytes, unless
time is a budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Tensor
from wherry_contract.errors import ConvertError, GateError

from .parity import Difference, compare
from .quantize_budget import Ahead, Budgets, Measured, choose, exceeded, pareto, reason
from .quantize_claims import ROWS, Given, doubts, without
from .quantize_methods import METHODS, OnnxWorkshop
from .quantize_search import leave_out, words
from .quantize_workshop import Method, Outside, Witness, Workshop
from .scoring import Scored
from .sources.base import Scores
from .to_onnx import Converted

CALIBRATION_ROWS: Final = 4096
ROUNDS: Final = 9
CALLS: Final = 30
_LEAVE_OUT: Final = "leave [quantize] out for this model"

Places = NDArray[np.int64]
Metric = Callable[[Scores, Places], float]  # of rows at these places
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Variant(Measured):
    """A candidate that was measured, and how it fared.

    Attributes:
        lost: why it was not kept; "" for the one that was.
        front: whether no other candidate is better in bytes and flips at once.
        careful: what a reader should know before shipping it.
    """

    lost: str = ""
    front: bool = False
    careful: str = ""


@dataclass(frozen=True)
class Quantized:
    """The variant that was kept, and all that were tried.

    Attributes:
        converted: the model; its scores differ from the float one's.
        bytes_before: size of the float file.
        kept: the variant that was kept.
        variants: all of them, the kept one too.
        refused: methods that could not be applied, and why.
        calibrated: rows that ranges were taken from; the others judged.
    """

    converted: Converted
    bytes_before: int
    kept: Variant
    variants: tuple[Variant, ...]
    refused: tuple[tuple[str, str], ...] = ()
    calibrated: int = 0

    @property
    def bytes_after(self) -> int:
        """Size of the file that was kept."""
        return self.kept.bytes


class NoCandidateError(GateError):
    """No candidate keeps the budgets.

    Args:
        variants: all that were tried, each with its reason.
        bytes_before: size of the float file.
        refused: methods that could not be applied, and why.
        calibrated: rows that ranges were taken from.
    """

    def __init__(
        self,
        variants: tuple[Variant, ...],
        bytes_before: int,
        refused: tuple[tuple[str, str], ...],
        calibrated: int = 0,
    ) -> None:
        nearest = min(variants, key=lambda item: (item.difference.flips, item.bytes))
        super().__init__(
            "Q01",
            f"none of {len(variants)} quantized candidates keeps the budgets; fewest flips: "
            f"{nearest.method}, {nearest.floats} in float: {nearest.lost}",
            cure="raise a budget on purpose, or leave [quantize] out",
        )
        self.variants = variants
        self.bytes_before = bytes_before
        self.refused = refused
        self.calibrated = calibrated


def quantize(
    converted: Converted,
    calibration: Tensor,
    *,
    threshold: float = 0.5,
    methods: Sequence[str] = ("int8",),
    budgets: Budgets | None = None,
    metric: Metric | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    outside: Outside | None = None,
) -> Quantized:
    """Quantize a neural net.

    Args:
        converted: a model of family ``neural``.
        calibration: float32, shape (rows, features), as the encoder makes it; activation
            ranges come from at most `CALIBRATION_ROWS` and half of them, all else from the
            others.
        threshold: the operating threshold.
        methods: names in `methods_for`, tried in this order.
        budgets: see `Budgets`; nothing is limited without.
        metric: a business metric of scores of the rows at some places, the higher the better.
        progress: is told each candidate, in words.
        clock: seconds, for the time of one row.
        outside: runtimes, boards and the gate that the candidate will meet; nothing without.

    Raises:
        ConvertError: K03 it is a tree model, K02 there is nothing to gain, K07 no rows that fit.
        NoCandidateError: Q01.
    """
    wanted = budgets or Budgets()
    around = outside or Outside()
    search = _Search(converted, calibration, threshold, wanted, metric, progress, clock, around)
    for name in methods:
        search.run(name)
    return search.result()


def _check(converted: Converted, calibration: Tensor) -> None:
    if converted.family == "trees":
        raise ConvertError("K03", "its thresholds and leaves are no matrix products")
    if converted.family != "neural":
        raise ConvertError("K02", f"a {converted.family} model is small as it is", cure=_LEAVE_OUT)
    features = len(converted.encoder.contract.names)
    if calibration.ndim != 2 or calibration.shape[1] != features or not len(calibration):
        raise ConvertError("K07", f"calibration rows of shape {calibration.shape} do not fit")


def methods_for(kind: str) -> tuple[str, ...]:
    """Names of the methods for a format, ``onnxruntime`` or ``tflite``, in order."""
    if kind == "tflite":
        from .tflite_quant import METHODS as TFLITE

        return tuple(TFLITE)
    return tuple(METHODS)


def _workshop(converted: Converted, rows: Tensor, outside: Outside) -> Workshop:
    if converted.needs.kind == "tflite":
        from .tflite_quant import TfliteWorkshop

        return TfliteWorkshop(converted, rows, outside.written)
    return OnnxWorkshop(converted, rows)


def _spread(count: int, most: int) -> Places:
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.int64)


def _scored(converted: Converted) -> Scored:
    return Scored(
        converted.model, converted.needs, converted.encoder, converted.tensor, converted.column
    )


class _Search:
    """Candidates of one model, measured as they are made."""

    def __init__(  # noqa: PLR0917 - what `quantize` was given, in its order
        self,
        converted: Converted,
        calibration: Tensor,
        threshold: float,
        budgets: Budgets,
        metric: Metric | None,
        progress: Progress | None,
        clock: Callable[[], float],
        outside: Outside,
    ) -> None:
        _check(converted, calibration)
        count = len(calibration)
        few = _spread(count, min(CALIBRATION_ROWS, (count + 1) // 2))
        rest = np.setdiff1d(np.arange(count), few)
        self._float, self._rows = converted, calibration
        self._few, self._judged = few, rest if len(rest) else few
        self._threshold, self._budgets, self._metric = threshold, budgets, metric
        self._say = progress or (lambda _words: None)
        self._clock, self._outside = clock, outside
        self._workshop = _workshop(converted, calibration[few], outside)
        self._layers = self._workshop.layers
        self._session = _scored(converted)
        self._reference = self._session.score_tensor(calibration)
        self._value = self._worth(self._reference)
        self._found: list[tuple[Measured, Converted, Scores]] = []
        self._refused: list[tuple[str, str]] = []

    def _worth(self, scores: Scores) -> float | None:
        return self._metric(scores[self._judged], self._judged) if self._metric else None

    def run(self, name: str) -> None:
        """Try one method."""
        if self._workshop.methods[name].refine:
            leave_out(
                len(self._layers),
                lambda floats: self._attempt(name, floats),
                self._budgets.flips or 0,
            )
        else:
            self._attempt(name, ())

    def _attempt(self, name: str, floats: tuple[int, ...]) -> Measured | None:
        said = words(floats, len(self._layers))
        self._say(f"{name}, {said} in float")
        try:
            candidate = self._workshop.make(name, [self._layers[place] for place in floats])
            session = _scored(candidate)
            scores = session.score_tensor(self._rows)
        except ConvertError as error:
            self._refused.append((f"{name}, {said} in float", error.detail))
            return None
        worth = self._worth(scores)
        found = Measured(
            name,
            said,
            len(candidate.model),
            self._compared(scores, self._judged),
            self._value - worth if self._value is not None and worth is not None else None,
            self._ratio(session),
            calibrated_flips=self._compared(scores, self._few).flips,
        )
        self._found.append((found, candidate, scores))
        return found

    def _compared(self, scores: Scores, places: Places) -> Difference:
        return compare(self._reference[places], scores[places], self._threshold)

    def _ratio(self, session: Scored) -> float:
        """Time of one row beside the float model's: median over rounds, each in turns."""
        rows = self._rows[_spread(len(self._rows), CALLS)]
        ratios = []
        for turn in range(ROUNDS + 1):
            spent = {}
            for one in (session, self._session) if turn % 2 else (self._session, session):
                start = self._clock()
                for place in range(len(rows)):
                    one.score_tensor(rows[place : place + 1])
                spent[one] = self._clock() - start
            ratios.append(spent[session] / max(spent[self._session], 1e-9))
        return float(np.median(ratios[1:]))  # the first one warms up

    def result(self) -> Quantized:
        """The candidate to keep.

        Raises:
            ConvertError: K02, none could be made, or all are as large as the float file.
            NoCandidateError: Q01.
        """
        before, refused = len(self._float.model), tuple(self._refused)
        if not self._found:
            raise ConvertError("K02", refused[0][1] if refused else "no method was named")
        self._ask_outside()
        found = [item for item, _, _ in self._found]
        if all(item.bytes >= before for item in found):
            detail = f"every quantized file is larger than the float one of {before} bytes"
            raise ConvertError("K02", detail, cure=_LEAVE_OUT)
        place = choose(found, self._budgets, before, self._outside.ahead)
        variants = self._variants(found, place)
        if place is None:
            raise NoCandidateError(variants, before, refused, len(self._few))
        kept = variants[place]
        model = replace(self._found[place][1], notes=self._notes(kept))
        return Quantized(model, before, kept, variants, refused, len(self._few))

    def _ask_outside(self) -> None:
        """Give up claims that a witness does not bear out, and hear what boards say."""
        rows = _spread(len(self._rows), ROWS)
        given = [
            Given(model, scores[rows], self._workshop.methods[item.method].portable)
            for item, model, scores in self._found
        ]
        every = doubts(given, self._rows[rows], self._workshop.here, self._outside)
        for place, (lost, (item, model, scores)) in enumerate(zip(every, self._found, strict=True)):
            claimed = replace(model, needs=without(model.needs, lost)) if lost else model
            seen = replace(item, doubts=tuple(lost.values()), unfit=self._outside.fits(claimed))
            self._found[place] = (seen, claimed, scores)

    def _variants(self, found: Sequence[Measured], place: int | None) -> tuple[Variant, ...]:
        chosen, ahead = None if place is None else found[place], self._outside.ahead
        front, before = pareto(found), len(self._float.model)
        return tuple(
            Variant(
                **vars(item),
                lost=reason(item, chosen, self._budgets, before, ahead),
                front=index in front,
                careful=self._workshop.methods[item.method].careful,
            )
            for index, item in enumerate(found)
        )

    def _notes(self, kept: Variant) -> tuple[str, ...]:
        note = f"quantized: {self._workshop.methods[kept.method].words}; in float: {kept.floats}"
        lost = [f"not claimed: {words}" for words in kept.doubts]
        return (*self._float.notes, note, *lost, *filter(None, [kept.careful]))


__all__ = [
    "CALIBRATION_ROWS",
    "METHODS",
    "Ahead",
    "Budgets",
    "Method",
    "NoCandidateError",
    "Outside",
    "Quantized",
    "Variant",
    "Witness",
    "exceeded",
    "methods_for",
    "quantize",
]
