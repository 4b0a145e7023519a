"""What a loaded model can do, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Tensor

Scores = NDArray[np.float64]


class Session(Protocol):
    """A loaded model."""

    def score(self, tensor: Tensor) -> Scores:
        """The scores of encoded rows.

        Args:
            tensor: float32, shape (rows, features).

        Returns:
            float64, shape (rows,); (rows, classes) if the manifest names classes.
        """
        ...

    def bind(self, tensor: Tensor) -> Callable[[], float] | None:
        """A shorter way to the score of one row, whose memory is laid out once.

        Args:
            tensor: float32, shape (1, features), C-contiguous; it is to be filled before each call.
                It has to be scored once before by `score`, which shows how the answer lies.

        Returns:
            The function that scores what is in `tensor`, not to be called by two threads at a
            time; nothing if there is no such way, as for a model of several classes.
        """
        ...
