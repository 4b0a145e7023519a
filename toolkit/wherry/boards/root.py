"""Making a board's environment, as an ordinary user: private apt, unpacked packages, wheels.

No maintainer script runs, so nothing of what was fetched is executed while it is made. An
environment gets its name when it is complete, by one rename: an interrupted one is none,
and the next try removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry.profiles import Board
from wherry_contract.errors import SetupError
from wherry_convert.environments import home

from . import recipe as recipes
from .emulator import Place, find_emulator, furnish, place_of
from .pip_words import pip_words
from .recipe import Recipe

_SECONDS: Final = 900.0
_SAID: Final = 300  # characters of a failed program's last words
_BLAS: Final = ("blas", "lapack")  # Debian's alternatives, whose links no script made

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """An environment that is complete.

    Attributes:
        place: where it is.
        fresh: whether it was made just now.
    """

    place: Place
    fresh: bool


def folder() -> Path:
    """Where boards' environments are."""
    return home() / "boards"


def mirror() -> str:
    """Debian's mirror: ``WHERRY_DEBIAN_MIRROR``, or the one that redirects."""
    return os.environ.get("WHERRY_DEBIAN_MIRROR") or recipes.MIRROR


def place_on_disk(board: Board) -> Place | None:
    """Where a board's environment is, or would be; None for a board that is not emulated.

    Raises:
        SetupError: H02, its lock cannot be read.
    """
    if board.emulation is None:
        return None
    return place_of(recipes.recipe_of(board), folder(), Path())


def create(recipe: Recipe, progress: Progress) -> Made:
    """Make a board's environment unless it is there, and what is the board's own.

    Args:
        recipe: of the board.
        progress: is told each step in words.

    Raises:
        SetupError: H14 a program is missing here, H15 something cannot be fetched or unpacked,
            H03 no room or no right.
    """
    emulator = find_emulator(recipe.machine)
    _check_tools()
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with alone(folder() / "lock", progress):
            fresh = _make_base(recipe, progress)
            place = place_of(recipe, folder(), emulator)
            made = furnish(place, recipe)
    except OSError as error:
        raise SetupError("H03", f"{error.filename or folder()}: {error.strerror}") from error
    return Made(place, fresh or made)


def _check_tools() -> None:
    missing = [name for name in ("apt-get", "dpkg-deb", "tar") if not shutil.which(name)]
    if not Path(recipes.KEYRING).exists():
        missing.append("debian-archive-keyring")
    if missing:
        cure = f"on Debian or Ubuntu: sudo apt-get install {' '.join(missing)}"
        raise SetupError("H14", f"missing: {', '.join(missing)}", cure=cure)


@contextmanager
def alone(path: Path, progress: Progress) -> Iterator[None]:
    """Two that make the same environment would undo each other's work."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process makes an environment; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make_base(recipe: Recipe, progress: Progress) -> bool:
    base = folder() / recipe.folder_name
    if base.exists():
        return False
    half = base.with_name(f"{base.name}.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    made_of = recipe.emulation
    wanted = Wanted(recipe.architecture, made_of.suite, recipe.mirror, made_of.packages)
    fetch_packages(wanted, half / "apt", half / "root", progress)
    _fetch_wheels(recipe, half, progress)
    _mend(half / "root", recipe)
    _compile(recipe, half, progress)
    shutil.rmtree(half / "apt")
    half.rename(base)
    return True


@dataclass(frozen=True)
class Wanted:
    """Packages of Debian, with what they depend on."""

    architecture: str
    suite: str
    mirror: str
    packages: Sequence[str]


def fetch_packages(wanted: Wanted, apt: Path, root: Path, progress: Progress) -> None:
    """Fetch packages, check Debian's signature, and unpack them without running anything.

    Args:
        wanted: which.
        apt: a folder for apt's own files.
        root: to be made.
        progress: is told each step in words.

    Raises:
        SetupError: H15.
        OSError: no room or no right.
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "state/status").touch()
    (apt / "apt.conf").write_text(recipes.apt_settings(apt, wanted.architecture))
    source = recipes.apt_sources(wanted.architecture, wanted.suite, wanted.mirror)
    (apt / "sources.list").write_text(source)
    settings = {"APT_CONFIG": str(apt / "apt.conf")}
    progress(f"asking {wanted.mirror} for the packages of {wanted.suite}")
    # apt's own word for "a source failed" is a warning and exit 0, unless it is told
    run_tool(["apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any"], settings)
    progress(f"fetching {', '.join(wanted.packages)} for {wanted.architecture}")
    download = ["apt-get", "install", "-y", "-qq", "--download-only", "--no-install-recommends"]
    run_tool([*download, *wanted.packages], settings)
    _unpack(apt, root, progress)


