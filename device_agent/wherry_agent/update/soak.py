"""Whether a bundle that was switched to has proven itself on live traffic. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wherry_agent.serving.served import Progress, Served
from wherry_contract.assignment import Assignment
from wherry_contract.manifest import Manifest, Soak

from .updater import E, Result

UNDECIDED: Final = "U10"
_LEAST_FAILURES: Final = 5  # so that one odd row among the first few ends no soak


def judge_soak(served: Served | None, order: Assignment, progress: Progress, age: float) -> Result:
    """What the traffic since the switch says.

    Args:
        served: what answers now.
        order: for the bundle that soaks.
        progress: rows since the switch.
        age: seconds since the switch.

    Returns:
        Done, or failed with U06, or to wait for more; then with U10 if it took too long.
    """
    if served is None or served.digest != order.digest or not served.model:
        return Result(E.FAIL, "U06", "the model no longer serves")
    soak = _soak_of(served.manifest, order)
    if progress.failures >= max(_LEAST_FAILURES, soak.error_share * progress.rows):
        detail = f"{progress.failures} of {progress.rows} rows failed: {progress.failure}"
        return Result(E.FAIL, "U06", detail[:500])
    if progress.rows >= soak.rows and age >= soak.seconds:
        return Result(E.DONE, "", f"{progress.rows} rows in {age:.0f} s")
    if age > soak.longest_seconds:
        detail = f"{progress.rows} of {soak.rows} rows in {age:.0f} s"
        return Result(E.WAIT, UNDECIDED, detail)
    return Result(E.WAIT)


def _soak_of(manifest: Manifest, order: Assignment) -> Soak:
    """The bundle's soak, with what the order says otherwise."""
    soak = manifest.soak
    rows = order.soak_rows if order.soak_rows >= 0 else soak.rows
    seconds = order.soak_seconds if order.soak_seconds >= 0 else soak.seconds
    return replace(soak, rows=rows, seconds=seconds)
