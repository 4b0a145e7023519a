"""Blobs by delta: what is here already and a little more, in the place of a whole download.

A delta that is not there or does not work costs only its own bytes: by the order's policy
the whole follows, or the update fails; either way it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from wherry_agent.config import AgentConfig
from wherry_agent.link.fact import Fact
from wherry_contract.assignment import Assignment
from wherry_contract.delta import LIST_LIMIT_BYTES, Delta, read_deltas
from wherry_contract.errors import BundleError, LinkError, ManifestError, UpdateError
from wherry_contract.oci import Descriptor

from .pace import Pace
from .patching import patch
from .reach import Reach

SMALL_BYTES: Final = 16 * 1024  # comes whole under every policy: lists, manifests, cards
_MEDIA_TYPE: Final = "application/octet-stream"


class Deltas:
    """Brings blobs by delta where it can."""

    def __init__(self, config: AgentConfig, reach: Reach) -> None:
        """Take the store, the depot and whom to tell."""
        self._config = config
        self._blobs = reach.blobs
        self._depot = reach.depot
        self._spool = reach.spool
        self._spoilt: set[str] = set()  # deltas that came with other bytes once

    def bring(
        self,
        order: Assignment,
        missing: Sequence[Descriptor],
        pace: Pace,
        stop: Callable[[], bool],
    ) -> bool:
        """Bring those of the missing blobs that have a delta; false if stopped.

        Raises:
            UpdateError: U13, or U14 if the order allows deltas only and one has none.
            LinkError, StoreError: not now.
        """
        large = [blob for blob in missing if blob.size > SMALL_BYTES]
        if order.policy.delta == "never" or not large:
            return True
        offered = self._offered(order)
        for blob in large:
            delta = self._best(offered, blob)
            if delta and not self._is_begun(blob):
                failure = self._try(order, delta, blob, pace, stop)
                if failure is None:
                    return False
                if not failure:
                    continue
            else:
                failure = "the depot has none for what is here"
            self._say(order, blob, failure)
        return True

    def _offered(self, order: Assignment) -> list[Delta]:
        data = self._depot.deltas(order.digest, LIST_LIMIT_BYTES)
        try:
            return read_deltas(data) if data else []
        except ManifestError as error:
            raise LinkError("L06", f"the list of deltas: {error.detail}") from error

    def _best(self, offered: Sequence[Delta], blob: Descriptor) -> Delta | None:
        """The smallest that makes a blob out of one that is here whole, and that has room."""
        fitting = [
            item
            for item in offered
            if item.result == blob.digest and item.size < blob.size and self._has_room(item, blob)
        ]
        for item in sorted(fitting, key=lambda item: item.size):
            if self._blobs.is_whole(item.source):
                return item
        return None

    def _has_room(self, delta: Delta, blob: Descriptor) -> bool:
        reserve = self._config.limits.reserve_mib * 2**20
        return self._blobs.free_bytes() >= 1.2 * (blob.size + delta.size) + reserve

    def _is_begun(self, blob: Descriptor) -> bool:
        """Whether some of the whole is here: it is gone on with."""
        part = self._blobs.part(blob.digest)
        return part.exists() and part.stat().st_size > 0

    def _try(
        self,
        order: Assignment,
        delta: Delta,
        blob: Descriptor,
        pace: Pace,
        stop: Callable[[], bool],
    ) -> str | None:
        """Fetch and apply; "" if that made the blob, nothing if stopped, else what went wrong."""
        wanted = Descriptor(_MEDIA_TYPE, delta.digest, delta.size)
        if not self._blobs.is_whole(delta.digest):
            try:
                if not self._depot.fetch(wanted, self._blobs, stop, pace):
                    return None
            except LinkError as error:
                if not self._is_final(order, delta, error):
                    raise
                return error.detail
        try:
            patch(self._blobs, self._config.state_dir, delta, blob.size)
        except BundleError as error:
            return error.detail or error.title
        return ""

    def _is_final(self, order: Assignment, delta: Delta, error: LinkError) -> bool:
        """Whether a delta cannot be had: refused, or twice other bytes, where the whole may follow.

        Once may be a portal's page in between, and worth another try.
        """
        spoilt = error.code == "L06" and delta.digest in self._spoilt
        if error.code == "L06":
            self._spoilt.add(delta.digest)
        return error.code == "L05" or (spoilt and order.policy.delta != "only")

    def _say(self, order: Assignment, blob: Descriptor, why: str) -> None:
        what = f"{blob.file_name or blob.digest}: {why}"
        if order.policy.delta == "only":
            raise UpdateError("U14", what)
        fact = Fact("update.whole", what[:1000], "info", order.rollout, order.digest)
        self._spool.tell(fact, key=f"whole:{order.rollout}:{order.sequence}:{blob.digest[-16:]}")
