"""Where metadata comes from: bad lines go on, endless and slow ones end, paths stay inside."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import free_port
from support_agent import Depot, running_depot

from wherry_agent.trust.tuf_fetch import Below, FolderReader, HttpReader, NowhereReader
from wherry_agent.trust.tuf_part import Part
from wherry_contract.errors import WherryError

DATA = bytes(range(256)) * 40  # its content tells its place, so a wrong offset shows
LIMIT = len(DATA)


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with running_depot(tmp_path / "depot") as depot:
        depot.put("tuf/1.root.json", DATA)
        yield depot


def reader(depot: Depot, **changes: Any) -> HttpReader:
    """One that is quick to give up."""
    quick = {"seconds": 2.0, "total_seconds": 10.0}
    return HttpReader(depot.url, **(quick | changes))


def test_a_file_comes_whole_and_the_connection_serves_again(depot: Depot) -> None:
    source = reader(depot)
    assert source.read("tuf/1.root.json", LIMIT) == DATA
    assert source.read("tuf/2.root.json", LIMIT) is None
    assert source.read("tuf/1.root.json", LIMIT) == DATA
    source.close()


# what happens, and how often it does
GOES_ON: list[tuple[str, dict[str, Any]]] = [
    ("cut once", {"cut_after": 3000, "times": 1}),
    ("cut three times", {"cut_after": 3000, "times": 3}),
    ("cut, and the server knows no ranges", {"cut_after": 3000, "times": 3, "ignore_range": True}),
    ("chunked", {"chunked": True}),
    ("piece by piece", {"piece_bytes": 100}),
]


@pytest.mark.parametrize("fault", [row[1] for row in GOES_ON], ids=[row[0] for row in GOES_ON])
def test_a_bad_line_goes_on(depot: Depot, fault: dict[str, Any]) -> None:
    for name, value in fault.items():
        setattr(depot.faults, name, value)
    assert reader(depot).read("tuf/1.root.json", LIMIT) == DATA


def test_it_goes_on_where_it_was_cut(depot: Depot) -> None:
    depot.faults.cut_after, depot.faults.times = 3000, 2
    reader(depot).read("tuf/1.root.json", LIMIT)
    assert [asked for _, asked in depot.requests] == ["", "bytes=3000-", "bytes=6000-"]


ENDS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("cut for ever", {"cut_after": 10}, {}, "L04"),
    ("longer than its cap", {"longer": True}, {}, "L06"),
    ("longer, and not saying so", {"longer": True, "chunked": True}, {}, "L06"),
    ("silent", {"silent": True}, {"seconds": 0.2, "total_seconds": 0.5}, "L04"),
    (
        "a byte now and then",
        {"piece_bytes": 1, "wait_seconds": 0.05},
        {"seconds": 0.3, "least_rate": 64.0},
        "L04",
    ),
    (
        "just fast enough, without end",
        {"piece_bytes": 20, "wait_seconds": 0.05},
        {"seconds": 5.0, "total_seconds": 0.5},
        "L04",
    ),
    ("a redirect", {"redirect": True}, {}, "L06"),
    ("an error of the server", {"status": 500}, {}, "L05"),
    ("too many of us", {"status": 429}, {}, "L05"),
    ("another range", {"cut_after": 3000, "wrong_range": True, "times": 2}, {}, "L06"),
]


@pytest.mark.parametrize(
    ("fault", "limits", "code"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS]
)
def test_what_ends(depot: Depot, fault: dict[str, Any], limits: dict[str, Any], code: str) -> None:
    for name, value in fault.items():
        setattr(depot.faults, name, value)
    with pytest.raises(WherryError) as caught:
        reader(depot, **limits).read("tuf/1.root.json", LIMIT)
    assert caught.value.code == code, caught.value


def test_nobody_there() -> None:
    with pytest.raises(WherryError, match="L04"):
        HttpReader(f"http://127.0.0.1:{free_port()}/depot").read("tuf/1.root.json", LIMIT)


@pytest.mark.parametrize("url", ["", "ftp://host/depot", "host"])
def test_no_address(url: str) -> None:
    with pytest.raises(WherryError, match="L04"):
        HttpReader(url).read("tuf/1.root.json", LIMIT)


# --- what was cut off goes on in the next process -------------------------------------------

LONG = random.Random(7).randbytes(300_000)
NAME = "tuf/7.models%2Ffraud.json"


def cut(depot: Depot, part: Path, after: int, name: str = NAME) -> None:
    """A process that gets no further."""
    depot.faults.cut_after = after
    with pytest.raises(WherryError, match="L04"):
        reader(depot, part=Part(part)).read(name, len(LONG))
    depot.faults.cut_after = -1
    depot.requests.clear()


@pytest.fixture
def long(depot: Depot) -> Depot:
    for name in (NAME, "tuf/8.models%2Ffraud.json", "tuf/timestamp.json"):
        depot.put(name, LONG)
    return depot


def test_metadata_that_was_cut_off_goes_on_after_a_restart(long: Depot, tmp_path: Path) -> None:
    """On a slow link nothing that was paid for is fetched again."""
    part = tmp_path / "part"
    for _ in range(2):  # four tries each
        cut(long, part, 30_000)
    assert reader(long, part=Part(part)).read(NAME, len(LONG)) == LONG
    assert [asked for _, asked in long.requests] == ["bytes=240000-"]
    assert not part.exists()


ANEW: list[tuple[str, Callable[[Path], object], str]] = [
    ("another version", lambda part: part, "tuf/8.models%2Ffraud.json"),
    ("nothing is left", lambda part: part.unlink(), NAME),
    ("another file's", lambda part: part.write_bytes(b"x" * 99), NAME),
    ("longer than may be", lambda part: part.write_bytes(part.read_bytes() + LONG * 2), NAME),
]


@pytest.mark.parametrize(("spoil", "name"), [row[1:] for row in ANEW], ids=[row[0] for row in ANEW])
def test_what_cannot_go_on_begins_anew(
    long: Depot, tmp_path: Path, spoil: Callable[[Path], object], name: str
) -> None:
    part = tmp_path / "part"
    cut(long, part, 30_000)
    spoil(part)
    assert reader(long, part=Part(part)).read(name, len(LONG)) == LONG
    assert [asked for _, asked in long.requests] == [""]


def test_a_poisoned_beginning_costs_one_fetch(long: Depot, tmp_path: Path) -> None:
    """Whoever verifies refuses the whole; the next process has nothing of it."""
    part = tmp_path / "part"
    cut(long, part, 30_000)
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert reader(long, part=Part(part)).read(NAME, len(LONG)) != LONG
    assert reader(long, part=Part(part)).read(NAME, len(LONG)) == LONG


def test_a_server_without_ranges_begins_anew(long: Depot, tmp_path: Path) -> None:
    part = tmp_path / "part"
    cut(long, part, 30_000)
    long.faults.ignore_range = True
    assert reader(long, part=Part(part)).read(NAME, len(LONG)) == LONG


def test_what_is_refused_is_not_kept(long: Depot, tmp_path: Path) -> None:
    part = tmp_path / "part"
    cut(long, part, 30_000)
    long.faults.longer = True
    with pytest.raises(WherryError, match="L06"):
        reader(long, part=Part(part)).read(NAME, len(LONG))
    assert not part.exists()


@pytest.mark.parametrize(("name", "after"), [("tuf/timestamp.json", 30_000), (NAME, 9000)])
def test_what_changes_under_its_name_or_is_small_is_not_kept(
    long: Depot, tmp_path: Path, name: str, after: int
) -> None:
    part = tmp_path / "part"
    cut(long, part, after, name)
    assert not part.exists()


# --- folders --------------------------------------------------------------------------------


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tuf").mkdir()
    (tmp_path / "tuf" / "1.models%2Ffraud.json").write_bytes(b"{}")
    source = Below(FolderReader(tmp_path), "tuf")
    assert source.read("1.models%2Ffraud.json", LIMIT) == b"{}"
    assert source.read("2.models%2Ffraud.json", LIMIT) is None


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a//b", "a/../../secret", "."])
def test_a_path_stays_in_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "stick").mkdir()
    with pytest.raises(WherryError, match="L06"):
        FolderReader(tmp_path / "stick").read(path, LIMIT)


WRONG: list[tuple[str, Callable[[Path], object], str]] = [
    ("too large", lambda path: path.write_bytes(b" " * (LIMIT + 1)), "L06"),
    ("a folder", lambda path: path.mkdir(), "D06"),
]


@pytest.mark.parametrize(("make", "code"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
def test_a_file_that_is_none(tmp_path: Path, make: Callable[[Path], object], code: str) -> None:
    make(tmp_path / "timestamp.json")
    with pytest.raises(WherryError) as caught:
        FolderReader(tmp_path).read("timestamp.json", LIMIT)
    assert caught.value.code == code


def test_nowhere_has_nothing() -> None:
    assert NowhereReader().read("timestamp.json", LIMIT) is None


def test_a_server_that_unquotes_names_is_asked_twice(depot: Depot) -> None:
    """Static servers look for `1.models/fraud.json`; the file's name has a %2F in it."""
    depot.put("tuf/1.models%252Ffraud.json", b"{}")  # as such a server's folder looks from here
    assert Below(reader(depot), "tuf").read("1.models%2Ffraud.json", LIMIT) == b"{}"
