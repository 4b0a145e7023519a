"""What a loaded model can do, whatever runs it."""

from __future__ import annotations

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
