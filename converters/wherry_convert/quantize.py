"""Smaller neural nets within budgets, with every candidate's price shown.

"Accuracy did not drop" hides what 8-bit integers do near the threshold: decisions flip, and
a few dozen distinct scores are left. So every candidate is run on all rows and judged by
decisions that flip at the operating threshold, by distinct scores, by a business metric,
by bytes, and by its time for one row beside the float model's. Same model, rows and
budgets give the same bytes, unless time is a budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from wherry_contract.encoder import Tensor
from wherry_contract.errors import ConvertError, GateError

from .graph import parse
from .parity import compare
from .quantize_budget import Budgets, Measured, choose, exceeded, pareto, reason
from .quantize_graph import LEAST_WEIGHTS, layers_of, without_gemm
from .quantize_methods import METHODS, apply
from .quantize_search import leave_out, words
from .scoring import Scored
from .sources.base import Scores
from .to_onnx import Converted

CALIBRATION_ROWS: Final = 4096
ROUNDS: Final = 9
CALLS: Final = 30
_LEAVE_OUT: Final = "leave [quantize] out for this model"

Metric = Callable[[Scores], float]
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
    """

    converted: Converted
    bytes_before: int
    kept: Variant
    variants: tuple[Variant, ...]
    refused: tuple[tuple[str, str], ...] = ()

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
    """

    def __init__(
        self,
        variants: tuple[Variant, ...],
        bytes_before: int,
        refused: tuple[tuple[str, str], ...],
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
) -> Quantized:
    """Quantize a neural net.

    Args:
        converted: a model of family ``neural``.
        calibration: float32, shape (rows, features), as the encoder makes it; activation
            ranges come from at most `CALIBRATION_ROWS` of them, all else from all.
        threshold: the operating threshold.
        methods: names in `METHODS`, tried in this order.
        budgets: see `Budgets`; nothing is limited without.
        metric: a business metric of scores of these rows, the higher the better.
        progress: is told each candidate, in words.
        clock: seconds, for the time of one row.

    Raises:
        ConvertError: K03 it is a tree model, K02 there is nothing to gain, K07 no rows that fit.
        NoCandidateError: Q01.
    """
    wanted = budgets or Budgets()
    search = _Search(converted, calibration, threshold, wanted, metric, progress, clock)
    for name in methods:
        search.run(name)
    return search.result()


def _check(converted: Converted, calibration: Tensor) -> None:
    if converted.family == "trees":
        raise ConvertError("K03", "its thresholds and leaves are no matrix products")
    if converted.family != "neural":
        raise ConvertError("K02", f"a {converted.family} model is small as it is", cure=_LEAVE_OUT)
    if converted.needs.kind != "onnxruntime":
        raise ConvertError(
            "K02",
            f"a file for {converted.needs.kind} is not quantized here",
            cure="quantize the net as ONNX, or bring a TFLite file that its own tools quantized",
        )
    features = len(converted.encoder.contract.names)
    if calibration.ndim != 2 or calibration.shape[1] != features or not len(calibration):
        raise ConvertError("K07", f"calibration rows of shape {calibration.shape} do not fit")


def _spread(rows: Tensor, most: int) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


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
    ) -> None:
        _check(converted, calibration)
        self._float = converted
        self._rows = calibration
        self._few = _spread(calibration, CALIBRATION_ROWS)
        self._threshold = threshold
        self._budgets = budgets
        self._metric = metric
        self._say = progress or (lambda _words: None)
        self._clock = clock
        self._graph: Any = without_gemm(parse(converted.model))
        self._layers = layers_of(self._graph)
        if not layers_of(self._graph, LEAST_WEIGHTS):
            raise ConvertError("K02", "it has no layer worth quantizing", cure=_LEAVE_OUT)
        self._session = _scored(converted)
        self._reference = self._session.score_tensor(calibration)
        self._value = metric(self._reference) if metric else None
        self._found: list[tuple[Measured, Converted]] = []
        self._refused: list[tuple[str, str]] = []

    def run(self, name: str) -> None:
        """Try one method."""
        if METHODS[name].refine:
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
            left = [self._layers[place] for place in floats]
            candidate = apply(self._float, self._graph, name, self._few, left)
            session = _scored(candidate)
            scores = session.score_tensor(self._rows)
        except ConvertError as error:
            self._refused.append((f"{name}, {said} in float", error.detail))
            return None
        metric = self._metric
        drop = self._value - metric(scores) if metric and self._value is not None else None
        found = Measured(
            name,
            said,
            len(candidate.model),
            compare(self._reference, scores, self._threshold),
            drop,
            self._ratio(session),
        )
        self._found.append((found, candidate))
        return found

    def _ratio(self, session: Scored) -> float:
        """Time of one row beside the float model's: median over rounds, each in turns."""
        rows = _spread(self._rows, CALLS)
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
        found = [item for item, _ in self._found]
        if all(item.bytes >= before for item in found):
            detail = f"every quantized file is larger than the float one of {before} bytes"
            raise ConvertError("K02", detail, cure=_LEAVE_OUT)
        place = choose(found, self._budgets, before)
        chosen = None if place is None else found[place]
        front = pareto(found)
        variants = tuple(
            Variant(
                **vars(item),
                lost=reason(item, chosen, self._budgets, before),
                front=index in front,
                careful=METHODS[item.method].careful,
            )
            for index, item in enumerate(found)
        )
        if place is None:
            raise NoCandidateError(variants, before, refused)
        kept, model = variants[place], self._found[place][1]
        note = f"quantized: {METHODS[kept.method].words}; in float: {kept.floats}"
        notes = (*self._float.notes, note, *filter(None, [kept.careful]))
        return Quantized(replace(model, notes=notes), before, kept, variants, refused)


__all__ = [
    "CALIBRATION_ROWS",
    "METHODS",
    "Budgets",
    "NoCandidateError",
    "Quantized",
    "Variant",
    "exceeded",
    "quantize",
]
