"""The command line: a command parses, calls one function and renders.

This file knows only the commands' names and one-line helps, so that ``wherry --help``
loads neither numpy nor onnx; each command is imported when it is called for. A test
holds the lines here against the commands' own.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click

from wherry import __version__
from wherry.files import as_store_error
from wherry_contract.errors import WherryError


@dataclass(frozen=True)
class Entry:
    """Where a command lies (`module:attribute` in this folder) and its one-line help."""

    place: str
    summary: str


SECTIONS: Final[Mapping[str, Mapping[str, Entry]]] = {
    "Ship a model": {
        "build": Entry("build:build", "Make a signed bundle from a project file"),
        "convert": Entry("convert:convert", "Turn a trained model into ONNX or TFLite"),
        "quantize": Entry("convert:quantize", "Make a model smaller, and show what it costs"),
        "check": Entry("build:check", "Compare decisions with the source model"),
        "verify": Entry("verify:verify", "Run a bundle on a board's own CPU, emulated"),
        "pack": Entry("build:pack", "Put model, profile and golden vectors into a bundle"),
        "sign": Entry("bundle:sign", "Sign a bundle, or what waits to be published"),
        "publish": Entry("release:publish", "Release bundles, and take them back"),
        "export": Entry("release:export", "Write a folder for a USB stick"),
        "flash": Entry("flash:flash", "Write a ready board, on its card or over ssh"),
        "push": Entry("fleet:push", "Roll a bundle out to devices, wave by wave"),
    },
    "Run a fleet": {
        "serve": Entry("serve:serve", "Run the fleet's server: broker, depot, ingest"),
        "device": Entry("device:device", "Claim, add, list, ask and revoke devices"),
        "group": Entry("group:group", "Name groups of devices, to roll out to them"),
        "rollout": Entry("fleet:rollout", "List, follow and stop rollouts"),
        "monitor": Entry("monitor:monitor", "Show health, latency and drift of the fleet"),
        "labels": Entry("labels:labels", "Bring in labels that came later, and list them"),
        "retrain": Entry(
            "retrain:retrain", "Start a training when a model has aged, once for each model"
        ),
        "drift": Entry("drift:drift", "Replay history as if devices had sent it"),
        "watch": Entry("watch:watch", "Files for Prometheus, Grafana, readers; bridge; hooks"),
        "report": Entry("monitor:report", "Write the fleet's report as one HTML file"),
    },
    "Look inside": {
        "bundle": Entry("bundle:bundle", "Inspect, verify and compare bundles"),
        "key": Entry("bundle:key", "Make, list, exchange and revoke signing keys"),
        "board": Entry("board:board", "List, make and check the environments of boards"),
        "bench": Entry("bench:bench", "Count a row's instructions on a board, or find its memory"),
        "doctor": Entry("doctor:doctor", "Check what is installed here and what is missing"),
    },
    "Try it": {
        "demo": Entry("demo:demo", "Run the whole road on this machine"),
        "simulate": Entry("simulate:simulate", "Try a rollout on modelled devices"),
    },
}
COMMANDS: Final = {name: entry for part in SECTIONS.values() for name, entry in part.items()}


class _Menu(click.Group):
    """A group that imports a command only when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.place.partition(":")
        command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table is ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        for title, part in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in part.items()])


@click.command(
    cls=_Menu,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or yes, 1 the answer is no, 2 wrong usage, 3 could not do it.",
)
@click.version_option(__version__, prog_name="wherry")
@click.option("-v", "verbose", count=True, help="Say more; -vv shows where an error came from.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but the answer.")
@click.pass_context
def menu(ctx: click.Context, verbose: int, *, quiet: bool) -> None:
    """Put a trained model on a fleet of small devices, and know how it is doing."""
    ctx.obj = {"verbose": verbose, "quiet": quiet}


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; an error becomes a few lines on stderr."""
    loud = "-vv" in arguments or bool(os.environ.get("WHERRY_TRACEBACK"))
    try:
        done = menu.main(list(arguments), prog_name="wherry", standalone_mode=False)
        return done if isinstance(done, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except WherryError as error:
        seen: BaseException = error
        code, text = error.exit_code, error.render()
    except (KeyboardInterrupt, click.Abort) as error:
        seen, code, text = error, 130, "interrupted"
    except (BrokenPipeError, SystemExit):  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file that nobody expected trouble with
        found = as_store_error(error, str(error.filename or "a file"))
        seen, code, text = error, found.exit_code, found.render()
    except Exception as error:  # noqa: BLE001 - the last line of defence: never a bare traceback
        seen, code = error, 3
        text = (
            f"error: this should not have happened: {type(error).__name__}: {error}\n"
            "  next: run it again with -vv and report what it prints"
        )
    if loud:
        traceback.print_exception(seen)
    click.echo(text, err=True)
    return code
