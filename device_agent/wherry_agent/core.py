"""The parts of an agent that decide and remember, without port, link or threads."""

from __future__ import annotations

from dataclasses import dataclass

from .clock import TrustedClock
from .config import AgentConfig
from .link.fact import Fact
from .link.outbox import Outbox
from .link.spool import LoggedSpool, Spool
from .serving.probing import SIGNS
from .serving.runtime import architecture, runtimes
from .serving.scoring import Scorer
from .serving.senses import Senses
from .store import BlobStore, StatePair
from .trust.seam import Trust
from .trust.tuf_trust import open_trust
from .update.fetch import Source
from .update.intake import Board
from .update.reach import Reach
from .update.shelf import Shelf
from .update.strays import FILE as INPUTS
from .update.strays import KeptStrays
from .update.update_io import Updater


def this_board() -> Board:
    """What this board is.

    Raises:
        SetupError: H06, no runtime is installed.
    """
    (runtime, version), *also = runtimes().items()
    return Board(architecture(), runtime, version, dict(also))


@dataclass(frozen=True)
class Core:
    """The parts that decide and remember, without port, link or threads."""

    board: Board
    spool: Spool
    scorer: Scorer
    updater: Updater
    trust: Trust


def build_core(config: AgentConfig, outbox: Outbox, clock: TrustedClock, depot: Source) -> Core:
    """Put the deciding parts together; the caller holds the folder's lock.

    Raises:
        SetupError: H06.
        StoreError: the state folder cannot be used.
    """
    spool = LoggedSpool(outbox, clock, compact=config.reporting.encoding == "compact")
    if outbox.damaged:
        spool.tell(Fact("D04", f"it lies in {outbox.damaged.name} now", "error"))
    if outbox.copied:
        spool.tell(Fact("agent.copied", f"it reports as spool {outbox.spool} now", "warning"))

    def alarm(sign: str) -> None:
        hour = int(clock.now() // 3600)
        spool.tell(Fact("probing", SIGNS[sign], "warning"), key=f"probing:{sign}:{hour}")

    blobs = BlobStore(config.state_dir)
    shelf = Shelf(config.state_dir, blobs, config.limits)
    pair = StatePair(config.state_dir, INPUTS)
    strays = KeptStrays(pair, shelf, spool.tell, lambda: updater.record)
    scorer = Scorer(
        config.limits,
        clock,
        spool.emit,
        senses=Senses(),
        alarm=alarm,
        strays=strays,
        also=config.features,
    )
    reach = Reach(
        blobs=blobs,
        shelf=shelf,
        trust=open_trust(config, clock, depot, spool.tell),
        depot=depot,
        scorer=scorer,
        spool=spool,
        clock=clock,
    )
    board = this_board()
    updater = Updater(config, board, StatePair(config.state_dir), reach)
    return Core(board, spool, scorer, updater, reach.trust)


def open_outbox(config: AgentConfig) -> Outbox:
    """The outbox of a state folder.

    Raises:
        StoreError: D01 or D06.
    """
    limits = config.limits
    return Outbox(config.state_dir, config.device, mib=limits.outbox_mib, days=limits.outbox_days)
