"""How a rollout is ordered, as a request says it; and its plan, as an answer says it."""

from __future__ import annotations

import math
from typing import Any, Final

from wherry.gates.rules import COMPARED, GATES, Rules
from wherry.gates.spending import SPENDINGS
from wherry_contract.wire import Fields

from . import views
from .office import Plan
from .rollout import Policy

_MOST_STRATA: Final = 200
_MOST_LOOKS: Final = 20


def read_policy(body: Fields, shares: tuple[str, ...] = ()) -> Policy:
    """The policy that a request asks for; `shares` where it says nothing of waves.

    Raises:
        WherryError: a field is wrong, or not known here.
    """
    plain = Policy()
    policy = Policy(
        shares=body.texts("waves", list(shares or plain.shares), limit=32),
        soak_rows=body.integer("soak_rows", plain.soak_rows, low=-1),
        soak_seconds=body.integer("soak_seconds", plain.soak_seconds, low=-1),
        max_failures=body.integer("max_failures", plain.max_failures),
        silent_seconds=body.number("silent_seconds", plain.silent_seconds),
        hold_seconds=body.number("hold_seconds", plain.hold_seconds),
        to=body.text("to", plain.to, limit=2000),
        quorum=body.number("quorum", plain.quorum),
        shadow_rows=body.integer("shadow_rows", plain.shadow_rows, low=-1),
        shadow_seconds=body.integer("shadow_seconds", plain.shadow_seconds),
        gates=_gates(body),
    )
    if not 0 < policy.quorum <= 1:
        raise body.error("quorum", "above 0 and at most 1")
    if body.rest():
        raise body.error(min(body.rest()), "a name that this server knows")
    return policy


def _gates(body: Fields) -> dict[str, Any]:
    """The rules; none for ``none``, those that can be asked for ``auto``."""
    plain = Rules()
    asked = body.texts("gates", ["auto"], limit=len(GATES))
    limits = body.mapping("gate_limits", {})
    wrong = [name for name in (*asked, *limits) if name not in {*GATES, "auto", "none"}]
    if wrong:
        raise body.error("gates", f"auto, none, or of {', '.join(GATES)}; not {wrong[0][:40]!r}")
    if not all(type(value) in (int, float) and 0 < value < math.inf for value in limits.values()):
        raise body.error("gate_limits", "numbers above 0 by name")
    rules = Rules(
        names=COMPARED if "auto" in asked else asked,
        limits={name: float(value) for name, value in limits.items()},
        confidence=body.number("confidence", plain.confidence),
        looks=body.integer("looks", plain.looks, low=1),
        look_seconds=body.number("look_seconds", plain.look_seconds),
        spending=body.choice("spending", SPENDINGS, plain.spending),
        strict="auto" not in asked,
    )
    if not 0.5 <= rules.confidence < 1 or rules.looks > _MOST_LOOKS:
        raise body.error("confidence", f"from 0.5 to below 1, and looks at most {_MOST_LOOKS}")
    return {} if "none" in asked else rules.to_dict()


def plan_view(plan: Plan) -> dict[str, Any]:
    """A plan: waves, soak, strata, and which waves are judged by which gates."""
    strata = [
        dict(zip(("board", "site", "group"), name, strict=True)) | {"waves": list(counts)}
        for name, counts in plan.strata[:_MOST_STRATA]
    ]
    rows, seconds = plan.policy.shadow_rows, plan.policy.shadow_seconds
    shadow = {"shadow": {"seconds": seconds, "rows": rows}} if rows >= 0 else {}
    return shadow | {
        "bundle": views.bundle_view(plan.bundle),
        "waves": [list(wave) for wave in plan.waves],
        "soak": {"seconds": plan.soak_seconds, "rows": plan.soak_rows},
        "strata": strata,
        "strata_left_out": len(plan.strata) - len(strata),
        "gates": dict(plan.policy.gates),
        "gated_waves": list(plan.gated),
    }
