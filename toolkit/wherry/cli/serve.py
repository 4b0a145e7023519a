"""`wherry serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from wherry.folder import home

from .options import data_option
from .output import Seconds, say

_PORT: Final = click.IntRange(0, 65_535)
_file: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog="Example: wherry serve --data fleet --port 8080")
@data_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where devices come.")
@click.option(
    "--port",
    type=_PORT,
    default=0,
    help="Port of operators' HTTP; 0 takes that of last time, or a free one.",
)
@click.option(
    "--broker",
    default="auto",
    show_default=True,
    help="mosquitto or nats for one of its own, or the URL of another, as mqtt://host:1883.",
)
@click.option("--fleet", default="", help="The fleet's name; it stays what it was at first.")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="A name or address by which devices know this server; the first is what they are told.",
)
@click.option("--depot-port", type=_PORT, default=0, help="Port of the devices' depot; as --port.")
@click.option("--enrol-port", type=_PORT, default=0, help="Port of enrolment; as --port.")
@click.option(
    "--broker-port", type=_PORT, default=0, help="Port of the devices' broker; as --port."
)
@click.option(
    "--plain", is_flag=True, help="No TLS and no identities but passwords; to try things alone."
)
@click.option(
    "--pinned", is_flag=True, help="Devices pin keys instead of a root; for a laboratory."
)
@click.option(
    "--windows",
    type=click.Choice(["json", "compact"]),
    help="How devices that enrol send windows: json at first, then as last time.",
)
@click.option(
    "--registry",
    default="",
    help="Where devices that enrol fetch bundles: an OCI registry, or `none`; then as last time.",
)
@click.option(
    "--store",
    default="",
    help="Where devices, windows and rollouts are kept: postgresql+psycopg://user@host/database, or"
    " sqlite for a file in the data folder, as at first; then as last time.",
)
@click.option(
    "--member",
    default="",
    help="This server's name, as one more of the same data folder; with --store and --broker URL.",
)
@click.option(
    "--metrics-devices",
    type=click.IntRange(0, 100_000),
    default=200,
    show_default=True,
    help="A larger fleet has no metrics of single devices, but of all together.",
)
@click.option(
    "--alerts",
    type=_file,
    help="Whom to tell of drift, as `wherry watch alerts --hooks` does (docs/watching.md).",
)
@click.option(
    "--retrain",
    type=_file,
    help="Whom to tell of models that have aged, as `wherry retrain check --hooks` does.",
)
@click.option(
    "--hooks-interval",
    type=Seconds(),
    default="1m",
    show_default=True,
    help="How often --alerts and --retrain look.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    *,
    data: Path | None,
    host: str,
    port: int,
    broker: str,
    fleet: str,
    names: tuple[str, ...],
    depot_port: int,
    enrol_port: int,
    broker_port: int,
    plain: bool,
    pinned: bool,
    windows: str | None,
    registry: str,
    store: str,
    member: str,
    metrics_devices: int,
    alerts: Path | None,
    retrain: Path | None,
    hooks_interval: float,
) -> None:
    """Run the fleet's server: broker, depot, ingest.

    It keeps everything in one folder and runs until it is told to stop. What devices may run
    is listed by `wherry publish`; the first start makes all keys for it, in the `keys` folder.
    With --pinned, public keys there may sign bundles by themselves. Devices come over TLS 1.3 with certificates of the
    fleet's own authority, made at the first start; operators only from this machine.
    """
    from wherry.server.app import serve as run
    from wherry.server.app import set_up_logging
    from wherry.server.choice import Choice, Ready
    from wherry.server.teller import Telling

    set_up_logging(verbose=bool(ctx.find_root().obj["verbose"]))

    def on_ready(ready: Ready) -> None:
        devices = ", ".join(url for url in ready.devices.values() if url)
        say(f"devices come to {devices}")
        say(f"ready: {ready.url}, broker {ready.broker}, fleet {ready.fleet}, data {ready.data}")

    ports = (depot_port, enrol_port, broker_port)
    choice = Choice(
        data or home(),
        host,
        port,
        broker,
        fleet,
        names,
        ports,
        plain,
        pinned,
        windows or "",
        metrics_devices,
        registry,
        store,
        member,
        Telling(alerts, retrain, hooks_interval),
    )
    run(choice, on_ready)
