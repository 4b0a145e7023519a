"""What the tests of XGBoost and LightGBM share: random trees, and rows that hurt them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skops.io import dumps
from support_convert import differences, numbers, scored

from wherry_contract.errors import ConvertError
from wherry_contract.features import LARGEST, InputContract, RawMatrix
from wherry_convert.parity import steps_around
from wherry_convert.sources.base import SourceModel
from wherry_convert.sources.sklearn_file import load
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import Converted, convert

FLOAT32_SUM = 3e-6  # of a hundred leaves
LEAVES = 8  # of a tree, at most
TREES = 3
# ties, neighbours in float32 and float64, epoch seconds, huge, tiny, subnormal, both zeros,
# and what LightGBM takes for zero
POOL = np.array([
    0.0, -0.0, 1.0, np.nextafter(1, 2), 1 + 2.0**-24, 0.1, np.float32(0.1), -3.5, 1e-30, 5e-39,
    1.7e9, 1.7e9 + 1, 1.7e9 + 64, 2.0**24, 2.0**24 + 1, 2.0**53, 1e30, -1e30, 1e-300,
    float(np.float32(1e-35)), -float(np.float32(1e-35)), 1e-35, -1e-35, 2e-35, LARGEST, -LARGEST,
])  # fmt: skip
# codes of categories: no code, not quite one, in sets, beyond them, beyond an integer
CODES = np.array([
    -1.0, -0.99, -0.5, -0.0, 0.0, 0.5, 1.0, 1.999, 2.0, np.nextafter(2, 1), 7.0, 31.0, 32.0, 33.0,
    63.0, 64.0, 1000.0, 2.0**24 - 1, 2.0**24, 2.0**24 + 1, 2.0**31, 2.0**32 + 1, 1e30, -1e30, 1e-40,
])  # fmt: skip
MOST = 64  # codes in sets are below


@dataclass(frozen=True)
class RandomTree:
    """Nodes in order: inner ones first, then leaves; children as numbers of nodes.

    Each sum of leaves tells which leaf of each tree it came from: leaf k of tree t adds
    k * LEAVES**t / 256, which float32 holds exactly.
    """

    inner: int
    column: list[int]
    cut: list[float]
    sets: list[list[int]]
    default: list[bool]
    left: list[int]
    right: list[int]
    leaf: list[float]


def random_tree(make: np.random.Generator, number: int, cuts: NDArray[np.float64]) -> RandomTree:
    """A tree over columns 0 and 1 (numbers) and 2 (codes)."""
    inner = int(make.integers(0, LEAVES))
    # grow: split a random leaf, whose place the new inner node takes
    left, right = [-1] * inner, [-1] * inner
    free: list[tuple[int, str]] = []
    for node in range(inner):
        if node:
            parent, side = free.pop(int(make.integers(len(free))))
            (left if side == "l" else right)[parent] = node
        free += [(node, "l"), (node, "r")]
    for leaf, (parent, side) in enumerate(free):
        (left if side == "l" else right)[parent] = inner + leaf
    return RandomTree(
        inner,
        [int(c) for c in make.integers(0, 3, inner)],
        [float(c) for c in make.choice(cuts, inner)],
        [sorted({int(c) for c in make.integers(0, MOST, 5)} | {1}) for _ in range(inner)],
        [bool(d) for d in make.integers(0, 2, inner)],
        left,
        right,
        [k * LEAVES**number / 256 for k in range(inner + 1)],
    )


def hard_rows(converted: Converted, count: int = 600) -> RawMatrix:
    """Rows of values that hurt, each column with gaps: two of numbers, one of codes."""
    make = np.random.default_rng(0)
    around = [np.clip(steps_around(cuts), -LARGEST, LARGEST) for cuts in converted.cuts.values()]
    values = np.concatenate([POOL, *around, [np.nan]])
    codes = np.concatenate([CODES, np.arange(MOST), [np.nan]])
    return np.c_[make.choice(values, (count, 2)), make.choice(codes, count)]


TO: dict[str, Callable[[SourceModel, InputContract], Converted]] = {
    "onnx": convert,
    "tflite": convert_tflite,
}


def need(runtime: str) -> None:
    """Skip where the extra for TFLite is absent."""
    if runtime == "tflite":
        for library in ("ai_edge_litert", "tflite"):
            pytest.importorskip(library, reason="the extra tflite is absent; make test-frameworks")


def assert_every_path(source: SourceModel, contract: InputContract, runtime: str) -> None:
    """Each row reaches the same leaf of each tree: their sums differ by 1/256 or more."""
    converted = TO[runtime](source, contract)
    rows = hard_rows(converted)
    gap = np.abs(source.scores(rows, contract) - scored(converted).scores(rows))
    assert gap.max() < 1e-6, rows[np.argmax(gap)]


def assert_same(
    source: SourceModel, raw: Any, contract: InputContract, runtime: str = "onnx"
) -> Converted:
    """No decision flips on any class of rows, and scores differ by float32 sums only."""
    converted = TO[runtime](source, contract)
    found = differences(source, converted, raw, contract)
    assert {name: d.flips for name, d in found.items() if d.flips} == {}
    assert max(d.largest for d in found.values()) < FLOAT32_SUM
    return converted


def damaged(data: bytes, seed: int) -> bytes:
    """A file with a few bytes changed or lost."""
    make = np.random.default_rng(seed)
    found = bytearray(data)
    for _ in range(int(make.integers(1, 4))):
        place = int(make.integers(len(found)))
        way = int(make.integers(3))
        if way == 2:
            del found[place : place + int(make.integers(1, 9))]
        else:
            found[place] = int(make.integers(256)) if way else ord(str(make.integers(10)))
    return bytes(found)


def assert_no_harm(read: Callable[[bytes], SourceModel], data: bytes) -> None:
    """A damaged file is refused, or is still a model; it never ends the process."""
    contract = numbers(3, missing="allow")
    rows = np.concatenate([np.full((1, 3), np.nan), np.eye(3) * 40])
    for seed in range(150):
        try:
            source = read(damaged(data, seed))
            source.scores(rows, contract)
            convert(source, contract)
        except ConvertError as error:
            assert error.code in {"K01", "K02", "K04", "K07"}  # noqa: PT017 - most are refused, some are not


def piped(model: Any, *more: str) -> SourceModel:
    """A pipeline through a skops file, whose foreign types are trusted on purpose."""
    return load(dumps(model), more, trust_pickle=False)


def shop(rows: int = 1200) -> tuple[Any, InputContract, RawMatrix, NDArray[np.int64]]:
    """A data frame with names and categories, its contract, its raw matrix, and labels."""
    import pandas as pd

    make = np.random.default_rng(3)
    amount = make.lognormal(3, 1, rows)
    names = ("EUR", "USD", "GBP", "CHF", "SEK", "NOK")
    code, kind = make.integers(0, 6, rows).astype(float), make.integers(0, 3, rows).astype(float)
    code[make.random(rows) < 0.1] = np.nan
    label = ((np.log(amount) + np.isin(code, [1, 4]) - (kind == 1) > 3.4) * 1).astype(np.int64)
    label = np.where(make.random(rows) < 0.05, 1 - label, label)
    frame = pd.DataFrame(
        {
            "amount": amount,
            "currency": pd.Categorical.from_codes(np.where(np.isnan(code), -1, code).astype(int), list(names)),
            "kind": pd.Categorical(np.array(["chip", "stripe", "online"])[kind.astype(int)]),
        }
    )  # fmt: skip
    # the order of the contract's lists is its own, and one name is new to the model
    listed = ("NOK", "EUR", "JPY", "USD", "CHF", "GBP", "SEK")
    features = [
        {"name": "kind", "dtype": "category", "categories": ["chip", "stripe", "online"]},
        {"name": "amount"},
        {
            "name": "currency",
            "dtype": "category",
            "categories": list(listed),
            "missing": "allow",
            "unseen": "allow",
        },
    ]
    contract = InputContract.from_dict({"name": "shop", "version": 1, "features": features})
    places = np.array([listed.index(name) for name in names], float)
    coded = np.where(np.isnan(code), np.nan, places[np.nan_to_num(code).astype(int)])
    return frame, contract, np.c_[kind, amount, coded], label
