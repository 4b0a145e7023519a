"""What bundles were run on: kept by digest, told to the server, shown by the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_agent import make_bundle
from support_boards import board_named, need_boards
from support_fleet import (
    Device,
    enrol,
    release,
    running_devices,
    running_server,
    wherry,
)

from wherry.boards.overlay import overlay, pins_of
from wherry.boards.recipe import recipe_of
from wherry.boards.root import create, mirror
from wherry.boards.verify import CLOSE, EXACT
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


@pytest.mark.slow
def test_what_a_board_did_with_a_bundle_goes_with_push_to_the_server_and_stands_in_the_report(
    tmp_path: Path,
) -> None:
    """From an operator's desk, whose data folder is not the server's."""
    need_boards()
    board = board_named("pi3")
    recipe, pin = recipe_of(board, mirror()), pins_of(board)[0]
    create(recipe, print)
    overlay(pin, recipe, print)  # so that the command below finds all of it
    desk, path, page = (tmp_path / name for name in ("desk", "fraud.wherry", "page.html"))
    desk.mkdir()
    made = make_bundle()
    path.write_bytes(made.to_tar())
    with running_server(tmp_path / "data") as server:
        there = ["--server", server.facts["url"], "--token-file", str(server.data / "token")]
        push = ["push", str(path), "--yes", "--wait", "--soak", "0s", *there]

        def told() -> dict[str, tuple[str, ...]]:
            found = server.client.get("report-data")["bundles"]
            return {item["digest"]: tuple(item["boards"]) for item in found}

        with running_devices(Device(enrol(server, "till-1"))):
            release(server.data, made)
            wherry(desk, *push)
            assert told() == {made.digest: ()}  # nobody has run it
            asked = ["--board", board.name, "--quick", "--runtime", f"{pin.name}=={pin.version}"]
            done = wherry(desk, "verify", *asked, str(path), "--json")
            line = f"{board.name}: {words(json.loads(done.stdout)['verdicts'])}"
            assert line in {f"pi3: {pin}: {verdict}" for verdict in (EXACT, CLOSE)}
            assert told() == {made.digest: ()}  # the desk knows it, and the server does not yet
            wherry(desk, *push)
            assert told() == {made.digest: (line,)}
            wherry(desk, "report", "-o", str(page), *there)
    assert f"was run on {line}." in page.read_text()
