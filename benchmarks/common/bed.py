"""A seeded table like fraud on payments, and the net 30-256-256-64-1 on it.

60,000 rows to train on and 60,000 to judge by, 30 columns, 3 % of the optional ones
missing, 4 % positive. The alert threshold is the source's score that flags 1 % of the rows
that judge. Nothing in it is real, and no figure on it says how well a net detects fraud.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.features import InputContract

ROWS: Final = 60_000
COLUMNS: Final = 30
ALERTS: Final = 0.01
EPOCHS: Final = 8
_FIXED: Final = ("amount", "hour", "count_day", "second", "ratio", "count_week")


@dataclass(frozen=True)
class Bed:
    """The two halves of the table.

    Attributes:
        contract: of its columns.
        train: float64, shape (rows, 30).
        train_labels: int64, shape (rows,).
        test: float64, shape (rows, 30).
        test_labels: int64, shape (rows,).
    """

    contract: InputContract
    train: NDArray[np.float64]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float64]
    test_labels: NDArray[np.int64]


def make_bed(rows: int = ROWS, seed: int = 20_261_123) -> Bed:
    """The table; the same for the same seed."""
    make = np.random.default_rng(seed)
    raw, logit = _columns(make, 2 * rows)
    level = np.quantile(logit, 0.98)
    labels = (make.random(2 * rows) < 1 / (1 + np.exp(-1.1 * (logit - level)))).astype(np.int64)
    optional = np.arange(COLUMNS) >= 4
    raw[(make.random(raw.shape) < 0.03) & optional] = np.nan
    names = [*_FIXED, *(f"v{place}" for place in range(COLUMNS - len(_FIXED)))]
    features = [
        {"name": name, "missing": "allow" if place >= 4 else "refuse"}
        for place, name in enumerate(names)
    ]
    contract = InputContract.from_dict({"name": "bed", "version": 1, "features": features})
    return Bed(contract, raw[:rows], labels[:rows], raw[rows:], labels[rows:])


def _columns(
    make: np.random.Generator, rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    amount = make.lognormal(3.5, 1.2, rows)
    hour = make.integers(0, 24, rows).astype(float)
    day = make.poisson(2.0, rows).astype(float)
    second = 1.7e9 + make.integers(0, 30 * 86_400, rows)
    ratio = amount / (20 + make.gamma(2.0, 20.0, rows))
    week = day + make.poisson(9.0, rows)
    free = make.normal(size=(rows, COLUMNS - len(_FIXED)))
    night = ((hour < 6) | (hour > 22)).astype(float)
    weights = make.normal(0, 0.45, free.shape[1])
    logit = (
        0.55 * np.log(amount) + 0.8 * night + 0.25 * day + 0.7 * np.log1p(ratio)
        + free @ weights + 0.5 * free[:, 0] * free[:, 1] - 0.4 * np.abs(free[:, 2])
    )  # fmt: skip
    return np.column_stack([amount, hour, day, second, ratio, week, free]), logit


def train_net(bed: Bed, epochs: int = EPOCHS) -> Any:
    """Impute, scale, and a perceptron 30-256-256-64-1 of scikit-learn."""
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    net = MLPClassifier((256, 256, 64), max_iter=epochs, random_state=0)
    model = make_pipeline(SimpleImputer(), StandardScaler(), net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not meant to converge
        return model.fit(bed.train, bed.train_labels)


def kept_net(bed: Bed, folder: Path, epochs: int = EPOCHS) -> Path:
    """The net as a skops file, trained once and kept in `folder`."""
    import skops.io

    rows = bed.train.tobytes() + bed.train_labels.tobytes()
    mark = hashlib.sha256(rows + bytes([epochs])).hexdigest()[:12]
    path = folder / f"net-{mark}.skops"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        skops.io.dump(train_net(bed, epochs), path)
    return path


def bare_net(bed: Bed, folder: Path) -> tuple[Path, Bed]:
    """The perceptron alone, and the bed as it reaches it: imputed, scaled, rounded to float32.

    A scaler inside the graph would be quantized with the rest: the plain static quantizers
    give one 8-bit range to epoch seconds and to ratios alike, and one score to all rows.
    """
    import skops.io

    path = kept_net(bed, folder)
    model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    bare = path.with_name(f"bare-{path.name}")
    if not bare.exists():
        skops.io.dump(model[-1], bare)
    features = [{"name": name, "missing": "refuse"} for name in bed.contract.names]
    contract = InputContract.from_dict({"name": "bed", "version": 1, "features": features})
    train, test = (
        model[:-1].transform(raw).astype(np.float32).astype(np.float64)
        for raw in (bed.train, bed.test)
    )
    return bare, Bed(contract, train, bed.train_labels, test, bed.test_labels)
