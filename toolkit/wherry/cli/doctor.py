"""`wherry doctor`: what is installed here, and what is missing."""

from __future__ import annotations

from pathlib import Path

import click

from .output import json_option, say, show, table

# `wherry_convert.environments.ENVIRONMENTS`; a test holds them together
ENVIRONMENTS = ("torch",)


@click.command
@click.option(
    "--install",
    type=click.Choice(ENVIRONMENTS),
    help="Make the environment in which a heavy framework runs.",
)
@json_option
def doctor(*, install: str | None, as_json: bool) -> int:
    """Check what is installed here and what is missing.

    Exit code 1 if something is missing for the main job: building a bundle, running a
    fleet's server and watching it. Each missing thing comes with its cure.

    Heavy frameworks never enter Wherry's own environment: --install makes one for them under
    the user's cache folder (or WHERRY_ENVIRONMENTS), with versions that were tested together.

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

    made = make(name, lambda words: say(f"  {words}"))
    answer = {
        "name": made.name,
        "folder": str(made.folder),
        "versions": made.versions,
        "fresh": made.fresh,
    }
    lines = [f"{key} {value}" for key, value in made.versions.items()]
    word = "made" if made.fresh else "was there"
    show("wherry/environment/1", answer, [*lines, f"{word}: {made.folder}"], as_json=as_json)
    return 0
