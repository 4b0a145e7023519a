"""Running programs of a board: QEMU's user mode under the board's own CPU model.

Only what lies in the board's folder of programs can be started by name from inside, so
that a program that is missing there is never quietly this machine's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_contract.errors import SetupError

from .recipe import Recipe

INSTALL: Final = "sudo apt-get install --no-install-recommends qemu-user"
PROGRAMS: Final = ("openssl",)  # of Debian, that the agent starts
_QEMU: Final = {"aarch64": "qemu-aarch64", "armv7l": "qemu-arm"}
_NO_CPUS: Final = ("max", "any")  # all instructions at once: no board is like that
_START: Final = "wherry_board_start"
_OVERLAYS: Final = "WHERRY_BOARD_PATH"
# what a program inside may know of this machine
_KEPT: Final = ("HOME", "TMPDIR", "LANG")

_START_CODE: Final = '''"""Run by site at every start: what differs from a board that runs by itself."""

import os
import sys

# an ARM program cannot be started without the emulator, and children are started by this name
sys.executable = {python!r}
sys.path[:0] = [name for name in os.environ.get({overlays!r}, "").split(":") if name]
'''


@dataclass(frozen=True)
class Place:
    """A board's environment on this machine.

    Attributes:
        board: its name.
        folder: what is the board's own: its root, its programs.
        base: what it shares with others of its architecture.
        emulator: QEMU's program.
        cpu: QEMU's name of the CPU.
        version: of Python.
        plugin: of QEMU, with its arguments, for programs started from here; "" for none.
    """

    board: str
    folder: Path
    base: Path
    emulator: Path
    cpu: str
    version: str
    plugin: str = ""

    @property
    def root(self) -> Path:
        """The board's file system."""
        return self.folder / "root"

    @property
    def site(self) -> Path:
        """Wheels."""
        return self.base / "site"

    @property
    def programs(self) -> Path:
        """What can be started by name."""
        return self.folder / "bin"

    @property
    def python(self) -> Path:
        """The board's Python, as a program of this machine."""
        return self.programs / "python3"

    @property
    def program(self) -> Path:
        """The same as a file of the board."""
        return self.root / "usr/bin" / f"python{self.version}"

    @property
    def ready(self) -> bool:
        """Whether it is complete."""
        return self.folder.is_dir() and self.base.is_dir()

    def environment(self, overlays: Sequence[Path] = ()) -> dict[str, str]:
        """Environment variables for a program of the board.

        Args:
            overlays: folders of modules that come before the board's own.
        """
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        # QEMU reads it; children that are started inside are not counted
        counted = {"QEMU_PLUGIN": self.plugin} if self.plugin else {}
        return (
            kept
            | counted
            | {
                "PATH": str(self.programs),
                "ORT_DISABLE_TELEMETRY": "1",
                _OVERLAYS: ":".join(map(str, overlays)),
            }
        )


def find_emulator(machine: str) -> Path:
    """QEMU's program for a machine.

    Raises:
        SetupError: H14, it is not installed.
    """
    name = _QEMU[machine]
    found = shutil.which(name) or shutil.which(f"{name}-static")
    if not found:
        raise SetupError("H14", f"{name} is not installed", cure=f"run: {INSTALL}")
    return Path(found)


def cpu_models(emulator: Path) -> tuple[str, ...]:
    """The CPU models that an emulator knows.

    Raises:
        SetupError: H14, it does not run.
    """
    done = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False)
    listed = [line.split()[0] for line in done.stdout.splitlines()[1:] if line.split()]
    names = tuple(name for name in listed if name not in _NO_CPUS)
    if not names:  # it lists them and ends with 1
        raise SetupError("H14", f"{emulator}: {done.stderr.strip()[:200] or 'it lists no CPUs'}")
    return names


def check_cpu(emulator: Path, cpu: str) -> None:
    """Refuse a CPU that an emulator does not know.

    Raises:
        SetupError: H14.
    """
    known = cpu_models(emulator)
    if cpu not in known:
        detail = f"{emulator.name} does not know the CPU {cpu}"
        raise SetupError("H14", detail, cure=f"it knows: {', '.join(known)}")


def place_of(recipe: Recipe, folder: Path, emulator: Path) -> Place:
    """Where a board's environment is, or would be."""
    return Place(
        board=recipe.board,
        folder=folder / f"{recipe.board}-{recipe.own_key}",
        base=folder / recipe.folder_name,
        emulator=emulator,
        cpu=recipe.cpu,
        version=recipe.emulation.python,
    )


def furnish(place: Place, recipe: Recipe) -> bool:
    """Make what is the board's own out of what it shares; false if it is there.

    Raises:
        SetupError: H14, the emulator does not know the CPU.
        OSError: no room or no right.
    """
    if place.folder.exists():
        return False
    check_cpu(place.emulator, place.cpu)
    half = place.folder.with_name(f"{place.folder.name}.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    # links, not copies: only what is written below differs between boards
    shutil.copytree(place.base / "root", half / "root", symlinks=True, copy_function=os.link)
    (half / "root/proc").mkdir(exist_ok=True)
    (half / "root/proc/cpuinfo").write_text(recipe.emulation.cpuinfo)
    packages = half / "root/usr/lib/python3/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    start = _START_CODE.format(python=str(place.python), overlays=_OVERLAYS)
    (packages / f"{_START}.py").write_text(start)
    (packages / "wherry-board.pth").write_text(f"{place.site}\nimport {_START}\n")
    (half / "bin").mkdir()
    programs = {name: f"usr/bin/{name}" for name in PROGRAMS}
    for name, path in (programs | {"python3": f"usr/bin/python{place.version}"}).items():
        if (half / "root" / path).exists():
            _write_program(half / "bin" / name, _command(place, place.root / path))
    half.rename(place.folder)
    return True


def _command(place: Place, program: Path) -> list[str]:
    options = ["-cpu", place.cpu, "-L", str(place.root), "-U", "LD_LIBRARY_PATH"]
    return [str(place.emulator), *options, str(program)]


def _write_program(path: Path, command: Sequence[str]) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)


def run_python(
    place: Place,
    arguments: Sequence[str],
    *,
    overlays: Sequence[Path] = (),
    settings: Mapping[str, str] | None = None,
    seconds: float = 300.0,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Run the board's Python and wait for it.

    Args:
        place: the board.
        arguments: of Python.
        overlays: folders of modules that come first.
        settings: further environment variables.
        seconds: after which it is killed.
        stdin: what it reads.

    Raises:
        subprocess.TimeoutExpired: it took too long.
    """
    return subprocess.run(
        [place.python, *arguments],
        env=place.environment(overlays) | dict(settings or {}),
        input=stdin,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
