"""`wherry watch`: what other people's monitoring needs."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wherry.client import find_client
from wherry.folder import home
from wherry_contract.errors import GateError

from .options import data_option, server_options
from .output import Seconds, json_option, say, show

if TYPE_CHECKING:
    from wherry.watch.sparkplug import Seen

_file = click.Path(dir_okay=False, path_type=Path)
_folder = click.Path(file_okay=False, path_type=Path)


@click.group
def watch() -> None:
    """Files for Prometheus, Grafana, readers; bridge; hooks."""


@watch.command(epilog="Example: wherry watch files -o monitoring")
@click.option(
    "-o",
    "--out",
    type=_folder,
    default=Path("monitoring"),
    show_default=True,
    help="The folder to write.",
)
@data_option
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


@watch.command(epilog="Example: wherry watch alerts --exec './page-me', every minute by a timer")
@click.option("--hooks", "path", type=_file, help="Whom to tell (docs/watching.md).")
@click.option("--exec", "command", default="", help="A command; it gets the alert on stdin.")
@click.option(
    "--ledger", type=_file, help="Where is noted who was told. [default: the data folder's]"
)
@click.option("--dry-run", is_flag=True, help="Say what stands, and tell nobody.")
@json_option
@server_options
def alerts(
    *,
    path: Path | None,
    command: str,
    ledger: Path | None,
    dry_run: bool,
    as_json: bool,
    server: str,
    token_file: Path | None,
) -> None:
    """Tell hooks what has drifted, each alert once.

    By webhook, MQTT or a command. What failed is told again by the next call, 20 times at the
    most; an alert that becomes graver, or ends and comes again, is another one. Exit 1 if a
    hook failed.
    """
    from wherry.documents import from_document
    from wherry.hooks import Ledger, read_hooks, tell_alerts
    from wherry.hooks import alerts as standing
    from wherry.hooks.ways import Command
    from wherry.monitor import FleetView

    ways = dict(read_hooks(path).ways) if path else {}
    if command:
        ways["exec"] = Command(tuple(shlex.split(command)), Path.cwd())
    answer = find_client(server, token_file).get("monitor", brief=1, since=1)
    found = standing(from_document(FleetView, answer, "monitor"))
    book = Ledger(ledger or home() / "alerts.json")
    told = () if dry_run else tell_alerts(found, ways, book, time.time)
    listed = [alert.to_dict() for alert in found]
    lines = [f"{item['decision']}: {item['text']}" for item in listed]
    lines += [
        f"{item.hook}: {item.state} {item.cause[:16]} {item.outcome}".rstrip() for item in told
    ]
    document = {"alerts": listed, "told": [item.__dict__ for item in told]}
    show("wherry/alerts/1", document, lines or ["nothing has drifted"], as_json=as_json)
    if failed := sorted({item.hook for item in told if item.state in ("failed", "given up")}):
        raise GateError("Q07", ", ".join(failed))
