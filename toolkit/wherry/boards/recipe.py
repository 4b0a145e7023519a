"""What a board's environment is made of, as values: pure.

An environment is a folder with Debian's packages for the board's architecture, unpacked and
never configured, and a folder of wheels beside it. Its key names all that it was made from,
so that a changed profile is another environment and an old one is never half changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from wherry.profiles import Board, Emulation, known_boards
from wherry_contract.errors import SetupError

FORMAT: Final = "3"  # changes when this code makes something else of the same profile
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR: Final = "http://deb.debian.org/debian"  # what comes is signed; see KEYRING
LOCKS: Final = Path(__file__).parents[1] / "targets" / "locks"

# pip does not go down from a newer tag to older ones: every one is named
_TAGS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "aarch64": ("2_34", "2_31", "2_28", "2_27", "2014", "2_17"),
        "armv7l": ("2_34", "2_31", "2014", "2_17"),
    }
)
_DEBIAN: Final = MappingProxyType({"aarch64": "arm64", "armv7l": "armhf"})
_TRIPLETS: Final = MappingProxyType({"arm64": "aarch64-linux-gnu", "armhf": "arm-linux-gnueabihf"})
_LEFT_OUT: Final = ("doc", "man", "locale", "info", "lintian", "bug")  # of /usr/share


@dataclass(frozen=True)
class Recipe:
    """What to fetch, from where, and what the board says of itself.

    Attributes:
        board: its name.
        machine: as ``uname -m`` says it.
        cpu: QEMU's name of the CPU.
        architecture: as Debian calls it.
        emulation: the profile's part about it.
        lock: requirements with digests, as pip reads them.
        mirror: of Debian.
    """

    board: str
    machine: str
    cpu: str
    architecture: str
    emulation: Emulation
    lock: str
    mirror: str = MIRROR

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that change with whatever the environment is made from."""
        made_from = (FORMAT, self.architecture, self.emulation.suite, self.emulation.python,
                     *self.emulation.packages, self.lock)  # fmt: skip
        return hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]

    @property
    def own_key(self) -> str:
        """Likewise for what is the board's own: its CPU and what it says of it."""
        own = (self.key, self.cpu, self.emulation.cpuinfo)
        return hashlib.sha256("\0".join(own).encode()).hexdigest()[:16]

    @property
    def folder_name(self) -> str:
        """Boards of one architecture and suite share an environment; CPUs are chosen at start."""
        return f"{self.architecture}-{self.emulation.suite}-{self.key}"

    @property
    def triplet(self) -> str:
        """The folder of libraries, as ``aarch64-linux-gnu``."""
        return _TRIPLETS[self.architecture]


def recipe_of(board: Board, mirror: str = MIRROR) -> Recipe:
    """The recipe of a board.

    Raises:
        SetupError: H14, the board cannot be emulated; H02, its lock cannot be read.
    """
    if board.emulation is None or board.architecture not in _DEBIAN:
        others = ", ".join(name for name in known_boards() if name != board.name)
        detail = f"{board.name}: its profile has no [emulation] of an ARM CPU"
        raise SetupError("H14", detail, cure=f"name another board: {others}")
    own = board.folder / "locks" / f"{board.emulation.lock}.txt"
    path = own if own.exists() else LOCKS / own.name
    try:
        lock = path.read_text()
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    architecture = _DEBIAN[board.architecture]
    machine = board.architecture
    return Recipe(board.name, machine, board.cpu, architecture, board.emulation, lock, mirror)


def apt_settings(folder: Path, architecture: str) -> str:
    """An `apt.conf` of its own, so that neither root nor the machine's own apt is touched."""
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::State": f"{folder}/state",
        "Dir::State::status": f"{folder}/state/status",
        "Dir::Cache": f"{folder}/cache",
        "Dir::Etc::sourcelist": f"{folder}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
    }
    return "".join(f'{name} "{value}";\n' for name, value in settings.items())


def apt_sources(architecture: str, suite: str, mirror: str) -> str:
    """The one source; apt refuses what Debian's keyring has not signed."""
    return f"deb [arch={architecture} signed-by={KEYRING}] {mirror} {suite} main\n"


def pip_arguments(
    recipe: Recipe, target: Path, requirements: Path, *, hashes: bool = True
) -> list[str]:
    """Arguments of pip that bring wheels of another architecture, each checked by its digest.

    Args:
        recipe: of the board.
        target: folder to install into.
        requirements: file that lists them.
        hashes: whether it gives their digests; a version that a user asks for has none.
    """
    tags = [f"manylinux{tag}_{recipe.machine}" for tag in _tags(recipe.machine)]
    return [
        "install", *(["--require-hashes"] if hashes else []), "--no-compile", "--no-deps", "--only-binary=:all:",
        "--implementation", "cp", "--python-version", recipe.emulation.python,
        *(argument for tag in tags for argument in ("--platform", tag)),
        "--target", str(target), "--requirement", str(requirements),
    ]  # fmt: skip


def _tags(machine: str) -> list[str]:
    return [tag if tag == "2014" else f"_{tag}" for tag in _TAGS[machine]]


def excluded() -> list[str]:
    """Arguments of tar that leave out what no program reads, and device files."""
    return ["--exclude=./dev", *(f"--exclude=./usr/share/{name}" for name in _LEFT_OUT)]
