"""A laboratory's ceremony: every key made here at once, so that there is nothing to configure.

The same repository as after a real ceremony, with keys for two people each. What makes it a
laboratory is that all of them lie on one machine: docs/security.md says which must leave it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wherry.keys import PASSPHRASE, generate, list_keys, load_signer, public_path, read_named
from wherry_contract.errors import SetupError, TrustError
from wherry_contract.signature import PublicKey

from .ceremony import Ceremony
from .repository import Repository
from .state import ROOT

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Signer

OFFLINE: Final = ("root-1", "root-2", "root-3", "targets-1", "targets-2", "models-1", "models-2")
ONLINE: Final = ("online", "assignment", "time", "drop")


def hold_ceremony(repository: Repository, keys: Path, families: Iterable[str] = ()) -> None:
    """Make what keys are missing and publish the first metadata, signed by all who must.

    Cut off anywhere and called again, it goes on.

    Args:
        repository: an empty one.
        keys: the folder of keys.
        families: that bundles may be released of from the beginning.

    Raises:
        SetupError: H02 a key lies elsewhere, so that this is no laboratory; H03 or H06.
        StoreError: D01 or D06.
        TrustError: T10, a key cannot be opened.
    """
    _want_no_people(repository, keys)
    public = {name: _have(keys, name) for name in (*OFFLINE, *ONLINE)}
    models = (public["models-1"], public["models-2"])
    ceremony = Ceremony(
        root=(public["root-1"], public["root-2"], public["root-3"]),
        targets=(public["targets-1"], public["targets-2"]),
        models=dict.fromkeys(families, models),
        online=public["online"],
        assignment=public["assignment"],
        time=public["time"],
        drop=public["drop"],
    )
    with repository.locked():
        if repository.exists:
            return
        signers = open_keys(keys, OFFLINE)  # before anything is staged: some may lie elsewhere
        repository.begin(ceremony)
        for role in repository.staged():
            sign_all(repository, role, signers)
        repository.finish(online_signers(keys))


def _want_no_people(repository: Repository, keys: Path) -> None:
    """Refuse where people are in the middle of a ceremony of their own: it would be lost.

    Raises:
        SetupError: H02, the keys of what is staged are not here.
    """
    root = repository.staged_document(ROOT)
    if root is None or repository.exists:
        return
    here = {item.public.keyid for item in list_keys(keys) if item.state != "public only"}
    if here.issuperset(root.signed.roles[ROOT].keyids):
        return  # a laboratory's own, cut off
    missing = "; ".join(f"{item.role}: {item.missing} more" for item in repository.status())
    title = "the fleet's first documents wait for signatures"
    cure = f"`wherry publish --data {keys.parent}` says whose, and ends it; then start the server"
    raise SetupError("H02", missing or "all have signed", cure=cure, title=title)


def sign_all(repository: Repository, role: str, signers: Iterable[Signer]) -> int:
    """Sign a staged document with each key that may, and still lacks; returns how many did."""
    signed = 0
    for signer in signers:
        waiting = repository.waiting(role, repository.must(role))
        if waiting.missing and signer.public_key.keyid in waiting.may:
            repository.sign(role, signer)
            signed += 1
    return signed


def open_keys(keys: Path, names: Iterable[str]) -> list[CryptoSigner]:
    """Load keys by name.

    Raises:
        TrustError: T10.
        SetupError: H02 or H06.
    """
    passphrase = os.environ.get(PASSPHRASE, "")
    return [load_signer(keys / f"{name}.key", passphrase=passphrase) for name in names]


def online_signers(keys: Path) -> list[CryptoSigner]:
    """The keys here that a server may hold: names that begin with ``online``.

    Raises:
        TrustError: T10, one cannot be opened.
    """
    names = [item.name for item in list_keys(keys) if item.name.startswith("online")]
    return open_keys(keys, [name for name in names if (keys / f"{name}.key").is_file()])


def _have(keys: Path, name: str) -> PublicKey:
    path = keys / f"{name}.key"
    if not public_path(path).exists():
        generate(path, passphrase=os.environ.get(PASSPHRASE, ""))
    return read_named(public_path(path))


def names_of(keys: Path) -> dict[str, str]:
    """What the keys in a folder are called, by key id."""
    try:
        return {item.public.keyid: item.name for item in list_keys(keys)}
    except TrustError:  # a damaged file there must not keep anybody from seeing who is missing
        return {}
