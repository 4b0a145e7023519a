"""`wherry serve`."""

from __future__ import annotations

from pathlib import Path

import click

from wherry.client import home

from .output import say


@click.command(epilog="Example: wherry serve --data fleet --port 8080")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is kept; by default $WHERRY_HOME or ./.wherry.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="Port of HTTP; 0 takes that of last time, or a free one.",
)
@click.option(
    "--broker",
    default="auto",
    show_default=True,
    help="mosquitto or nats for one of its own, or the URL of another, as mqtt://host:1883.",
)
@click.option("--fleet", default="", help="The fleet's name; it stays what it was at first.")
@click.pass_context
def serve(
    ctx: click.Context, *, data: Path | None, host: str, port: int, broker: str, fleet: str
) -> None:
    """Run the fleet's server: broker, depot, ingest.

    It keeps everything in one folder and runs until it is told to stop. Public keys in
    its `keys` folder may sign bundles.
    """
    from wherry.server.app import Choice, Ready, set_up_logging
    from wherry.server.app import serve as run

    set_up_logging(verbose=bool(ctx.find_root().obj["verbose"]))

    def on_ready(ready: Ready) -> None:
        say(f"ready: {ready.url}, broker {ready.broker}, fleet {ready.fleet}, data {ready.data}")

    run(Choice(data or home(), host, port, broker, fleet), on_ready)
