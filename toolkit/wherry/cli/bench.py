"""`wherry bench`: what a bundle costs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import json_option, say, show, table

if TYPE_CHECKING:
    from wherry.boards.emulator import Place
    from wherry.boards.overlay import Pin
    from wherry.boards.recipe import Recipe
    from wherry.profiles import Board
    from wherry_contract.bundle import Layout, Parts


@click.command
@click.argument(
    "paths", metavar="BUNDLE...", nargs=-1, required=True,
    type=click.Path(dir_okay=False, path_type=Path),
)  # fmt: skip
@click.option("--board", "name", required=True, help="A board of `wherry board list`, or a file.")
@click.option(
    "--memory", is_flag=True, help="Find the smallest memory with which the agent runs it."
)
@json_option
def bench(paths: tuple[Path, ...], *, name: str, memory: bool, as_json: bool) -> None:
    """Count a row's instructions on a board, or find its memory.

    The count is the same in every run and is no time: caches, clocks and memory are not
    modelled. It compares models, a float one with an int8 one with trees, on one board.

    With --memory a whole machine is emulated instead: a kernel boots with less and less
    memory, the agent installs the bundle and scores, until it does not run or has to read
    the same pages again and again. It takes about half a minute a size.

    Example: wherry bench --board pi3 trees.wherry mlp.wherry mlp-int8.wherry
    """
    from wherry.boards.recipe import recipe_of
    from wherry.boards.root import create, mirror
    from wherry.profiles import load_board

    board = load_board(name, Path())
    recipe = recipe_of(board, mirror())
    place = create(recipe, _tell).place
    subjects = [_subject(path, board, recipe) for path in paths]
    if memory:
        _memory(subjects, place, recipe, as_json=as_json)
        return
    from wherry.boards.count import HEADS, count, rows

    found = []
    for subject in subjects:
        _tell(f"counting {subject.name} under {subject.pin}")
        runtime = (str(subject.pin), subject.runtime)
        found.append(count(subject.name, subject.layout, place, runtime))
    show(
        "wherry/bench-board/1",
        {"board": board.name, "cpu": place.cpu, "counts": [item.to_dict() for item in found]},
        [*table(HEADS, rows(found)), f"instructions of {place.cpu}, counted; no times"],
        as_json=as_json,
    )


@dataclass(frozen=True)
class _Subject:
    """A bundle that is measured, and the runtime that the board has for it."""

    name: str
    parts: Parts
    layout: Layout
    pin: Pin
    runtime: Path


def _subject(path: Path, board: Board, recipe: Recipe) -> _Subject:
    from wherry.boards.overlay import overlay
    from wherry.boards.verify import pins_for
    from wherry.bundle_view import unpack
    from wherry_contract.errors import SetupError

    parts, layout = unpack(path)
    pins = pins_for(board, parts.manifest)
    if not pins:
        cure = "see `wherry board show`"
        raise SetupError("H14", f"{board.name} has no runtime for {path.name}", cure=cure)
    return _Subject(path.name, parts, layout, pins[0], overlay(pins[0], recipe, _tell))


def _memory(subjects: list[_Subject], place: Place, recipe: Recipe, *, as_json: bool) -> None:
    from wherry.boards.machine import HEADS, Job, prepare, rows, smallest

    documents, lines = [], []
    for subject in subjects:
        with tempfile.TemporaryDirectory(prefix="wherry-machine-") as where:
            job = Job(subject.parts, subject.layout, subject.pin.name, subject.runtime)
            machine = prepare(Path(where), job, place, recipe, _tell)
            looks = smallest(machine, _tell)
        enough = [item.mib for item in looks if item.verdict == "runs"]
        least = min(enough) if enough else None
        documents.append(
            {
                "bundle": subject.name,
                "runtime": str(subject.pin),
                "smallest_mib": least,
                "boots": [item.to_dict() for item in looks],
            }
        )
        lines += [f"{subject.name} under {subject.pin}", *table(HEADS, rows(looks))]
        lines.append(f"smallest: {least} MiB" if least else "it runs with none of these")
    document = {"board": place.board, "machine": "QEMU virt, 64-bit kernel", "bundles": documents}
    show("wherry/bench-memory/1", document, lines, as_json=as_json)


def _tell(words: str) -> None:
    say(f"  {words}")
