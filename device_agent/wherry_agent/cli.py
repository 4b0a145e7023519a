"""`wherry-agent`: run, enroll, self-test, install and status; argparse, so that a board needs no more."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import WherryError

from . import __version__
from .config import load_config

EXIT_CODES: Final = (
    "exit codes: 0 done or yes, 1 the answer is no, 2 wrong usage, 3 could not do it,"
    " 130 interrupted"
)
_LOG: Final = "%(asctime)s %(levelname)-7s %(message)s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.work(options))
    except WherryError as error:
        sys.stderr.write(error.render() + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = None  # or Python complains again at exit
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherry-agent",
        description="Score payments on this device, take updates, report what went by.",
        epilog=f"Example: wherry-agent run --config agent.toml; {EXIT_CODES}",
    )
    parser.add_argument("--version", action="version", version=f"wherry {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add(commands, "run", _run, "Serve until SIGTERM or Ctrl-C.", config=True)
    _add_enroll(commands)
    _add(
        commands,
        "self-test",
        _self_test,
        "Check all that the agent stands on; exit code 1 if something is wrong.",
        config=False,
        as_json=True,
    )
    install = _add(
        commands,
        "install",
        _install,
        "Install a bundle file, or the order on a stick; stop the agent first.",
        config=True,
    )
    install.add_argument(
        "file", type=Path, metavar="FILE|DIR", help="the bundle, or what `wherry export` wrote"
    )
    _add(
        commands,
        "status",
        _status,
        "Show what the state folder says; it disturbs no running agent.",
        config=True,
        as_json=True,
    )
    return parser


def _add(
    commands: Any,
    name: str,
    work: Callable[[argparse.Namespace], int],
    text: str,
    *,
    config: bool,
    as_json: bool = False,
) -> argparse.ArgumentParser:
    file = " fraud.wherry" if name == "install" else ""
    epilog = f"Example: wherry-agent {name}{file} --config agent.toml"
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=epilog
    )
    parser.set_defaults(work=work)
    parser.add_argument(
        "--config", type=Path, required=config, metavar="PATH", help="path of agent.toml"
    )
    if as_json:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _add_enroll(commands: Any) -> None:
    text = "Make a key here, and let the fleet certify it with a claim code."
    example = "wherry-agent enroll --url https://fleet.example:8444/enrol --claim CODE --into DIR"
    parser = commands.add_parser(
        "enroll", help=text, description=text, epilog=f"Example: {example}"
    )
    parser.set_defaults(work=_enroll)
    parser.add_argument("--url", required=True, help="where the fleet's server enrols")
    parser.add_argument("--claim", required=True, help="the code of `wherry device claim`")
    parser.add_argument("--device", default="", help="this device's id, if the code names none")
    parser.add_argument("--listen", default="", help="serving port, as 127.0.0.1:8600")
    parser.add_argument(
        "--into", type=Path, default=Path(), metavar="DIR", help="folder for agent.toml and keys"
    )
    parser.add_argument("--again", action="store_true", help="a new identity in place of one")


def _say(lines: Iterable[str], document: Mapping[str, Any], *, as_json: bool) -> None:
    text = json.dumps(document, indent=2) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format=_LOG, stream=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    from .app import run_agent
    from .identity.first_start import prepare
    from .pulse import Notifier

    _log_to_stderr()
    notifier = Notifier(os.environ, os.getpid())
    run_agent(prepare(options.config, notifier), notifier)
    return 0


def _enroll(options: argparse.Namespace) -> int:
    from .identity.enrolment import Enrolment, enrol

    device, listen = options.device, options.listen
    order = Enrolment(options.url, options.claim, device, listen, options.into, options.again)
    config = enrol(order)
    sys.stdout.write(f"enrolled; go on with: wherry-agent run --config {config}\n")
    return 0


def _self_test(options: argparse.Namespace) -> int:
    from .selftest import self_test, self_test_lines, to_document

    checks = self_test(options.config)
    document = to_document(checks)
    _say(self_test_lines(checks), document, as_json=options.json)
    return 0 if document["well"] else 1


def _install(options: argparse.Namespace) -> int:
    from .update.install import install_file, install_folder

    _log_to_stderr()
    install = install_folder if options.file.is_dir() else install_file
    done = install(load_config(options.config), options.file)
    after = "it is committed already" if done.state == "idle" else "it soaks when the agent runs"
    sys.stdout.write(f"installed {done.name} {done.version} ({done.digest}); {after}\n")
    return 0


def _status(options: argparse.Namespace) -> int:
    from .status import read_status, status_lines

    found = read_status(load_config(options.config))
    _say(status_lines(found), found, as_json=options.json)
    return 0
