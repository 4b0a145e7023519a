"""What `wherry publish`, `wherry sign` and `wherry key` do with the repository of a data folder.

Stage, sign with the keys that are at hand, and publish once enough people have signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry_contract.bundle import open_bundle
from wherry_contract.errors import SetupError, TrustError
from wherry_contract.signature import PublicKey

from .files import write_durably
from .keys import NAME, generate, list_keys, public_path, read_named, read_public
from .repository.ceremony import Ceremony
from .repository.changes import FLEET_ROLES
from .repository.lab import names_of, online_signers, sign_all
from .repository.repository import Repository
from .repository.staged import Waiting
from .repository.state import MODELS, ROOT, TARGETS

if TYPE_CHECKING:
    from securesystemslib.signer import Signer


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        published: roles that were published; empty while signatures are missing.
        waiting: documents that are staged, and whose signatures they lack.
        names: of keys, by key id, as far as they are known here.
    """

    published: tuple[str, ...]
    waiting: tuple[Waiting, ...]
    names: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether nobody has to sign any more."""
        return not self.waiting

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        waiting = [
            {**item.to_dict(), "may": [self.name(keyid) for keyid in item.may]}
            for item in self.waiting
        ]
        return {"published": list(self.published), "waiting": waiting}

    def lines(self) -> Iterable[str]:
        """The same for a person."""
        if self.published:
            yield f"published: {', '.join(self.published)}"
        for item in self.waiting:
            who = " or ".join(self.name(keyid) for keyid in item.may)
            yield f"{item.role} {item.version}: {item.missing} more must sign: {who}"
        if not self.published and not self.waiting:
            yield "nothing is staged"

    def name(self, keyid: str) -> str:
        """What a key is called here, else the beginning of its id."""
        return self.names.get(keyid, keyid[:12])


@dataclass(frozen=True)
class Released:
    """A bundle whose release is staged; `counter` is its release counter."""

    digest: str
    family: str
    counter: int


class Releases:
    """Acts on the repository of one data folder."""

    def __init__(self, folder: Path, keys: Path | None = None) -> None:
        """Take the data folder; keys lie in its `keys` folder unless said otherwise."""
        self.repository = Repository(folder)
        self.keys = keys or folder / "keys"

    def begin(
        self,
        people: Mapping[str, Sequence[Path]],
        families: Iterable[str],
        thresholds: Mapping[str, int],
    ) -> None:
        """Stage the first metadata; online keys are made here where they are missing.

        Args:
            people: public files by ``root``, ``targets`` and ``models``.
            families: whose bundles the keys of ``models`` release.
            thresholds: how many must sign, by the same words.

        Raises:
            SetupError: H02, H03.
            TrustError: T10, too few keys.
        """
        public = {role: tuple(map(read_named, files)) for role, files in people.items()}
        made = {name: self._online(name) for name in ("online", "assignment", "time", "drop")}
        models = dict.fromkeys(families, public["models"])
        ceremony = Ceremony(public[ROOT], public[TARGETS], models, **made, thresholds=thresholds)
        with self.repository.locked():
            self.repository.begin(ceremony)

    def _online(self, name: str) -> PublicKey:
        path = self.keys / f"{name}.key"
        found = public_path(path)
        return read_public(found) if found.exists() else generate(path)

    def stage(self, path: Path, counter: int) -> Released:
        """Stage a bundle file.

        Where nobody may release its family yet, the keys here whose names begin with
        ``models`` are staged for it.

        Raises:
            BundleError, ManifestError, InputError: it is no usable bundle.
            SetupError: H02.
            TrustError: T06, T07.
        """
        try:
            with path.open("rb") as stream, self.repository.locked():
                bundle = open_bundle(stream)
                family = bundle.parts().manifest.family
                if f"{MODELS}{family}" not in self.repository.families():
                    self._add(family)
                found = self.repository.stage_bundle(bundle, counter)
                if bundle.statement:
                    place = f"statements/{bundle.digest.partition(':')[2]}.dsse.json"
                    write_durably(self.repository.depot / place, bundle.statement)
        except OSError as error:
            raise SetupError("H02", f"{path}: {error.strerror}") from error
        return Released(bundle.digest, family, found)

    def add_family(self, family: str) -> None:
        """Stage a family, for the keys here whose names begin with ``models``.

        Raises:
            TrustError: T06, there are fewer than two.
        """
        with self.repository.locked():
            self._add(family)

    def _add(self, family: str) -> None:
        known = self._known()
        found = [key for name, key in known.items() if name.startswith("models")]
        if len(found) < 2:
            detail = f"nobody may release {family}, and {self.keys} has no two keys models-*"
            cure = "look for a typing error, or put the public files of its keys there"
            title = "nobody may release this family"
            raise TrustError("T06", detail, cure=cure, title=title)
        self.repository.stage_family(family, found)

    def exchange(self, role: str, old: str, new: str) -> None:
        """Stage another key for a role; for all roles of a key if `role` is "".

        Args:
            role: of TUF, or ``assignment`` or ``time``.
            old: name or id of the key that goes; "" if none does.
            new: name of the key that comes; "" if none does.

        Raises:
            TrustError: T02, T06, T10.
            SetupError: H02, there is no such public file.
        """
        known = self._known()
        listed = {name: keyid for keyid, name in self.repository.key_names().items()}
        gone = known[old].keyid if old in known else listed.get(old, old)
        comes = None
        if new:
            comes = known.get(new) or self._missing(new)
        with self.repository.locked():
            roles = [role] if role else self._roles_of(gone)
            if not roles:
                title = "this key has no part in any role"
                cure = f"look for a typing error; the keys here: {self._words()}"
                raise TrustError("T02", repr(old[:64]), cure=cure, title=title)
            for item in roles:
                self.repository.stage_exchange(item, gone, comes)

    def _known(self) -> dict[str, PublicKey]:
        """The keys here by name; each goes by it in what is signed."""
        return {
            item.name: replace(item.public, extra={**item.public.extra, NAME: item.name})
            for item in list_keys(self.keys)
        }

    def _missing(self, name: str) -> PublicKey:
        title = "there is no such key here"
        cure = f"put {name[:64]}.pub.json into {self.keys}"
        raise SetupError("H02", f"{name[:64]!r}; here: {self._words()}", cure=cure, title=title)

    def _words(self) -> str:
        return ", ".join(self._known()) or "none"

    def _roles_of(self, keyid: str) -> list[str]:
        state = self.repository.state
        delegations = state.targets.signed.delegations
        tables: list[Mapping[str, Any]] = [
            state.root.signed.roles,
            (delegations.roles if delegations else None) or {},
        ]
        found = [name for table in tables for name, item in table.items() if keyid in item.keyids]
        listed = self.repository.fleet_keys()
        uses = {name: getattr(listed, f"{name}_keys") for name in FLEET_ROLES}
        return found + [name for name, keys in uses.items() if keyid in {k.keyid for k in keys}]

    def sign(self, role: str, open_keys: Callable[[], Iterable[Signer]]) -> Outcome:
        """Add signatures to one staged document; publishes nothing.

        Raises:
            SetupError: H02, the data folder is not there.
            TrustError: T02, T06, T09.
        """
        folder = self.repository.depot.parent
        if not folder.is_dir():
            cure = "say the folder that `wherry publish` staged in, or the stick with its copy"
            raise SetupError("H02", f"{folder}: there is no such folder", cure=cure)
        with self.repository.locked():
            if self.repository.staged_document(role) is None:  # before a key is asked for
                raise self.repository.not_staged(role)
            for signer in open_keys():
                self.repository.sign(role, signer)
            return self._outcome(())

    def finish(self, signers: Sequence[Signer]) -> Outcome:
        """Sign what is staged with each key that may, and publish it if nobody is missing.

        Raises:
            TrustError: T02, a key has no part in what is staged; T10, no online key is here.
            StoreError: D01 or D06; what was published stays, or all of the new is.
        """
        with self.repository.locked():
            staged = self.repository.staged()
            for signer in signers:
                if staged and not any(self._may(role, signer) for role in staged):
                    keyid = signer.public_key.keyid
                    others = {key for role in staged for key in self._holders(role)}
                    raise self.repository.no_part(keyid, " or ".join(staged), others)
            for role in staged:
                sign_all(self.repository, role, signers)
            if any(item.missing for item in self.repository.status()):
                return self._outcome(())
            return self._outcome(self.repository.finish(online_signers(self.keys)))

    def _may(self, role: str, signer: Signer) -> bool:
        return signer.public_key.keyid in self._holders(role)

    def _holders(self, role: str) -> tuple[str, ...]:
        found = self.repository.waiting(role, self.repository.must(role))
        return (*found.may, *found.signed)

    def _outcome(self, published: tuple[str, ...]) -> Outcome:
        waiting = tuple(item for item in self.repository.status() if item.missing)
        return Outcome(published, waiting, self.repository.key_names() | names_of(self.keys))
