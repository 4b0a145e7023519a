"""`wherry flash`: a ready board, on its card or over ssh; one, or a file of many."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import click

from .options import Pair, server_options
from .output import confirm, json_option, progress, say, show, table, yes_option

if TYPE_CHECKING:
    from wherry.boards.overlay import Pin
    from wherry.flash.bench import Bench
    from wherry.flash.terminal import Terminal

_path = click.Path(path_type=Path)


@click.command
@click.argument("to", default="")
@click.option("--board", "board_name", required=True, help="A board of `wherry board list`.")
@click.option("--device", default="", help="The terminal's id.")
@click.option("--papers", type=_path, help="The folder that `wherry device add` wrote.")
@click.option("--claim", default="", help="A claim code; the board enrols at its first start.")
@click.option("--enrol-url", default="", help="With --claim: where, as https://host:8444/enrol.")
@click.option("--listen", default="", help="With --claim: its serving port, as 127.0.0.1:8600.")
@click.option("--first", type=_path, help="The bundle it starts with: a file, or a stick's folder.")
@click.option("--runtime", default="", metavar="NAME==VERSION", help="Instead of the board's own.")
@click.option("--batch", type=_path, help="A file of many terminals, .csv or .toml: docs/field.md.")
@click.option("--record", type=_path, help="With --batch: what was done; beside it if not said.")
@click.option("--family", default="", help="With --batch: have claim codes made for this family.")
@click.option("--label", type=Pair(), multiple=True, help="Likewise, as site=paris.")
@click.option("--ssh-config", type=_path, help="As `ssh -F` takes it.")
@click.option("--sudo", is_flag=True, help="Over ssh: become root with `sudo -n`.")
@click.option("--no-start", is_flag=True, help="Over ssh: leave a running agent alone.")
@yes_option
@json_option
@server_options
def flash(
    to: str,
    *,
    board_name: str,
    device: str,
    papers: Path | None,
    claim: str,
    enrol_url: str,
    listen: str,
    first: Path | None,
    runtime: str,
    batch: Path | None,
    record: Path | None,
    family: str,
    label: tuple[tuple[str, str], ...],
    ssh_config: Path | None,
    sudo: bool,
    no_start: bool,
    yes: bool,
    as_json: bool,
    server: str,
    token_file: Path | None,
) -> int:
    """Write a ready board, on its card or over ssh.

    It gets the agent with its wheels and unit, its identity or a claim code, and perhaps its
    first bundle. TO is the folder where the card's root file system is mounted, or
    ssh://[user@]host[:port]. The board needs no network to serve. With --batch, TO is a
    folder with one such root for each terminal whose row has no `to` of its own.

    Run twice it changes nothing; killed anywhere, the board has the old or the new.

    Example: wherry flash /mnt/card --board pi3 --device till-1 --papers till-1 --first fraud.wherry
    """
    from wherry.boards.recipe import recipe_of
    from wherry.boards.root import mirror
    from wherry.client import find_client
    from wherry.flash.bench import Bench
    from wherry.flash.terminal import Terminal
    from wherry.profiles import load_board

    board = load_board(board_name, Path())
    usual = Terminal(device, to, family, dict(label), listen, claim, enrol_url, papers, first)
    bench = Bench(
        board=board,
        recipe=recipe_of(board, mirror()),
        pin=_pin(runtime),
        ssh_config=ssh_config,
        sudo=sudo,
        start=not no_start,
        claim=lambda order: find_client(server, token_file).post("claims", order),
        tell=lambda words: say(indent(words, "  ")),
        bar=progress,
    )
    if batch:
        if device or papers or claim:
            raise click.UsageError("--device, --papers and --claim stand in the rows of --batch")
        return _many(bench, batch, record, usual, yes=yes, as_json=as_json)
    if family or label or record:
        raise click.UsageError("--family, --label and --record are for --batch")
    return _one(bench, usual, yes=yes, as_json=as_json)


def _pin(text: str) -> Pin | None:
    from wherry.boards.overlay import Pin

    if not text:
        return None
    name, _, version = text.partition("==")
    if not name or not version:
        raise click.UsageError(f"--runtime {text!r} should be like onnxruntime==1.27.0")
    return Pin(name, version)


def _one(bench: Bench, terminal: Terminal, *, yes: bool, as_json: bool) -> int:
    misuse = terminal.misuse()
    if misuse:
        raise click.UsageError(misuse)
    terminal.check_files()
    plan = bench.plan(terminal)
    if not plan.done:
        confirm(plan.lines(), yes=yes)
        bench.carry_out(plan)
    word = "it was as it should be" if plan.done else "written"
    show("wherry/flash/1", plan.to_dict(), [f"{plan.way.words}: {word}"], as_json=as_json)
    return 0


def _many(
    bench: Bench, path: Path, record: Path | None, usual: Terminal, *, yes: bool, as_json: bool
) -> int:
    from wherry.flash.batch import Record, read_batch
    from wherry.flash.bench import DONE, is_done

    rows = read_batch(path, usual)
    book = Record(record or path.with_name(f"{path.stem}.record.json"))
    left = [row.terminal for row in rows if not is_done(book, row)]
    lines = [f"{len(left)} of {len(rows)} terminals as {bench.board.name}:"]
    confirm([*lines, *(f"  {item.device}  {item.to}" for item in left)], yes=yes)
    found = bench.many(rows, book)
    well = all(entry.state == DONE for entry in found)
    cells = [(entry.device, entry.to, entry.state, entry.error) for entry in found]
    show(
        "wherry/flash-batch/1",
        {"record": str(book.path), "well": well, "terminals": [item.told() for item in found]},
        table(("device", "to", "state", "why"), cells),
        as_json=as_json,
    )
    return 0 if well else 3
