"""`wherry device`: who is in the fleet, who may come in, who is put out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from wherry.client import find_client, segment
from wherry.files import write_durably

from .options import Pair, select_option, server_options
from .output import Seconds, confirm, json_option, say, show, table, tree, yes_option
from .questions import device_answers, device_ask

_PRIVATE: Final = 0o600
_family = click.option("--family", required=True, help="The model family that it is pinned to.")
_label = click.option("--label", type=Pair(), multiple=True, help="As site=paris; may be repeated.")


@click.group(epilog="Example: wherry device claim --count 20 --family fraud")
def device() -> None:
    """Claim, add, list, ask and revoke devices."""


device.add_command(device_ask)
device.add_command(device_answers)


@device.command(
    "claim", epilog="Example: wherry device claim --count 20 --family fraud --label site=paris"
)
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@_family
@_label
@click.option("--device", "name", default="", help="The id of the one device that may use it.")
@click.option("--again", is_flag=True, help="For a device that is enrolled and gets a new key.")
@click.option(
    "--valid", type=Seconds(), default="30d", show_default=True, help="How long it is good."
)
@json_option
@server_options
def device_claim(
    *,
    count: int,
    family: str,
    label: tuple[tuple[str, str], ...],
    name: str,
    again: bool,
    valid: float,
    server: str,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Make claim codes, each of which lets one device in.

    On the device: wherry-agent enroll --url URL --claim CODE. A code names this fleet's
    authority, so a device gives it to no other server; here only its digest is kept.
    """
    order = {
        "count": count,
        "family": family,
        "labels": dict(label),
        "device": name,
        "again": again,
        "seconds": valid,
    }
    found = find_client(server, token_file).post("claims", order)
    _warn(found)
    say(f"on the device: wherry-agent enroll --url {found['url']} --claim CODE")
    show("wherry/claim-codes/1", found, found["codes"], as_json=as_json)


@device.command(
    "add", epilog="Example: wherry device add till-1 --family fraud --label site=paris --out d"
)
@click.argument("name")
@_family
@_label
@click.option("--listen", default="", help="Its serving port, as 127.0.0.1:8600 or unix:/path.")
@click.option("--state-dir", default="", help="Where it keeps its memory.")
@click.option("--again", is_flag=True, help="A new key and papers for a device that is enrolled.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder for agent.toml, key and certificate.",
)
@server_options
def device_add(
    *,
    name: str,
    family: str,
    label: tuple[tuple[str, str], ...],
    listen: str,
    state_dir: str,
    out: Path,
    server: str,
    token_file: Path | None,
    again: bool,
) -> None:
    """Take a device that is this machine into the fleet, and write its folder.

    For a device elsewhere use `wherry device claim`: then its key never travels.
    """
    from wherry.identity.authority import make_request

    client = find_client(server, token_file)
    key, csr = make_request()
    order = {
        "device": name,
        "family": family,
        "labels": dict(label),
        "listen": listen,
        "state_dir": state_dir,
        "again": again,
        "csr": csr,
    }
    found = client.post("devices", order)
    _warn(found)
    files = found["files"]
    config = files.pop("agent.toml")
    if "device.pem" in files:
        write_durably(out / "device.key", key, mode=_PRIVATE)
    for file, text in files.items():
        write_durably(out / file, text.encode())
    write_durably(out / "agent.toml", config.encode(), mode=_PRIVATE)  # it may have a password
    say(f"{name} is enrolled; on the device: wherry-agent run --config {out / 'agent.toml'}")


def _warn(found: Mapping[str, Any]) -> None:
    for words in found.get("warnings", ()):
        say(f"warning: {words}")


@device.command("revoke", epilog="Example: wherry device revoke till-1 --yes")
@click.argument("name")
@yes_option
@json_option
@server_options
def device_revoke(
    name: str, server: str, token_file: Path | None, *, yes: bool, as_json: bool
) -> None:
    """Put a device out: its certificate is refused from now on, and it is cut off.

    What it runs it goes on running. It comes back only with a new claim code, made with
    --device NAME --again.
    """
    client = find_client(server, token_file)
    path = f"devices/{segment(name)}"
    found = client.get(path)
    confirm([f"{name} is {'online' if found['online'] else 'away'}; it is put out"], yes=yes)
    found = client.post(f"{path}/revoke", {})
    show("wherry/device/1", found, _device_lines(found), as_json=as_json)


