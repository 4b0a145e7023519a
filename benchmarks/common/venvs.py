"""Environments that a benchmark makes itself, once, under `.cache/benchmarks/venvs`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from common import ROOT

FOLDER: Final = ROOT / ".cache" / "benchmarks" / "venvs"
MEBI: Final = 2**20
# what every environment has before anything of ours
_OF_VENV: Final = ("pip", "setuptools", "_distutils_hack", "pkg_resources")


class InstallFailedError(RuntimeError):
    """pip said no; the message is its last line."""


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """The folder of an environment with these packages; made if it is not there, or had others.

    Raises:
        InstallFailedError: pip could not.
    """
    folder = FOLDER / name
    done = folder / "done.json"
    if done.exists() and json.loads(done.read_text())["packages"] == list(packages):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {name} into {folder}, once", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    began = time.monotonic()
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    made = subprocess.run([*pip, "install", *packages], capture_output=True, text=True, check=False)
    if made.returncode:
        lines = made.stderr.strip().splitlines()
        raise InstallFailedError(lines[-1][:200] if lines else "pip ended without a word")
    taken = time.monotonic() - began
    done.write_text(json.dumps({"packages": list(packages), "seconds": round(taken, 1)}))
    return folder


def install_seconds(folder: Path) -> float:
    """How long pip took when the environment was made."""
    return float(json.loads((folder / "done.json").read_text())["seconds"])


def installed_sizes(venv: Path) -> dict[str, int]:
    """Bytes of each folder or file in site-packages, without what a new venv has."""
    (packages,) = venv.glob("lib/python*/site-packages")
    return {
        path.name: _bytes_in(path)
        for path in packages.iterdir()
        if not path.name.startswith(_OF_VENV)
    }


def _bytes_in(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
