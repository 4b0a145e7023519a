"""One row takes a shorter way through the encoder, and must come out the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_contract.encoder import Encoder, Step
from wherry_contract.features import Feature, InputContract

CONTRACT = InputContract(
    "one",
    1,
    (
        Feature("amount", missing="allow"),
        Feature("when", missing="allow"),
        Feature("kind", dtype="category", categories=("a", "b"), unseen="allow", missing="allow"),
    ),
)
EDGES = [-1e9, -0.5, 0.0, 0.1, 1.0, 2.5, 1e9]
STEPS = {
    "none": (),
    "fill": (Step("fill", "amount", {"value": 3.5}),),
    "offset": (Step("offset", "when", {"value": 1.5e9 + 0.1}),),
    "clip": (Step("clip", "amount", {"low": -0.5, "high": 2.5}),),
    "rank": (Step("rank", "amount", {"edges": EDGES}),),
    "codes": (Step("codes", "kind", {"values": [4.0, 7.0]}),),
    "codes with all": (
        Step("codes", "kind", {"values": [4.0, 7.0], "unseen": 9.0, "missing": 8.0}),
    ),
    "one after the other": (
        Step("fill", "amount", {"value": 0.1}),
        Step("offset", "amount", {"value": 0.1}),
        Step("rank", "amount", {"edges": EDGES}),
        Step("rank", "when", {"edges": EDGES}),
    ),
}
numbers = st.one_of(st.floats(-1e39, 1e39), st.just(np.nan), st.sampled_from(EDGES))


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in STEPS.items()])
@given(amount=numbers, when=numbers, kind=st.sampled_from([np.nan, -1.0, 0.0, 1.0]))
def test_the_same_as_among_others(
    steps: tuple[Step, ...], amount: float, when: float, kind: float
) -> None:
    encoder = Encoder(CONTRACT, steps)
    row = np.array([[amount, when, kind]])
    alone, among = encoder.encode(row), encoder.encode(np.repeat(row, 3, axis=0))
    assert alone.dtype == np.float32
    assert alone.flags.c_contiguous
    np.testing.assert_array_equal(alone, among[1:2])
    np.testing.assert_array_equal(row, [[amount, when, kind]])  # and the raw row is left as it was
