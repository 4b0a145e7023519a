"""What an update works with: the parts of the agent that it reaches for."""

from __future__ import annotations

from dataclasses import dataclass

from .clock import Clock
from .fetch import Source
from .scoring import Scorer
from .shelf import Shelf
from .spool import Spool
from .store import BlobStore
from .trust import Trust


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