@device.command("list", epilog="Example: wherry device list --select site=paris")
@select_option
@click.option("--behind", is_flag=True, help="Only those with an older agent or runtime.")
@json_option
@server_options
def device_list(
    select: tuple[tuple[str, str], ...],
    server: str,
    token_file: Path | None,
    *,
    behind: bool,
    as_json: bool,
) -> None:
    """List devices and what they run.

    Behind is a device whose agent is older than this release, or whose runtime is older than
    the newest in the server's files of boards.
    """
    wanted = [f"{name}={value}" for name, value in select]
    found = find_client(server, token_file).get("devices", select=wanted)
    if behind:
        found |= {"devices": [item for item in found["devices"] if item["behind"]]}
        show("wherry/devices/1", found, _behind_lines(found["devices"]), as_json=as_json)
        return
    rows = [
        (
            item["device"],
            "yes" if item["online"] else "no",
            _identity(item.get("identity")),
            item["family"],
            *_running(item["state"]),
            *_versions(item["state"]),
            " ".join(f"{name}={value}" for name, value in sorted(item["labels"].items())),
            item["seen_at"] or "never",
        )
        for item in found["devices"]
    ]
    heads = ("device", "online", "identity", "family", "runs", "trust", "phase")
    more = ("agent", "runtime", "labels", "seen")
    show("wherry/devices/1", found, table((*heads, *more), rows), as_json=as_json)


def _versions(state: Mapping[str, Any] | None) -> tuple[str, str]:
    return (state["agent"], state["runtime"]) if state else ("-", "-")


def _behind_lines(devices: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            item["device"],
            "yes" if item["online"] else "no",
            "; ".join(item["behind"]),
            " ".join(f"{name}={value}" for name, value in sorted(item["labels"].items())),
            item["seen_at"],
        )
        for item in devices
    ]
    return table(("device", "online", "behind", "labels", "seen"), rows)


def _identity(identity: Mapping[str, Any] | None) -> str:
    """In a word: whose certificate is good, and until when."""
    if identity is None:
        return "-"
    return "revoked" if identity["revoked_at"] else f"to {identity['not_after'][:10]}"


def _running(state: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if state is None:
        return ("-", "-", "-")
    runs = f"{state['bundle_name']} {state['bundle_version']}".strip() or "nothing"
    return (f"{runs} (rule)" if state["fallback"] else runs, state["trust"], state["phase"])


@device.command("show", epilog="Example: wherry device show till-1")
@click.argument("name")
@json_option
@server_options
def device_show(name: str, server: str, token_file: Path | None, *, as_json: bool) -> None:
    """Show one device: its state, what it lost, its latest events."""
    found = find_client(server, token_file).get(f"devices/{segment(name)}")
    show("wherry/device/1", found, _device_lines(found), as_json=as_json)


def _device_lines(found: Mapping[str, Any]) -> Iterable[str]:
    labels = " ".join(f"{name}={value}" for name, value in sorted(found["labels"].items()))
    yield f"{found['device']}: family {found['family']}, {labels or 'no labels'}"
    yield f"{'online' if found['online'] else 'away'}, seen {found['seen_at'] or 'never'}"
    if identity := found.get("identity"):
        yield f"identity {_identity(identity)}, key {identity['fingerprint']}"
    yield from tree(found["state"] or {}, "  ")
    yield f"messages lost before they arrived: {found['lost_messages']}"
    for item in found["incidents"]:
        yield f"not taken: {item['at']}  {item['channel']}  {item['code']}  {item['detail']}"
    for item in found["events"]:
        text = item["text"].removeprefix(f"{item['code']} ")  # some agents repeat it
        yield f"{item['at']}  {item['severity']}  {item['code']}  {text}"
