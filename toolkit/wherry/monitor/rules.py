"""The rules of the judgement, as a person can read them. Pure; see docs/drift.md.

| a comparison is  | if                                                                       |
|------------------|--------------------------------------------------------------------------|
| changed          | q <= 0.05 (Benjamini and Hochberg over all comparisons of the tick)      |
| raised to warn   | changed, and certainly (1 %) by more than 0.05 (a share: by 1 point)     |
| raised to act    | changed, and certainly (1 %) by more than 0.10 (a share: by 5 points)    |

| the latest three were raised to      | the decision is |
|--------------------------------------|-----------------|
| act in two or three                  | act             |
| warn or act in two or three          | warn            |
| the newest alone                     | watch           |
| an earlier one alone, or none        | stable          |
"""

from __future__ import annotations

from collections.abc import Sequence

from .view import Decision, Evidence, Policy
from .words import chance


def level(q: float, p_warn: float, p_act: float, policy: Policy) -> Decision:
    """What one span is raised to: it must be changed, and certainly by more than the limit."""
    if q > policy.fdr or p_warn > policy.certainty:
        return Decision.STABLE
    return Decision.ACT if p_act <= policy.certainty else Decision.WARN


def decide(levels: Sequence[Decision], policy: Policy) -> Decision:
    """What follows from what the latest spans were raised to, the newest last.

    An alert needs `times` of the last `of`; its level is the highest that so many reached.
    """
    recent = levels[-policy.of :]
    if recent.count(Decision.ACT) >= policy.times:
        return Decision.ACT
    if len(recent) - recent.count(Decision.STABLE) >= policy.times:
        return Decision.WARN
    return Decision.STABLE if recent[-1] == Decision.STABLE else Decision.WATCH


def explain(evidence: Evidence, raised: Decision, decision: Decision, policy: Policy) -> str:
    """The rule that led to a decision, in words."""
    if raised == Decision.STABLE:
        changed = evidence.q <= policy.fdr
        small = "changed, but not certainly by more than the limit"
        now = small if changed else "no change that chance would not explain"
        return now if decision == Decision.STABLE else f"{now}; raised before"
    share = evidence.expected is not None
    warn, act = (policy.warn_share, policy.act_share) if share else (policy.warn, policy.act)
    limit, p = (act, evidence.p_act) if raised == Decision.ACT else (warn, evidence.p_warn)
    how = f"changed (q {chance(evidence.q)}) and by more than {limit:g} (p {chance(p)})"
    if decision == Decision.WATCH:
        return f"{how}, seen once: an alert needs {policy.times} of {policy.of}"
    return f"{how}, in {policy.times} of {policy.of}"