def _unpack(apt: Path, root: Path, progress: Progress) -> None:
    packages = sorted((apt / "cache/archives").glob("*.deb"))
    progress(f"unpacking {len(packages)} packages")
    root.mkdir()
    for package in packages:
        command = [shutil.which("dpkg-deb") or "dpkg-deb", "--fsys-tarfile", str(package)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as source:
            tar = ["tar", "-x", "-C", str(root), "--no-same-owner", *recipes.excluded()]
            run_tool(tar, stdin=source.stdout)
        if source.returncode:
            raise SetupError("H15", f"{package.name} cannot be unpacked")


def _fetch_wheels(recipe: Recipe, half: Path, progress: Progress) -> None:
    names = [line.partition(" ")[0] for line in recipe.lock.splitlines() if "==" in line]
    progress(f"fetching {', '.join(names)}")
    requirements = half / "lock.txt"
    requirements.write_text(recipe.lock)
    install_wheels(recipe, half / "site", requirements)


def install_wheels(
    recipe: Recipe, target: Path, requirements: Path, *, hashes: bool = True
) -> None:
    """Install wheels for the board into a folder, each checked by its digest where the list gives it.

    Raises:
        SetupError: H15.
    """
    arguments = recipes.pip_arguments(recipe, target, requirements, hashes=hashes)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    where = f"{recipe.machine} and Python {recipe.emulation.python}"
    command = [sys.executable, "-m", "pip", *quiet, *arguments]
    run_tool(command, words=lambda said: pip_words(said, where))


def _mend(root: Path, recipe: Recipe) -> None:
    """What maintainer scripts would have done and programs need."""
    for name in ("bin", "sbin", "lib"):
        _merge(root / name, root / "usr" / name)
    libraries = root / "usr/lib" / recipe.triplet
    for name in _BLAS:
        for library in sorted((libraries / name).glob("*.so.*")):
            link = libraries / library.name
            if not link.exists():
                link.symlink_to(f"{name}/{library.name}")


def _merge(old: Path, new: Path) -> None:
    """One folder under /usr and a link to it, as Debian's `usrmerge` does.

    The 32-bit loader asks for folders by a call that QEMU does not redirect, so that it
    finds a library only in the first of two folders.
    """
    new.mkdir(parents=True, exist_ok=True)
    if old.is_dir() and not old.is_symlink():
        shutil.copytree(old, new, symlinks=True, copy_function=shutil.move, dirs_exist_ok=True)
        shutil.rmtree(old)
    if not old.exists():
        old.symlink_to(f"usr/{new.name}")


def _compile(recipe: Recipe, half: Path, progress: Progress) -> None:
    """Compile modules once; bytecode is of a Python version, whatever the CPU."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != recipe.emulation.python:
        return  # it only starts more slowly
    progress("compiling Python's modules")
    library = half / "root/usr/lib"
    folders = [library / f"python{here}", library / "python3", half / "site"]
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0"]
    # paths in the bytecode should be those that the board will see
    strip = ["-s", str(half), "-p", str(half).removesuffix(".new")]
    subprocess.run(
        [*command, *strip, *map(str, folders)],
        capture_output=True,
        check=False,  # some test data of the standard library is no valid Python
    )


def run_tool(
    command: Sequence[str],
    settings: Mapping[str, str] | None = None,
    stdin: object = None,
    words: Callable[[str], str] | None = None,
) -> None:
    """Run a program of this machine to its end.

    Args:
        command: the program and its arguments.
        settings: further environment variables.
        stdin: what it reads, a pipe's end; None for nothing.
        words: makes the error's detail of what it said; its last words without.

    Raises:
        SetupError: H15, it failed or took too long.
    """
    try:
        done = subprocess.run(
            command,
            env=dict(os.environ) | dict(settings or {}),
            stdin=stdin,  # type: ignore[call-overload]  # a pipe's end, or nothing
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError("H15", f"{command[0]} took more than {_SECONDS:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        last = f"{Path(command[0]).name}: {' '.join(said.split())[-_SAID:]}"
        raise SetupError("H15", words(said) if words else last)
