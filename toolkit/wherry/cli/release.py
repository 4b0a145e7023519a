"""`wherry publish` and `wherry export`: what devices may run, by whose signatures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import data_option, select_option, server_options
from .output import json_option, say, show

if TYPE_CHECKING:
    from wherry.deltas import DeltaVerdict
    from wherry.release import Released

_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_folder = click.Path(file_okay=False, path_type=Path)
sign_option = click.option(
    "--key", "keys", multiple=True, help="Sign with this key: a name, a file or a URI."
)


@click.command(epilog="Example: wherry publish fraud-1.4.0.wherry --key models-1 --key models-2")
@click.argument("bundle", required=False, type=_file)
@click.option("--counter", type=click.IntRange(1), help="Its release counter; else the next one.")
@click.option("--withdraw", default="", help="Take back the bundle with this digest.")
@click.option("--floor", type=click.IntRange(0), help="Least counter still accepted, of --family.")
@click.option("--family", default="", help="A model family; alone, it is added.")
@click.option("--renew", multiple=True, help="Sign a role for another life, as targets.")
@click.option("--forget", is_flag=True, help="Forget what is staged.")
@click.option("--init", "files", is_flag=True, help="Begin: public files of people's keys follow.")
@click.option("--root", type=_file, multiple=True, help="With --init: a keeper of the root.")
@click.option("--targets", type=_file, multiple=True, help="With --init: may delegate.")
@click.option("--models", type=_file, multiple=True, help="With --init: may release bundles.")
@click.option("--threshold", type=click.IntRange(1), default=2, show_default=True, help="Of each.")
@click.option("--against", type=_file, multiple=True, help="Make deltas from this bundle, too.")
@click.option("--no-deltas", is_flag=True, help="Make none: devices fetch what differs whole.")
@click.option("--registry", default="", help="An OCI registry for the blobs, https://host/models.")
@click.option("--registry-auth", type=_file, help="Its login, by `skopeo login --authfile FILE`.")
@click.option("--registry-authority", type=_file, help="Its certificate authority, PEM.")
@sign_option
@data_option
@server_options
@json_option
def publish(
    *,
    bundle: Path | None,
    counter: int | None,
    withdraw: str,
    floor: int | None,
    family: str,
    renew: tuple[str, ...],
    forget: bool,
    files: bool,
    root: tuple[Path, ...],
    targets: tuple[Path, ...],
    models: tuple[Path, ...],
    threshold: int,
    against: tuple[Path, ...],
    no_deltas: bool,
    registry: str,
    registry_auth: Path | None,
    registry_authority: Path | None,
    keys: tuple[str, ...],
    data: Path | None,
    server: str,
    token_file: Path | None,
    as_json: bool,
) -> int:
    """Release bundles, and take them back.

    A bundle gets deltas from those that the fleet runs, by the server's data folder or by
    --server, and from those that --against names; each is kept only where it pays.

    Stages what is asked for, signs it with the keys that are given, and publishes when
    enough people have signed; else says who is missing and exits with 1. The others add
    theirs with `wherry sign ROLE --key KEY`, and `wherry publish` ends it. Nothing that
    devices see changes before that.
    """
    from wherry.folder import home
    from wherry.release import Releases
    from wherry.signers import open_signers
    from wherry.to_registry import RegistryTarget, copy_bundle, copy_deltas

    _want_bundle(bundle, registry, *against)
    releases = Releases(data or home())
    signers = open_signers(keys, releases.keys)
    if forget:
        dropped = releases.repository.drop()
        say(f"forgotten: {', '.join(dropped)}" if dropped else "there was nothing to forget")
    if files:
        people = {"root": root, "targets": targets, "models": models}
        releases.begin(people, [family] if family else [], dict.fromkeys(people, threshold))
    elif floor is not None:
        releases.repository.stage_floor(_wanted(family), floor)
    elif family:
        releases.add_family(family)
    if withdraw:
        releases.repository.stage_withdrawal(withdraw)
    for role in renew:
        releases.repository.stage_renewal(role)
    verdicts: list[DeltaVerdict] = []
    if bundle:
        released = releases.stage(bundle, counter or 0)
        say(f"{bundle.name}: release {released.counter}, {released.digest}")
        if not no_deltas:
            running = _running(data or home(), released.family, server, token_file)
            verdicts = _make_deltas(releases.repository.depot, released, running, against)
    if bundle and registry:
        target = RegistryTarget(registry, registry_auth, registry_authority)
        say(f"copied to {copy_bundle(bundle, target)}")
        copied = copy_deltas(releases.repository.depot, released.digest, released.family, target)
        say(f"deltas: {copied or 'none to copy'}")
    outcome = releases.finish(signers)
    document = outcome.to_dict() | {"deltas": [item.to_dict() for item in verdicts]}
    lines = [*map(str, verdicts), *outcome.lines()]
    show("wherry/publish/1", document, lines, as_json=as_json)
    return 0 if outcome.complete else 1


def _running(data: Path, family: str, server: str, token_file: Path | None) -> list[str]:
    """What the fleet runs: as the server says, if one is named, else by its folder."""
    from wherry.against import running_here, running_there
    from wherry.client import find_client

    if server or os.environ.get("WHERRY_SERVER"):
        return running_there(find_client(server, token_file), family)
    return running_here(data, family)


def _make_deltas(
    depot: Path, released: Released, running: list[str], files: tuple[Path, ...]
) -> list[DeltaVerdict]:
    from wherry.against import old_bundles
    from wherry.deltas import make_deltas

    olds, lacking = old_bundles(depot, running, files)
    for digest in lacking:
        say(f"devices run {digest[:19]}, which is not in {depot}: name its file with --against")
    if not running and not files:
        say("no deltas: no device reports a bundle, and --against names none")
    return make_deltas(depot, released.digest, olds, say)


def _want_bundle(bundle: Path | None, *options: object) -> None:
    if any(options) and bundle is None:
        raise click.UsageError("--registry and --against want a BUNDLE")


def _wanted(family: str) -> str:
    if not family:
        raise click.UsageError("--floor wants --family")
    return family


@click.command(epilog="Example: wherry export stick fraud-1.4.0.wherry --select site=paris")
@click.argument("folder", type=_folder)
@click.argument("bundle", type=_file)
@click.option("--device", "devices", multiple=True, help="For this device; else for all of them.")
@select_option
@click.option(
    "--days", type=click.FloatRange(1, 365), default=90, show_default=True, help="It stays fresh."
)
@click.option("--from", "olds", type=_file, multiple=True, help="Add deltas from this bundle.")
@click.option("--thin", is_flag=True, help="Only what devices with a --from bundle lack.")
@data_option
@json_option
def export(
    *,
    folder: Path,
    bundle: Path,
    devices: tuple[str, ...],
    select: tuple[tuple[str, str], ...],
    days: float,
    olds: tuple[Path, ...],
    thin: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Write a folder for a USB stick.

    It holds the list of releases, the bundle's file and an order for each device. On the
    device, with its agent stopped: wherry-agent install FOLDER. The bundle must be
    released; its file is copied byte by byte. With --from it holds deltas too, and with
    --thin nothing but what a device that has a --from bundle lacks.
    """
    from wherry.deltas import bundle_file
    from wherry.folder import home
    from wherry.server.drop import export as write

    have = [bundle_file(path) for path in olds]
    chosen = dict(select)
    found = write(data or home(), folder, bundle, devices, chosen, days=days, olds=have, thin=thin)
    answer = {
        "digest": found.digest,
        "devices": list(found.devices),
        "bytes": found.size,
        "deltas": [item.to_dict() for item in found.verdicts],
    }
    line = f"{folder}: {found.digest[:19]} for {len(found.devices)} devices, {found.size} bytes"
    show("wherry/export/1", answer, [*map(str, found.verdicts), line], as_json=as_json)
