"""What the tests of the build side share: a small shop's data, models and project files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
from pyarrow import parquet
from skops.io import dump

from wherry.build import BuildResult, build
from wherry.cli import run
from wherry.keys import generate, load_signer
from wherry.project import load_project

MODES = ("chip", "contactless", "stripe")
FEATURES = """
[input]
name = "payments"
version = 1

[[input.features]]
name = "amount"
unit = "EUR"
minimum = 0.0
maximum = 1000.0

[[input.features]]
name = "risk"
missing = "allow"

[[input.features]]
name = "mode"
dtype = "category"
categories = ["chip", "contactless", "stripe"]
"""
PROJECT = """
[project]
name = "till"
version = "1.0.0"
counter = 3

[source]
kind = "sklearn"
path = "{model}.skops"

[data]
reference = "reference.parquet"
check = "check.parquet"
label = "fraud"
time = "at"
card = "card"

[output]
flag_share = 0.02
positive = "fraud"

[fallback]

[[fallback.conditions]]
feature = "amount"
op = ">"
value = 220.0
"""


def payments(rows: int, seed: int) -> pa.Table:
    """Payments of a few days: frauds are dear, risky, and at the stripe."""
    make = np.random.default_rng(seed)
    amount = make.lognormal(3.5, 1, rows).round(2)
    risk = make.beta(1, 8, rows)
    mode = make.integers(0, 3, rows)
    odds = np.log(amount) - 8 + 9 * risk + 1.5 * (mode == 2)
    fraud = make.random(rows) < 1 / (1 + np.exp(-odds))
    risk[make.random(rows) < 0.1] = np.nan
    seconds = np.sort(make.integers(1_530_403_200, 1_530_403_200 + 4 * 86_400, rows))
    return pa.table(
        {
            "at": pa.array(seconds, pa.timestamp("s")),
            "card": make.integers(0, 400, rows),
            "amount": amount,
            "risk": pa.array(risk, mask=np.isnan(risk)),
            "mode": [MODES[place] for place in mode],
            "fraud": fraud.astype(np.int8),
        }
    )


def model(kind: str) -> Any:
    """An untrained pipeline, ``trees`` or ``net``."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    codes = ColumnTransformer(
        [
            ("numbers", "passthrough", [0, 1]),
            ("mode", OrdinalEncoder(categories=[list(MODES)]), [2]),
        ]
    )
    if kind == "trees":
        return make_pipeline(codes, HistGradientBoostingClassifier(max_iter=20, random_state=0))
    net = MLPClassifier((64, 32), max_iter=30, random_state=0)
    return make_pipeline(codes, SimpleImputer(strategy="median"), StandardScaler(), net)


def write_shop(folder: Path) -> Path:
    """Data and both models, each as skops and as joblib writes it; the project files are the tests' own."""
    reference = payments(6000, 1)
    parquet.write_table(reference, folder / "reference.parquet")
    parquet.write_table(payments(4000, 2), folder / "check.parquet")
    columns = [
        np.asarray(reference[name].to_pylist(), object) for name in ("amount", "risk", "mode")
    ]
    rows = np.column_stack(columns)
    rows[rows[:, 1] == None, 1] = np.nan  # noqa: E711 - element by element
    for kind in ("trees", "net"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the net has not converged; it need not
            fitted = model(kind).fit(rows, reference["fraud"].to_numpy())
        dump(fitted, folder / f"{kind}.skops")
        joblib.dump(fitted, folder / f"{kind}.joblib")
    return folder


def write_project(
    folder: Path, *, model: str = "trees", more: str = "", swaps: Sequence[tuple[str, str]] = ()
) -> Path:
    """A project file in the shop's folder, with more sections and with text swapped."""
    text = PROJECT.format(model=model) + more + FEATURES
    for before, after in swaps:
        assert before in text
        text = text.replace(before, after)
    path = folder / f"{model}.toml"
    path.write_text(text)
    return path


@dataclass(frozen=True)
class Built:
    """A signed bundle, its parts as files, and the keys' folder, which holds `release`."""

    shop: Path
    bundle: Path
    parts: Path
    keys: Path
    result: BuildResult


def build_trees(shop: Path, folder: Path) -> Built:
    """Build the trees' bundle, signed by `release`."""
    keys = folder / "keys"
    generate(keys / "release.key")
    project = load_project(write_project(shop))
    signers = [load_signer(keys / "release.key")]
    out, parts = folder / "till.wherry", folder / "parts"
    return Built(
        shop, out, parts, keys, build(project, out=out, signers=signers, parts_folder=parts)
    )


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


def wherry(capsys: Any, *arguments: object) -> Said:
    """Run a command in this process, as the program does."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return Said(code, said.out, said.err)
