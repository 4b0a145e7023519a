"""Profiles of boards, ceilings of runtimes and what is known to go wrong, read from data.

`targets/*.toml` holds a profile for each board; beside them lie the ceilings of runtime
versions and a list of what loads and is wrong all the same. Profiles of a user's own boards
lie in a folder of theirs (`own_folder`), or are named by their path.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_contract.errors import SetupError
from wherry_contract.versions import in_range
from wherry_contract.wire import PROJECT, Fields

from .traits import EVERY

FOLDER: Final = Path(__file__).parent / "targets"
OWN_VARIABLE: Final = "WHERRY_BOARDS"
LIMIT_BYTES: Final = 1 << 16
NOTE: Final = "note"
EFFECTS: Final = (NOTE, "wrong numbers", "refused", "crash", "reports home")
_CEILINGS: Final = "runtimes.toml"
_WRONG: Final = "known-wrong.toml"
_RANGE: Final = r"[0-9.,<>=! ]*"


@dataclass(frozen=True)
class Emulation:
    """How a board is emulated here (docs/boards.md).

    Attributes:
        cpuinfo: what the board's ``/proc/cpuinfo`` says; runtimes choose kernels by it.
        suite: of Debian.
        python: the interpreter's version, as ``3.11``.
        packages: of Debian, with what they depend on.
        lock: name of the list of wheels.
    """

    cpuinfo: str
    suite: str
    python: str
    packages: tuple[str, ...]
    lock: str

    @classmethod
    def from_fields(cls, fields: Fields) -> Emulation:
        """Read the section."""
        found = cls(
            cpuinfo=fields.text("cpuinfo", limit=LIMIT_BYTES),
            suite=fields.text("suite", pattern=r"[a-z]+"),
            python=fields.text("python", pattern=r"3\.\d{1,2}"),
            packages=fields.texts("packages"),
            lock=fields.text("lock", pattern=r"[a-z0-9-]+"),
        )
        _nothing_left(fields)
        return found


@dataclass(frozen=True)
class Board:
    """What a kind of board is and has.

    Attributes:
        name: of its file, without the ending.
        title: in words.
        architecture: as ``uname -m`` says it.
        cpu: the core, by QEMU's name; others of its family lack or have instructions.
        features: of the CPU, as ``neon`` or ``dotprod``.
        memory_mib: of the smallest model sold.
        runtimes: versions that can be installed, by distribution.
        operators: allow-lists that are narrower than the contract's, by distribution: of
            runtimes that were built without some operators.
        emulation: how it is emulated; None if it is not.
        folder: where its file is; its lists of wheels are in ``locks`` there.
    """

    name: str
    title: str
    architecture: str
    cpu: str
    features: tuple[str, ...]
    memory_mib: int
    runtimes: Mapping[str, tuple[str, ...]]
    operators: Mapping[str, tuple[str, ...]]
    emulation: Emulation | None = None
    folder: Path = FOLDER


@dataclass(frozen=True)
class Ceiling:
    """The newest files that versions of a runtime load.

    Attributes:
        runtime: the distribution.
        versions: a range.
        ir: IR or schema version.
        opsets: of onnxruntime, versions by domain, and no other domain loads; of TFLite,
            versions of operators, and others are not known to be limited.
    """

    runtime: str
    versions: str
    ir: int
    opsets: Mapping[str, int]


@dataclass(frozen=True)
class CpuNeed:
    """Features that versions of a runtime need on an architecture."""

    runtime: str
    versions: str
    architecture: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Wrong:
    """A known defect: where, with which models, what happens, and what to do instead."""

    runtime: str
    versions: str
    architectures: tuple[str, ...]
    cpus: tuple[str, ...]
    without: tuple[str, ...]
    traits: tuple[str, ...]
    effect: str
    says: str
    cure: str
    seen: str

    def meets(self, board: Board, runtime: str, version: str, traits: Collection[str]) -> bool:
        """Whether it happens to such a model there."""
        return (
            runtime == self.runtime
            and in_range(version, self.versions)
            and (not self.architectures or board.architecture in self.architectures)
            and (not self.cpus or board.cpu in self.cpus)
            and not set(self.without) & set(board.features)
            and set(self.traits) <= set(traits)
        )


@dataclass(frozen=True)
class Knowledge:
    """What is known of runtimes, whatever the board."""

    ceilings: tuple[Ceiling, ...]
    cpu: tuple[CpuNeed, ...]
    wrong: tuple[Wrong, ...]


def own_folder() -> Path:
    """Where profiles of a user's own boards are: ``WHERRY_BOARDS``, or the folder for settings."""
    own = os.environ.get(OWN_VARIABLE)
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(own) if own else settings / "wherry" / "boards"


