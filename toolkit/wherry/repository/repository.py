"""Publishes what is staged when enough people have signed, and keeps the short-lived parts fresh."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from wherry_contract.errors import TrustError
from wherry_contract.fleet_keys import TARGET
from wherry_contract.when import to_text

from .ceremony import (
    expires,
    mark,
)
from .changes import Changes
from .pruning import prune
from .state import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    publish,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Signer
    from tuf.api.metadata import Metadata

_DAY: Final = 86_400.0
_TIMESTAMP_SECONDS: Final = _DAY / 2
_SNAPSHOT_SECONDS: Final = 15 * _DAY  # signed anew when less is left


class Repository(Changes):
    """The repository of one data folder."""

    def finish(self, online: Sequence[Signer]) -> tuple[str, ...]:
        """Publish what is staged, if all of it was signed by enough people.

        Args:
            online: keys that may sign snapshot and timestamp; others are passed over.

        Returns:
            The roles that were published.

        Raises:
            TrustError: T02 signatures are missing, T10 the online key is not here.
            StoreError: D01 or D06; what was published before still is, or all of the new.
        """
        if self.exists:
            self.sign_again()  # staging may have been cut off before it came to this
        waiting = [item for item in self.status() if item.missing]
        if waiting:
            raise TrustError(
                "T02",
                "; ".join(f"{item.role}: {item.missing} missing" for item in waiting),
                cure="let the others sign with `wherry sign ROLE --key KEY`",
            )
        roles = self.staged()
        if not roles:
            return ()
        documents = {role: self.must(role) for role in reversed(roles)}  # bottom up
        root = documents.pop(ROOT, None)
        documents |= self._online(online, snapshot=True)
        publish(self.disk, self.depot, ({ROOT: root} if root else {}) | documents)
        self.drop()
        self.prune()
        return roles

    def prune(self) -> tuple[str, ...]:
        """Remove metadata that no device can need any more; returns which files went."""
        staged = self.staged_document(TARGETS)
        named = staged.signed.targets.get(TARGET) if staged else None
        return prune(self.disk, self.depot, [named.hashes["sha256"]] if named else [])

    def refresh_online(self, online: Sequence[Signer]) -> tuple[str, ...]:
        """Sign snapshot and timestamp anew where it is time to; returns which.

        Raises:
            TrustError: T09, T10.
            StoreError: D01 or D06.
        """
        now, state = self.clock(), self.state
        since = mark(state.timestamp.signed).get("signed_at", "")
        due = (
            not since or now - _seconds(since) >= _TIMESTAMP_SECONDS or now < _seconds(since) - _DAY
        )
        old = state.snapshot.signed.expires.timestamp() - now < _SNAPSHOT_SECONDS
        if not (due or old):
            return ()
        documents = self._online(online, snapshot=old, published=True)
        publish(self.disk, self.depot, documents)
        self.prune()
        return tuple(documents)

    def list_for_stick(self, online: Sequence[Signer], days: float) -> dict[str, Metadata[Any]]:
        """Snapshot and timestamp with longer lives; the depot's get later versions at once.

        A client that met either first goes on to the other: equal versions would be one.

        Returns:
            Both by role, the snapshot first.

        Raises:
            TrustError: T10.
            StoreError: D01 or D06.
        """
        fresh = self._online(online, snapshot=True, published=True, step=2)
        publish(self.disk, self.depot, fresh)
        found = copy.deepcopy(fresh)
        for role, document in found.items():
            document.signed.version -= 1
            document.signed.expires = expires(role, self.clock(), days)
            document.signatures.clear()
            if role == TIMESTAMP:
                document.signed.snapshot_meta.version -= 1
            self._sign_online(role, document, online, self.state.root)
        return found

    def _online(
        self, signers: Sequence[Signer], *, snapshot: bool, published: bool = False, step: int = 1
    ) -> dict[str, Metadata[Any]]:
        from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

        now, state = self.clock(), self.state if self.exists else None
        root = state.root if published and state else self.must(ROOT)
        found: dict[str, Metadata[Any]] = {}
        number = state.snapshot.signed.version if state else 0
        if snapshot:
            number += step
            pick = state.document if published and state else self.must
            meta = {
                f"{r}.json": MetaFile(pick(r).signed.version)
                for r in (TARGETS, *self.families(published=published))
            }
            found[SNAPSHOT] = Metadata(Snapshot(number, None, expires(SNAPSHOT, now), meta))
            self._sign_online(SNAPSHOT, found[SNAPSHOT], signers, root)
        version = state.timestamp.signed.version + step if state else 1
        stamp = Metadata(Timestamp(version, None, expires(TIMESTAMP, now), MetaFile(number)))
        mark(stamp.signed)["signed_at"] = to_text(now)
        self._sign_online(TIMESTAMP, stamp, signers, root)
        return found | {TIMESTAMP: stamp}

    def _sign_online(
        self, role: str, document: Metadata[Any], signers: Sequence[Signer], root: Metadata[Any]
    ) -> None:
        held = root.signed.roles[role]
        able = [item for item in signers if item.public_key.keyid in held.keyids]
        if len(able) < held.threshold:
            names = ", ".join(keyid[:12] for keyid in held.keyids)
            raise TrustError("T10", f"{role} is signed by {names}, which is not here")
        for signer in able[: held.threshold]:
            # not by its own `sign`, which hides what went wrong
            keyid = signer.public_key.keyid
            document.signatures[keyid] = signer.sign(document.signed_bytes)


def _seconds(text: str) -> float:
    from wherry_contract.when import to_seconds

    return to_seconds(text)
