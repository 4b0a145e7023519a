"""What counting a row costs a board, in ARM instructions: counted, and no time at all.

    python benchmarks/drift_board.py --board pi3 [--json FILE]

The board's Python runs under QEMU, whose plugin counts (docs/boards.md; `wherry board create`
first). Of 30 features, three things: what a payment waits for (`Counter.add`), a flush of a full
block, and the same with the probing monitor looking on; and beside it plain Python, `bisect_left`
for each value. A count is the same in every run; it compares ways, and says nothing of caches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from drift_counting import make

from wherry.boards.agent import lay_out_agent
from wherry.boards.count import plugin, read_counts
from wherry.boards.emulator import run_python
from wherry.boards.root import place_on_disk
from wherry.profiles import load_board

FEATURES = 30
BLOCKS = 3
GUEST = """
import ctypes, json, sys
from bisect import bisect_left
import numpy as np
from wherry_agent.serving.counter import BLOCK_ROWS, Counter, threshold_bin
from wherry_agent.serving.inference import Answers
from wherry_agent.serving.probing import Probing
from wherry_contract.manifest import Manifest
from wherry_contract.profile import ReferenceProfile

asked = json.load(sys.stdin)
manifest = Manifest.from_bytes(asked["manifest"].encode())
profile = ReferenceProfile.from_bytes(asked["profile"].encode())
raw = np.frombuffer(bytes.fromhex(asked["rows"])).reshape(-1, len(profile.features))
rows = [raw[place : place + 1].copy() for place in range(len(raw))]
score = np.array([0.01])
answers = Answers(score, score >= 0.5, np.array([14]))
probing = Probing(profile, threshold_bin(manifest))
call = ctypes.CDLL(None).syscall


def mark(work):
    call(0xED0, 0)
    call(0xED0, 1)
    work()
    call(0xED0, 2)


edges = [list(item.edges) for item in profile.features]
cells = [[0] * (len(inner) + 4) for inner in edges]


def bisect(row):
    for place, value in enumerate(row[0].tolist()):
        if value != value:
            cells[place][-1] += 1
        elif value < 0:
            cells[place][0] += 1
        else:
            cells[place][bisect_left(edges[place], value) + 1] += 1


def look(*seen):
    return probing.see(*seen, 0.0)


for watcher in (None, look):
    counter = Counter("sha256:" + "0" * 64, manifest, profile, watcher)
    for block in range(1 + asked["blocks"]):  # the first is to get warm
        for row in rows[:BLOCK_ROWS]:
            if block and watcher is None:
                mark(lambda: counter.add(row, answers, 1.8e9, 50.0))
            else:
                counter.add(row, answers, 1.8e9, 50.0)
        if block:
            mark(counter.flush)
        else:
            counter.flush()
for row in rows[:64]:
    mark(lambda: bisect(row))
print(json.dumps({"block": BLOCK_ROWS}))
"""


def measure(name: str) -> dict[str, Any]:
    """Instructions, by what is done."""
    board = load_board(name, Path())
    place = place_on_disk(board)
    if place is None:
        raise SystemExit(f"there is no {name} here: wherry board create {name}")
    manifest, profile, _, raw = make(FEATURES, 512)
    asked = {
        "manifest": manifest.to_bytes().decode(),
        "profile": profile.to_bytes().decode(),
        "rows": raw.tobytes().hex(),
        "blocks": BLOCKS,
    }
    with tempfile.TemporaryDirectory() as where:
        agent, out, guest = Path(where, "agent"), Path(where, "counts"), Path(where, "guest.py")
        lay_out_agent(agent)
        guest.write_text(GUEST)
        done = run_python(
            replace(place, plugin=f"{plugin()},out={out}"),
            [str(guest)],
            overlays=[agent],
            settings={"PYTHONHASHSEED": "0"},
            seconds=600,
            stdin=json.dumps(asked).encode(),
        )
        if done.returncode:
            raise SystemExit(done.stderr.decode()[-1000:])
        block = int(json.loads(done.stdout)["block"])
        costs = read_counts(out.read_text().splitlines())
    adds = [cost for turn in range(BLOCKS) for cost in costs[turn * (block + 1) :][:block]]
    flushes = [costs[turn * (block + 1) + block] for turn in range(BLOCKS)]
    rest = costs[BLOCKS * (block + 1) :]
    watched, bisected = rest[:BLOCKS], rest[BLOCKS:]
    add, flush = statistics.median(adds), statistics.median(flushes)
    return {
        "board": name,
        "cpu": place.cpu,
        "features": FEATURES,
        "block_rows": block,
        "add": round(add),
        "flush": round(flush),
        "a_row": round(add + flush / block),
        "a_row_watched": round(add + statistics.median(watched) / block),
        "bisect": round(statistics.median(bisected)),
    }


def main() -> None:
    """Measure, show, and write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--board", default="pi3")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    wanted = parser.parse_args()
    found = measure(wanted.board)
    for name, value in found.items():
        print(f"{name:>14}  {value:,}" if isinstance(value, int) else f"{name:>14}  {value}")
    if wanted.json:
        wanted.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