def known_boards() -> list[str]:
    """Names of the profiles that come with Wherry, and of the user's own."""
    return sorted(_names(FOLDER) | _names(own_folder()))


def _names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.toml")} - {Path(_CEILINGS).stem, Path(_WRONG).stem}


def load_board(name: str, folder: Path) -> Board:
    """Read a board's profile.

    Args:
        name: one of `known_boards`, or the path of a file, which ends in ``.toml``.
        folder: to which a path is relative.

    Raises:
        SetupError: H01 there is no such board, or its file is wrong; H02 it cannot be read.
    """
    if name.endswith(".toml"):
        return _board(folder / name)
    names = known_boards()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        detail = f"there is no board {name[:64]!r}; {hint}"
        cure = f"or put a file of your own into {own_folder()}, or name one that ends in .toml"
        raise SetupError("H01", detail, cure=cure, title="there is no such board")
    shipped, own = FOLDER / f"{name}.toml", own_folder() / f"{name}.toml"
    if shipped.exists() and own.exists():  # which of them is meant would be a guess
        raise SetupError("H01", f"{own}: a board of that name comes with Wherry", cure="rename it")
    return _board(shipped if shipped.exists() else own)


def load_knowledge(folder: Path = FOLDER) -> Knowledge:
    """Read what is known of runtimes.

    Raises:
        SetupError: H01 or H02.
    """
    about = _read(folder / _CEILINGS)
    return Knowledge(
        ceilings=tuple(map(_ceiling, about.tables("ceilings"))),
        cpu=tuple(map(_cpu, about.tables("cpu"))),
        wrong=tuple(map(_wrong, _read(folder / _WRONG).tables("wrong"))),
    )


def _read(path: Path) -> Fields:
    try:
        with path.open("rb") as stream:
            data = stream.read(LIMIT_BYTES + 1)
        if len(data) > LIMIT_BYTES:
            raise SetupError("H01", f"{path.name} has more than {LIMIT_BYTES} bytes")
        return Fields(tomllib.loads(data.decode()), path.name, PROJECT)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOML or UTF-8 that is none
        raise SetupError("H01", f"{path.name} is not valid TOML: {error}") from error


def _board(path: Path) -> Board:
    fields = _read(path)
    own = fields.mapping("emulation", {})
    board = Board(
        name=path.stem,
        title=fields.text("title"),
        architecture=fields.text("architecture"),
        cpu=fields.text("cpu", pattern=r"[a-z0-9-]+"),
        features=fields.texts("features", []),
        memory_mib=fields.integer("memory_mib"),
        runtimes=_lists(fields, "runtimes"),
        operators=_lists(fields, "operators"),
        emulation=Emulation.from_fields(Fields(own, "emulation", PROJECT)) if own else None,
        folder=path.parent,
    )
    for versions in board.runtimes.values():
        for version in versions:
            if not version.replace(".", "").isdigit():
                raise fields.error("runtimes", "versions like 1.27.0 by distribution")
    _nothing_left(fields)
    return board


def _lists(fields: Fields, name: str) -> dict[str, tuple[str, ...]]:
    table = fields.mapping(name, {})
    inner = Fields(table, name, PROJECT)
    return {key: inner.texts(key) for key in list(table)}


def _ceiling(fields: Fields) -> Ceiling:
    return Ceiling(
        runtime=fields.text("runtime"),
        versions=fields.text("versions", pattern=_RANGE),
        ir=fields.integer("ir"),
        opsets={str(key): int(value) for key, value in fields.mapping("opsets").items()},
    )


def _cpu(fields: Fields) -> CpuNeed:
    return CpuNeed(
        runtime=fields.text("runtime"),
        versions=fields.text("versions", pattern=_RANGE),
        architecture=fields.text("architecture"),
        features=fields.texts("features"),
    )


def _wrong(fields: Fields) -> Wrong:
    traits = fields.texts("traits", [])
    if set(traits) - EVERY:
        raise fields.error("traits", "among " + ", ".join(sorted(EVERY)))
    return Wrong(
        runtime=fields.text("runtime"),
        versions=fields.text("versions", pattern=_RANGE),
        architectures=fields.texts("architectures", []),
        cpus=fields.texts("cpus", []),
        without=fields.texts("without", []),
        traits=traits,
        effect=fields.choice("effect", EFFECTS),
        says=fields.text("says"),
        cure=fields.text("cure"),
        seen=fields.text("seen"),
    )


def _nothing_left(fields: Fields) -> None:
    left = fields.rest()
    if left:  # a misspelt feature must not become none
        raise fields.error(next(iter(left))[:64], "left out: nobody knows it")
