"""One payment's way from named values to the graph's tensor, through memory laid out beforehand.

`InputContract.matrix` and `Encoder.encode` say what a row means; this says the same of a single
row that is plain, for a third of the time. A row is plain if it holds every feature, all of them
floats and integers that float32 can hold. Anything else, and whatever is to be refused, takes the
general way, so that there is one place where rows are judged.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import numpy as np

from .encoder import Encoder, Step
from .features import RawValue, to_table

_PLAIN: Final = frozenset({float, int})
# a length of the row below it means that no value is a gap, infinite or more than float32 holds
_SMALL: Final = 1e38
_EXACT: Final = 2.0**53  # below it an integer is the same as its float, as the edges compare it

Numbers = Sequence[float]
Encode = Callable[[Numbers], None]


class OneRow:
    """Reads one row after the other; not to be shared by threads.

    Attributes:
        raw: float64, shape (1, features), the row that was read last.
        tensor: float32, shape (1, features), the same encoded.
    """

    def __init__(self, encoder: Encoder, also: frozenset[str] = frozenset()) -> None:
        """Lay the memory out.

        Args:
            encoder: of the model, with its input contract.
            also: names that a row may carry besides the contract's.
        """
        contract = encoder.contract
        self._contract, self._encoder, self._also = contract, encoder, also
        self._width = len(contract.names)
        self._known = also.union(contract.names)
        self.raw = np.empty((1, self._width))
        self.tensor = np.empty((1, self._width), np.float32)
        self._pack = struct.Struct(f"{self._width}d").pack_into
        # of one name itemgetter gives the value and no tuple: two of it, and the second cut off
        names = contract.names if self._width > 1 else contract.names * 2
        self._pick: Callable[[Mapping[str, RawValue]], tuple[Any, ...]] = itemgetter(*names)
        self._numbers = all(feature.dtype == "number" for feature in contract.features)
        self._memory = self.raw.data
        self._most = _SMALL
        self._encode = self._encoding()

    def named(self, row: Mapping[str, RawValue]) -> None:
        """Read a row of named values into `raw` and `tensor`.

        Raises:
            InputError: C01 to C05.
        """
        # of a dict alone: a Counter, say, has a value for a name that it does not hold
        plain = type(row) is dict and self._numbers
        if plain and (len(row) == self._width or row.keys() <= self._known):
            try:
                values = self._pick(row)
            except KeyError:  # not all are there: the general way knows what that means
                pass
            else:
                if self._is_plain(values[: self._width] if self._width == 1 else values):
                    return
        self.given(self._contract.matrix([row], also=self._also))

    def listed(self, values: Numbers) -> None:
        """Read values in the contract's order, NaN for missing.

        Raises:
            InputError: C02, C03, C04 or C06.
        """
        if self._numbers and len(values) == self._width and self._is_plain(values):
            return
        self.given(self._contract.check_matrix(to_table([values])))

    def given(self, raw: np.ndarray[Any, Any]) -> None:
        """Take a row of the raw matrix that was checked.

        Args:
            raw: float64, shape (1, features).
        """
        self.raw[:] = raw
        self.tensor[:] = self._encoder.encode(self.raw)

    def _is_plain(self, values: Numbers) -> bool:
        """Read the row if it is plain."""
        if not _PLAIN.issuperset(map(type, values)):
            return False
        try:
            if not math.hypot(*values) < self._most:
                return False
        except OverflowError:  # an integer of more than 308 digits
            return False
        self._pack(self._memory, 0, *values)
        self._encode(values)
        return True

    # --- the encoder, of values that are there -----------------------------------------------

    def _encoding(self) -> Encode:
        """The shortest of the ways that do for this encoder."""
        steps = {name: [*_of_present(self._encoder.steps, name)] for name in self._contract.names}
        if all(len(each) == 1 and each[0].op == "rank" for each in steps.values()):
            return self._ranks([each[0].settings["edges"] for each in steps.values()])
        if all(_is_offset(each) for each in steps.values()):
            return self._offsets(
                [each[0].settings["value"] if each else 0.0 for each in steps.values()]
            )
        return self._any

    def _ranks(self, edges: Sequence[Numbers]) -> Encode:
        pack, tensor = struct.Struct(f"{self._width}f").pack_into, self.tensor.data
        self._most = _EXACT

        def encode(values: Numbers) -> None:
            pack(tensor, 0, *map(bisect_left, edges, values))

        return encode

    def _offsets(self, offsets: Numbers) -> Encode:
        raw, tensor = self.raw, self.tensor
        if not any(offsets):

            def cast(_: Numbers) -> None:
                tensor[...] = raw

            return cast
        row, between = np.array([offsets]), np.empty_like(raw)

        def encode(_: Numbers) -> None:
            # the difference is double precision's, and only then rounded, as the encoder has it
            np.subtract(raw, row, between)
            tensor[...] = between

        return encode

    def _any(self, _: Numbers) -> None:
        self.tensor[:] = self._encoder.encode(self.raw)


def _of_present(steps: Sequence[Step], feature: str) -> list[Step]:
    """The steps of a feature that do something to a value that is there."""
    return [step for step in steps if step.feature == feature and step.op != "fill"]


def _is_offset(steps: Sequence[Step]) -> bool:
    if not steps:
        return True
    return len(steps) == 1 and steps[0].op == "offset" and abs(steps[0].settings["value"]) <= _SMALL
