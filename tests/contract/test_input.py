"""Rows against the input contract, the encoder's steps, the fallback rule."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_contract.encoder import Encoder, Step
from wherry_contract.errors import InputError, ManifestError
from wherry_contract.features import LARGEST, Feature, InputContract
from wherry_contract.rule import Condition, Rule
from wherry_contract.wire import Fields

AMOUNT = Feature("AMOUNT", minimum=0.0, maximum=1000.0)
RISK = Feature("RISK", missing="allow")
KIND = Feature("KIND", "category", categories=("food", "fuel"), missing="allow", unseen="allow")
STRICT = Feature("STRICT", "category", categories=("a",))
ROAD = InputContract("road", 1, (AMOUNT, RISK, KIND))


@pytest.mark.parametrize(
    ("feature", "value", "cell"),
    [
        (AMOUNT, 1.5, 1.5),
        (AMOUNT, 2, 2.0),
        (AMOUNT, True, 1.0),
        (AMOUNT, -5e20, -5e20),
        (AMOUNT, LARGEST, LARGEST),
        (RISK, None, math.nan),
        (RISK, math.nan, math.nan),
        (KIND, "food", 0.0),
        (KIND, "fuel", 1.0),
        (KIND, "toys", -1.0),
        (KIND, None, math.nan),
    ],
)
def test_values_that_fit(feature: Feature, value: Any, cell: float) -> None:
    np.testing.assert_equal(feature.read(value), cell)


@pytest.mark.parametrize(
    ("feature", "value", "code"),
    [
        (AMOUNT, None, "C02"),
        (AMOUNT, math.nan, "C02"),
        (AMOUNT, "1", "C03"),
        (AMOUNT, [1], "C03"),
        (AMOUNT, {}, "C03"),
        (AMOUNT, math.inf, "C04"),
        (AMOUNT, -math.inf, "C04"),
        (AMOUNT, 1e39, "C04"),
        (AMOUNT, 10**400, "C04"),
        (STRICT, None, "C02"),
        (STRICT, 1, "C03"),
        (STRICT, True, "C03"),
        (STRICT, "b", "C05"),
    ],
)
def test_values_that_do_not(feature: Feature, value: Any, code: str) -> None:
    with pytest.raises(InputError) as caught:
        feature.read(value)
    assert caught.value.code == code
    assert feature.name in caught.value.detail


def test_rows_by_name() -> None:
    table = ROAD.matrix(
        [{"KIND": "fuel", "AMOUNT": 3}, {"AMOUNT": 1, "RISK": 0.5, "id": "x"}],
        also=frozenset({"id"}),
    )
    np.testing.assert_array_equal(table, [[3, math.nan, 1], [1, 0.5, math.nan]])
    assert table.dtype == np.float64


def test_rows_and_columns_agree() -> None:
    rows = [{"AMOUNT": 3, "RISK": None, "KIND": "toys"}, {"AMOUNT": 1, "RISK": 2, "KIND": "food"}]
    columns = {name: [row[name] for row in rows] for name in ROAD.names}
    np.testing.assert_array_equal(ROAD.matrix(rows), ROAD.columns(columns))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "code", "where"),
    [
        ([{"AMOUNT": 1}, {"AMOUNT": 1, "AMUONT": 2}], "C01", "row 1"),
        ([{"AMOUNT": 1}, {}], "C02", "row 1"),
        ([{"AMOUNT": "x"}], "C03", "row 0"),
    ],
)
def test_a_wrong_row_is_named(rows: list[Any], code: str, where: str) -> None:
    with pytest.raises(InputError, match=where) as caught:
        ROAD.matrix(rows)
    assert caught.value.code == code


def test_columns_of_unequal_length() -> None:
    with pytest.raises(InputError, match="C06"):
        ROAD.columns({"AMOUNT": [1.0], "RISK": [1.0, 2.0]})
    with pytest.raises(InputError, match="C06"):
        ROAD.columns({})


NUMBERS = InputContract("numbers", 1, (AMOUNT, RISK))


@pytest.mark.parametrize(
    ("contract", "table", "code"),
    [
        (NUMBERS, [1.0, 2.0], "C06"),
        (NUMBERS, [[1.0]], "C06"),
        (NUMBERS, [[1.0, math.inf]], "C04"),
        (NUMBERS, [[math.nan, 1.0]], "C02"),
        (ROAD, [[1.0, 1.0, 1.0]], "C03"),
    ],
)
def test_tensors_that_do_not_fit(contract: InputContract, table: Any, code: str) -> None:
    with pytest.raises(InputError) as caught:
        contract.check_matrix(np.array(table, np.float64))
    assert caught.value.code == code


def test_a_tensor_that_fits() -> None:
    table = np.array([[1.0, math.nan]])
    assert NUMBERS.check_matrix(table) is table


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "string"},
        {"dtype": "category"},
        {"dtype": "category", "categories": ["a", "a"]},
        {"categories": ["a"]},
        {"minimum": 2, "maximum": 1},
        {"minimum": "0"},
        {"missing": "guess"},
        {"name": "1x"},
        {"name": "x" * 65},
        {"supplied_by": "nobody"},
    ],
)
def test_features_that_are_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="M04"):
        Feature.from_fields(Fields({"name": "X"} | change, "feature"))


def test_names_are_their_own() -> None:
    two = [{"name": "X"}, {"name": "X"}]
    for features in ([], two):
        with pytest.raises(ManifestError, match="M04"):
            InputContract.from_dict({"name": "c", "version": 1, "features": features})


def test_unknown_fields_of_a_contract_survive() -> None:
    document = ROAD.to_dict() | {"owner": "risk team"}
    document["features"][0] |= {"why": {"law": 7}}
    assert InputContract.from_dict(document).to_dict() == document


def test_the_digest_follows_the_meaning() -> None:
    wider = replace(ROAD, features=(replace(AMOUNT, maximum=2000.0), RISK, KIND))
    assert ROAD.digest == replace(ROAD).digest
    assert ROAD.digest != wider.digest


# --- encoder


def steps(*items: dict[str, Any]) -> list[Fields]:
    return [Fields(item, "step") for item in items]


@pytest.mark.parametrize(
    "items",
    [
        [{"op": "run", "feature": "AMOUNT"}],
        [{"op": "fill", "feature": "AMOUNT"}],
        [{"op": "fill", "feature": "NOBODY", "value": 0}],
        [{"op": "clip", "feature": "AMOUNT", "low": 2, "high": 1}],
        [{"op": "rank", "feature": "AMOUNT", "edges": [1, 1]}],
        [{"op": "codes", "feature": "KIND", "values": [1]}],
        [{"op": "codes", "feature": "AMOUNT", "values": []}],
        [
            {"op": "fill", "feature": "KIND", "value": 7},
            {"op": "codes", "feature": "KIND", "values": [1, 2]},
        ],
        [{"op": "codes", "feature": "KIND", "values": [1, 2]}] * 2,
    ],
    ids=[
        "unknown step",
        "no value",
        "unknown feature",
        "upside down",
        "edges not ascending",
        "too few codes",
        "codes on a number",
        "codes after something",
        "codes twice",
    ],
)
def test_steps_that_are_wrong(items: list[dict[str, Any]]) -> None:
    with pytest.raises(ManifestError, match="M04"):
        Encoder.from_fields(steps(*items), ROAD, Fields({}, "wherry.json"))


def test_steps_survive_with_what_they_do_not_know() -> None:
    items: list[dict[str, Any]] = [
        {"op": "codes", "feature": "KIND", "values": [1.0, 2.0], "unseen": 0.0, "note": "x"},
        {"op": "clip", "feature": "AMOUNT", "low": 0.0, "high": 1.0},
    ]
    found = Encoder.from_fields(steps(*items), ROAD, Fields({}, "wherry.json"))
    assert found.to_list() == items


def test_the_raw_matrix_is_left_alone() -> None:
    raw = np.array([[5.0, math.nan, 0.0]])
    before = raw.copy()
    encoder = Encoder(ROAD, (Step("fill", "RISK", {"value": 1.0}),))
    assert encoder.encode(raw).tolist() == [[5.0, 1.0, 0.0]]
    np.testing.assert_array_equal(raw, before)


@given(st.lists(st.floats(-1e30, 1e30) | st.none(), min_size=1, max_size=30))
def test_rows_are_encoded_one_by_one(values: list[float | None]) -> None:
    contract = InputContract("one", 1, (RISK,))
    encoder = Encoder(
        contract,
        (
            Step("offset", "RISK", {"value": 10.0}),
            Step("clip", "RISK", {"low": -1e6, "high": 1e6}),
            Step("rank", "RISK", {"edges": [-5.0, 0.0, 5.0]}),
        ),
    )
    raw = contract.matrix([{"RISK": value} for value in values])
    alone = [encoder.encode(row[None, :])[0] for row in raw]
    np.testing.assert_array_equal(encoder.encode(raw), alone)
    assert encoder.encode(raw).flags.c_contiguous
    assert encoder.encode(raw).dtype == np.float32


# --- rule


def rule(join: str, *conditions: Condition) -> Rule:
    return Rule(conditions, join)


@pytest.mark.parametrize(
    ("made", "flags"),
    [
        (rule("any", Condition("AMOUNT", ">", 10.0)), [0, 1, 1, 0]),
        (rule("any", Condition("AMOUNT", ">=", 10.0)), [1, 1, 1, 0]),
        (rule("any", Condition("AMOUNT", "<", 10.0)), [0, 0, 0, 1]),
        (rule("any", Condition("AMOUNT", "<=", 10.0)), [1, 0, 0, 1]),
        (rule("any", Condition("RISK", ">", 0.5)), [1, 0, 0, 0]),
        (rule("any", Condition("RISK", "<", 0.5)), [0, 1, 0, 0]),
        (rule("any", Condition("KIND", "==", "fuel")), [0, 1, 0, 0]),
        (
            rule("any", Condition("AMOUNT", "==", 10.0), Condition("KIND", "==", "food")),
            [1, 0, 1, 0],
        ),
        (
            rule("all", Condition("AMOUNT", ">", 10.0), Condition("KIND", "==", "fuel")),
            [0, 1, 0, 0],
        ),
        (rule("any"), [0, 0, 0, 0]),
        (rule("all"), [0, 0, 0, 0]),
    ],
    ids=str,
)
def test_what_a_rule_flags(made: Rule, flags: list[int]) -> None:
    raw = ROAD.matrix(
        [
            {"AMOUNT": 10, "RISK": 1, "KIND": "toys"},
            {"AMOUNT": 11, "RISK": 0, "KIND": "fuel"},
            {"AMOUNT": 1e9, "KIND": "food"},
            {"AMOUNT": -1, "RISK": 0.5},
        ]
    )
    assert made.flags(raw, ROAD).tolist() == [bool(flag) for flag in flags]


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ({"feature": "NOBODY", "op": ">", "value": 1}, "M08"),
        ({"feature": "AMOUNT", "op": "==", "value": "fuel"}, "M08"),
        ({"feature": "KIND", "op": "==", "value": "toys"}, "M08"),
        ({"feature": "KIND", "op": "==", "value": 1}, "M08"),
        ({"feature": "KIND", "op": ">", "value": "food"}, "M08"),
        ({"feature": "AMOUNT", "op": "!=", "value": 1}, "M04"),
        ({"feature": "AMOUNT", "op": ">"}, "M04"),
        ({"feature": "AMOUNT", "op": ">", "value": None}, "M04"),
        ({"feature": "AMOUNT", "op": ">", "value": True}, "M04"),
    ],
)
def test_rules_that_are_wrong(condition: dict[str, Any], code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Rule.from_fields(Fields({"conditions": [condition]}, "fallback"), ROAD)
    assert caught.value.code == code


def test_a_rule_survives_with_what_it_does_not_know() -> None:
    document = {
        "join": "all",
        "conditions": [{"feature": "AMOUNT", "op": ">", "value": 220.0, "since": 2019}],
        "author": "desk",
    }
    assert Rule.from_fields(Fields(document, "fallback"), ROAD).to_dict() == document


def test_a_rule_in_words() -> None:
    made = rule("all", Condition("AMOUNT", ">", 220.0), Condition("KIND", "==", "fuel"))
    assert str(made) == "AMOUNT > 220 and KIND == fuel"
