"""Which devices a selector means: rows, and what holds of every selector."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.selectors import Selector, Term, parse
from wherry_contract.errors import RolloutError

PI = {"board": "pi3", "site": "7"}


@pytest.mark.parametrize(
    ("text", "groups", "meant"),
    [
        pytest.param("", (), True, id="nothing asked: everybody"),
        pytest.param("board=pi3", (), True, id="a label"),
        pytest.param("board=pi4", (), False, id="another value"),
        pytest.param("board=pi4|pi3", (), True, id="one of two"),
        pytest.param("board=pi3,site=8", (), False, id="all must hold"),
        pytest.param("site!=7", (), False, id="not this"),
        pytest.param("site!=8|9", (), True, id="neither of two"),
        pytest.param("shelf!=2", (), True, id="who has no such label is not it"),
        pytest.param("board", (), True, id="has one"),
        pytest.param("!board", (), False, id="has none"),
        pytest.param("!shelf", (), True, id="has none, indeed"),
        pytest.param("group=pilot", ("pilot", "early"), True, id="in a group"),
        pytest.param("group=pilot", ("early",), False, id="in another"),
        pytest.param("group!=pilot", (), True, id="in none"),
        pytest.param("device=till-1|till-2", (), True, id="by id"),
        pytest.param(" board = pi3 , site = 7 ", (), True, id="with spaces"),
    ],
)
def test_who_is_meant(text: str, groups: tuple[str, ...], meant: bool) -> None:  # noqa: FBT001 - a row
    assert parse(text).holds("till-1", PI, groups) is meant


def test_a_group_may_be_a_label_too() -> None:
    assert parse("group=pilot").holds("a", {"group": "pilot"}, ("early",))


@pytest.mark.parametrize(
    "text", [",", "=x", "a=", "a==b", "a=b=c", "!a=b", "a|b", "a=|", "a=b,", "a;b", "!", "x" * 3000]
)
def test_what_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(RolloutError) as caught:
        parse(text)
    assert caught.value.code == "R06"


words = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9 ._/-]{0,5}[A-Za-z0-9])?", fullmatch=True)
terms = st.builds(
    Term, words, st.lists(words, max_size=3).map(lambda v: tuple(sorted(set(v)))), st.booleans()
)
selectors = st.lists(terms, max_size=5).map(lambda found: Selector(tuple(found)))
label_sets = st.dictionaries(words, words, max_size=4)


@given(selectors)
def test_what_is_written_is_read_back(selector: Selector) -> None:
    assert parse(str(selector)) == selector


@given(terms, words, label_sets, st.lists(words, max_size=3))
def test_a_condition_and_its_opposite_part_the_fleet(
    term: Term, device: str, labels: dict[str, str], groups: list[str]
) -> None:
    opposite = Term(term.name, term.values, not term.negated)
    who = (device, labels, groups)
    assert Selector((term,)).holds(*who) is not Selector((opposite,)).holds(*who)


@given(st.text(max_size=40))
def test_whatever_is_typed_is_read_or_refused(text: str) -> None:
    with suppress(RolloutError):  # R06, as above; nothing else is raised
        assert parse(str(parse(text))) == parse(text)
