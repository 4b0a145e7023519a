"""`wherry doctor`: what is installed here, and what is missing."""

from __future__ import annotations

from pathlib import Path

import click

from .output import json_option, say, show, table


@click.command
@json_option
def doctor(*, as_json: bool) -> int:
    """Check what is installed here and what is missing.

    Exit code 1 if something is missing for the main job: building a bundle, running a
    fleet's server and watching it. Each missing thing comes with its cure.

    Example: wherry doctor
    """
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
