"""A real small file system: need times 1.2 is looked for before, and the reserve is never used."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support_agent import keys, make_bundle, order_for, running_depot, signed_order

DRIVER = Path(__file__).parent / "small_disk.py"
LARGE = make_bundle("1.0.0", card=random.Random(5).randbytes(1_500_000).hex().encode())
MOUNT = 'mount -t tmpfs -o size=24m none "$0" && exec "$@"'


def _may_mount(folder: Path) -> bool:
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", MOUNT, str(folder), "true"],
        capture_output=True,
        check=False,
    )
    return not done.returncode


def test_a_small_disk(tmp_path: Path) -> None:
    if not _may_mount(tmp_path):
        pytest.skip("this machine lets no ordinary user mount a file system of his own")
    need = sum(len(data) for data in LARGE.layout.blobs.values())
    orders = [signed_order(order_for(LARGE.digest, sequence)) for sequence in (1, 2)]
    with running_depot(tmp_path / "depot", LARGE) as depot:
        place = tmp_path / "small"
        place.mkdir()
        asked = {
            "folder": str(place),
            "need": need,
            "depot": depot.url,
            "orders": [base64.b64encode(order).decode() for order in orders],
            "root": keys().root().to_bytes().decode(),
        }
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", MOUNT, str(place), sys.executable, str(DRIVER)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr
    seen = json.loads(done.stdout)
    assert seen["too little"] == ["refused", "U01"]
    assert seen["meanwhile"] == "D01"
    assert seen["enough"] == ["committed", "update.committed"]
    assert seen["used of the reserve"] < 100_000  # the record and the outbox that say so
    assert seen["least free, over the reserve"] > 0
