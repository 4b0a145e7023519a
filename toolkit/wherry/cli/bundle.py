"""`wherry bundle`, `sign` and `key`: look into bundles, and say who stands behind them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import data_option
from .output import json_option, say, show, table
from .release import sign_option

if TYPE_CHECKING:
    from wherry_contract.signature import TrustRoot

_file = click.Path(dir_okay=False, path_type=Path)


@click.group
def bundle() -> None:
    """Inspect, verify and compare bundles."""


@bundle.command
@click.argument("path", metavar="BUNDLE", type=_file)
@json_option
def inspect(path: Path, *, as_json: bool) -> None:
    """Show what is in a bundle.

    Everything is checked on the way but the signatures; see `verify` for those.

    Example: wherry bundle inspect fraud-1.0.0.wherry
    """
    from wherry.bundle_view import lines, look

    view = look(path)
    show("wherry/bundle-inspect/1", view.to_dict(), lines(view), as_json=as_json)


@bundle.command
@click.argument("path", metavar="BUNDLE", type=_file)
@click.option("--trust", type=_file, help="Whom to trust: a device's trust.json.")
@click.option("--key", "keys", type=_file, multiple=True, help="Whom to trust: a .pub.json file.")
@click.option("--probe", is_flag=True, help="Score the golden vectors with the runtime here, too.")
@data_option
@json_option
def verify(
    path: Path,
    *,
    trust: Path | None,
    keys: tuple[Path, ...],
    probe: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Check a bundle, and that somebody trusted signed it.

    Without --trust and --key, the public keys in the folder of keys are trusted. Exit code
    1 if it is not trusted.

    Example: wherry bundle verify fraud-1.0.0.wherry --key .wherry/keys/release.pub.json
    """
    from wherry.bundle_view import look
    from wherry.bundle_view import verify as check_signatures
    from wherry.pack import check_graph, check_scores

    if trust and keys:
        raise click.UsageError("--trust and --key exclude each other")
    view = look(path)
    root = _trusted(trust, keys, data, view.parts.manifest.family)
    statement = check_signatures(view, root)
    largest = None
    if probe:
        check_graph(view.parts)
        largest = check_scores(view.parts)
    answer = {
        "trusted": True,
        "digest": view.digest,
        "family": statement.family,
        "counter": statement.counter,
        "signed_by": list(view.signers),
        "largest_difference": largest,
    }
    said = [f"trusted: {statement.name} {statement.version}, release {statement.counter}"]
    if largest is not None:
        said.append(f"golden vectors agree here; the largest difference is {largest:.2g}")
    show("wherry/bundle-verify/1", answer, said, as_json=as_json)


def _trusted(
    trust: Path | None, keys: tuple[Path, ...], data: Path | None, family: str
) -> TrustRoot:
    from wherry.bundle_view import read_trust, trusting
    from wherry.folder import key_folder
    from wherry.keys import list_keys, read_public
    from wherry_contract.errors import TrustError

    if trust:
        return read_trust(trust)
    folder = key_folder(data)
    public = [read_public(key) for key in keys] or [key.public for key in list_keys(folder)]
    if not public:
        raise TrustError("T10", f"none in {folder}", cure="say --key, --trust or --data")
    return trusting(public, family)


@bundle.command
@click.argument("before", type=_file)
@click.argument("after", type=_file)
@json_option
def diff(before: Path, after: Path, *, as_json: bool) -> int:
    """Show what differs between two bundles; exit code 1 if anything does.

    Example: wherry bundle diff fraud-1.0.0.wherry fraud-1.1.0.wherry
    """
    from wherry.bundle_view import differences, look

    changes = differences(look(before), look(after))
    rows = [[change.what, _cut(change.before), _cut(change.after)] for change in changes]
    said: Iterable[str] = table(("what", before.name, after.name), rows) if rows else ["the same"]
    answer = {"same": not changes, "changes": [change.to_dict() for change in changes]}
    show("wherry/bundle-diff/1", answer, said, as_json=as_json)
    return 1 if changes else 0


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


