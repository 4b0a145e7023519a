"""`wherry verify`: a bundle on a board's own CPU."""

from __future__ import annotations

from pathlib import Path

import click

from .output import Seconds, json_option, say, show, table


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
@click.option("--quick", is_flag=True, help="Golden vectors alone; a few seconds a runtime.")
@click.option(
    "--patience",
    type=Seconds(),
    default="5m",
    show_default=True,
    help="For each probe and for the rehearsal, before it is given up.",
)
@json_option
def verify(
    path: Path,
    *,
    name: str,
    runtimes: tuple[str, ...],
    quick: bool,
    patience: float,
    as_json: bool,
) -> int:
    """Run a bundle on a board's own CPU, emulated.

    The agent's own probe loads the bundle and scores its golden vectors under the board's
    instructions, with each runtime version that board and bundle both name. Then its whole
    life is rehearsed under the first of them: the agent enrols at a fleet's server that is
    started here, fetches, verifies, probes, switches, soaks and commits, answers payments,
    and its windows are counted again. Exit code 1 if the board must not have it. It says
    nothing of speed.

    Example: wherry verify --board pi3 fraud-1.0.0.wherry
    """
    from wherry.boards.overlay import Pin
    from wherry.boards.recipe import recipe_of
    from wherry.boards.rehearsal import HEADS as STEP_HEADS
    from wherry.boards.rehearsal import rows as step_rows
    from wherry.boards.root import create, mirror
    from wherry.boards.verify import HEADS, UNWATCHED, VERDICTS, Ground, pins_for, rows
    from wherry.boards.verify import verify as run
    from wherry.bundle_view import unpack
    from wherry.folder import home
    from wherry.profiles import load_board
    from wherry.verified import record, words

    board, (parts, layout) = load_board(name, Path()), unpack(path)
    recipe = recipe_of(board, mirror())
    pins = [Pin(*_split(text)) for text in runtimes] or pins_for(board, parts.manifest)
    made = create(recipe, _tell)
    ground = Ground(board, made.place, recipe)
    found = run(layout, parts, ground, pins, _tell, quick=quick, seconds=patience)
    record(home(), layout.digest, {board.name: words([v.to_dict() for v in found.verdicts])})
    steps = table(STEP_HEADS, step_rows(found.rehearsal)) if found.rehearsal else []
    last = "the board may have it" if found.good else "not for this board"
    if found.good and found.unwatched:
        last = f"the board may have it, but {VERDICTS[UNWATCHED]}"
    show(
        "wherry/verify/1",
        {"bundle": layout.digest} | found.to_dict(),
        [*steps, *table(HEADS, rows(found.verdicts)), last],
        as_json=as_json,
    )
    return 0 if found.good else 1


def _tell(words: str) -> None:
    say(f"  {words}")


def _split(text: str) -> tuple[str, str]:
    name, _, version = text.partition("==")
    if not name or not version:
        raise click.UsageError(f"--runtime {text!r} should be like onnxruntime==1.27.0")
    return name, version
