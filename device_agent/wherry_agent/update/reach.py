"""What an update works with: the parts of the agent that it reaches for."""

from __future__ import annotations

from dataclasses import dataclass

from wherry_agent.clock import Clock
from wherry_agent.link.spool import Spool
from wherry_agent.serving.scoring import Scorer
from wherry_agent.store import BlobStore
from wherry_agent.trust.seam import Trust

from .fetch import Source
from .shelf import Shelf


@dataclass(frozen=True)
class Reach:
    """What an update works with."""

    blobs: BlobStore
    shelf: Shelf
    trust: Trust
    depot: Source
    scorer: Scorer
    spool: Spool
    clock: Clock
