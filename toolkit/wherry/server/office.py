"""What an operator may ask of the server: take a bundle, enrol a device, start and stop rollouts.

Plain calls on the store; `api` makes HTTP of them.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from wherry.deltas import most_run, offer_deltas
from wherry.rows import BundleRow, DeviceRow, Exposure, RolloutRow
from wherry.selectors import LABEL, parse
from wherry_contract.errors import RolloutError, TrustError, WherryError
from wherry_contract.signature import AssignmentKey, FamilyTrust, PublicKey, TrustRoot
from wherry_contract.states import RolloutState
from wherry_contract.wire import SLUG

from .rollout import Policy, can_ask
from .store import Store
from .waves import Candidate, plan_waves, shares_of

_log = logging.getLogger("wherry.server")
_MOST_TOLD: Final = 20
_KEY_SECONDS: Final = 10 * 365 * 86_400.0


@dataclass(frozen=True)
class Site:
    """Where devices find us.

    Attributes:
        url: of the server that has the depot.
        fleet: the fleet's name.
        broker: gives the broker's URL with a device's own credentials.
        admit: lets newly enrolled devices in at the broker.
        enrol: where devices enrol and renew; "" where they have passwords and no identity.
        own_broker: whether the broker takes the identities that we give.
        windows: the form in which devices send windows.
        registry: where devices fetch bundles; "" for the depot.
    """

    url: str
    fleet: str
    broker: Callable[[str], str]
    admit: Callable[[], None]
    enrol: str = ""
    own_broker: bool = True
    windows: str = "json"
    registry: str = ""


@dataclass(frozen=True)
class Papers:
    """What an enrolled device is given: its settings, and one file of whom to trust.

    Attributes:
        root_json: a TUF root; "" where keys are pinned.
        trust_json: pinned keys, in a laboratory; "" else.
    """

    agent_toml: str
    trust_json: str = ""
    root_json: str = ""


@dataclass(frozen=True)
class Plan:
    """Who would be in which wave of a rollout of a bundle, and how long each soaks.

    Attributes:
        strata: for each board, site and group, how many devices are in each wave.
        policy: as it was asked for, with what its gates share their error over.
        gated: the waves that gates judge, from 0.
    """

    bundle: BundleRow
    waves: tuple[tuple[str, ...], ...]
    soak_seconds: int
    soak_rows: int
    strata: tuple[tuple[tuple[str, str, str], tuple[int, ...]], ...] = ()
    policy: Policy = field(default_factory=Policy)
    gated: tuple[int, ...] = ()


class Office:
    """Acts on the store for an operator."""

    def __init__(  # noqa: PLR0917 - the last is for one kind of fleet alone
        self,
        store: Store,
        site: Site,
        assignment_key: PublicKey,
        clock: Callable[[], float],
        news: Callable[[], None],
        root: Callable[[], bytes] | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            store: what is known.
            site: where devices find us.
            assignment_key: of orders, for devices with pinned keys.
            clock: Unix seconds.
            news: told of news.
            root: the root that devices are born with; nothing where keys are pinned.
        """
        self.store = store
        self.site = site
        self._key = assignment_key
        self.clock = clock
        self.news = news
        self._root = root

    def take_bundle(self, stream: BinaryIO) -> BundleRow:
        """Put a bundle file into the depot.

        Raises:
            BundleError, ManifestError, InputError, TrustError, StoreError: it was not taken.
        """
        row = self.store.depot.add(stream)
        self.store.add_bundle(row)
        self._offer_deltas(row)
        return row

    def warnings(self, family: str) -> list[str]:
        """What an operator should know who pins devices to a family."""
        known = self.store.depot.families()
        if not known or family in known:
            return []
        there = ", ".join(sorted(known)[:_MOST_TOLD])
        return [f"no such family is released here: {family}; there are: {there}"]

    def _offer_deltas(self, row: BundleRow) -> None:
        """Deltas from what most devices of the family run now; each verdict goes to the log."""
        sources = most_run(self.store.devices(), row.family)
        try:
            for verdict in offer_deltas(self.store.depot.folder, row.digest, sources):
                _log.info("%s: %s", row.digest[:19], verdict)
        except WherryError as error:  # devices fetch the whole then; the bundle is taken
            _log.warning("no deltas of %s: %s", row.digest[:19], error)

    def enrol(
        self,
        device: str,
        family: str,
        labels: Mapping[str, str],
        listen: str = "",
        state_dir: str = "",
        *,
        again: bool = False,
    ) -> Papers:
        """Take a device into the fleet and make its papers.

        Raises:
            RolloutError: R06 a word is not allowed, R08 it is enrolled already.
            TrustError: T10, no key that may sign bundles is known yet.
        """
        check_words(device, family, labels)
        trust = self._root() if self._root else self._trust(family).to_bytes()
        settings = self._settings(device, family, labels, listen, state_dir)  # refuses first
        self.store.enrol(DeviceRow(device, family, labels, self.clock()), again=again)
        self.site.admit()
        kind = "root_json" if self._root else "trust_json"
        return Papers(settings, **{kind: trust.decode()})

    def _settings(
        self, device: str, family: str, labels: Mapping[str, str], listen: str, state_dir: str
    ) -> str:
        """A device's agent.toml."""
        lines = [
            f'device = "{device}"',
            f'fleet = "{self.site.fleet}"',
            f'family = "{family}"',
            *(['trust = "root.json"'] if self._root else []),
            *([f"state_dir = {quoted(state_dir)}"] if state_dir else []),
            "",
            "[broker]",
            f'url = "{self.site.broker(device)}"',
            *([] if self.site.own_broker else ["identity = false"]),
            "",
            "[depot]",
            f'url = "{self.site.url}/depot"',
            *(
                ["", "[reporting]", 'encoding = "compact"']
                if self.site.windows == "compact"
                else []
            ),
            *(
                ["", "[registry]", f"url = {quoted(self.site.registry)}"]
                if self.site.registry
                else []
            ),
            *self._identity_lines(),
            *(["", "[serving]", f"listen = {quoted(listen)}"] if listen else []),
            *(["", "[labels]"] if labels else []),
            *(f"{quoted(name)} = {quoted(value)}" for name, value in sorted(labels.items())),
        ]
        return "\n".join(lines) + "\n"

    def _trust(self, family: str) -> TrustRoot:
        keys = self.store.depot.trusted()
        if not keys:
            raise TrustError(
                "T10",
                "the server knows no key that may sign bundles",
                cure="put NAME.pub.json of `wherry key generate` into the keys folder of --data",
            )
        orders = AssignmentKey(self._key.keyid, 0.0, self.clock() + _KEY_SECONDS)
        return TrustRoot(
            keys | {self._key.keyid: self._key}, {family: FamilyTrust(tuple(keys))}, (orders,)
        )

    def _identity_lines(self) -> list[str]:
        if not self.site.enrol:
            return []
        files = {"key": "device.key", "certificate": "device.pem", "authority": "fleet-ca.pem"}
        lines = [f'{name} = "{file}"' for name, file in files.items()]
        return ["", "[identity]", *lines, f'enrol = "{self.site.enrol}"']

    def plan(
        self,
        digest: str,
        select: Mapping[str, str],
        policy: Policy,
        only: Collection[str] | None = None,
    ) -> Plan:
        """Who would be in which wave; with `only`, of these devices alone.

        Raises:
            RolloutError: R02 no device matches, R04 no such bundle, R06 a wave is wrong.
        """
        bundle = self.store.bundle(digest)
        if not self.store.depot.holds(digest):
            raise RolloutError("R04", digest)
        candidates = self._candidates(bundle.family, select, policy.to, only)
        soak = self.store.manifest(digest).soak
        waves = plan_waves(candidates, policy.shares, seed=digest)
        gated = _gated(policy, waves)
        gates = dict(policy.gates) | {"waves": len(gated)} if gated else {}
        return Plan(
            bundle,
            waves,
            soak.seconds if policy.soak_seconds < 0 else policy.soak_seconds,
            soak.rows if policy.soak_rows < 0 else policy.soak_rows,
            tuple(shares_of(candidates, waves)),
            replace(policy, gates=gates),
            gated,
        )

    def _candidates(
        self, family: str, select: Mapping[str, str], to: str, only: Collection[str] | None
    ) -> list[Candidate]:
        selector, groups = parse(to), self.store.groups.members()
        found = [
            Candidate(row.device, row.labels, not row.online, groups.get(row.device, ()))
            for row in self.store.devices(select)
            if row.family == family
            and (only is None or row.device in only)
            and selector.holds(row.device, row.labels, groups.get(row.device, ()))
        ]
        if not found:
            wanted = [f"{name}={value}" for name, value in select.items()]
            wanted += [to] if to else []
            raise RolloutError("R02", f"family {family}, {', '.join(wanted) or 'any label'}")
        return found

    def start(
        self,
        digest: str,
        select: Mapping[str, str],
        policy: Policy,
        only: Collection[str] | None = None,
    ) -> RolloutRow:
        """Start a rollout; with `only`, on these devices alone.

        Raises:
            RolloutError: R02, R03 another one is running there, R04, R06.
        """
        plan = self.plan(digest, select, policy, only)
        bundle, now = plan.bundle, self.clock()
        row = RolloutRow(
            id=re.sub(r"[^a-z0-9]+", "-", f"{bundle.name}-{bundle.version}".lower()).strip("-"),
            bundle=digest,
            name=bundle.name,
            version=bundle.version,
            family=bundle.family,
            state=str(RolloutState.CANARY if policy.shadow_rows < 0 else RolloutState.SHADOW),
            wave=0,
            waves=len(plan.waves),
            select=dict(select),
            policy=plan.policy.to_dict(),
            created_at=now,
            changed_at=now,
            devices=_exposures(plan.waves),
        )
        name = self.store.ledger.create(row)
        self.news()
        return self.store.ledger.rollout(name)

    def abort(self, name: str, why: str) -> RolloutRow:
        """Ask for the end of a rollout.

        Raises:
            RolloutError: R01, R09.
        """
        self.store.ledger.stop(name, why or "abort")
        self.news()
        return self.store.ledger.rollout(name)


