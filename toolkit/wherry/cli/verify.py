"""`wherry verify`: a bundle on a board's own CPU."""

from __future__ import annotations

from pathlib import Path

import click

from .output import json_option, say, show, table


@click.command
@click.argument("path", metavar="BUNDLE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--board", "name", required=True, help="A board of `wherry board list`, or a file.")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME==VERSION",
    help="Under this version, instead of those that board and bundle both name.",
)
@json_option
def verify(path: Path, *, name: str, runtimes: tuple[str, ...], as_json: bool) -> int:
    """Run a bundle on a board's own CPU, emulated.

    The agent's own probe loads the bundle and scores its golden vectors under the board's
    instructions, with each runtime version that board and bundle both name. Exit code 1 if
    the board must not have it. It says nothing of speed.

    Example: wherry verify --board pi3 fraud-1.0.0.wherry
    """
    from wherry.boards.overlay import Pin
    from wherry.boards.recipe import recipe_of
    from wherry.boards.root import create, mirror
    from wherry.boards.verify import HEADS, pins_for, rows
    from wherry.boards.verify import verify as run
    from wherry.bundle_view import unpack
    from wherry.profiles import load_board

    board, (parts, layout) = load_board(name, Path()), unpack(path)
    recipe = recipe_of(board, mirror())
    pins = [Pin(*_split(text)) for text in runtimes] or pins_for(board, parts.manifest)
    made = create(recipe, _tell)
    verdicts = run(layout, made.place, recipe, pins, _tell)
    good = all(item.good for item in verdicts)
    show(
        "wherry/verify/1",
        {
            "bundle": layout.digest,
            "board": board.name,
            "cpu": made.place.cpu,
            "good": good,
            "verdicts": [item.to_dict() for item in verdicts],
        },
        [*table(HEADS, rows(verdicts)), "the board may have it" if good else "not for this board"],
        as_json=as_json,
    )
    return 0 if good else 1


def _tell(words: str) -> None:
    say(f"  {words}")


def _split(text: str) -> tuple[str, str]:
    name, _, version = text.partition("==")
    if not name or not version:
        raise click.UsageError(f"--runtime {text!r} should be like onnxruntime==1.27.0")
    return name, version
