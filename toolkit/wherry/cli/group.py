"""`wherry group`: names for sets of devices."""

from __future__ import annotations

from pathlib import Path

import click

from wherry.client import find_client, segment

from .options import server_options
from .output import confirm, json_option, say, show, table, yes_option


@click.group(epilog="Example: wherry group add pilot till-1 till-2")
def group() -> None:
    """Name groups of devices, to roll out to them."""


@group.command("list", epilog="Example: wherry group list --json")
@click.argument("name", required=False)
@json_option
@server_options
def group_list(name: str | None, server: str, token_file: Path | None, *, as_json: bool) -> None:
    """List groups, or the devices of the group NAME."""
    client = find_client(server, token_file)
    if name:
        found = client.get(f"groups/{segment(name)}")
        show("wherry/group/1", found, found["devices"], as_json=as_json)
        return
    found = client.get("groups")
    rows = [(item["group"], item["devices"], item["made_at"]) for item in found["groups"]]
    lines = table(("group", "devices", "made"), rows)
    show("wherry/groups/1", found, lines, as_json=as_json)


@group.command("create", epilog="Example: wherry group create pilot")
@click.argument("name")
@json_option
@server_options
def group_create(name: str, server: str, token_file: Path | None, *, as_json: bool) -> None:
    """Make the group NAME."""
    found = find_client(server, token_file).post("groups", {"group": name})
    show("wherry/group/1", found, [found["group"]], as_json=as_json)


@group.command("remove", epilog="Example: wherry group remove pilot till-2")
@click.argument("name")
@click.argument("devices", nargs=-1)
@yes_option
@json_option
@server_options
def group_remove(
    name: str,
    devices: tuple[str, ...],
    server: str,
    token_file: Path | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Take DEVICES out of the group NAME; without any, the group itself goes.

    Devices stay enrolled, and rollouts that have begun go on as planned.
    """
    client = find_client(server, token_file)
    path = f"groups/{segment(name)}"
    if devices:
        found = client.post(f"{path}/members", {"take": list(devices)})
        say(f"{found['taken']} taken out")
    else:
        found = client.get(path)
        confirm([f"the group {name} of {len(found['devices'])} devices goes"], yes=yes)
        found = client.post(f"{path}/remove", {})
    show("wherry/group/1", found, [found["group"]], as_json=as_json)


@group.command("add", epilog="Example: wherry group add pilot --to 'board=pi3,site=7|9'")
@click.argument("name")
@click.argument("devices", nargs=-1)
@click.option("--to", default="", metavar="SELECTOR", help="Devices that meet it, as of now.")
@json_option
@server_options
def group_add(
    name: str,
    devices: tuple[str, ...],
    to: str,
    server: str,
    token_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Put DEVICES into the group NAME, by id or by selector."""
    if not (devices or to):
        raise click.UsageError("name devices, or say which with --to")
    client = find_client(server, token_file)
    order = {"add": list(devices), "to": to}
    found = client.post(f"groups/{segment(name)}/members", order)
    say(f"{found['added']} put in, {len(found['devices'])} in all")
    show("wherry/group/1", found, [found["group"]], as_json=as_json)
