"""Boards that a project names: can they run this bundle, and is it known to go wrong there?

Pure: profiles are read by `profiles`, models by `traits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wherry_contract.errors import GateError
from wherry_contract.manifest import BoardNeeds, RuntimeNeeds
from wherry_contract.versions import in_range

from .profiles import NOTE, Board, Ceiling, Knowledge
from .runtimes import ranges_of

HEADS: Final = ("board", "runtimes", "verdict")


@dataclass(frozen=True)
class Model:
    """What a bundle asks of a board."""

    needs: RuntimeNeeds
    board: BoardNeeds
    traits: frozenset[str]


@dataclass(frozen=True)
class Verdict:
    """Whether a board can run a bundle.

    Attributes:
        board: its name.
        runtimes: distributions with versions that both the board has and the bundle claims.
        problems: why it cannot, each with what to do.
        notes: what is said, and refuses nothing.
        run: what became of it on the emulated board, as `wherry verify --json` says it; None
            where it was not run.
    """

    board: str
    runtimes: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    run: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "board": self.board,
            "runtimes": list(self.runtimes),
            "problems": [{"what": what, "cure": cure} for what, cure in self.problems],
            "notes": list(self.notes),
            "run": None if self.run is None else dict(self.run),
        }


class BoardsRefuseError(GateError):
    """A board that the project names cannot run the bundle.

    Args:
        verdicts: of every board.
    """

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        found = [
            (f"{item.board}: {what}", cure) for item in verdicts for what, cure in item.problems
        ]
        cures = dict.fromkeys(cure for _what, cure in found)
        super().__init__("Q06", "; ".join(what for what, _cure in found), cure="; ".join(cures))
        self.verdicts = tuple(verdicts)


def rows(verdicts: Sequence[Verdict]) -> list[Sequence[object]]:
    """Rows of a table under `HEADS`."""
    return [
        (
            item.board,
            ", ".join(item.runtimes) or "none",
            "; ".join([*(what for what, _cure in item.problems), *item.notes]) or "fits",
        )
        for item in verdicts
    ]


def judge_board(board: Board, model: Model, knowledge: Knowledge) -> Verdict:
    """Hold a bundle against a board. Pure."""
    usable = [
        (name, version)
        for name, wanted in ranges_of(model.needs).items()
        for version in board.runtimes.get(name, ())
        if in_range(version, wanted)
    ]
    problems = list(_of_board(board, model))
    notes: list[str] = []
    if not usable:
        problems.append(_no_runtime(board, model.needs))
    for name, version in usable:
        problems += _of_runtime(board, name, version, model, knowledge)
        for item in knowledge.wrong:
            if item.meets(board, name, version, model.traits):
                words = f"{name} {version}: {item.says}"
                if item.effect == NOTE:
                    notes.append(words)
                else:
                    problems.append((words, item.cure))
    return Verdict(
        board.name,
        tuple(f"{name} {version}" for name, version in usable),
        tuple(dict.fromkeys(problems)),
        tuple(dict.fromkeys(notes)),
    )


def _of_board(board: Board, model: Model) -> Iterator[tuple[str, str]]:
    wanted = model.board.architectures
    if wanted and board.architecture not in wanted:
        words = f"[board] architectures are {', '.join(wanted)}, this one is {board.architecture}"
        yield words, f"add {board.architecture} to them"
    if model.board.memory_mib > board.memory_mib:
        words = f"[board] memory_mib is {model.board.memory_mib}, it has {board.memory_mib}"
        yield words, "ask for less memory"


def _no_runtime(board: Board, needs: RuntimeNeeds) -> tuple[str, str]:
    claims = ", ".join(f"{name} {wanted}" for name, wanted in ranges_of(needs).items())
    have = [f"{name} {item}" for name, items in board.runtimes.items() for item in items]
    words = f"the bundle claims {claims}, the board can have {', '.join(have) or 'no runtime'}"
    if needs.kind == "onnxruntime" and "tflite-runtime" in board.runtimes:
        return words, 'say runtime = "tflite" in [target]'
    if needs.kind == "tflite" and "onnxruntime" in board.runtimes:
        return words, 'say runtime = "onnxruntime" in [target]'
    return words, "choose another board, or another system for it"


def _of_runtime(
    board: Board, name: str, version: str, model: Model, knowledge: Knowledge
) -> Iterator[tuple[str, str]]:
    who, needs = f"{name} {version}", model.needs
    for top in knowledge.ceilings:
        if top.runtime == name and in_range(version, top.versions):
            yield from _above(who, needs, top)
    allowed = board.operators.get(name)
    outside = sorted(set(needs.operators) - set(allowed)) if allowed is not None else []
    if outside:
        words = f"{who} was built without {', '.join(outside)}"
        yield words, "build the runtime with these operators"
    for item in knowledge.cpu:
        if (item.runtime, item.architecture) == (name, board.architecture) and in_range(
            version, item.versions
        ):
            missing = [feature for feature in item.features if feature not in board.features]
            if missing:
                yield f"{who} needs a CPU with {', '.join(missing)}", "choose another board"


def _above(who: str, needs: RuntimeNeeds, top: Ceiling) -> Iterator[tuple[str, str]]:
    cure = "convert it with `wherry convert`, which writes the lowest versions that will do"
    if needs.ir > top.ir:
        yield f"{who} loads IR versions up to {top.ir}, the file has {needs.ir}", cure
    for name, version in sorted(needs.opsets.items()):
        most = top.opsets.get(name)
        if most is None and needs.kind == "onnxruntime":
            yield f"{who} has no operators of {name!r}", cure
        elif most is not None and version > most:
            what = f"{name or 'the default operator set'} up to {most}"
            yield f"{who} loads {what}, the file has {version}", cure
