"""A rollout's plan, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .output import table

_SHOWN: Final = 8  # device ids in one line


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """Who is in which wave, how long each soaks, and what judges it."""
    bundle, waves = plan["bundle"], plan["waves"]
    lines = [f"{bundle['name']} {bundle['version']} ({bundle['digest'][:19]}) goes to"]
    for place, names in enumerate(waves):
        title = "canary" if place == 0 else f"wave {place}"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"  {title}: {len(names)}: {', '.join(names[:_SHOWN])}{more}")
    if shadow := plan.get("shadow"):
        wanted = f"{shadow['rows']} rows and {shadow['seconds']} s at least"
        lines.append(f"  first the canary scores with both models, unused: {wanted}")
    soak = plan["soak"]
    lines.append(
        f"  each soaks on {soak['rows']} rows of its own traffic, {soak['seconds']} s at least"
    )
    strata = plan.get("strata", [])
    if len(strata) > 1:
        names = ["canary", *(f"wave {place}" for place in range(1, len(waves)))]
        rows = [
            [*(item[key] or "-" for key in ("board", "site", "group")), *item["waves"]]
            for item in strata
        ]
        lines += [f"  {line}" for line in table(["board", "site", "group", *names], rows)]
        if plan["strata_left_out"]:
            lines.append(f"  and {plan['strata_left_out']} more of board, site and group")
    return [*lines, *_gate_lines(plan)]


def _gate_lines(plan: Mapping[str, Any]) -> list[str]:
    gates, waves = plan.get("gates"), plan.get("gated_waves")
    if not gates or not waves:
        return ["  no gates: failed, reverted and silent devices alone judge (docs/rollouts.md)"]
    titles = ", ".join(f"wave {place}" if place else "canary" for place in waves)
    looks, every = gates["looks"], gates["look_seconds"]
    sure = f"{100 * gates['confidence']:g} % confidence"
    return [
        f"  gates judge {titles}: {', '.join(gates['names'])}",
        f"  {looks} looks at the most, every {every:g} s; {sure}",
    ]
