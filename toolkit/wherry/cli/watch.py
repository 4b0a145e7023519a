"""`wherry watch`: what other people's monitoring needs."""

from __future__ import annotations

from pathlib import Path

import click

from wherry.client import home

from .output import say

_folder = click.Path(file_okay=False, path_type=Path)


@click.group
def watch() -> None:
    """Files for Prometheus, Grafana and message readers."""


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
