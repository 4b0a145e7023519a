"""Options that several commands share: which server, which devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .output import Seconds


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the server is, and its token."""
    url = click.option("--server", default="", help="URL of the server; else it is looked for.")
    token = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where its token is; else in the data folder.",
    )
    return url(token(command))


data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder, keys included; by default $WHERRY_HOME or ./.wherry.",
)


class Pair(click.ParamType[tuple[str, str]]):
    """``name=value``."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} is not like site=paris", param, ctx)
        return name, text


select_option = click.option(
    "--select", type=Pair(), multiple=True, help="A label that devices must have; may be repeated."
)


def judging_options(*, quorum: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What a wave must have shown before the next begins, of a rollout that is real or modelled.

    Args:
        quorum: its default, a share.
    """
    options = [
        click.option(
            "--max-failures",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Devices that may fail in a wave after the canary.",
        ),
        click.option(
            "--quorum",
            type=click.FloatRange(0, 1, min_open=True),
            default=quorum,
            show_default=True,
            help="Share of a wave that must have committed for the next one to begin.",
        ),
        click.option(
            "--silent-after",
            type=Seconds(),
            default="15m",
            show_default=True,
            help="A device that says nothing for so long after its switch has failed.",
        ),
        click.option(
            "--looks",
            type=click.IntRange(1, 20),
            default=6,
            show_default=True,
            help="How often gates look at a wave, at most.",
        ),
        click.option(
            "--look-every",
            type=Seconds(),
            default="1h",
            show_default=True,
            help="Time between looks.",
        ),
        click.option(
            "--confidence",
            type=click.FloatRange(0.5, 1, max_open=True),
            default=0.99,
            show_default=True,
            help="Share of rollouts of a model that makes no difference that no gate aborts.",
        ),
    ]

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add
