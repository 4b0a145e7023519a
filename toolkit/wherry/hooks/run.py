"""Telling every hook of every cause, each until it is taken and then never again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wherry_contract.errors import WherryError
from wherry_contract.wire import canonical

from .causes import Cause
from .ledger import Ledger
from .settings import Hooks


@dataclass(frozen=True)
class Told:
    """One hook and one cause.

    Attributes:
        state: ``told``, ``told before`` or ``failed``; what failed is tried again next time.
        outcome: in words.
    """

    cause: str
    bundle: str
    hook: str
    state: str
    outcome: str


def tell(
    found: Iterable[Cause], hooks: Hooks, ledger: Ledger, now: Callable[[], float]
) -> tuple[Told, ...]:
    """Tell them; one that fails keeps no other from being told.

    Args:
        found: see `causes`.
        hooks: whom to tell.
        ledger: what was told.
        now: Unix seconds.

    Raises:
        StoreError: D01 or D06, it could not be noted.
    """
    told = []
    for cause in found:
        for name, way in hooks.ways.items():
            line = ledger.begin(cause.id, cause.bundle, name, now())
            if line is None:
                told.append(Told(cause.id, cause.bundle, name, "told before", ""))
                continue
            try:
                outcome = way.send(cause.id, canonical(cause.to_dict()))
            except WherryError as error:
                ledger.end(line, str(error))
                told.append(Told(cause.id, cause.bundle, name, "failed", str(error)))
                continue
            ledger.end(line, outcome, done_at=now())
            told.append(Told(cause.id, cause.bundle, name, "told", outcome))
    return tuple(told)
