"""Runs on a board with the agent's modules before it: scores rows between marks.

It is started as a file, not imported: what it imports is the board's.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from wherry_agent.serving.inference import load_model
from wherry_agent.store import BlobStore
from wherry_contract.bundle import load_parts

MARK = 0xED0
WARM = 50
ROUNDS = 3  # over all rows, so that one that is odd shows


def main() -> None:
    """Read the request, score, and say what is being counted."""
    request = json.load(sys.stdin)
    blobs = BlobStore(Path(request["store"]))
    digest = request["digest"]
    parts = load_parts(blobs.read_whole(digest), lambda item: blobs.read(item.digest))
    model = load_model(digest, parts)
    raw = parts.golden.matrix(parts.manifest.input)
    rows = [raw[place][np.newaxis] for place in range(len(raw))]
    call = ctypes.CDLL(None).syscall
    for turn in range(WARM):
        model.scores(rows[turn % len(rows)])
    for place in range(ROUNDS * len(rows)):
        row = rows[place % len(rows)]
        call(MARK, 0)
        call(MARK, 1)  # two marks in a row: what a mark itself costs
        model.scores(row)
        call(MARK, 2)
    sys.stdout.write(json.dumps({"rows": len(rows), "rounds": ROUNDS}))


if __name__ == "__main__":
    main()
