"""`wherry watch`: what other people's monitoring needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wherry.client import find_client, home

from .options import server_options
from .output import Seconds, say

if TYPE_CHECKING:
    from wherry.watch.sparkplug import Seen

_folder = click.Path(file_okay=False, path_type=Path)


@click.group
def watch() -> None:
    """Files for Prometheus, Grafana, readers; a bridge."""


@watch.command(epilog="Example: wherry watch files -o monitoring")
@click.option(
    "-o",
    "--out",
    type=_folder,
    default=Path("monitoring"),
    show_default=True,
    help="The folder to write.",
)
@click.option(
    "--data", type=_folder, help="The server's folder; by default $WHERRY_HOME or ./.wherry."
)
def files(*, out: Path, data: Path | None) -> None:
    """Write prometheus.yml, alerts.yml and a Grafana dashboard.

    Start Prometheus with the first, which reads the second; import dashboard.json into
    Grafana. The token in the data folder that they name opens the metrics and nothing else.
    """
    from wherry.watch.kit import write_kit

    for path in write_kit(out, data or home()):
        say(f"{path}")


@watch.command(epilog="Example: wherry watch schemas -o schemas")
@click.option(
    "-o",
    "--out",
    type=_folder,
    default=Path("schemas"),
    show_default=True,
    help="The folder to write.",
)
def schemas(*, out: Path) -> None:
    """Write JSON Schemas of the messages and an AsyncAPI document.

    For whoever reads the broker's topics by other means: asyncapi.json names topics and
    messages, one schema for each channel says what a message holds.
    """
    from wherry import __version__
    from wherry.files import write_durably
    from wherry.watch.schemas import documents

    for name, text in documents(__version__).items():
        write_durably(out / name, text.encode())
        say(f"{out / name}")


@watch.command(epilog="Example: wherry watch sparkplug --to mqtt://scada:1883 --group shops")
@click.option(
    "--to",
    required=True,
    envvar="WHERRY_SPARKPLUG_BROKER",
    show_envvar=True,
    help="Their broker, as mqtts://user:secret@host; a secret is better off in the variable.",
)
@click.option("--group", required=True, help="The Sparkplug group that the fleet is in.")
@click.option("--node", default="wherry", show_default=True, help="This bridge's edge node.")
@click.option(
    "--interval", type=Seconds(), default="10s", show_default=True, help="How often it looks."
)
@server_options
def sparkplug(
    *, to: str, group: str, node: str, interval: float, server: str, token_file: Path | None
) -> None:
    """Publish devices as Sparkplug B, until Ctrl-C.

    A bridge for SCADA: this is the edge node, each device a device of it, with its model,
    update and drift as metrics. Nothing of it runs unless this is started.
    """
    from wherry.watch.bridge import Bridge, check_name
    from wherry.watch.sparkplug import EdgeNode, seen
    from wherry_contract.address import BrokerAddress

    client = find_client(server, token_file)
    for name in (group, node):
        check_name(name)

    def look() -> list[Seen]:
        view = client.get("monitor", brief=1, since=1)
        standing = {item["device"]: item["counts"] for item in view["standing"]}
        return seen(client.get("devices")["devices"], standing)

    Bridge(BrokerAddress.from_url(to), EdgeNode(group, node), look, interval).run()
