"""Making environments for heavy frameworks: `wherry doctor --install`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_contract.errors import SetupError
from wherry_convert.environments import ENVIRONMENTS, MARK, Environment, folder_of

_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--no-input")


@dataclass(frozen=True)
class Made:
    """An environment that works.

    Attributes:
        name: of the framework.
        folder: where it is.
        versions: of what was asked for, as installed.
        fresh: whether it was made just now.
    """

    name: str
    folder: Path
    versions: dict[str, str]
    fresh: bool


def install(name: str, progress: Callable[[str], None]) -> Made:
    """Make an environment, unless it is there.

    Args:
        name: in `ENVIRONMENTS`.
        progress: is told each step, and what pip fetches, in words.

    Raises:
        SetupError: H06 it cannot be installed or does not work, H03 no room or no right.
    """
    return make(ENVIRONMENTS[name], folder_of(name), progress)


def make(environment: Environment, folder: Path, progress: Callable[[str], None]) -> Made:
    """Likewise, for any environment and folder.

    Raises:
        SetupError: H06 it cannot be installed or does not work, H03 no room or no right.
    """
    name = environment.name
    if (folder / MARK).exists():
        return Made(name, folder, _versions(folder, environment), fresh=False)
    progress(f"making {folder}, about {environment.megabytes} MB")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # half an environment of an earlier try
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError("H03", f"{folder}: {error}"[:300]) from error
    _pip(folder, environment, progress)
    _probe(folder, environment)
    versions = _versions(folder, environment)
    (folder / MARK).write_text("".join(f"{key}=={value}\n" for key, value in versions.items()))
    return Made(name, folder, versions, fresh=True)


def _python(folder: Path) -> str:
    return str(folder / "bin" / "python")


def _pip(folder: Path, environment: Environment, progress: Callable[[str], None]) -> None:
    # who has set an index of their own gets everything from there
    own = any(name in os.environ for name in ("PIP_INDEX_URL", "PIP_NO_INDEX")) or _has_index()
    index = [] if own or not environment.index else ["--extra-index-url", environment.index]
    command = [_python(folder), *_PIP, "install", "--progress-bar", "off", *index]
    with subprocess.Popen(
        [*command, *environment.packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        last = ""
        for line in process.stdout or ():
            last = line.strip() or last
            if line.startswith(("Collecting", "Downloading", "Installing")):
                progress(line.strip()[:100])
    if process.returncode:
        raise SetupError("H06", f"pip could not install {environment.name}: {last}"[:300])


def _has_index() -> bool:
    found = subprocess.run(
        [sys.executable, *_PIP, "config", "list"], capture_output=True, text=True, check=False
    )
    return "index-url" in found.stdout


def _probe(folder: Path, environment: Environment) -> None:
    done = subprocess.run(
        [_python(folder), "-I", "-W", "ignore", "-c", environment.probe],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise SetupError("H06", f"{environment.name} is installed and does not work: {last}"[:300])


def _versions(folder: Path, environment: Environment) -> dict[str, str]:
    wanted = [package.partition("=")[0].partition(">")[0] for package in environment.packages]
    code = "import sys, importlib.metadata as m; [print(n, m.version(n)) for n in sys.argv[1:]]"
    done = subprocess.run(
        [_python(folder), "-I", "-c", code, *wanted], capture_output=True, text=True, check=False
    )
    pairs = [line.split(" ", 1) for line in done.stdout.splitlines()]
    if done.returncode or len(pairs) != len(wanted):
        raise SetupError(
            "H06",
            f"the environment at {folder} is broken",
            cure=f"remove that folder, then: wherry doctor --install {environment.name}",
        )
    return {pair[0]: pair[1] for pair in pairs}
