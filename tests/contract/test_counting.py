"""Slots are exclusive, sums are exact in any order, and device and host count alike."""

from __future__ import annotations

import bisect
import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support_contract import golden_parts

from wherry_contract.errors import ManifestError
from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import (
    LATENCY_EDGES_US,
    SCORE_EDGES,
    latency_bin,
    latency_bins,
    latency_quantile,
    score_bins,
)
from wherry_contract.profile import ReferenceProfile, build_profile, quantile_edges
from wherry_contract.slots import FeatureCounts, SlotCounter

AMOUNT = Feature("AMOUNT", minimum=-10.0, maximum=10.0, missing="allow")
OPEN = Feature("OPEN", missing="allow")
KIND = Feature("KIND", "category", categories=("a", "b", "c"), missing="allow", unseen="allow")
ROAD = InputContract("road", 1, (AMOUNT, OPEN, KIND))
EDGES = ((-5.0, 0.0, 5.0), (0.25, 0.75), ())

NUMBER = (
    st.none() | st.sampled_from([-10.0, -5.0, 0.0, -0.0, 5.0, 10.0, 0.25]) | st.floats(-1e30, 1e30)
)
ROW = st.tuples(NUMBER, NUMBER, st.none() | st.sampled_from(["a", "b", "c", "zzz"]))
ROWS = st.lists(ROW, max_size=40)


def matrix(rows: list[tuple[Any, ...]]) -> NDArray[np.float64]:
    return ROAD.matrix([dict(zip(ROAD.names, row, strict=True)) for row in rows])


def count(*blocks: NDArray[np.float64]) -> tuple[FeatureCounts, ...]:
    counter = SlotCounter(ROAD.features, EDGES)
    slots = counter.zeros()
    for block in blocks:
        counter.add(slots, block)
    return counter.split(slots)


def by_hand(feature: Feature, edges: tuple[float, ...], values: list[Any]) -> FeatureCounts:
    """The sentence of SPEC-drift.md, value by value."""
    bins = [0] * (len(feature.categories) or len(edges) + 1)
    below = above = missing = 0
    for value in values:
        if value is None:
            missing += 1
        elif feature.dtype == "category":
            if value in feature.categories:
                bins[feature.categories.index(value)] += 1
            else:
                below += 1
        elif feature.minimum is not None and value < feature.minimum:
            below += 1
        elif feature.maximum is not None and value > feature.maximum:
            above += 1
        else:
            bins[bisect.bisect_left(edges, value)] += 1
    return FeatureCounts(tuple(bins), below, above, missing)


@given(ROWS)
def test_slots_are_what_the_specification_says(rows: list[tuple[Any, ...]]) -> None:
    expected = [
        by_hand(feature, edges, [row[place] for row in rows])
        for place, (feature, edges) in enumerate(zip(ROAD.features, EDGES, strict=True))
    ]
    found = count(matrix(rows))
    assert list(found) == expected
    assert all(counts.rows == len(rows) for counts in found)


@given(ROWS, st.lists(st.integers(0, 40), max_size=5), st.randoms())
def test_sums_do_not_depend_on_order_or_blocks(
    rows: list[tuple[Any, ...]], cuts: list[int], chance: Any
) -> None:
    whole = count(matrix(rows))
    shuffled = list(rows)
    chance.shuffle(shuffled)
    ends = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    blocks = [matrix(shuffled[a:b]) for a, b in pairwise(ends)]
    assert count(*blocks) == whole
    # and windows that are counted apart add up to the same
    merged = count(matrix([]))
    for block in blocks:
        merged = tuple(a + b for a, b in zip(merged, count(block), strict=True))
    assert merged == whole


@given(ROWS)
def test_counts_survive_the_wire(rows: list[tuple[Any, ...]]) -> None:
    from wherry_contract.wire import Fields

    for counts in count(matrix(rows)):
        document = json.loads(json.dumps(counts.to_dict()))
        assert FeatureCounts.from_fields(Fields(document, "counts")) == counts


def test_counts_of_other_bins_do_not_add_up() -> None:
    with pytest.raises(ValueError):
        FeatureCounts((1, 2)) + FeatureCounts((1, 2, 3))


@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=300),
    st.integers(2, 12),
)
def test_edges_by_quantiles(values: list[float], bins: int) -> None:
    column = np.array(values)
    edges = quantile_edges(column, bins, least=0.02)
    assert list(edges) == sorted(set(edges))
    assert len(edges) < bins
    content = np.bincount(np.searchsorted(edges, column), minlength=len(edges) + 1)
    assert content.min() >= max(1, 0.02 * len(values))


