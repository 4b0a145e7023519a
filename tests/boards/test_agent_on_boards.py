"""The agent's and the contract's tests, by the board's own Python, on the board's own CPU.

No copy: the same files. ``left_out.toml`` names what is not run there and why.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support_boards import furnished, need_boards, run_suite

# board -> how many tests must pass at least, so that none gets lost on the way
BOARDS = {"pi3": 1950, "pos-armv7": 1950}
TESTS = ["tests/contract", "tests/agent"]
# what may be skipped besides: data that only its owner has
ALLOWED = ("no shared data",)
SECONDS = 1500.0

Runs = dict[str, Future[dict[str, Any]]]


def suite(name: str, work: Path, *, minutes: bool, seconds: float) -> dict[str, Any]:
    start = time.monotonic()
    board = furnished(name, work, lambda said: sys.stderr.write(f"  {name}: {said}\n"))
    made = time.monotonic() - start
    found = run_suite(board, work, TESTS, minutes=minutes, seconds=seconds)
    return found | {"made": made, "took": time.monotonic() - start}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Both boards at the same time."""
    need_boards()
    with ThreadPoolExecutor(len(BOARDS)) as pool:
        return {
            name: pool.submit(
                suite, name, tmp_path_factory.mktemp(name), minutes=False, seconds=SECONDS
            )
            for name in BOARDS
        }


def judge(found: dict[str, Any], least: int) -> None:
    assert not found["failed"], found["log"][-20_000:]
    assert found["exit"] == 0, found["log"][-6000:]
    strange = {
        name: why for name, why in found["skipped"].items() if not any(w in why for w in ALLOWED)
    }
    assert not strange
    assert not found["unused"], "left_out.toml names tests that there are not"
    assert found["passed"] >= least


@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
def test_the_agents_own_tests_pass(
    runs: Runs, name: str, record_property: pytest.RecordProperty
) -> None:
    found = runs[name].result()
    reasons = "; ".join(f"{count}: {why}" for why, count in found["left_out"].items())
    record_property(
        "figure",
        f"{name} ({found['machine']}): {found['passed']} passed, {len(found['failed'])} failed,"
        f" {len(found['skipped'])} skipped, in {found['took']:.0f} s,"
        f" {found['made']:.0f} of them for its environment. Left out: {reasons}",
    )
    judge(found, BOARDS[name])


@pytest.mark.long
@pytest.mark.parametrize("name", BOARDS)
def test_what_takes_minutes_passes_too(name: str, tmp_path: Path) -> None:
    need_boards()
    judge(suite(name, tmp_path, minutes=True, seconds=7200), 1)
