"""The agent as it would be installed on a board: its files and the contract's, and no others."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Final

from wherry import __version__
from wherry_contract.errors import SetupError

PACKAGES: Final = ("wherry_agent", "wherry_contract")


def lay_out_agent(folder: Path) -> None:
    """Copy what the wheel's agent part holds, with its metadata, so that it knows its version.

    Args:
        folder: to be made; it goes before the board's own modules.

    Raises:
        SetupError: H06, the agent is not installed here.
        OSError: no room or no right.
    """
    folder.mkdir(parents=True)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise SetupError("H06", f"{name} is not installed", cure="pip install 'wherry[agent]'")
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(spec.origin).parent, folder / name, ignore=left_out)
    about = folder / f"wherry-{__version__}.dist-info"
    about.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: wherry\nVersion: {__version__}\n"
    (about / "METADATA").write_text(metadata)
