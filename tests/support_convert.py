"""What the converter's tests share: small tables, contracts, and a model through skops."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skops.io import dumps

from wherry_contract.features import InputContract, RawMatrix
from wherry_convert.parity import Difference, between_scores, compare, row_classes
from wherry_convert.scoring import Scored
from wherry_convert.sources.base import SourceModel
from wherry_convert.sources.sklearn_file import load
from wherry_convert.to_onnx import Converted, convert

EPOCH = 1.7e9
COLORS = ("red", "green", "blue")


def numbers(count: int, *, missing: str = "refuse", **more: Any) -> InputContract:
    """A contract of `count` numbers f0, f1, ..."""
    features = [{"name": f"f{place}", "missing": missing} | more for place in range(count)]
    return InputContract.from_dict({"name": "test", "version": 1, "features": features})


def colored(**more: Any) -> InputContract:
    """A contract of a number and a color."""
    features = [
        {"name": "f0", "missing": "allow"},
        {"name": "color", "dtype": "category", "categories": list(COLORS)} | more,
    ]
    return InputContract.from_dict({"name": "test", "version": 1, "features": features})


def table(rows: int = 1500, *, gaps: float = 0.0) -> tuple[RawMatrix, NDArray[np.int64]]:
    """Raw rows that hurt: amounts, small integers, epoch seconds, tiny values; and labels."""
    make = np.random.default_rng(7)
    amount = make.lognormal(3, 1, rows)
    count = make.integers(0, 9, rows).astype(float)
    second = EPOCH + make.integers(0, 10**6, rows)
    tiny = make.normal(0, 1e-5, rows)
    ids = make.integers(2**40, 2**40 + 2000, rows).astype(float)
    logit = np.log(amount) - 3 + count / 9 - (second - EPOCH - 5e5) / 1e6 + tiny * 3e4
    label = (logit + (ids - 2**40) / 1000 + make.normal(0, 0.5, rows) > 1.5).astype(np.int64)
    raw = np.c_[amount, count, second, tiny, ids]
    raw[make.random(raw.shape) < gaps] = np.nan
    return raw, label


def fitted(model: Any, raw: Any, label: Any) -> Any:
    """The model, fitted without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a net that has not converged is good enough here
        return model.fit(raw, label)


def through_skops(model: Any) -> SourceModel:
    """The model as a file would bring it."""
    return load(dumps(model), (), trust_pickle=False)


def scored(converted: Converted) -> Scored:
    """The converted model in the runtime."""
    return Scored(
        converted.model,
        converted.needs,
        converted.encoder,
        converted.tensor,
        converted.column,
        len(converted.classes),
    )


def differences(
    source: SourceModel,
    converted: Converted,
    raw: RawMatrix,
    contract: InputContract,
    thresholds: Iterable[float] = (0.1, 0.3, 0.5),
) -> dict[str, Difference]:
    """By class of rows and threshold: what source and converted model make of them.

    Thresholds stand between scores, as a build puts them: on a tie of a forest's scores the
    last bit of a float32 sum would decide.
    """
    session = scored(converted)
    found = {}
    clean = source.scores(raw, contract)
    thresholds = [between_scores(clean, threshold) for threshold in thresholds]
    for name, rows in row_classes(raw, contract, cuts=converted.cuts, limit=1000).items():
        reference, other = source.scores(rows, contract), session.scores(rows)
        for threshold in thresholds:
            found[f"{name} at {threshold:.3g}"] = compare(reference, other, threshold)
    return found


def converted_from(model: Any, contract: InputContract) -> tuple[SourceModel, Converted]:
    """A fitted model, through a file, converted."""
    source = through_skops(model)
    return source, convert(source, contract)
