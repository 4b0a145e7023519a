"""The benchmark of drift counting still runs, and its four ways still find the same counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT


def test_all_ways_count_alike(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    program = ROOT / "benchmarks" / "drift_counting.py"
    subprocess.run(
        [sys.executable, program, "--rows", "400", "--features", "6", "--json", found],
        check=True,
        capture_output=True,
    )
    document = json.loads(found.read_text())
    assert len(document["us_a_row"]) == 5
    for few, many in (("100", "1000"), ("1000", "10000")):
        small, large = document["window_bytes"][few], document["window_bytes"][many]
        assert small["compact"] < large["compact"] < large["json, zlib 9"] < large["json"]
