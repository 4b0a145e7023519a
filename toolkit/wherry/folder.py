"""The data folder: what a server keeps, and what its commands look for; keys lie in it too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "WHERRY_HOME"
_DEFAULT: Final = ".wherry"


def home() -> Path:
    """The data folder where none is named: ``$WHERRY_HOME``, or ``.wherry`` here."""
    return Path(os.environ.get(VARIABLE) or _DEFAULT)


def key_folder(data: Path | None = None) -> Path:
    """Where the keys of a data folder lie."""
    return (data or home()) / "keys"
