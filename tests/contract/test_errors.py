"""The catalogue of errors: one tree, one letter for each leaf, nothing without a cure."""

from __future__ import annotations

import re

import pytest

from wherry_contract import errors
from wherry_contract.errors import _ROWS, CODES, BundleError, TrustError, WherryError
from wherry_contract.extras import how_to_install, install_words

LEAVES = {
    "B": errors.BundleError,
    "M": errors.ManifestError,
    "C": errors.InputError,
    "T": errors.TrustError,
    "I": errors.IdentityError,
    "G": errors.MessageError,
    "U": errors.UpdateError,
    "P": errors.ProbeError,
    "S": errors.ServingError,
    "L": errors.LinkError,
    "D": errors.StoreError,
    "K": errors.ConvertError,
    "Q": errors.GateError,
    "R": errors.RolloutError,
    "H": errors.SetupError,
}


def test_every_code_stands_once() -> None:
    assert len(_ROWS) == len(CODES)


def test_every_letter_has_a_leaf_and_every_leaf_a_letter() -> None:
    assert {code[0] for code in CODES} == set(LEAVES)
    assert set(WherryError.__subclasses__()) == set(LEAVES.values())


@pytest.mark.parametrize("letter", LEAVES)
def test_codes_of_a_letter_count_up(letter: str) -> None:
    numbers = [int(code[1:]) for code in CODES if code[0] == letter]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("code", CODES)
def test_a_row_says_what_happened_and_what_to_do(code: str) -> None:
    entry = CODES[code]
    assert re.fullmatch(r"[A-Z][0-9]{2}", entry.code)
    for text in (entry.title, entry.cure):
        assert text
        assert not text.endswith(".")
        assert text == text.strip()


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    said = dict(re.findall(r"[├└]── (\w+) +([A-Z])\.\.", errors.__doc__ or ""))
    assert said == {leaf.__name__: letter for letter, leaf in LEAVES.items()}


def test_exit_codes() -> None:
    assert {letter for letter, leaf in LEAVES.items() if leaf.exit_code == 1} == {
        "T",
        "I",
        "P",
        "Q",
    }
    assert {leaf.exit_code for leaf in LEAVES.values()} == {1, 3}


def test_rendering() -> None:
    error = BundleError("B01", "it ends at byte 7")
    assert str(error) == "B01: the bundle is truncated: it ends at byte 7"
    assert error.render() == (
        "error[B01]: the bundle is truncated\n"
        "  why:  it ends at byte 7\n"
        "  next: copy or download it again"
    )
    assert TrustError("T05", cure="wait").render() == "error[T05]: it has expired\n  next: wait"


def test_a_code_that_is_none_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        WherryError("Z99")


WHEEL = "https://files.example/wherry-0.1.0-py3-none-any.whl"
ORIGINS = {
    "from an index": ("", "pip install 'wherry[host]'"),
    "editable": (
        '{"url": "file:///my%20work/w", "dir_info": {"editable": true}}',
        "pip install -e '/my work/w[host]'",
    ),
    "a folder": ('{"url": "file:///w", "dir_info": {}}', "pip install 'wherry[host] @ file:///w'"),
    "a wheel": (
        f'{{"url": "{WHEEL}", "archive_info": {{}}}}',
        f"pip install 'wherry[host] @ {WHEEL}'",
    ),
    "from git": (
        '{"url": "https://e/w", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
        "pip install 'wherry[host] @ git+https://e/w@abc'",
    ),
    "not JSON": ("{", "pip install 'wherry[host]'"),
    "not an object": ("[1]", "pip install 'wherry[host]'"),
    "without a URL": ('{"dir_info": {"editable": true}}', "pip install 'wherry[host]'"),
}


@pytest.mark.parametrize(("origin", "words"), ORIGINS.values(), ids=ORIGINS.keys())
def test_an_extra_is_installed_from_where_wherry_came(origin: str, words: str) -> None:
    assert install_words("host", origin) == words


def test_how_to_install_asks_what_is_installed_here() -> None:
    assert how_to_install("host").startswith("pip install ")
    assert install_words("", "", options="--force-reinstall") == (
        "pip install --force-reinstall wherry"
    )
