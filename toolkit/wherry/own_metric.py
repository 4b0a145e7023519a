"""A business metric of the project's own: a Python function beside the project file.

It runs where the bundle is built, and no part of it is packed. The file is code, like the
project's own training script: who builds a project of others reads it first.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import SetupError
from wherry_contract.features import Feature, InputContract, RawMatrix

from .metrics import Labels, Scores

LIMIT_BYTES: Final = 2**20

Columns = Mapping[str, NDArray[Any]]
Function = Callable[[Labels, Scores, Columns, float], float]
# scores and the threshold that goes with them, by who gave them
Judged = Mapping[str, tuple[Scores, float]]


@dataclass(frozen=True)
class OwnMetric:
    """What `[metric]` says.

    Attributes:
        path: of the Python file.
        function: its name in there.
        drop: how much lower than the source's it may be, in its own unit.
    """

    path: Path
    function: str
    drop: float


@dataclass(frozen=True)
class OwnFigures:
    """What it gave.

    Attributes:
        name: of the function.
        drop: the budget.
        found: of ``source``, ``bundle`` and ``heuristic``; more is better.
    """

    name: str
    drop: float
    found: Mapping[str, float]

    @property
    def failure(self) -> str:
        """The budget that is exceeded, in words; "" if it is kept."""
        drop = self.found["source"] - self.found["bundle"]
        if drop <= self.drop:
            return ""
        return f"{self.name} drops by {drop:.6g}, the budget is {self.drop:g}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"name": self.name, "drop": self.drop, "found": dict(self.found)}


def prepare(
    wanted: OwnMetric, contract: InputContract
) -> Callable[[RawMatrix, Labels | None], Callable[[Judged], OwnFigures]]:
    """Load it before the long work; what comes back wants check rows, then scores of them.

    Raises:
        SetupError: see `load_metric`; H13 later, when the function fails.
    """
    function = load_metric(wanted)

    def of(raw: RawMatrix, labels: Labels | None) -> Callable[[Judged], OwnFigures]:
        assert labels is not None  # noqa: S101 - a project without a label has no metric
        columns = columns_of(raw, contract)
        return lambda judged: OwnFigures(
            wanted.function,
            wanted.drop,
            {who: function(labels, scores, columns, cut) for who, (scores, cut) in judged.items()},
        )

    return of


def load_metric(wanted: OwnMetric) -> Function:
    """Run the file and take the function out of it.

    Raises:
        SetupError: H02 it cannot be read, H13 it fails, or holds no such function.
    """
    try:
        data = wanted.path.read_bytes()
    except OSError as error:
        raise SetupError("H02", f"{wanted.path}: {error.strerror}") from error
    if len(data) > LIMIT_BYTES:
        raise SetupError("H13", f"{wanted.path.name} has more than {LIMIT_BYTES} bytes")
    module = ModuleType("wherry_own_metric")
    module.__file__ = str(wanted.path)
    sys.modules[module.__name__] = module  # dataclasses look their own module up
    try:
        exec(compile(data, str(wanted.path), "exec"), module.__dict__)  # noqa: S102 - the project names its own file
    except Exception as error:  # whatever the user's code does wrong is one coded answer
        raise _failed(wanted, error) from error
    found = getattr(module, wanted.function, None)
    if not callable(found):
        raise SetupError("H13", f"{wanted.path.name} holds no function {wanted.function!r}")

    def measured(labels: Labels, scores: Scores, rows: Columns, threshold: float) -> float:
        try:
            value = float(found(labels, scores, rows, threshold))
        except Exception as error:  # likewise
            raise _failed(wanted, error) from error
        if not math.isfinite(value):
            raise SetupError("H13", f"{wanted.function} gave {value}, which is no figure")
        return value

    return measured


def _failed(wanted: OwnMetric, error: Exception) -> SetupError:
    lines = [
        entry.lineno
        for entry in traceback.extract_tb(error.__traceback__)
        if entry.filename == str(wanted.path)
    ]
    place = f" line {lines[-1]}" if lines else ""
    words = " ".join(str(error).split())[:200]
    return SetupError("H13", f"{wanted.path.name}{place}: {type(error).__name__}: {words}")


def columns_of(raw: RawMatrix, contract: InputContract) -> Columns:
    """Columns by name, read-only, so that no model is judged on rows that another one saw changed.

    Args:
        raw: float64, shape (rows, features).
        contract: says what the columns are.

    Returns:
        Numbers as float64 with NaN for what is missing; categories as objects: the name,
        None for what is missing, "" for a name that is not listed.
    """
    found = {
        feature.name: _column(raw[:, place], feature)
        for place, feature in enumerate(contract.features)
    }
    for column in found.values():
        column.flags.writeable = False
    return found


def _column(values: NDArray[np.float64], feature: Feature) -> NDArray[Any]:
    if feature.dtype != "category":
        return values.copy()
    names = np.array([*feature.categories, "", None], object)
    codes = np.where(np.isnan(values), len(names) - 1, np.where(values < 0, len(names) - 2, values))
    return names[codes.astype(np.int64)]
