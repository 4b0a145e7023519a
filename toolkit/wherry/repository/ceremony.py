"""The first metadata: who may sign what, before anything was released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from wherry.keys import NAME
from wherry_contract.errors import TrustError
from wherry_contract.signature import PublicKey

from .state import FIELD, MODELS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, TOP

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey
    from tuf.api.metadata import DelegatedRole, Key, Metadata, Root, Targets

LIVES_DAYS: Final[Mapping[str, int]] = {ROOT: 730, TARGETS: 365, SNAPSHOT: 30, TIMESTAMP: 14}
KEY_SECONDS: Final = 400 * 86_400.0  # validity of an online key in fleet/keys.json
_EARLY_SECONDS: Final = 86_400.0  # for devices and servers whose clocks differ


@dataclass(frozen=True)
class Ceremony:
    """Who may sign what.

    Attributes:
        root: the keys of root.
        targets: of the top-level targets.
        models: of each family that is known from the beginning.
        online: signs snapshot and timestamp.
        assignment: signs orders.
        time: tells the time.
        drop: signs orders that travel on a stick; a key of its own, since sequences belong to
            keys and the server does not know when a stick arrives.
        thresholds: how many must sign: of ``root``, ``targets`` and ``models``.
    """

    root: tuple[PublicKey, ...]
    targets: tuple[PublicKey, ...]
    models: Mapping[str, tuple[PublicKey, ...]]
    online: PublicKey
    assignment: PublicKey
    time: PublicKey
    drop: PublicKey | None = None
    thresholds: Mapping[str, int] = field(
        default_factory=lambda: {ROOT: 2, TARGETS: 2, "models": 2}
    )

    def check(self) -> None:
        """Refuse one that could never sign, or that gives one key two of the people's voices.

        Raises:
            TrustError: T10, there are too few keys.
        """
        for role, keys in {ROOT: self.root, TARGETS: self.targets, **self.models}.items():
            need = self.thresholds.get(role, self.thresholds["models"])
            if len({key.keyid for key in keys}) < need:
                raise TrustError("T10", f"{role} needs {need} different keys, and has {len(keys)}")


def tuf_key(key: PublicKey) -> SSlibKey:
    """A public key as TUF has it, with the name that it goes by."""
    from securesystemslib.signer import SSlibKey

    name = str(key.extra.get(NAME, ""))
    more = {f"x-wherry-{NAME}": name} if name else {}
    return SSlibKey(key.keyid, "ed25519", "ed25519", {"public": key.public}, more)


def name_of(key: Key) -> str:
    """The name that a key goes by, as whoever listed it says; "" if nobody did."""
    return str(key.unrecognized_fields.get(f"x-wherry-{NAME}", ""))[:64]


def expires(role: str, now: float, days: float | None = None) -> datetime:
    """When metadata of a role that is signed now expires."""
    life = LIVES_DAYS[TARGETS if role.startswith(MODELS) else role] if days is None else days
    return datetime.fromtimestamp(now, UTC).replace(microsecond=0) + timedelta(life)


def first_root(ceremony: Ceremony, now: float) -> Metadata[Root]:
    """The root that devices are born with."""
    from tuf.api.metadata import Metadata, Role, Root

    people = {ROOT: ceremony.root, TARGETS: ceremony.targets}
    keys: dict[str, Key] = {key.keyid: tuf_key(key) for group in people.values() for key in group}
    keys[ceremony.online.keyid] = tuf_key(ceremony.online)
    roles = {
        role: Role([key.keyid for key in group], ceremony.thresholds[role])
        for role, group in people.items()
    }
    online = {role: Role([ceremony.online.keyid], 1) for role in (SNAPSHOT, TIMESTAMP)}
    return Metadata(
        Root(1, None, expires(ROOT, now), keys, roles | online, consistent_snapshot=True)
    )


def first_targets(ceremony: Ceremony, now: float) -> Metadata[Targets]:
    """The top-level targets; the fleet's keys are listed later."""
    from tuf.api.metadata import Delegations, Metadata, Targets

    delegations = Delegations({}, {})
    document = Metadata(
        Targets(1, None, expires(TARGETS, now), targets={}, delegations=delegations)
    )
    for family, keys in ceremony.models.items():
        delegate(document.signed, family, keys, ceremony.thresholds["models"])
    return document


def delegate(targets: Targets, family: str, keys: Sequence[PublicKey], threshold: int) -> None:
    """Let keys release bundles of a family."""
    from tuf.api.metadata import DelegatedRole

    role = f"{MODELS}{family}"
    delegations = targets.delegations
    assert delegations is not None and delegations.roles is not None  # noqa: S101, PT018 - made above
    delegations.keys |= {key.keyid: tuf_key(key) for key in keys}
    paths = [f"{role}/*"]
    delegations.roles[role] = DelegatedRole(
        role, [key.keyid for key in keys], threshold, True, paths
    )


def delegated(targets: Targets, role: str) -> DelegatedRole:
    """Who may release under a role.

    Raises:
        TrustError: T06.
    """
    roles = targets.delegations.roles if targets.delegations else None
    if not roles or role not in roles:
        there = ", ".join((*TOP, "assignment", "time", *sorted(roles or ())))
        cure = "look for a typing error, or add it with `wherry publish --family`"
        title = "there is no such role here"
        raise TrustError("T06", f"{role[:80]!r}; known: {there}", cure=cure, title=title)
    return roles[role]


def first_models(now: float) -> Metadata[Targets]:
    """A family of which nothing was released yet."""
    from tuf.api.metadata import Metadata, Targets

    return Metadata(Targets(1, None, expires(TARGETS, now), targets={}))


def mark(signed: Any) -> dict[str, Any]:
    """Our own field in signed metadata, to be changed."""
    found: dict[str, Any] = signed.unrecognized_fields.setdefault(FIELD, {})
    return found


def validity(now: float) -> tuple[float, float]:
    """From when to when an online key that is listed now is valid."""
    return now - _EARLY_SECONDS, now + KEY_SECONDS
