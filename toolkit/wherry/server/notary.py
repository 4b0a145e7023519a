"""Signs snapshot and timestamp anew while the server runs, so that what is listed stays fresh."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from wherry.endure import LOG, Enduring
from wherry.repository.lab import online_signers
from wherry.repository.repository import Repository
from wherry_contract.errors import WherryError

from .duty import Duty

_LOOK_SECONDS: Final = 600.0


class Notary:
    """Looks now and then whether it is time, in a thread of its own."""

    def __init__(self, repository: Repository, keys: Path, duty: Duty) -> None:
        """Take the repository, the folder with the online key, and whose work it is."""
        self._duty = duty
        self._repository = repository
        self._keys = keys
        self._stop = threading.Event()
        self._thread = Enduring("notary", self._run, self._stop)

    def start(self) -> None:
        """Look once, so that devices find a fresh list, and go on looking."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(10.0)
        self._duty.leave()

    def look(self) -> tuple[str, ...]:
        """Sign what it is time for; an error is logged, and devices go on with what they have."""
        try:
            with self._duty.held() as mine, self._repository.locked():
                if not mine:
                    return ()
                return self._repository.refresh_online(online_signers(self._keys))
        except WherryError as error:
            LOG.error("the list of releases was not signed anew: %s", error)
            return ()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            self.look()
