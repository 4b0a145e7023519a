"""The short way of one row reads, refuses and encodes as the general way does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from wherry_contract.encoder import Encoder, Step
from wherry_contract.errors import InputError
from wherry_contract.features import Feature, InputContract
from wherry_contract.one_row import OneRow

EDGES = [-1e9, -0.5, 0.0, 0.1, 1.0, 2.5, 1e9, 2.0**53, 1e17]
NUMBERS = InputContract("one", 1, (Feature("a", missing="allow"), Feature("b")))
SINGLE = InputContract("one", 1, (Feature("a", missing="allow"),))
KINDS = InputContract(
    "one", 1, (Feature("a"), Feature("b", "category", categories=("x", "y"), unseen="allow"))
)
ENCODERS = {
    "no steps": Encoder(NUMBERS),
    "one feature": Encoder(SINGLE, (Step("fill", "a", {"value": 1.5}),)),
    "ranks": Encoder(NUMBERS, tuple(Step("rank", name, {"edges": EDGES}) for name in "ab")),
    "filled ranks": Encoder(
        NUMBERS,
        (
            Step("fill", "a", {"value": 0.1}),
            *(Step("rank", name, {"edges": EDGES}) for name in "ab"),
        ),
    ),
    "offsets": Encoder(
        NUMBERS,
        (Step("fill", "a", {"value": 3.0}), Step("offset", "b", {"value": 1.5e9 + 0.1})),
    ),
    "a large offset": Encoder(NUMBERS, (Step("offset", "b", {"value": -3e38}),)),
    "mixed": Encoder(
        NUMBERS, (Step("rank", "a", {"edges": EDGES}), Step("clip", "b", {"low": -1, "high": 2}))
    ),
    "a category": Encoder(KINDS, (Step("codes", "b", {"values": [4.0, 7.0], "unseen": 9.0}),)),
}
numbers = st.one_of(
    st.floats(),
    st.integers(-(2**60), 2**60),
    st.sampled_from([*EDGES, 2**53 + 1, 10**400, 3.5e38, -3.5e38, -0.0, True]),
)
anything = st.one_of(
    numbers,
    st.sampled_from([None, "x", "z", Decimal(1), np.float64(0.25), np.float32(0.25), [1.0]]),
)
rows = st.dictionaries(st.sampled_from(["a", "b", "more", "unknown"]), anything)


def outcome(read: Any) -> Any:
    """What came of it, such that two of them can be compared."""
    try:
        raw, tensor = read()
    except InputError as error:
        return error.code
    return raw.tobytes(), tensor.tobytes(), tensor.dtype


@pytest.mark.parametrize("encoder", [pytest.param(e, id=name) for name, e in ENCODERS.items()])
@settings(max_examples=examples(30), deadline=None)
@given(given_=st.lists(rows, min_size=1, max_size=4))
def test_named_rows(encoder: Encoder, given_: list[Mapping[str, Any]]) -> None:
    also = frozenset({"more"})
    one = OneRow(encoder, also)
    for row in given_:

        def short(row: Mapping[str, Any] = row) -> Any:
            one.named(row)
            return one.raw, one.tensor

        def general(row: Mapping[str, Any] = row) -> Any:
            raw = encoder.contract.matrix([row], also=also)
            return raw, encoder.encode(raw)

        assert outcome(short) == outcome(general)


@pytest.mark.parametrize("encoder", [pytest.param(e, id=name) for name, e in ENCODERS.items()])
@settings(max_examples=examples(15), deadline=None)
@given(given_=st.lists(st.lists(st.floats(), max_size=3), min_size=1, max_size=4))
def test_listed_rows(encoder: Encoder, given_: list[Sequence[float]]) -> None:
    one = OneRow(encoder)
    for row in given_:

        def short(row: Sequence[float] = row) -> Any:
            one.listed(row)
            return one.raw, one.tensor

        def general(row: Sequence[float] = row) -> Any:
            raw = encoder.contract.check_matrix(np.array([row], np.float64))
            return raw, encoder.encode(raw)

        assert outcome(short) == outcome(general)


def test_integers_beyond_doubles_are_ranked_as_doubles() -> None:
    encoder = ENCODERS["ranks"]
    one = OneRow(encoder)
    one.named({"a": 2**53 + 1, "b": 0})
    assert one.tensor.tolist() == encoder.encode(np.array([[2.0**53, 0.0]])).tolist()
