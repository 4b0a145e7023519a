"""`wherry demo`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .output import progress


@click.command(epilog="Example: wherry demo --folder /tmp/demo")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-run"),
    show_default=True,
    help="Where everything of this run goes; that of an earlier run is removed.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("demo-report.html"),
    show_default=True,
    help="Where the report goes.",
)
@click.option(
    "--broker",
    default="auto",
    show_default=True,
    help="mosquitto or nats; by default what is installed, mosquitto first.",
)
@click.option("--board", default="", help="Run the agents on this board, emulated: pi3, pos-armv7.")
def demo(folder: Path, report: Path, broker: str, board: str) -> int:
    """Run the whole road on this machine.

    From real payments to a signed bundle, three agents, a refused mistake, a drift that is
    found, and a report. Exit 1 if something that it promises was not seen.

    With --board the three agents are the board's own programs under QEMU, and take a
    quarter of the payments: emulated, each costs ten to forty times as much.
    """
    from wherry.demo.run import Choice, find_example, run_demo

    began = time.monotonic()
    checks = run_demo(Choice(find_example(), folder, report, broker, board, click.echo, progress))
    kept = sum(check.passed for check in checks)
    seconds = time.monotonic() - began
    click.echo(f"\n{kept} of {len(checks)} promises kept, {seconds:.0f} s. The report: {report}")
    return 0 if kept == len(checks) else 1
