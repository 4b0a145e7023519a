"""The compact form says what JSON says, in few bytes, and reads nothing that no writer made."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_contract import document, vector

from wherry_contract.bits import BitReader, BitWriter, CountCoder
from wherry_contract.compact import (
    KNOWN_BYTES,
    MAGIC,
    MOST_WINDOWS,
    is_compact,
    join_windows,
    place_of,
    read_window,
    split_windows,
    write_window,
)
from wherry_contract.errors import MessageError
from wherry_contract.histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS, TEMPERATURE_BINS
from wherry_contract.messages import LIMIT_BYTES, Place
from wherry_contract.profile import FeatureProfile, PairProfile, ReferenceProfile
from wherry_contract.shadow import JOINT_CELLS, MAX_DECISIONS, OFF_WORDS, ShadowCounts
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

BUNDLE = "sha256:" + "c0de" * 16
SHADOW = "sha256:" + "5ade0b0e" * 8
LARGE = 2**53 - 1


@cache
def profile_of(name: str) -> ReferenceProfile:
    return ReferenceProfile.from_bytes(vector(f"compact/{name}-profile.json"))


def read(data: bytes, profile: ReferenceProfile, bundle: str = BUNDLE) -> list[Window]:
    def find(first: bytes) -> tuple[str, ReferenceProfile]:
        if SHADOW.startswith(f"sha256:{first.hex()}"):
            return SHADOW, profile
        if first.hex() != bundle.removeprefix("sha256:")[: 2 * KNOWN_BYTES]:
            raise MessageError("G08", first.hex())
        return bundle, profile

    return [read_window(body, "shop-1", find) for body in split_windows(data)]


@pytest.mark.parametrize(
    ("name", "rows", "most"),
    [
        pytest.param("standard", 1000, 400, id="the promise at 1,000 rows"),
        pytest.param("standard", 10_000, 650, id="the promise at 10,000 rows"),
        pytest.param("credit", 1000, 400, id="real counts"),
        pytest.param("credit", 10_000, 650, id="many real counts"),
    ],
)
def test_golden_windows(name: str, rows: int, most: int) -> None:
    window = Window.from_bytes(vector(f"compact/{name}-{rows}.json"))
    data = vector(f"compact/{name}-{rows}.bin")
    assert window.rows == rows
    assert len(window.features) == 30
    assert write_window(window, profile_of(name)) == data
    assert read(data, profile_of(name), window.bundle) == [window]
    assert len(data) <= most


@pytest.mark.parametrize(("name", "most"), [("same", 60), ("other", 75)])
def test_a_shadow_costs_little(name: str, most: int) -> None:
    window = Window.from_bytes(vector(f"compact/standard-shadow-{name}.json"))
    data = vector(f"compact/standard-shadow-{name}.bin")
    assert window.shadow
    assert window.shadow.bundle == SHADOW
    assert (window.shadow.differing == 0) == (name == "same")
    assert write_window(window, profile_of("standard")) == data
    assert read(data, profile_of("standard"), window.bundle) == [window]
    assert len(data) - len(vector("compact/standard-1000.bin")) <= most


def shadow_of(chance: random.Random, rows: int) -> ShadowCounts:
    """Of rows that two models scored, each as it likes."""
    side = chance.choice([2, 2, 4, MAX_DECISIONS])
    decisions, scores, joint = [0] * side**2, [0] * SCORE_BINS, [0] * JOINT_CELLS
    live = 0
    for _ in range(rows):
        live = chance.randrange(SCORE_BINS)
        other = live if chance.random() < 0.9 else chance.randrange(SCORE_BINS)
        scores[other] += 1
        joint[live // 4 * 16 + other // 4] += 1
        decisions[chance.randrange(side**2)] += 1
    numbers = [chance.choice([0, 1, 2**40]) for _ in range(3)]
    return ShadowCounts(
        SHADOW, rows, numbers[0], numbers[1],
        tuple(decisions), tuple(scores), tuple(joint),
        latency=(0,) * live + (rows,) + (0,) * (LATENCY_BINS - 1 - live) if live < LATENCY_BINS else (0,) * LATENCY_BINS,
        cpu_ms=numbers[2], off=chance.choice(OFF_WORDS),
    )  # fmt: skip


COUNTS = st.integers(0, 60) | st.sampled_from([10**6, 2**40])


@st.composite
def counted(draw: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[Window, ReferenceProfile]:
    """Any window that a device can count, against a profile that may be nothing like it."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    rows, fallback = draw(COUNTS), draw(COUNTS)
    rows += fallback
    names = [f"X{place}" for place in range(draw(st.integers(1, 4)))]

    def split(total: int, size: int) -> tuple[int, ...]:
        ends = sorted(chance.choice([0, total, chance.randint(0, total)]) for _ in range(size - 1))
        return tuple(b - a for a, b in zip([0, *ends], [*ends, total], strict=True))

    def counts(total: int, bins: int) -> FeatureCounts:
        below, *rest, above, missing = split(total, bins + 3)
        return FeatureCounts(tuple(rest), below, above, missing)

    bins = [draw(st.sampled_from([1, 2, 10])) for _ in names]
    reference, pairs = draw(COUNTS), (names[0], names[-1])
    together = (bins[0] + 3) * (bins[-1] + 3)
    paired = draw(st.booleans()) and len(names) > 1
    profile = ReferenceProfile(
        "any",
        1,
        tuple(
            FeatureProfile(name, tuple(map(float, range(size - 1))), counts(reference, size))
            for name, size in zip(names, bins, strict=True)
        ),
        split(reference, SCORE_BINS),
        pairs=(PairProfile(pairs, split(reference, together)),) if paired else (),
    )
    scores = split(rows - fallback, SCORE_BINS)
    whole = draw(st.integers(0, 64))
    flagged = draw(
        st.sampled_from(
            [
                (),
                tuple(0 if place < whole else score for place, score in enumerate(scores)),
                tuple(chance.randint(0, score) for score in scores),
            ]
        )
    )
    opened = draw(st.integers(0, 2**42))
    seq = draw(st.integers(1, LARGE))
    window = Window(
        place=Place("shop-1", f"{draw(st.integers(0, 2**64 - 1)):016x}", seq, chance.randint(1, seq)),
        bundle=BUNDLE,
        edges=profile.edges_id,
        opened=opened / 1000,
        closed=(opened + draw(st.integers(0, 10**9))) / 1000,
        rows=rows,
        flagged=chance.randint(0, rows),
        fallback=fallback,
        errors=draw(st.dictionaries(st.sampled_from(["C03", "S05"]), st.integers(0, LARGE))),
        features={
            name: counts(rows, size) for name, size in zip(names, bins, strict=True)
        },
        scores=scores,
        latency=split(draw(COUNTS), LATENCY_BINS),
        reason=draw(st.sampled_from(["rows", "time", "switch", "stop"])),
        extra=draw(st.dictionaries(st.sampled_from(["novel", "ä"]), st.integers() | st.text())),
        classes=draw(st.sampled_from([(), split(rows - fallback, 3)])),
        flagged_scores=flagged,
        near=chance.randint(0, sum(scores) - sum(flagged)),
        memory=draw(st.sampled_from([(), split(7, MEMORY_BINS)])),
        temperature=draw(st.sampled_from([(), split(0, TEMPERATURE_BINS), split(9, TEMPERATURE_BINS)])),
        pairs={"*".join(pairs): split(rows, together)} if paired else {},
        probing=draw(st.dictionaries(st.sampled_from(["repeats", "alarms"]), st.integers(0, 9))),
        shadow=shadow_of(chance, draw(st.integers(0, 60))) if draw(st.booleans()) else None,
    )  # fmt: skip
    return Window.from_bytes(window.to_bytes()), profile


