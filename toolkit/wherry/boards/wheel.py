"""Wherry's own wheel, and what a board has of it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install

from .root import folder, run_tool

PACKAGES: Final = ("wherry_agent", "wherry_contract")  # a board has no other part of it
Files = Mapping[str, bytes]  # by the name in the wheel
_NAME: Final = "wherry"
_BESIDE: Final = ("pyproject.toml", "README.md", "LICENSE")  # what the wheel's metadata is made of


def source() -> Path | None:
    """The checkout that this Wherry is installed from, editable; None if from a wheel."""
    found = metadata.distribution(_NAME).read_text("direct_url.json")
    about = json.loads(found) if found else {}
    if not about.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(about["url"]).path))


def wheel(checkout: Path) -> Path:
    """The wheel of a checkout, built if its files have changed since.

    Args:
        checkout: its folder.

    Raises:
        SetupError: H15, it cannot be built; without hatchling pip fetches that.
        OSError: no room or no right.
    """
    home = folder() / "wheels"
    target = home / _digest(checkout)
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix="half-", dir=home))
        try:
            options = ["--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"]
            if importlib.util.find_spec("hatchling"):
                options.append("--no-build-isolation")
            into = ["--wheel-dir", str(half), str(checkout)]
            run_tool([sys.executable, "-m", "pip", "wheel", *options, *into])
            if not target.exists():  # another may have been first
                half.rename(target)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return next(target.glob("*.whl"))


def files_of_wheel(archive: zipfile.ZipFile) -> Files:
    """What a board has of a wheel.

    Args:
        archive: the wheel.
    """
    return {name: archive.read(name) for name in archive.namelist() if _is_for_boards(name)}


def installed_files(distribution: metadata.Distribution | None = None) -> Files:
    """The same of an installed wheel, each file as pip recorded it.

    Args:
        distribution: ours if left out.

    Raises:
        SetupError: H06, one is missing or was changed.
    """
    chosen = distribution or metadata.distribution(_NAME)
    found = {}
    for item in chosen.files or ():
        name = item.as_posix()
        if not _is_for_boards(name):
            continue
        try:
            data = Path(str(item.locate())).read_bytes()
        except OSError as error:
            raise _changed(name) from error
        if item.hash and item.hash.value != _recorded(data, item.hash.mode):
            raise _changed(name)
        found[name] = data
    return found


def _changed(name: str) -> SetupError:
    return SetupError(
        "H06",
        f"{name} is not as it was installed",
        cure=how_to_install("", options="--force-reinstall"),
    )


def _recorded(data: bytes, mode: str) -> str:
    digest = hashlib.new(mode, data).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _is_for_boards(name: str) -> bool:
    parts = Path(name).parts
    ours = parts[0] in PACKAGES or parts[0].endswith(".dist-info")
    return ours and not name.endswith(("/", ".pyc"))


def _digest(checkout: Path) -> str:
    found = hashlib.sha256()
    for path in _sources(checkout):
        found.update(f"{path.relative_to(checkout)}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def _sources(checkout: Path) -> Iterator[Path]:
    yield from (checkout / name for name in _BESIDE)
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        for path in sorted((checkout / package).rglob("*")):
            if path.is_file() and path.parent.name != "__pycache__":
                yield path
