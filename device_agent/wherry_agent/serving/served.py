"""What serves now, and how its soak is getting on."""

from __future__ import annotations

from dataclasses import dataclass

from wherry_contract.manifest import Manifest
from wherry_contract.profile import ReferenceProfile

from .inference import Model


@dataclass(frozen=True)
class Served:
    """What serves now.

    Attributes:
        digest: of the bundle.
        model: nothing if only its rule may answer.
    """

    digest: str
    manifest: Manifest
    profile: ReferenceProfile
    model: Model | None

    @classmethod
    def by_model(cls, model: Model) -> Served:
        """A model, with its bundle's rule behind it."""
        return cls(model.digest, model.manifest, model.profile, model)


@dataclass(frozen=True)
class Progress:
    """How a soak is getting on, since the last swap.

    Attributes:
        since: monotonic seconds of that swap.
        rows: scored, or tried.
        failures: rows that the model did not score.
        failure: the last reason, in words.
    """

    since: float = 0.0
    rows: int = 0
    failures: int = 0
    failure: str = ""
