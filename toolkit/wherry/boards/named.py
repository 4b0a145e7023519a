"""The boards that a project names: its bundle is run on each before it is packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from wherry.profiles import Board
from wherry.targets import Verdict
from wherry_contract.bundle import Layout, Parts
from wherry_contract.errors import SetupError

from .recipe import recipe_of
from .root import create, place_on_disk
from .verify import Ground, Verified, pins_for, verify

Progress = Callable[[str], None]


def require_environments(boards: Sequence[Board]) -> None:
    """Refuse to begin long work that a missing environment would end.

    Raises:
        SetupError: H14.
    """
    missing = [board.name for board in boards if board.emulation and not _is_here(board)]
    if missing:
        cure = "run: " + " && ".join(f"wherry board create {name}" for name in missing)
        raise SetupError("H14", f"no environment of {', '.join(missing)}", cure=cure)


def run_on_boards(
    boards: Sequence[Board],
    judged: Sequence[Verdict],
    layout: Layout,
    parts: Parts,
    progress: Progress,
) -> tuple[Verdict, ...]:
    """Verify a bundle on each board whose environment is here.

    Args:
        boards: that the project names.
        judged: what their profiles say, in the same order.
        layout: of the bundle.
        parts: likewise.
        progress: is told each step in words.

    Returns:
        The same verdicts, with what was seen; a board that was not tried says how it can be.

    Raises:
        SetupError: H03, H05, H14 or H15: one could not be tried.
    """
    return tuple(
        _run(board, verdict, layout, parts, progress)
        for board, verdict in zip(boards, judged, strict=True)
    )


def _is_here(board: Board) -> bool:
    place = place_on_disk(board)
    return place is not None and place.ready


def _run(
    board: Board, verdict: Verdict, layout: Layout, parts: Parts, progress: Progress
) -> Verdict:
    if board.emulation is None:
        return replace(verdict, notes=(*verdict.notes, "not run: its profile has no [emulation]"))
    if not _is_here(board):
        words = f"not run; do: wherry board create {board.name}"
        return replace(verdict, notes=(*verdict.notes, words))
    recipe = recipe_of(board)
    ground = Ground(board, create(recipe, progress).place, recipe)
    found = verify(layout, parts, ground, pins_for(board, parts.manifest), progress)
    return _with(verdict, found)


def _with(verdict: Verdict, found: Verified) -> Verdict:
    seen = tuple(
        f"{item.runtime}: {item.verdict}" + (f"; {item.cure}" if item.cure else "")
        for item in found.verdicts
        if item.good
    )
    wrong = tuple(
        (f"{item.runtime}: {item.verdict} ({item.detail})", item.cure)
        for item in found.verdicts
        if not item.good
    )
    return replace(
        verdict,
        problems=(*verdict.problems, *wrong),
        notes=(*verdict.notes, *seen),
        run=found.to_dict(),
    )
