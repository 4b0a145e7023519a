"""What every framework's file offers to the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Step
from wherry_contract.features import InputContract, RawMatrix
from wherry_convert.forest import Forest

from .outputs import ALL, Picked

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A graph that a framework's converter wrote.

    Attributes:
        model: the serialized ONNX model; its one input is float32 (rows, features).
        tensor: the output that holds the scores.
        column: the column of the score; -1 if there is just the one.
    """

    model: bytes
    tensor: str
    column: int


@dataclass(frozen=True)
class Lowered:
    """A source model in a neutral form.

    Attributes:
        steps: the encoder's.
        body: what runs after it.
        cuts: where decisions change, in raw values: ascending float64 for each feature's
            name; empty for models that have no thresholds.
        notes: what was done that a reader of the report should know.
        picked: what of a forest's scores is looked at, or which classes a network tells apart.
    """

    steps: tuple[Step, ...]
    body: Forest | Network
    cuts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    picked: Picked = ALL

    @property
    def column(self) -> int:
        """The column of the score; -1 if there is just the one, or all are looked at."""
        if self.picked.classes:
            return -1
        if isinstance(self.body, Network):
            return self.body.column
        return self.picked.column if self.body.targets > 1 else -1


class SourceModel(Protocol):
    """A trained model that can score raw rows and be lowered.

    Attributes:
        family: ``trees``, ``neural`` or ``linear``.
        versions: of the libraries that read it.
        digest: ``sha256:...`` of its file.
    """

    @property
    def family(self) -> str: ...  # noqa: D102 - said above

    @property
    def versions(self) -> Mapping[str, str]: ...  # noqa: D102 - said above

    @property
    def digest(self) -> str: ...  # noqa: D102 - said above

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """The scores by the source itself, in double precision.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories.

        Returns:
            float64, shape (rows,); (rows, classes) if the decision is between classes.

        Raises:
            ConvertError: K07, the model does not take these rows.
        """
        ...

    def lower(self, contract: InputContract) -> Lowered:
        """The neutral form.

        Raises:
            ConvertError: K01, K02, K06 or K07.
        """
        ...
