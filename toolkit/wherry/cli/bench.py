"""`wherry bench`: what a bundle costs."""

from __future__ import annotations

from pathlib import Path

import click

from .output import json_option, say, show, table


@click.command
@click.argument(
    "paths", metavar="BUNDLE...", nargs=-1, required=True,
    type=click.Path(dir_okay=False, path_type=Path),
)  # fmt: skip
@click.option("--board", "name", required=True, help="A board of `wherry board list`, or a file.")
@json_option
def bench(paths: tuple[Path, ...], *, name: str, as_json: bool) -> None:
    """Count what one row costs on a board, in instructions of its CPU.

    The count is the same in every run and is no time: caches, clocks and memory are not
    modelled. It compares models, a float one with an int8 one with trees, on one board.

    Example: wherry bench --board pi3 trees.wherry mlp.wherry mlp-int8.wherry
    """
    from wherry.boards.count import HEADS, count, rows
    from wherry.boards.overlay import overlay
    from wherry.boards.recipe import recipe_of
    from wherry.boards.root import create, mirror
    from wherry.boards.verify import pins_for
    from wherry.bundle_view import unpack
    from wherry.profiles import load_board
    from wherry_contract.errors import SetupError

    board = load_board(name, Path())
    recipe = recipe_of(board, mirror())
    place = create(recipe, _tell).place
    found = []
    for path in paths:
        parts, layout = unpack(path)
        pins = pins_for(board, parts.manifest)
        if not pins:
            cure = "see `wherry board show`"
            raise SetupError("H14", f"{board.name} has no runtime for {path.name}", cure=cure)
        _tell(f"counting {path.name} under {pins[0]}")
        folder = overlay(pins[0], recipe, _tell)
        found.append(count(path.name, layout, place, (str(pins[0]), folder)))
    show(
        "wherry/bench-board/1",
        {"board": board.name, "cpu": place.cpu, "counts": [item.to_dict() for item in found]},
        [*table(HEADS, rows(found)), f"instructions of {place.cpu}, counted; no times"],
        as_json=as_json,
    )


def _tell(words: str) -> None:
    say(f"  {words}")