def _gated(policy: Policy, waves: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """The waves that gates can be asked at."""
    if not policy.gates:
        return ()
    whole, ends = sum(map(len, waves)), itertools.accumulate(map(len, waves))
    asked = (can_ask(policy.gates, end, whole - end) for end in ends)
    return tuple(place for place, can in enumerate(asked) if can)


def _exposures(waves: Sequence[Sequence[str]]) -> tuple[Exposure, ...]:
    return tuple(Exposure(name, wave) for wave, names in enumerate(waves) for name in names)


def check_words(device: str, family: str, labels: Mapping[str, str]) -> None:
    """Refuse an id, family or label that is none.

    Raises:
        RolloutError: R06.
    """
    for what, word in (("device", device), ("family", family)):
        if not re.fullmatch(SLUG, word):
            cure = "write it with lower-case letters, digits and dashes"
            raise RolloutError("R06", f"{what} {word[:80]!r}", cure=cure)
    for name, value in labels.items():
        for word in (name, value):
            if not re.fullmatch(LABEL, word):
                raise RolloutError("R06", f"label {word[:80]!r} should be a short word")


def quoted(text: str) -> str:
    """A TOML string.

    Raises:
        RolloutError: R06, no such string could be read.
    """
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise RolloutError("R06", f"{text[:80]!r} has control characters")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def with_credentials(url: str, name: str, password: str) -> str:
    """A broker's URL with an account; ids and our passwords need no quoting."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{name}:{password}@{parts.netloc}"