@click.command
@click.argument("what", metavar="BUNDLE|ROLE")
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    help="Sign with this key: a name, a file or a URI.",
)
@click.option(
    "--counter",
    type=click.IntRange(1),
    help="Release counter; grows with every release. Needed for the first signature.",
)
@data_option
def sign(
    what: str,
    *,
    keys: tuple[str, ...],
    counter: int | None,
    data: Path | None,
) -> None:
    """Sign a bundle, or what waits to be published.

    A ROLE, as `models/fraud`, `targets` or `root`, is a document that `wherry publish` has
    staged: says who must sign it still. A BUNDLE gets signatures beside its content, so
    that its digest stays what it is; they say who made it, and devices with a root do not
    ask for them.

    Example: wherry sign models/fraud --key models-2
    """
    from wherry.folder import home, key_folder
    from wherry.pack import sign_bundle
    from wherry.release import Releases
    from wherry.signers import open_signers
    from wherry_contract.errors import SetupError

    path = Path(what)
    if not path.is_file() and re.fullmatch(r"root|targets|models/[a-z0-9-]+", what):
        releases = Releases(data or home())
        outcome = releases.sign(what, lambda: open_signers(keys, releases.keys))
        for line in outcome.lines() if outcome.waiting else ["enough: `wherry publish` ends it"]:
            click.echo(line)
        return
    if not path.is_file():
        cure = "say the path of a bundle, or a role: root, targets, models/FAMILY"
        title = "there is no such bundle, and no such role"
        raise SetupError("H02", repr(what[:200]), cure=cure, title=title)
    signers = open_signers(keys, key_folder(data))
    statement = sign_bundle(path, signers, counter=counter)
    for signer in signers:
        say(f"signed by {signer.public_key.keyid[:12]} as release {statement.counter}")
    click.echo(statement.digest)


@click.group
def key() -> None:
    """Make, list, exchange and revoke signing keys."""


@key.command("generate")
@click.argument("name")
@click.option("--signer", default="", help="The key lies there: env:VARIABLE, pkcs11:TOKEN/LABEL.")
@data_option
def generate(name: str, *, signer: str, data: Path | None) -> None:
    """Make a signing key.

    Writes NAME.key, which only its owner can read, and NAME.pub.json, which fleets are told
    to trust. With $WHERRY_KEY_PASSPHRASE set the private key is encrypted with it. With
    --signer nothing is made: the public file says where the key lies.

    Example: wherry key generate release
    """
    from wherry.folder import key_folder
    from wherry.keys import PASSPHRASE, new_key_path, public_path
    from wherry.keys import generate as make

    path = new_key_path(name, key_folder(data))
    if signer:
        from wherry.signers import adopt

        click.echo(adopt(signer, name, path.parent).keyid)
        return
    passphrase = os.environ.get(PASSPHRASE, "")
    public = make(path, passphrase=passphrase)
    say(f"private key: {path}" + ("" if passphrase else f" (not encrypted; see ${PASSPHRASE})"))
    say(f"public key:  {public_path(path)}")
    click.echo(public.keyid)


@key.command("list")
@data_option
@json_option
def list_(*, data: Path | None, as_json: bool) -> None:
    """List signing keys.

    Example: wherry key list
    """
    from wherry.folder import key_folder
    from wherry.keys import list_keys

    folder = key_folder(data)
    found = list_keys(folder)
    answer = {"folder": str(folder), "keys": [item.to_dict() for item in found]}
    rows = [[item.name, item.state, item.public.keyid] for item in found]
    said = table(("name", "state", "key id"), rows) if rows else [f"no keys in {folder}"]
    show("wherry/key-list/1", answer, said, as_json=as_json)


@key.command("rotate")
@click.argument("role")
@click.option("--old", default="", help="Name or id of the key that goes; none to add one.")
@click.option("--new", required=True, help="Name of the key that comes.")
@sign_option
@data_option
@json_option
def rotate(
    role: str, *, old: str, new: str, keys: tuple[str, ...], data: Path | None, as_json: bool
) -> int:
    """Exchange a key of a role.

    ROLE is root, targets, snapshot, timestamp, models/FAMILY, assignment or time. Like
    `wherry publish`, it signs with the keys given, and exits with 1 while others must sign.

    Example: wherry key rotate root --old root-1 --new root-4 --key root-4 --key root-2
    """
    return _exchange(role, old, new, keys, data, as_json=as_json)


@key.command("revoke")
@click.argument("name")
@sign_option
@data_option
@json_option
def revoke(name: str, *, keys: tuple[str, ...], data: Path | None, as_json: bool) -> int:
    """Take a key away from every role that it has.

    Where too few would be left, exchange it with `wherry key rotate` instead.

    Example: wherry key revoke root-3 --key root-1 --key root-2
    """
    return _exchange("", name, "", keys, data, as_json=as_json)


def _exchange(
    role: str, old: str, new: str, keys: tuple[str, ...], data: Path | None, *, as_json: bool
) -> int:
    from wherry.folder import home
    from wherry.release import Releases
    from wherry.signers import open_signers

    releases = Releases(data or home())
    signers = open_signers(keys, releases.keys)
    releases.exchange(role, old, new)
    outcome = releases.finish(signers)
    show("wherry/publish/1", outcome.to_dict(), outcome.lines(), as_json=as_json)
    return 0 if outcome.complete else 1
