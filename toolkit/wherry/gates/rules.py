"""What gates are asked, with which limits, at which confidence; as a rollout's policy keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from .spending import POCOCK


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes:
        name: as operators write it.
        about: what is compared, for people.
        unit: of its numbers.
        limit: a difference beyond it matters, unless the policy has another one.
        both_ways: whether less is as bad as more.
    """

    name: str
    about: str
    unit: str
    limit: float
    both_ways: bool = False


_GATES: Final = (
    Gate("errors", "rows that failed or that the rule answered", "share of rows", 0.002),
    Gate("scores", "mean score", "bins of a quarter log-odds", 1.0, both_ways=True),
    Gate("shape", "score distribution of a device against its own of before", "PSI", 0.1),
    Gate("declines", "flagged rows", "of the share flagged before", 0.5, both_ways=True),
    Gate("latency", "95th percentile of the time to answer", "doublings", 0.585),
    Gate("memory", "95th percentile of the agent's memory", "doublings", 0.322),
    Gate("drift", "inputs as the model's contract counts them, mean of features", "PSI", 0.1),
    Gate("disagreement", "decisions of the shadow that differ", "share of rows", 0.02),
)
GATES: Final[Mapping[str, Gate]] = {gate.name: gate for gate in _GATES}
COMPARED: Final = tuple(name for name in GATES if name != "disagreement")


@dataclass(frozen=True)
class Rules:
    """How a rollout's gates judge.

    Attributes:
        names: the gates that are asked.
        limits: by gate, where not its own.
        confidence: at least this share of rollouts of a model that makes no difference is
            not aborted by any gate, over all looks, waves and gates.
        assurance: a gate passes a difference at its limit in at most 1 - assurance of cases.
        looks: how often a wave is looked at, at the most.
        look_seconds: between looks; the first is so long after enough devices have committed.
        spending: how the error is spread over looks (`spending`).
        least_canary: devices that must have counted enough on both sides, in the canary.
        least_control: likewise, in the control.
        least_rows: rows before and after, for a device to be counted.
        most_devices: at most so many are read of either side, the first by rank.
        before_seconds: how long before the order a device's traffic is compared with.
        waves: how many waves are judged; each spends its part of the error.
        strict: whether a wave with too few devices is undecided; else it is not asked.
    """

    names: tuple[str, ...] = COMPARED
    limits: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 0.99
    assurance: float = 0.95
    looks: int = 6
    look_seconds: float = 3600.0
    spending: str = POCOCK
    least_canary: int = 5
    least_control: int = 20
    least_rows: int = 100
    most_devices: int = 400
    before_seconds: float = 86_400.0
    waves: int = 1
    strict: bool = False

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Rules:
        """Read what `to_dict` wrote."""
        return replace(cls(**document), names=tuple(document["names"]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"names": list(self.names), "limits": dict(self.limits)}

    def limit(self, name: str) -> float:
        """Beyond which a difference matters."""
        return self.limits.get(name, GATES[name].limit)
