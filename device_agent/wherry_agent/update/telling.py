"""What is told of an update: a fact for each step, and the key under which it is told once. Pure."""

from __future__ import annotations

from wherry_agent.link.fact import Fact
from wherry_contract.errors import CODES
from wherry_contract.states import Outcome
from wherry_contract.states import UpdateState as S

from .record import DeviceRecord, Update
from .updater import E, Result


def step_fact(before: S, result: Result, after: DeviceRecord) -> tuple[Fact, str | None] | None:
    """One for each step forward, one for each new kind of trouble; nothing for the rest.

    Args:
        before: the state that was left.
        result: what its action came back with.
        after: the record that follows.
    """
    update = after.update
    if update is None or result.event == E.WAIT:
        return None
    order = update.assignment
    if result.event == E.RETRY:
        fact = Fact(result.code, result.detail, "warning", order.rollout, order.digest)
        return fact, f"retry:{order.rollout}:{order.sequence}:{before}:{result.code}"
    if after.state == S.IDLE:
        return None
    text = f"{before} -> {after.state}"
    text += f": {result.code} {result.detail}" if result.code else ""
    text += f": {result.detail}" if result.detail and not result.code else ""
    severity = "error" if result.event == E.FAIL else "info"
    return Fact(f"update.{after.state}", text[:1000], severity, order.rollout, order.digest), None


def undecided_fact(update: Update, found: Result) -> tuple[Fact, str]:
    """That a soak takes too long."""
    order = update.assignment
    fact = Fact(found.code, found.detail, "warning", order.rollout, order.digest)
    return fact, f"undecided:{order.rollout}:{order.sequence}"


def report_fact(update: Update) -> tuple[Fact, str]:
    """How an update ended."""
    order = update.assignment
    good = update.outcome in (Outcome.COMMITTED, Outcome.WITHDRAWN)
    title = CODES[update.code].title if update.code in CODES else ""
    text = ": ".join(filter(None, (title, update.detail))) or update.outcome
    fact = Fact(
        code=update.code or f"update.{update.outcome}",
        text=text[:1000],
        severity="info" if good or update.code == "U02" else "error",
        rollout=order.rollout,
        bundle=order.digest,
        outcome=update.outcome,
    )
    return fact, f"report:{order.rollout}:{order.sequence}"
