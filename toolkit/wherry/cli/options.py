"""Options that several commands share: which server, which devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


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