def test_equal_frequencies_where_values_allow() -> None:
    assert quantile_edges(np.arange(100.0), 4) == (24.0, 49.0, 74.0)


def test_a_value_that_fills_a_bin_gets_its_own() -> None:
    column = np.array([0.0] * 700 + list(range(1, 301)))
    edges = quantile_edges(column, 4)
    assert edges[0] == 0.0
    assert len(edges) == 3


def test_one_value_gives_one_bin() -> None:
    assert quantile_edges(np.zeros(100)) == ()


def profile() -> ReferenceProfile:
    chance = np.random.default_rng(7)
    raw = np.column_stack(
        [chance.normal(0, 4, 500), chance.uniform(0, 1, 500), chance.integers(-1, 3, 500)]
    ).astype(float)
    raw[::50, 1] = np.nan
    return build_profile(ROAD, raw, chance.uniform(0, 1, 500), 0.9)


def test_a_profile_counts_its_own_rows() -> None:
    made = profile()
    assert made.rows == 500
    assert sum(made.scores) == 500
    assert 20 < made.flagged < 90
    assert made.features[1].counts.missing == 10
    made.check(ROAD)


def test_a_profile_survives_with_what_it_does_not_know() -> None:
    document = json.loads(profile().to_bytes()) | {"made_by": "me"}
    document["features"][0]["note"] = [1]
    data = json.dumps(document).encode()
    read = ReferenceProfile.from_bytes(data)
    assert json.loads(read.to_bytes()) == document
    assert ReferenceProfile.from_bytes(read.to_bytes()) == read


def test_edges_are_named_and_counts_are_not() -> None:
    made = profile()
    more = replace(
        made,
        scores=(1,) * 64,
        features=tuple(replace(f, counts=f.counts + f.counts) for f in made.features),
    )
    moved = replace(made, features=(replace(made.features[0], edges=(1.0,)), *made.features[1:]))
    assert more.edges_id == made.edges_id
    assert replace(made, version=2).edges_id != made.edges_id
    assert moved.edges_id != made.edges_id


def test_minus_zero_is_zero_in_an_edge() -> None:
    made = golden_parts().profile
    plus, minus = (
        replace(made, features=(replace(made.features[0], edges=(zero,)),)) for zero in (0.0, -0.0)
    )
    assert plus.edges_id == minus.edges_id


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schema": "wherry/profile/2"}, "M03"),
        ({"schema": "wherry/golden/1"}, "M04"),
        ({"scores": [1, 2]}, "M04"),
        ({"scores": [0] * 63 + [-1]}, "M04"),
        ({"features": [{"name": "X", "edges": [2, 1], "bins": [1, 1, 1]}]}, "M04"),
        ({"features": [{"name": "X", "edges": [1, 1], "bins": [1, 1, 1]}]}, "M04"),
        ({"features": [{"name": "X", "bins": [1.5]}]}, "M04"),
        ({"features": [{"name": "X"}]}, "M04"),
        ({"flagged": -1}, "M04"),
    ],
)
def test_profiles_that_are_wrong(change: dict[str, Any], code: str) -> None:
    data = json.dumps(json.loads(profile().to_bytes()) | change).encode()
    with pytest.raises(ManifestError) as caught:
        ReferenceProfile.from_bytes(data)
    assert caught.value.code == code


def test_profiles_of_another_contract() -> None:
    made = profile()
    first, second, third = made.features
    wrong = [
        replace(made, contract="other"),
        replace(made, version=2),
        replace(made, features=(first, second)),
        replace(made, features=(replace(first, edges=(1.0,)), second, third)),
        replace(made, features=(first, second, replace(third, edges=(1.0, 2.0)))),
        replace(made, features=(first, second, replace(third, counts=third.counts + third.counts))),
    ]
    for profile_ in wrong:
        with pytest.raises(ManifestError, match="M08"):
            profile_.counter(ROAD)


# --- fixed bins


def test_score_bins_are_quarters_of_log_odds() -> None:
    for place in range(64):
        middle = (place + 0.5) / 4 - 8
        assert score_bins(1 / (1 + math.exp(-middle))) == place
    assert score_bins([0.0, 0.5, 1.0]).tolist() == [0, 32, 63]
    assert score_bins(SCORE_EDGES).tolist() == list(range(1, 64))
    assert score_bins(np.nextafter(SCORE_EDGES, 0)).tolist() == list(range(63))


def test_latency_bins_are_half_octaves() -> None:
    for microseconds in [0.0, 0.1, 1.0, *np.geomspace(1.001, 1e7, 997).tolist()]:
        expected = np.searchsorted(LATENCY_EDGES_US, microseconds, side="right")
        assert latency_bin(microseconds) == expected
    # whole octaves are exact doubles, so an edge belongs to the bin above
    assert [latency_bin(2.0**place) for place in range(21)] == [min(39, 2 * p) for p in range(21)]


