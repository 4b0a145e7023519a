"""`[drift]` of a project file: what is counted together, and when the rule takes over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wherry_contract.features import InputContract
from wherry_contract.profile import pair_places
from wherry_contract.reaction import Reaction
from wherry_contract.slots import MAX_PAIRS
from wherry_contract.wire import Fields


@dataclass(frozen=True)
class Drift:
    """What devices count beside each feature, and what they do by themselves about it.

    Attributes:
        pairs: features that are counted together.
        reaction: when something else answers instead of the model; None for never.
    """

    pairs: tuple[tuple[str, str], ...]
    reaction: Reaction | None


def read_drift(fields: Fields, contract: InputContract, *, rule: Mapping[str, Any]) -> Drift:
    """Read the section.

    Args:
        fields: of ``[drift]``.
        contract: whose features they are.
        rule: the project's fallback rule; empty for none.

    Raises:
        SetupError: H01.
        ManifestError: M08, a pair that is none.
    """
    pairs = []
    for item in fields.items("pairs", [], limit=MAX_PAIRS):
        if not isinstance(item, list) or not all(isinstance(name, str) for name in item):
            raise fields.error("pairs", 'a list like [["AMOUNT", "KIND"]]')
        pairs.append(tuple(item))
    if any(len(pair) != 2 for pair in pairs):
        raise fields.error("pairs", "of two features each")
    pair_places(contract, pairs)
    if "reaction" not in fields.rest():
        return Drift(tuple(pairs), None)
    if not rule:
        raise fields.error("reaction", "absent without [fallback]: it is that rule that answers")
    return Drift(tuple(pairs), Reaction.from_fields(fields.table("reaction")))
