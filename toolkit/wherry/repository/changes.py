"""What can be changed: each change is staged as documents that wait for their signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from wherry_contract.bundle import Bundle
from wherry_contract.errors import SetupError, TrustError
from wherry_contract.fleet_keys import TARGET, FleetKeys
from wherry_contract.oci import blob_path
from wherry_contract.signature import AssignmentKey, PublicKey

from .ceremony import (
    Ceremony,
    delegate,
    delegated,
    first_models,
    first_root,
    first_targets,
    mark,
    tuf_key,
    validity,
)
from .staged import Staged
from .state import (
    MODELS,
    ROOT,
    TARGETS,
    TOP,
    keys_path,
)

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, TargetFile

_TOO_FEW: Final = "too few keys would be left"
FLEET_ROLES: Final = ("assignment", "time")


class Changes(Staged):
    """The changes that can be staged; each leaves documents to be signed."""

    def begin(self, ceremony: Ceremony) -> None:
        """Stage the first metadata of all.

        Raises:
            SetupError: H03, there is a repository already.
            TrustError: T10, too few keys.
        """
        ceremony.check()
        if self.exists:
            raise SetupError("H03", f"{self.depot} has a repository already")
        now = self.clock()
        targets = first_targets(ceremony, now)
        valid = validity(now)
        orders = [ceremony.assignment, *([ceremony.drop] if ceremony.drop else [])]
        keys = FleetKeys(
            {key.keyid: key for key in (*orders, ceremony.time)},
            tuple(AssignmentKey(key.keyid, *valid) for key in orders),
            (AssignmentKey(ceremony.time.keyid, *valid),),
        )
        self._list_keys(targets.signed, keys)
        for family in ceremony.models:
            self.save(f"{MODELS}{family}", first_models(now))
        self.save(TARGETS, targets)
        self.save(ROOT, first_root(ceremony, now))

    def stage_bundle(self, bundle: Bundle, counter: int = 0) -> int:
        """Stage the release of a bundle; its blobs are put into the depot.

        Args:
            bundle: checked by whoever opened it.
            counter: its release counter; 0 for the next one.

        Returns:
            The release counter.

        Raises:
            TrustError: T06 nobody may release its family, T07 the counter is not above all others.
            StoreError: D01 or D06.
        """
        manifest = bundle.parts().manifest
        role = f"{MODELS}{manifest.family}"
        document = self.next(role)
        path = f"{role}/{bundle.digest.partition(':')[2]}"
        known = {name: _counter(item) for name, item in document.signed.targets.items()}
        if path in known and counter in (0, known[path]):
            counter = known[path]
        else:
            least = max([mark(document.signed).get("min_counter", 0), *known.values(), 0]) + 1
            counter = counter or least
            if counter < least:
                raise TrustError("T07", f"release {counter}; the next one is {least}")
        for blob in bundle.oci.blobs:
            self.disk.put(self.depot / blob_path(blob.digest), bundle.blob(blob))
        self.disk.put(self.depot / blob_path(bundle.digest), bundle.manifest)
        total = sum(blob.size for blob in bundle.oci.blobs)
        says = {
            "name": manifest.name,
            "version": manifest.version,
            "counter": counter,
            "total": total,
        }
        document.signed.targets[path] = _target(path, bundle.manifest, says)
        self.save(role, document)
        return counter

    def stage_withdrawal(self, digest: str) -> str:
        """Stage that a bundle is listed no more; returns the role.

        Raises:
            TrustError: T12, it is not listed.
        """
        wanted = digest.removeprefix("sha256:")
        for role in self.families():
            document = self.next(role)
            staged = _paths(document, wanted)
            # one that is published and not staged was withdrawn by a command that was cut off
            found = staged or _paths(self.state.models.get(role), wanted)
            if len(found) == 1 and len(wanted) >= 8:
                if staged:
                    del document.signed.targets[found[0]]
                    self.save(role, document)
                return role
        raise TrustError("T12", f"{digest[:80]} is not listed", cure="see `wherry publish --json`")

    def stage_floor(self, family: str, counter: int) -> None:
        """Stage the least release counter that devices of a family still accept.

        Raises:
            TrustError: T06, or T07, the floor would sink: devices would not follow it.
        """
        role = f"{MODELS}{family}"
        document = self.next(role)
        before = mark(document.signed).get("min_counter", 0)
        if counter < before:
            raise TrustError("T07", f"the floor is {before}; devices never lower it")
        mark(document.signed)["min_counter"] = counter
        self.save(role, document)

    def stage_family(self, family: str, keys: Sequence[PublicKey], threshold: int = 2) -> None:
        """Stage that keys may release bundles of a family.

        Raises:
            TrustError: T10, too few keys.
        """
        if len({key.keyid for key in keys}) < threshold:
            raise TrustError("T10", f"{family} needs {threshold} different keys")
        role, wanted = f"{MODELS}{family}", ({key.keyid for key in keys}, threshold)
        targets = self.next(TARGETS)
        held = targets.signed.delegations.roles.get(role)
        if held and (set(held.keyids), held.threshold) == wanted and self.document(role):
            return  # it was staged, or published, by a command that was cut off
        delegate(targets.signed, family, keys, threshold)
        self.save(TARGETS, targets)
        if self.document(role) is None:
            self.save(role, first_models(self.clock()))
        self.sign_again()

    def stage_renewal(self, role: str) -> None:
        """Stage a document that says the same for another life.

        Raises:
            TrustError: T06.
        """
        self.save(role, self.next(role))

    def stage_exchange(self, role: str, old: str, new: PublicKey | None) -> None:
        """Stage that a key is replaced by another, or taken away.

        What other documents the change leaves without enough valid signatures is staged too.

        Args:
            role: of TUF, as ``root`` or ``models/fraud``; or ``assignment`` or ``time``.
            old: the key's id; "" to add `new` beside the others.
            new: its successor; nothing to take it away.

        Raises:
            TrustError: T02 the old key has no such role, T06, T10 too few would be left.
        """
        if role in FLEET_ROLES:
            self._exchange_fleet_key(role, old, new)
            return
        holder = ROOT if role in TOP else TARGETS
        document = self.next(holder)
        table = document.signed if holder == ROOT else document.signed.delegations
        roles = table.roles if holder == ROOT else {role: delegated(document.signed, role)}
        held = roles[role]
        # one that is published and not staged was exchanged by a command that was cut off
        if old and old not in (*held.keyids, *self._published_keys(role)):
            raise self.no_part(old, role, held.keyids)
        left = [keyid for keyid in held.keyids if keyid != old]
        if new and new.keyid not in left:
            left.append(new.keyid)
            table.keys[new.keyid] = tuf_key(new)
        if len(set(left)) < held.threshold:
            detail = f"{role} needs {held.threshold} keys, {len(set(left))} would be left"
            raise TrustError("T10", detail, cure=_successor(role, old), title=_TOO_FEW)
        held.keyids = left
        _drop_unused(table)
        self.save(holder, document)
        self.sign_again()

    def _published_keys(self, role: str) -> Sequence[str]:
        """Ids of a role's keys by what is published; none where nothing is."""
        if not self.exists:
            return ()
        if role in TOP:
            return list(self.state.root.signed.roles[role].keyids)
        delegations = self.state.targets.signed.delegations
        held = (delegations.roles or {}).get(role) if delegations else None
        return list(held.keyids) if held else ()

    def _exchange_fleet_key(self, role: str, old: str, new: PublicKey | None) -> None:
        document = self.next(TARGETS)
        before = self.fleet_keys(document.signed)
        lists = {name: getattr(before, f"{name}_keys") for name in FLEET_ROLES}
        published = getattr(self.fleet_keys(), f"{role}_keys") if self.exists else ()
        if old and old not in [item.keyid for item in (*lists[role], *published)]:
            raise self.no_part(old, role, [item.keyid for item in lists[role]])
        lists[role] = tuple(item for item in lists[role] if item.keyid != old)
        keys = dict(before.keys)
        if new and new.keyid not in [item.keyid for item in lists[role]]:
            keys[new.keyid] = new
            lists[role] += (AssignmentKey(new.keyid, *validity(self.clock())),)
        if not lists[role]:
            raise TrustError(
                "T10", f"{role} would have no key", cure=_successor(role, old), title=_TOO_FEW
            )
        used = {item.keyid for items in lists.values() for item in items}
        kept = {keyid: key for keyid, key in keys.items() if keyid in used}
        fleet = FleetKeys(kept, lists["assignment"], lists["time"], before.extra)
        self._list_keys(document.signed, fleet)
        self.save(TARGETS, document)

    def _list_keys(self, targets: Any, keys: FleetKeys) -> None:
        data = keys.to_bytes()
        target = _target(TARGET, data, None)
        self.disk.put(self.depot / keys_path(target.hashes["sha256"]), data)
        targets.targets[TARGET] = target

    def sign_again(self) -> None:
        """Stage what would not be verified by the staged keys any more."""
        for role in (TARGETS, *self.families()):
            if self.staged_document(role) is None and self.waiting(role, self.must(role)).missing:
                self.stage_renewal(role)

    def drop(self) -> tuple[str, ...]:
        """Forget what is staged; returns the roles."""
        staged = self.staged()
        for path in sorted(self.staging.glob("*.json")):
            self.disk.remove(path)
        return staged


def _target(path: str, data: bytes, says: Mapping[str, Any] | None) -> TargetFile:
    from tuf.api.metadata import TargetFile

    target = TargetFile.from_data(path, data, ["sha256"])
    if says:
        target.unrecognized_fields["custom"] = {"wherry": dict(says)}
    return target


def _paths(document: Metadata[Any] | None, digest: str) -> list[str]:
    """Paths of what is listed under the beginning of a digest."""
    paths = document.signed.targets if document else ()
    return [path for path in paths if path.rpartition("/")[2].startswith(digest)]


def _counter(target: TargetFile) -> int:
    return int(target.unrecognized_fields.get("custom", {}).get("wherry", {}).get("counter", 0))


def _successor(role: str, old: str) -> str:
    """What to do where a key cannot go without another that comes."""
    return f"name its successor: `wherry key rotate {role} --old {old[:12] or 'KEY'} --new KEY`"


def _drop_unused(table: Any) -> None:
    used = {keyid for role in table.roles.values() for keyid in role.keyids}
    for keyid in set(table.keys) - used:
        del table.keys[keyid]
