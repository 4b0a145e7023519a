"""What pip said when it failed, in a few words: its own are lists of versions and retries. Pure."""

from __future__ import annotations

import re
from typing import Final

_FORGED: Final = re.compile(r"DO NOT MATCH THE HASHES.*?\n\s+(\S+) from", re.DOTALL)
_NONE: Final = re.compile(r"No matching distribution found for ([^\s;]+)")
_AWAY: Final = ("Retrying (", "NewConnectionError", "Max retries exceeded")
_SAID: Final = 300


def pip_words(said: str, where: str) -> str:
    """What went wrong.

    Args:
        said: all that pip printed.
        where: what the wheels were for.
    """
    if found := _FORGED.search(said):
        return f"{found[1]}: its digest is not the one that the list names"
    if "No space left on device" in said:
        return "there is no room left on the disk"
    if any(sign in said for sign in _AWAY):
        return "the package index cannot be reached"
    if found := _NONE.search(said):
        return f"the package index has no wheel of {found[1]} for {where}"
    errors = [line.removeprefix("ERROR:") for line in said.splitlines() if line.startswith("ERROR")]
    last = " ".join((errors[-1] if errors else said).split()) or "it failed without a word"
    return f"pip: {last[-_SAID:]}"
