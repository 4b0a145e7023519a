"""What the gates say of a wave: passed, failed or undecided, each with its figures. Pure.

A gate has **failed** when the difference is beyond its limit and chance would seldom make one.
It has **passed** when a difference at its limit would seldom look as small as this one. Else it
is **undecided**, which is never a pass: too few devices, too little traffic, or too close.
What the canary cannot count at all is **not asked**, unless it was asked by name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from . import student
from .permute import Weighed, difference, upper_tail
from .rules import GATES, Rules
from .spending import at_look

PASSED: Final = "passed"
FAILED: Final = "failed"
UNDECIDED: Final = "undecided"
NOT_ASKED: Final = "not asked"
# what an older agent does not count, and what another input contract counts otherwise; a model
# that does badly cannot make either vanish
_MAY_LACK: Final = ("memory", "drift")


@dataclass(frozen=True)
class Inputs:
    """What one look is judged from; a decision keeps it as JSON.

    Attributes:
        look: counts from 1.
        canary: by gate, a number and its weight for each device that has the new bundle.
        control: likewise, of devices that do not.
        shadow: one share for each device, of rows that the shadow decided otherwise.
        seed: of the random choices; the same inputs give the same answer.
    """

    look: int
    canary: Mapping[str, Sequence[Sequence[float]]]
    control: Mapping[str, Sequence[Sequence[float]]]
    shadow: Sequence[float] = ()
    seed: str = ""

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Inputs:
        """Read what `to_dict` wrote."""
        return cls(**document)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "look": self.look,
            "canary": {name: [list(i) for i in found] for name, found in self.canary.items()},
            "control": {name: [list(i) for i in found] for name, found in self.control.items()},
            "shadow": list(self.shadow),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Result:
    """What one gate says.

    Attributes:
        said: ``passed``, ``failed``, ``undecided`` or ``not asked``.
        difference: of the canary, over what the control did meanwhile, in the gate's unit.
        limit: beyond which it matters.
        chance: that chance alone makes such a difference; 1 where it was not tested.
        miss: chance that a difference at the limit looks as small as this; likewise.
        spend: what either may be at this look.
        canary: devices that counted.
        control: likewise.
        why: the same for people.
    """

    name: str
    said: str
    difference: float
    limit: float
    chance: float
    miss: float
    spend: tuple[float, float]
    canary: int
    control: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return self.__dict__ | {"spend": list(self.spend)}


def judge_gates(rules: Rules, inputs: Inputs) -> tuple[Result, ...]:
    """What each gate says at one look."""
    parts = max(1, len(rules.names)) * rules.waves
    spend = (
        at_look((1 - rules.confidence) / parts, inputs.look, rules.looks, rules.spending),
        # all gates must pass, and all waves: their errors do not add up
        at_look(1 - rules.assurance, inputs.look, rules.looks, rules.spending),
    )
    return tuple(_judge(name, rules, inputs, spend) for name in rules.names)


def together(results: Sequence[Result]) -> str:
    """One that failed fails; all must pass to pass."""
    said = {result.said for result in results}
    if FAILED in said:
        return FAILED
    return PASSED if said <= {PASSED, NOT_ASKED} else UNDECIDED


def _judge(name: str, rules: Rules, inputs: Inputs, spend: tuple[float, float]) -> Result:
    if name == "disagreement":
        return _judge_shadow(rules, inputs, spend)
    canary = np.asarray(inputs.canary.get(name, ()), np.float64).reshape(-1, 2)
    control = np.asarray(inputs.control.get(name, ()), np.float64).reshape(-1, 2)
    limit, sizes = rules.limit(name), (len(canary), len(control))
    counted = len(inputs.canary.get("errors", ()))
    if not (rules.strict or sizes[0]) and name in _MAY_LACK and counted >= rules.least_canary:
        why = f"no device of the canary counts {name} as it did before"
        return Result(name, NOT_ASKED, 0.0, limit, 1.0, 1.0, spend, *sizes, why)
    if sizes[0] < rules.least_canary or sizes[1] < rules.least_control:
        why = (
            f"{sizes[0]} and {sizes[1]} devices have counted enough, "
            f"{rules.least_canary} and {rules.least_control} are needed"
        )
        return Result(name, UNDECIDED, 0.0, limit, 1.0, 1.0, spend, *sizes, why)
    seed = _seed(inputs, name)
    found = difference(canary, control)
    both = GATES[name].both_ways
    chance = miss = 1.0
    if abs(found) >= limit if both else found >= limit:
        sign = np.array([math.copysign(1.0, found), 1.0])
        times = 2 if both else 1
        tail = upper_tail(sign * canary, sign * control, seed, spend[0] / times)
        chance = min(1.0, times * tail)
    else:
        miss = _miss(canary, control, limit, (seed, spend[1]), both=both)
    said = FAILED if chance <= spend[0] else PASSED if miss <= spend[1] else UNDECIDED
    why = _why(name, said, found, limit)
    return Result(name, said, found, limit, chance, miss, spend, *sizes, why)


def _miss(
    canary: Weighed,
    control: Weighed,
    limit: float,
    how: tuple[int, float],
    *,
    both: bool,
) -> float:
    """How likely a difference at the limit looks as small as this one, or smaller."""
    mirror, shift = np.array([-1.0, 1.0]), np.array([limit, 0.0])
    above = upper_tail(mirror * canary + shift, mirror * control, *how)
    return max(above, upper_tail(canary + shift, control, *how)) if both else above


def _judge_shadow(rules: Rules, inputs: Inputs, spend: tuple[float, float]) -> Result:
    """The mean share over devices against the limit, by Student's t with the device as unit."""
    limit, shares = rules.limit("disagreement"), np.asarray(inputs.shadow, np.float64)
    many = len(shares)
    if many < max(2, rules.least_canary):
        why = f"{many} devices have shadow data, {rules.least_canary} are needed"
        return Result("disagreement", UNDECIDED, 0.0, limit, 1.0, 1.0, spend, many, 0, why)
    mean = float(shares.mean())
    # half a percent point of spread at the least: equal shares of few devices prove no more
    error = max(float(shares.std(ddof=1)), 0.005) / math.sqrt(many)
    above = student.cdf((mean - limit) / error, many - 1)
    chance, miss = 1 - above, above
    said = FAILED if chance <= spend[0] else PASSED if miss <= spend[1] else UNDECIDED
    why = _why("disagreement", said, mean, limit)
    return Result("disagreement", said, mean, limit, chance, miss, spend, many, 0, why)


def _why(name: str, said: str, difference: float, limit: float) -> str:
    gate = GATES[name]
    sides = "+-" if gate.both_ways else ""
    text = f"{gate.about}: {difference:+.3g} {gate.unit}, limit {sides}{limit:g}"
    return text if said != UNDECIDED else f"{text}, and that is not sure yet"


def _seed(inputs: Inputs, name: str) -> int:
    text = f"{inputs.seed}\n{inputs.look}\n{name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
