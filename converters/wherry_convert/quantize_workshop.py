"""What the search asks of a file format: methods, layers, and a way to make a candidate.

ONNX and TFLite files are quantized by different tools and searched by one search. What a
candidate meets outside of its file, as runtimes, boards and the gate, is told here too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from wherry_contract.encoder import Tensor

from .quantize_budget import Ahead
from .sources.base import Scores
from .to_onnx import Converted

TOLERANCE: Final = 1e-6  # of golden vectors, if nobody says otherwise


@dataclass(frozen=True)
class Method:
    """One way to quantize.

    Attributes:
        words: what it is, for tables.
        make: makes the file; its arguments are the workshop's own business.
        refine: whether leaving layers in float is worth trying.
        careful: what a reader should know before shipping it; "" for nothing.
        portable: whether arithmetic stays float32, as our tests run it under every runtime
            that a bundle may claim; what does not is run there before it is claimed.
    """

    words: str
    make: Callable[..., Any]
    refine: bool = False
    careful: str = ""
    portable: bool = False


class Workshop(Protocol):
    """Makes quantized files of one format from one float model."""

    @property
    def methods(self) -> Mapping[str, Method]:
        """By name, in the order in which a search tries them."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the layers that can stay in float, in order."""

    @property
    def here(self) -> str:
        """The distribution that scores files of this format here."""

    def make(self, name: str, floats: Collection[str]) -> Converted:
        """Quantize by a method of that name, all layers but `floats`.

        Raises:
            ConvertError: K02, it cannot, or left out a layer; K06, a tool is missing.
        """


class Witness(Protocol):
    """A runtime in an environment of its own, which scores what a bundle would claim it for."""

    @property
    def name(self) -> str:
        """The distribution."""

    @property
    def version(self) -> str:
        """Of it."""

    def score(self, models: Sequence[Converted], rows: Tensor) -> Sequence[Scores | str]:
        """For each model the scores of encoded rows, or in words why there are none."""


def _no_objection(_candidate: Converted) -> str:
    return ""


@dataclass(frozen=True)
class Outside:
    """What lies outside of the file.

    Attributes:
        witnesses: runtimes that a bundle may claim beside the one here.
        tolerance: how far a score of theirs may be from ours.
        fits: why a candidate cannot be shipped to the boards that are wanted; "" if it can.
        ahead: the gate that comes after the search; None for none.
        written: makes the file again from its source, with weights kept as named.
    """

    witnesses: Sequence[Witness] = ()
    tolerance: float = TOLERANCE
    fits: Callable[[Converted], str] = field(default=_no_objection)
    ahead: Ahead | None = None
    written: Callable[[str], Converted] | None = None