@given(counted())
def test_what_was_written_is_read(made: tuple[Window, ReferenceProfile]) -> None:
    window, profile = made
    data = write_window(window, profile)
    assert data is not None
    assert is_compact(data)
    assert read(data, profile) == [window]
    assert place_of(split_windows(data)[0]) == (window.place.spool, window.place.seq)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**53), st.integers(0, 2**53), st.integers(0, 2**53)), max_size=80
    )
)
def test_any_counts_come_back(cases: list[tuple[int, int, int]]) -> None:
    cases = [(value % (left + 1), expected % (left + 1), left) for value, expected, left in cases]
    writer = BitWriter()
    counts = CountCoder(writer)
    for case in cases:
        counts.count(*case)
    counts = CountCoder(BitReader(writer.to_bytes()))
    assert [counts.count(0, *case[1:]) for case in cases] == [case[0] for case in cases]


GOLDEN = vector("compact/standard-shadow-other.bin")
STANDARD = document("compact/standard-shadow-other.json")


@given(st.data())
def test_any_bytes_are_a_window_or_an_error(data: Any) -> None:
    """Bytes of a real window, bent; what is read all the same is what those bytes say."""
    bent = bytearray(GOLDEN)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(bent) - 1))
        kind = data.draw(st.sampled_from(["bit", "byte", "cut", "more"]))
        if kind == "bit":
            bent[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "byte":
            bent[place] = data.draw(st.sampled_from([0, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del bent[max(1, place) :]
        else:
            bent[place:place] = data.draw(st.binary(max_size=9))
    profile = profile_of("standard")
    try:
        windows = read(bytes(bent), profile, STANDARD["bundle"])
    except MessageError as error:
        assert error.code in {"G01", "G02", "G03", "G08"}  # noqa: PT017 - either is right
    else:
        again = [write_window(window, profile) or b"" for window in windows]
        assert join_windows(again) == bytes(bent)


def body(change: Callable[[bytearray], None]) -> bytes:
    """The golden window's body after a change, as a batch of one; its length stays below 16384."""
    found = bytearray(split_windows(GOLDEN)[0])
    change(found)
    return MAGIC + bytes([len(found) & 0x7F | 0x80, len(found) >> 7]) + bytes(found)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "G01", id="nothing"),
        pytest.param(MAGIC, "G01", id="no window"),
        pytest.param(b"W\x02" + GOLDEN[2:], "G03", id="a newer version"),
        pytest.param(b"W\x00" + GOLDEN[2:], "G01", id="no version"),
        pytest.param(GOLDEN + bytes(LIMIT_BYTES), "G02", id="too long"),
        pytest.param(MAGIC + GOLDEN[2:] * (MOST_WINDOWS + 1), "G02", id="too many"),
        pytest.param(GOLDEN[:-1], "G01", id="cut"),
        pytest.param(MAGIC + b"\xff" * 9, "G01", id="a length beyond all"),
        pytest.param(body(lambda b: b.insert(0, 0xF0)), "G03", id="flags of the future"),
        pytest.param(body(lambda b: b.__setitem__(2, 0)), "G08", id="another bundle"),
        pytest.param(body(lambda b: b.__setitem__(b.index(0x5A), 0)), "G08", id="another shadow"),
        pytest.param(body(lambda b: b.append(0)), "G01", id="a byte too many"),
        pytest.param(body(lambda b: b.__delitem__(slice(-1, None))), "G01", id="a byte too few"),
    ],
)  # fmt: skip
def test_what_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(MessageError) as caught:
        read(data, profile_of("standard"), STANDARD["bundle"])
    assert caught.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"edges": "sha256:" + "0" * 64}, id="other edges"),
        pytest.param({"bundle": ""}, id="of no bundle"),
        pytest.param({"features": {"X0": FeatureCounts((1000,))}}, id="other features"),
        pytest.param({"pairs": {"X0*X1": (1000,)}}, id="pairs that the profile has not"),
        pytest.param({"opened": -5.0}, id="before 1970"),
        pytest.param({"shadow": ShadowCounts(SHADOW, extra={"novel": 1})}, id="a later shadow"),
    ],
)
def test_what_only_json_can_say(change: dict[str, Any]) -> None:
    window = Window.from_bytes(vector("compact/standard-1000.json"))
    assert write_window(replace(window, **change), profile_of("standard")) is None


def test_a_batch_holds_several() -> None:
    profile = profile_of("standard")
    windows = [
        replace(
            Window.from_bytes(vector(f"compact/standard-{rows}.json")),
            place=Place("shop-1", "0" * 16, seq, 1),
        )
        for seq, rows in enumerate((1000, 10_000, 1000), 1)
    ]
    parts = [write_window(window, profile) or b"" for window in windows]
    batch = join_windows(parts)
    assert len(batch) == sum(map(len, parts)) - 2 * len(MAGIC)
    assert read(batch, profile, windows[0].bundle) == windows
