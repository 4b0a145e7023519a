"""What bundles were run on, by digest: `verify` and `build` write it, `push` tells the server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import SetupError
from wherry_contract.wire import Domain, Fields, parse_json

from .files import write_durably

SCHEMA: Final = "wherry/verified/1"
MOST_BOARDS: Final = 64
MOST_CHARACTERS: Final = 500
_LIMIT_BYTES: Final = 64 * 2**10
_DOMAIN: Final = Domain(SetupError, "H02", "H02", "H02", "H02")
Boards = Mapping[str, str]  # name -> what came of it, in words


def words(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Verdicts of a board in one line, as documents of `wherry/verify/1` hold them."""
    line = "; ".join(f"{item['runtime']}: {item['verdict']}" for item in verdicts)
    return line[:MOST_CHARACTERS]


def read_boards(fields: Fields) -> Boards:
    """The field ``boards`` of a document.

    Args:
        fields: of the document.

    Raises:
        WherryError: the domain's, there is something else.
    """
    found = fields.mapping("boards", {})
    if len(found) > MOST_BOARDS or not all(
        isinstance(text, str) and len(text) <= MOST_CHARACTERS and len(name) <= MOST_CHARACTERS
        for name, text in found.items()
    ):
        raise fields.error("boards", f"words by name, at most {MOST_BOARDS}")
    return found


def record(home: Path, digest: str, boards: Boards) -> None:
    """Add to what is known of a bundle, where there is a data folder.

    Args:
        home: that folder; it is not made for this.
        digest: of the bundle.
        boards: what came of it; a board that is known already is replaced.

    Raises:
        StoreError: D01 or D06.
    """
    if not home.is_dir():
        return
    known = dict(sorted((dict(recorded(home, digest)) | dict(boards)).items())[:MOST_BOARDS])
    document = {"schema": SCHEMA, "boards": known}
    write_durably(_path(home, digest), json.dumps(document, indent=1).encode() + b"\n")


def recorded(home: Path, digest: str) -> Boards:
    """What a bundle was run on, and what came of it; nothing if that is not known.

    Args:
        home: the data folder.
        digest: of the bundle.

    Raises:
        SetupError: H02, the file was changed by others.
    """
    path = _path(home, digest)
    if not path.exists():
        return {}
    with path.open("rb") as stream:
        data = stream.read(_LIMIT_BYTES + 1)
    document = parse_json(data, limit=_LIMIT_BYTES, what=str(path), domain=_DOMAIN)
    return read_boards(Fields(document, str(path), _DOMAIN))


def _path(home: Path, digest: str) -> Path:
    return home / "verified" / f"{digest.removeprefix('sha256:')}.json"