def test_latency_quantiles() -> None:
    counts = np.zeros(40, np.int64)
    assert math.isnan(latency_quantile(counts, 0.5))
    counts[10], counts[20] = 90, 10
    assert latency_quantile(counts, 0.5) == LATENCY_EDGES_US[10]
    assert latency_quantile(counts, 0.9) == LATENCY_EDGES_US[10]
    assert latency_quantile(counts, 0.95) == LATENCY_EDGES_US[20]
    counts[39] = 1000
    assert latency_quantile(counts, 0.99) == LATENCY_EDGES_US[38]


@given(
    st.lists(st.floats(0, 1e9) | st.sampled_from([*LATENCY_EDGES_US.tolist(), 1.0, 2.0, 1024.0]))
)
def test_latencies_of_many_are_those_of_each(values: list[float]) -> None:
    assert latency_bins(values).tolist() == [latency_bin(value) for value in values]


WIDE = Feature("WIDE", "category", categories=tuple(f"c{n}" for n in range(60)), unseen="allow")
PAIRED = InputContract("paired", 1, (AMOUNT, KIND, OPEN, WIDE))
PAIRS = (("AMOUNT", "KIND"), ("OPEN", "AMOUNT"))
PAIRED_ROW = st.tuples(ROW, st.sampled_from(["c0", "c59", "other"]))


@given(st.lists(PAIRED_ROW, max_size=300), st.integers(1, 300))
def test_pairs_are_counted_as_their_slots_say(rows: list[Any], size: int) -> None:
    """Blocks of any size, beside a feature with more bins than the kernel takes at once."""
    raw = PAIRED.matrix(
        [{"AMOUNT": row[0], "KIND": row[2], "OPEN": row[1], "WIDE": wide} for row, wide in rows]
    )
    edges = (EDGES[0], (), EDGES[1], ())
    counter = SlotCounter(PAIRED.features, edges, ((0, 1), (2, 0)))
    cells = counter.zeros()
    for start in range(0, len(raw), size):
        counter.add(cells, raw[start : start + size])
    features = counter.split(cells)
    places = [
        [by_hand(feature, edges[j], [value]).slots.index(1) for value in column]
        for j, (feature, column) in enumerate(
            [
                (AMOUNT, [row[0] for row, _ in rows]),
                (KIND, [row[2] for row, _ in rows]),
                (OPEN, [row[1] for row, _ in rows]),
                (WIDE, [wide for _, wide in rows]),
            ]
        )
    ]
    for item, column in zip(features, places, strict=True):
        assert list(item.slots) == np.bincount(column, minlength=len(item.slots)).tolist()
    for (first, second), found in zip(((0, 1), (2, 0)), counter.split_pairs(cells), strict=True):
        shape = len(features[first].slots), len(features[second].slots)
        table = np.zeros(shape, int)
        np.add.at(table, (places[first], places[second]), 1)
        assert found == tuple(table.ravel().tolist())


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        pytest.param([("AMOUNT", "NONE")], "no pair", id="no such feature"),
        pytest.param([("AMOUNT", "AMOUNT")], "no pair", id="with itself"),
        pytest.param([("AMOUNT", "KIND"), ("KIND", "AMOUNT")], "each once", id="twice"),
        pytest.param([("AMOUNT", "WIDE")], "cells", id="too many cells"),
    ],
)
def test_pairs_that_are_refused(pairs: list[tuple[str, str]], words: str) -> None:
    raw = np.random.default_rng(0).random((500, 4))
    with pytest.raises(ManifestError, match=words):
        build_profile(PAIRED, raw, raw[:, 0], 0.5, pairs=pairs)


def test_a_profile_with_pairs_is_written_and_read() -> None:
    raw = np.random.default_rng(0).random((500, 4))
    made = build_profile(PAIRED, raw, raw[:, 0], 0.5, pairs=PAIRS)
    read = ReferenceProfile.from_bytes(made.to_bytes())
    assert read == made
    read.check(PAIRED)
    plain = build_profile(PAIRED, raw, raw[:, 0], 0.5)
    assert read.edges_id == plain.edges_id  # what is added up does not depend on pairs
    short = replace(read.pairs[0], counts=read.pairs[0].counts[:-1])
    for wrong in (
        short,
        replace(short, counts=(*short.counts, 7)),
        replace(short, features=("A", "B")),
    ):
        with pytest.raises(ManifestError, match="M08"):
            replace(read, pairs=(wrong,)).check(PAIRED)
