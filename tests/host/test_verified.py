"""What bundles were run on: kept by digest, told to the server, shown by the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.verified import MOST_BOARDS, MOST_CHARACTERS, record, recorded, words
from wherry_contract.errors import SetupError

BUNDLE = "sha256:" + "1" * 64


def test_boards_are_added_and_a_later_look_replaces_an_earlier(tmp_path: Path) -> None:
    assert recorded(tmp_path, BUNDLE) == {}
    record(tmp_path, BUNDLE, {"pi3": "onnxruntime 1.27.0: exact"})
    record(tmp_path, BUNDLE, {"pos-armv7": "tflite-runtime 2.14.0: exact"})
    record(tmp_path, BUNDLE, {"pi3": "onnxruntime 1.27.0: wrong numbers"})
    assert recorded(tmp_path, BUNDLE) == {
        "pi3": "onnxruntime 1.27.0: wrong numbers",
        "pos-armv7": "tflite-runtime 2.14.0: exact",
    }
    assert recorded(tmp_path, "sha256:" + "2" * 64) == {}


def test_without_a_data_folder_nothing_is_left(tmp_path: Path) -> None:
    record(tmp_path / "none", BUNDLE, {"pi3": "exact"})
    assert not list(tmp_path.iterdir())


def test_verdicts_are_one_line() -> None:
    found = [{"runtime": "onnxruntime 1.27.0", "verdict": "exact"}] * 2
    assert words(found) == "onnxruntime 1.27.0: exact; onnxruntime 1.27.0: exact"
    assert len(words(found * 100)) == MOST_CHARACTERS


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"boards": []}',
        '{"boards": {"pi3": 1}}',
        '{"boards": {' + ",".join(f'"b{n}": ""' for n in range(MOST_BOARDS + 1)) + "}}",
        '{"boards": {"pi3": "' + "x" * (MOST_CHARACTERS + 1) + '"}}',
        '{"boards": {"pi3": "' + "x" * 70_000 + '"}}',
    ],
)
def test_a_file_that_others_changed_is_refused(tmp_path: Path, text: str) -> None:
    record(tmp_path, BUNDLE, {"pi3": "exact"})
    (path,) = (tmp_path / "verified").iterdir()
    path.write_text(text)
    with pytest.raises(SetupError):
        recorded(tmp_path, BUNDLE)
