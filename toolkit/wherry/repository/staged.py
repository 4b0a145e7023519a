"""The next metadata on its way: documents in ``staged/``, and whose signatures they have.

Nothing here touches what is published. A signature is for one content: whoever changes a
document begins its signatures anew.
"""

from __future__ import annotations

import copy
import fcntl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry_contract.errors import SetupError, TrustError
from wherry_contract.fleet_keys import TARGET, FleetKeys

from .ceremony import delegated, expires, name_of
from .state import (
    LINK,
    MODELS,
    ROOT,
    STAGED,
    TARGETS,
    TOP,
    Disk,
    State,
    file_name,
    keys_path,
    parse,
    read_state,
    to_bytes,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Signer
    from tuf.api.metadata import Metadata


@dataclass(frozen=True)
class Waiting:
    """A staged document, and whose signatures it has.

    Attributes:
        signed: ids of keys whose signatures count.
        missing: how many more are needed.
        may: ids of keys that may still sign.
    """

    role: str
    version: int
    signed: tuple[str, ...]
    missing: int
    may: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**vars(self), "signed": list(self.signed), "may": list(self.may)}


class Staged:
    """What a data folder has published, and what is staged beside it."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, disk: Disk | None = None
    ) -> None:
        """Take the data folder, Unix seconds, and what writes."""
        self.depot = folder / "depot"
        self.staging = folder / STAGED
        self._lock = folder / "repository.lock"
        self.clock = clock
        self.disk = disk or Disk()

    @property
    def exists(self) -> bool:
        """Whether anything is published."""
        return (self.depot / LINK / "timestamp.json").is_file()

    @property
    def stamp(self) -> int:
        """Changes whenever something was published."""
        return (self.depot / LINK / "timestamp.json").stat().st_mtime_ns

    @property
    def state(self) -> State:
        """What is published.

        Raises:
            SetupError: H02, nothing.
            TrustError: T09.
            StoreError: D06.
        """
        return read_state(self.depot)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository against other processes while it is changed."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    # --- signatures -----------------------------------------------------------------------

    def staged(self) -> tuple[str, ...]:
        """The roles whose documents are staged."""
        names = [ROOT, TARGETS, *self.families()]
        return tuple(name for name in names if self.staged_document(name) is not None)

    def status(self) -> list[Waiting]:
        """Whose signatures the staged documents have, and lack.

        Raises:
            TrustError: T09.
        """
        return [self.waiting(role, self.must(role)) for role in self.staged()]

    def sign(self, role: str, signer: Signer) -> Waiting:
        """Add one person's signature to a staged document.

        Raises:
            TrustError: T02 that key has no part in it, T06 it is not staged, T09 it has signed.
        """
        document = self.staged_document(role)
        if document is None:
            raise self.not_staged(role)
        waiting, keyid = self.waiting(role, document), signer.public_key.keyid
        if keyid in waiting.signed:
            detail = f"{self._called(keyid)} has signed {role} {document.signed.version}"
            cure, title = "another person must sign with another key", "this key has signed already"
            raise TrustError("T09", detail, cure=cure, title=title)
        if keyid not in waiting.may:
            raise self.no_part(keyid, role, (*waiting.signed, *waiting.may))
        # not by its own `sign`, which hides what went wrong
        document.signatures[keyid] = signer.sign(document.signed_bytes)
        self.disk.put(self._file(role), to_bytes(document))
        return self.waiting(role, document)

    def not_staged(self, role: str) -> TrustError:
        """T06: a document that nobody has to sign."""
        there = ", ".join(self.staged()) or "nothing"
        title = "no such document waits for signatures"
        cure = "look for a typing error; `wherry publish` says what waits, and for whom"
        return TrustError("T06", f"{role[:80]!r}; staged: {there}", cure=cure, title=title)

    def no_part(self, keyid: str, role: str, others: Iterable[str]) -> TrustError:
        """T02: a key that a role does not have; the others are those that it has."""
        held = ", ".join(sorted(map(self._called, others)))
        title, cure = "this key has no part in that role", f"the keys of {role} are {held}"
        return TrustError(
            "T02", f"{self._called(keyid)} does not sign {role}", cure=cure, title=title
        )

    def key_names(self) -> dict[str, str]:
        """What keys are called by who listed them, by key id; staged lists come first."""
        found: dict[str, str] = {}
        root, targets = self.document(ROOT), self.document(TARGETS)
        tables = [root.signed.keys] if root else []
        if targets and targets.signed.delegations:
            tables.append(targets.signed.delegations.keys)
        for table in tables:
            found |= {keyid: name for keyid, key in table.items() if (name := name_of(key))}
        return found

    def _called(self, keyid: str) -> str:
        """A key by its name and the beginning of its id."""
        name = self.key_names().get(keyid, "")
        return f"{name} ({keyid[:12]})" if name else f"key {keyid[:12]}"

    def waiting(self, role: str, document: Metadata[Any]) -> Waiting:
        """Whose signatures a document has, and lacks."""
        signed, missing, may = set(), 0, set()
        for holder in self._holders(role):
            keys = _keys_of(holder, role)
            found = holder.signed.get_verification_result(
                role, document.signed_bytes, document.signatures
            )
            signed |= set(found.signed)
            missing = max(missing, found.threshold - len(found.signed))
            may |= set(keys) - set(found.signed)
        return Waiting(
            role, document.signed.version, tuple(sorted(signed)), missing, tuple(sorted(may))
        )

    def _holders(self, role: str) -> list[Metadata[Any]]:
        """Who says which keys a role has: a new root answers to the one before it, too."""
        if role.startswith(MODELS):
            return [self.must(TARGETS)]
        holders = [self.must(ROOT)]
        if role == ROOT and self.exists:
            holders.append(self.state.root)
        return holders

    # --- documents ------------------------------------------------------------------------

    def families(self, *, published: bool = False) -> tuple[str, ...]:
        """The delegated roles, as ``models/fraud``: of what is staged, or of what is published."""
        targets = self.state.targets if published else self.document(TARGETS)
        delegations = targets.signed.delegations if targets else None
        return tuple(delegations.roles or ()) if delegations else ()

    def fleet_keys(self, targets: Any = None) -> FleetKeys:
        """Who may order and tell the time, by the published targets if none are given.

        Raises:
            SetupError: H02.
            TrustError: T08, T09.
        """
        listed = (targets or self.state.targets.signed).targets[TARGET]
        path = self.depot / keys_path(listed.hashes["sha256"])
        try:
            return FleetKeys.from_bytes(path.read_bytes())
        except OSError as error:
            raise SetupError("H02", f"{path}: {error.strerror}") from error

    def listed(self, digest: str) -> tuple[str, Mapping[str, Any]] | None:
        """The family of a published bundle, and what is listed of it; nothing if it is not.

        Raises:
            TrustError: T09.
        """
        for role, document in self.state.models.items():
            target = document.signed.targets.get(f"{role}/{digest.partition(':')[2]}")
            if target is not None:
                return role.removeprefix(MODELS), target.unrecognized_fields["custom"]["wherry"]
        return None

    def root_file(self) -> bytes:
        """The newest root, as enrolment gives it to devices."""
        state = self.state
        return (self.depot / LINK / file_name(ROOT, state.root.signed.version)).read_bytes()

    def _file(self, role: str) -> Path:
        return self.staging / file_name(role, 0).removeprefix("0.")

    def staged_document(self, role: str) -> Metadata[Any] | None:
        """A role's staged document; nothing if there is none.

        One that was published already is none: a publication was cut off while it cleared up.
        """
        path = self._file(role)
        found = parse(path.read_bytes(), path.name) if path.is_file() else None
        return found if found and found.signed.version > self.version(role) else None

    def version(self, role: str) -> int:
        """Of a role's published document; 0 if there is none."""
        state = self.state if self.exists else None
        known = state is not None and role in (*TOP, *state.models)
        return int(state.document(role).signed.version) if state and known else 0

    def document(self, role: str) -> Metadata[Any] | None:
        """A role's staged document, else the published one, else nothing."""
        found = self.staged_document(role)
        if found is not None or not self.exists:
            return found
        state = self.state
        return state.document(role) if role in (*TOP, *state.models) else None

    def must(self, role: str) -> Metadata[Any]:
        """A role's staged document, else the published one.

        Raises:
            TrustError: T06, there is neither.
            SetupError: H02, likewise, and nothing is published at all.
        """
        found = self.document(role)
        if found is None:
            there = ", ".join((*TOP, *self.state.models))  # or says that nothing is published
            cure, title = "look for a typing error", "there is no such role here"
            raise TrustError("T06", f"{role[:80]!r}; known: {there}", cure=cure, title=title)
        return found

    def next(self, role: str) -> Metadata[Any]:
        """A role's next document, unsigned: the staged one, or a copy of the published one."""
        found = copy.deepcopy(self.must(role))
        found.signatures.clear()
        found.signed.version = self.version(role) + 1
        found.signed.expires = expires(role, self.clock())
        return found

    def save(self, role: str, document: Metadata[Any]) -> None:
        """Stage a document."""
        self.disk.put(self._file(role), to_bytes(document))


def _keys_of(holder: Metadata[Any], role: str) -> Sequence[str]:
    if role.startswith(MODELS):
        return list(delegated(holder.signed, role).keyids)
    return list(holder.signed.roles[role].keyids)
