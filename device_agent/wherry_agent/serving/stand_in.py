"""What is done about inputs that are not trusted: remembered, told, and who answers meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wherry_contract.features import RawMatrix
from wherry_contract.manifest import Manifest
from wherry_contract.reaction import Verdict

from .inference import Answers, Model


@dataclass(frozen=True, eq=False)
class StandIn:
    """The previous model, answering rows of the present one's contract.

    Attributes:
        model: it.
        columns: int64, shape (its features,), where each stands in a row.
    """

    model: Model
    columns: NDArray[np.intp]

    @classmethod
    def between(cls, model: Model, manifest: Manifest, strayed: tuple[str, ...]) -> StandIn | None:
        """A model that can stand in; nothing if it cannot.

        It must answer in the same terms, and read only features that the rows hold with the
        very same definition and that have not strayed.

        Args:
            model: the previous one.
            manifest: of the one that serves.
            strayed: features that are not trusted.
        """
        here, wanted = manifest.input.features, model.manifest.input.features
        before, now = model.manifest.output, manifest.output
        alike = (bool(before.edges), before.classes) == (bool(now.edges), now.classes)
        if not alike or any(item not in here or item.name in strayed for item in wanted):
            return None
        return cls(model, np.array([here.index(item) for item in wanted], np.intp))

    @property
    def name(self) -> str:
        """As people know it."""
        return f"{self.model.manifest.name} {self.model.manifest.version}"

    def answer(self, raw: RawMatrix, why: str) -> Answers | str:
        """Its answers, marked as not the present model's; or what went wrong, in words.

        Args:
            raw: float64, shape (rows, features of the present model).
            why: the present one is not asked.
        """
        found = self.model.answer(raw[:, self.columns])
        if isinstance(found, str):
            return found
        return replace(found, fallback=True, failure=why, previous=self.model.digest)


class Strays(Protocol):
    """Remembers the verdict on inputs, tells of it, and finds a stand-in."""

    def recall(self, digest: str) -> Verdict:
        """What was known of a bundle's inputs, perhaps before a restart."""
        ...

    def note(self, digest: str, verdict: Verdict, by: str) -> None:
        """Remember, and tell if it is news.

        Args:
            digest: of the bundle that serves.
            verdict: on its inputs.
            by: who answers instead, in words.
        """
        ...

    def stand_in(self, manifest: Manifest, verdict: Verdict) -> StandIn | None:
        """The previous model, loaded; nothing if there is none that could."""
        ...


class NoStrays:
    """For who keeps nothing."""

    def recall(self, digest: str) -> Verdict:
        """Nothing was."""
        del digest
        return Verdict()

    def note(self, digest: str, verdict: Verdict, by: str) -> None:
        """Nothing is."""

    def stand_in(self, manifest: Manifest, verdict: Verdict) -> StandIn | None:
        """There is none."""
        del manifest, verdict
        return None
