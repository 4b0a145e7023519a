"""`wherry board`: the boards that are known, and their environments on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import json_option, say, show, table

if TYPE_CHECKING:
    from wherry.boards.doctor import Finding
    from wherry.profiles import Board


@click.group
def board() -> None:
    """List, make and check the environments of boards."""


@board.command("list")
@json_option
def list_boards(*, as_json: bool) -> None:
    """List the boards that are known.

    Example: wherry board list
    """
    from wherry.boards.root import place_on_disk
    from wherry.profiles import FOLDER, known_boards, load_board

    found = [load_board(name, FOLDER) for name in known_boards()]
    rows = []
    for item in found:
        place = place_on_disk(item)
        state = "-" if item.emulation is None else "made" if place and place.ready else "not made"
        rows.append((item.name, item.title, item.cpu, f"{item.memory_mib} MiB", state))
    show(
        "wherry/boards/1",
        {"boards": [_facts(item, row[-1]) for item, row in zip(found, rows, strict=True)]},
        table(("board", "what", "cpu", "memory", "environment"), rows),
        as_json=as_json,
    )


def _facts(item: Board, state: str) -> dict[str, Any]:
    return {
        "name": item.name,
        "title": item.title,
        "architecture": item.architecture,
        "cpu": item.cpu,
        "features": list(item.features),
        "memory_mib": item.memory_mib,
        "runtimes": {name: list(versions) for name, versions in item.runtimes.items()},
        "emulated": item.emulation is not None,
        "environment": state,
    }


@board.command("show")
@click.argument("name")
@json_option
def show_board(name: str, *, as_json: bool) -> None:
    """Show one board: its CPU, its runtimes, what its environment is made of.

    NAME is one of `wherry board list`, or the path of a profile of your own, ending in .toml.
    A profile in the folder WHERRY_BOARDS (or ~/.config/wherry/boards) is listed as well.

    Example: wherry board show pi3
    """
    from wherry.boards.recipe import recipe_of
    from wherry.boards.root import place_on_disk
    from wherry.profiles import load_board

    item = load_board(name, Path())
    place = place_on_disk(item)
    state = "not made" if place is None or not place.ready else str(place.folder)
    runtimes = [f"{key} {', '.join(versions)}" for key, versions in item.runtimes.items()]
    rows = [
        ("what", item.title),
        ("cpu", f"{item.cpu} ({item.architecture}) {' '.join(item.features)}"),
        ("memory", f"{item.memory_mib} MiB"),
        ("runtimes", "; ".join(runtimes)),
    ]
    document = _facts(item, state)
    if item.emulation:
        recipe = recipe_of(item)
        wheels = [line.split()[0] for line in recipe.lock.splitlines() if "==" in line]
        rows += [
            ("Debian", f"{item.emulation.suite}: {', '.join(item.emulation.packages)}"),
            ("wheels", ", ".join(wheels)),
            ("environment", state),
        ]
        document |= {"packages": list(item.emulation.packages), "wheels": wheels}
    width = max(len(key) for key, _ in rows)
    show("wherry/board/1", document, [f"{k.ljust(width)}  {v}" for k, v in rows], as_json=as_json)


@board.command("create")
@click.argument("name")
@json_option
def create_board(name: str, *, as_json: bool) -> None:
    """Make a board's environment: its Debian, its Python, its runtime.

    It takes no rights and changes nothing outside the cache folder (WHERRY_ENVIRONMENTS). What
    is downloaded is checked: packages by Debian's signature, wheels by their digests. Where
    QEMU is absent, the one command that installs it is said.

    Example: wherry board create pi3
    """
    from wherry.boards.recipe import recipe_of
    from wherry.boards.root import create, mirror
    from wherry.profiles import load_board

    made = create(recipe_of(load_board(name, Path()), mirror()), lambda words: say(f"  {words}"))
    word = "made" if made.fresh else "was there"
    document = {"board": made.place.board, "folder": str(made.place.folder), "fresh": made.fresh}
    show(
        "wherry/board-environment/1",
        document | {"python": str(made.place.python)},
        [f"{word}: {made.place.folder}", f"its Python: {made.place.python}"],
        as_json=as_json,
    )


@board.command("doctor")
@click.argument("name", required=False)
@json_option
def doctor_board(name: str | None, *, as_json: bool) -> int:
    """Check whether boards can be emulated here, and whether an environment works.

    Exit code 1 if something is missing or wrong; each comes with its cure.

    Example: wherry board doctor pi3
    """
    from wherry.boards.doctor import examine
    from wherry.profiles import load_board

    findings = examine(load_board(name, Path()) if name else None, name or "")
    rows = [_row(item) for item in findings]
    wrong = [item for item in findings if not item.fine]
    show(
        "wherry/board-doctor/1",
        {"fine": not wrong, "findings": [item.to_dict() for item in findings]},
        table(("", "what", "found", "cure"), rows),
        as_json=as_json,
    )
    return 1 if wrong else 0


def _row(item: Finding) -> tuple[str, str, str, str]:
    return ("ok" if item.fine else "NO", item.what, item.found, item.cure)
