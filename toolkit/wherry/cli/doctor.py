"""`wherry doctor`: what is installed here, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import json_option, say, show, table

if TYPE_CHECKING:
    from wherry.environments import Made

# `wherry_convert.environments.ENVIRONMENTS`; a test holds them together
ENVIRONMENTS = ("torch", "tensorflow")
RUNTIMES = "runtimes"  # `wherry.runtimes.INSTALL`, likewise


@click.command
@click.option(
    "--install",
    type=click.Choice((*ENVIRONMENTS, RUNTIMES)),
    help="Make the environment of a heavy framework, or those of all runtime versions.",
)
@json_option
def doctor(*, install: str | None, as_json: bool) -> int:
    """Check what is installed here and what is missing.

    Exit code 1 if something is missing for the main job: building a bundle, running a
    fleet's server and watching it. Each missing thing comes with its cure.

    Heavy frameworks never enter Wherry's own environment: --install makes one for them under
    the user's cache folder (or WHERRY_ENVIRONMENTS), with versions that were tested together.
    `--install runtimes` makes one for every runtime version that bundles claim, in which
    `wherry build` runs golden vectors if the project says so.

    Example: wherry doctor
    """
    if install:
        return _install(install, as_json=as_json)
    from wherry.doctor import examine

    findings = examine(Path())
    missing = [finding for finding in findings if not finding.fine]
    rows = [
        ["ok" if finding.fine else "NO", finding.what, finding.found, finding.cure or finding.use]
        for finding in findings
    ]
    answer = {"fine": not missing, "findings": [finding.to_dict() for finding in findings]}
    show(
        "wherry/doctor/1",
        answer,
        table(("", "what", "found", "for, or cure"), rows),
        as_json=as_json,
    )
    if missing:
        say(f"{len(missing)} missing")
    return 1 if missing else 0


def _install(name: str, *, as_json: bool) -> int:
    from wherry.environments import install as make
    from wherry.runtimes import install as make_all

    def tell(words: str) -> None:
        say(f"  {words}")

    if name == RUNTIMES:
        several = make_all(tell)
        answer: dict[str, Any] = {"environments": [_facts(made) for made in several]}
        lines = [line for made in several for line in _lines(made)]
    else:
        made = make(name, tell)
        answer, lines = _facts(made), _lines(made)
    show("wherry/environment/1", answer, lines, as_json=as_json)
    return 0


def _facts(made: Made) -> dict[str, Any]:
    return {
        "name": made.name,
        "folder": str(made.folder),
        "versions": made.versions,
        "fresh": made.fresh,
    }


def _lines(made: Made) -> list[str]:
    word = "made" if made.fresh else "was there"
    versions = [f"{key} {value}" for key, value in made.versions.items()]
    return [*versions, f"{word}: {made.folder}"]
