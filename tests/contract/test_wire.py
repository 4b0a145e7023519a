"""The boundary: limits, then parsing, then types; and times and versions as text."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_contract.errors import ManifestError, MessageError, WherryError
from wherry_contract.versions import in_range
from wherry_contract.when import to_seconds, to_text
from wherry_contract.wire import (
    MANIFEST,
    MAX_DEPTH,
    MESSAGE,
    Fields,
    canonical,
    compact,
    parse_json,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


REFUSED: list[tuple[str, bytes, str]] = [
    ("empty", b"", "M01"),
    ("not JSON", b"{", "M01"),
    ("a list", b"[]", "M01"),
    ("a number", b"1", "M01"),
    ("not UTF-8", b'{"a":"\xff"}', "M01"),
    ("UTF-16", '{"a":1}'.encode("utf-16"), "M01"),
    ("byte order mark", b'\xef\xbb\xbf{"a":1}', "M01"),
    ("NaN", b'{"a":NaN}', "M01"),
    ("Infinity", b'{"a":-Infinity}', "M01"),
    ("a number that becomes infinite", b'{"a":1e999}', "M01"),
    ("the same with many digits", b'{"a":' + b"9" * 400 + b".0}", "M01"),
    ("the same with both", b'{"a":' + b"9" * 299 + b"e10}", "M01"),
    ("an integer of 5,000 digits", b'{"a":' + b"1" * 5000 + b"}", "M01"),
    ("half a surrogate pair", rb'{"a":"\ud800"}', "M01"),
    ("half a pair in a name", rb'{"\uDFFF":1}', "M01"),
    ("a name twice", b'{"a":1,"a":2}', "M01"),
    ("a name twice further down", b'{"b":[{"a":1,"a":1}]}', "M01"),
    ("something behind it", b"{} {}", "M01"),
    ("a comment", b"{/**/}", "M01"),
    ("too deep", nested(MAX_DEPTH + 1), "M02"),
    ("much too deep", b'{"a":' + b"[" * 90_000, "M02"),
    ("too large", b'{"a":"' + b"x" * 100_000 + b'"}', "M02"),
]


@pytest.mark.parametrize(
    ("data", "code"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_json(data, limit=100_000, what="it")
    assert caught.value.code == code
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "data",
    [
        nested(MAX_DEPTH),
        rb'{"a":"\ud83d\ude00"}',
        b'{"a":1e308}',
        b'{"a":1e-999}',
        rb'{"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[\"{{{{{{{{"}',
    ],
    ids=["deep enough", "a whole pair", "large", "tiny", "brackets in a string"],
)
def test_what_is_taken(data: bytes) -> None:
    assert parse_json(data, limit=1000, what="it") == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"' + rb"\"" * 400_000,
        b'"' + b"\\" * 799_999,
        b"{" + b",".join(b'"%d":1' % n for n in range(60_000)) + b',"59999":1}',
    ],
    ids=["a string without an end", "backslashes without an end", "a late duplicate"],
)
def test_hostile_documents_cost_one_pass(data: bytes) -> None:
    # a quadratic reader needs minutes here; the bound is only there to tell the two apart
    begin = time.process_time()
    with pytest.raises(ManifestError):
        parse_json(data, limit=2**20, what="it")
    assert time.process_time() - begin < 10


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_writing_and_reading_back(document: dict[str, Any]) -> None:
    for write in (canonical, compact):
        data = write(document)
        assert parse_json(data, limit=10**6, what="it") == document
        assert write(parse_json(data, limit=10**6, what="it")) == data


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_read(data: bytes) -> None:
    try:
        document = parse_json(data, limit=200, what="it", domain=MESSAGE)
    except MessageError:
        return
    assert isinstance(document, dict)


def test_canonical_sorts_and_compact_does_not() -> None:
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert compact({"b": 1, "a": 1.5}) == b'{"b":1,"a":1.5}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": math.nan})


WRONG_FIELDS: list[tuple[str, Any, str]] = [
    ("text", 1, "x"),
    ("text", "y" * 5000, "x"),
    ("integer", True, "x"),
    ("integer", 1.0, "x"),
    ("integer", -1, "x"),
    ("integer", 2**53, "x"),
    ("number", "1", "x"),
    ("number", True, "x"),
    ("number", 10**400, "x"),
    ("optional_number", "1", "x"),
    ("flag", 1, "x"),
    ("items", {}, "x"),
    ("items", [0] * 4097, "x"),
    ("texts", ["a", 1], "x"),
    ("counts", [1, -1], "x"),
    ("counts", [1, True], "x"),
    ("counts", [2**53], "x"),
    ("numbers", [1, None], "x"),
    ("mapping", [], "x"),
    ("table", 1, "x"),
    ("tables", [{}, 1], "x"),
]


@pytest.mark.parametrize(("getter", "value", "name"), WRONG_FIELDS)
def test_fields_of_the_wrong_form(getter: str, value: Any, name: str) -> None:
    with pytest.raises(ManifestError, match=r"M04.*it\.x should be"):
        getattr(Fields({"x": value}, "it", MANIFEST), getter)(name)


@pytest.mark.parametrize(
    "getter",
    [
        "text",
        "integer",
        "number",
        "flag",
        "items",
        "texts",
        "counts",
        "numbers",
        "mapping",
        "table",
    ],
)
def test_fields_that_are_missing(getter: str) -> None:
    with pytest.raises(ManifestError, match=r"it\.x should be there"):
        getattr(Fields({}, "it"), getter)("x")


def test_what_nobody_asked_for_is_left() -> None:
    fields = Fields({"a": 1, "b": {"c": None}}, "it")
    assert fields.integer("a") == 1
    assert fields.rest() == {"b": {"c": None}}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("wherry/x/1", None),
        ("wherry/x/1+json", None),
        ("wherry/x/2", "M03"),
        ("wherry/x/10", "M03"),
        ("wherry/y/1", "M04"),
        ("wherry/x", "M04"),
        ("wherry/x/01", "M04"),
        ("wherry/x/0", "M04"),
        ("wherry/x/\u0661", "M04"),
        (7, "M04"),
        (["wherry/x/1"], "M04"),
    ],
)
def test_schemas(value: Any, code: str | None) -> None:
    fields = Fields({"schema": value}, "it")
    if code is None:
        assert fields.schema("wherry/x") == 1
        return
    with pytest.raises(WherryError) as caught:
        fields.schema("wherry/x")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_795_478_400.071, "2026-11-24T00:00:00.071Z"),
        (-62_135_596_800.0, "0001-01-01T00:00:00.000Z"),
        (1.9994, "1970-01-01T00:00:01.999Z"),
    ],
)
def test_time_as_text(seconds: float, text: str) -> None:
    assert to_text(seconds) == text
    assert to_seconds(text) == pytest.approx(seconds, abs=0.001)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_milliseconds_survive(milliseconds: int) -> None:
    text = to_text(milliseconds / 1000)
    assert to_text(to_seconds(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T00:00:00",
        "2026-11-24T00:00:00+00:00",
        "2026-11-24t00:00:00Z",
        "2026-11-24 00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-24T25:00:00Z",
        "2026-11-24T00:00:60Z",
        "0000-01-01T00:00:00Z",
        "2026-11-24T00:00:00.1234567Z",
        "٢٠٢٦-11-24T00:00:00Z",
        "2026-11-24T00:00:00Z\n",
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        to_seconds(text)


@pytest.mark.parametrize(
    ("version", "wanted", "answer"),
    [
        ("1.27.0", ">=1.27,<1.29", True),
        ("1.28.9", ">=1.27, <1.29", True),
        ("1.29.0", ">=1.27,<1.29", False),
        ("1.9", ">=1.27", False),
        ("1.27", "==1.27.0", True),
        ("1.27.1", "!=1.27", True),
        ("1.27", ">1.26.9.9,<=1.27", True),
        ("1.27.0rc1", ">=1.27", True),
        ("2", "", True),
    ],
)
def test_version_ranges(version: str, wanted: str, answer: bool) -> None:  # noqa: FBT001 - a row
    assert in_range(version, wanted) is answer


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("x", ">=1"),
        ("1", "1.27"),
        ("1", "~=1.27"),
        ("1", ">=1.x"),
        ("1", ">=1.2.3.4.5"),
        ("1", ">=\u0661"),
    ],
)
def test_what_is_no_range(version: str, wanted: str) -> None:
    with pytest.raises(ValueError, match="version"):
        in_range(version, wanted)
