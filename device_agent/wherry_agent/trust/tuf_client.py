"""`wherry-tuf-client`: the device's TUF code as a command, as tuf-conformance calls it.

    wherry-tuf-client --metadata-dir D init ROOT
    wherry-tuf-client --metadata-dir D --metadata-url U refresh
    wherry-tuf-client --metadata-dir D --metadata-url U --target-name T
        --target-base-url B --target-dir X download

Interface: github.com/theupdateframework/tuf-conformance, CLIENT-CLI.md. It judges expiry by
the system clock, since nobody has told it the time. Exit code 0, or 1 if it refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from wherry_agent.clock import SystemClock
from wherry_agent.store import durable_write, make_folder
from wherry_contract.errors import WherryError

from .tuf_fetch import HttpReader
from .tuf_flow import TufFlow, check_target
from .tuf_store import MetadataStore

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

_EMBEDDED: Final = "embedded"  # the root that `init` was given, never replaced


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    folder: Path = options.metadata_dir
    try:
        if options.command == "init":
            _init(folder, options.root)
        elif options.command == "refresh":
            _flow(options).refresh()
        else:
            _download(options)
    except WherryError as error:
        sys.stderr.write(error.render() + "\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherry-tuf-client",
        description="Follow a TUF repository with the device's own verifier.",
        epilog="Example: wherry-tuf-client --metadata-dir tuf init root.json",
    )
    parser.add_argument("--metadata-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--metadata-url", default="", metavar="URL")
    parser.add_argument("--target-name", action="append", default=[], metavar="NAME")
    parser.add_argument("--target-base-url", default="", metavar="URL")
    parser.add_argument("--target-dir", type=Path, default=Path(), metavar="DIR")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="Take a root as the one to trust.")
    init.add_argument("root", type=Path, metavar="ROOT")
    commands.add_parser("refresh", help="Bring the metadata up to date.")
    commands.add_parser("download", help="Download targets that are not here yet.")
    return parser


def _init(folder: Path, root: Path) -> None:
    data = root.read_bytes()
    make_folder(folder)
    durable_write(folder / _EMBEDDED, data)
    MetadataStore(folder).write("root", data)


def _flow(options: argparse.Namespace) -> TufFlow:
    folder = options.metadata_dir
    bootstrap = (folder / _EMBEDDED).read_bytes()
    reader = HttpReader(options.metadata_url)
    return TufFlow(bootstrap, MetadataStore(folder), reader, now=SystemClock().now())


def _download(options: argparse.Namespace) -> None:
    flow = _flow(options)
    flow.refresh()
    reader = HttpReader(options.target_base_url)
    for name in options.target_name:
        target = flow.find(name)
        if target is None:
            raise FileNotFoundError(f"{name} is not in the repository")
        place = options.target_dir / quote(name, "")
        if not _is_there(place, target):
            data = reader.read(flow.target_path(target), target.length)
            if data is None:
                raise FileNotFoundError(f"the repository does not serve {name}")
            check_target(target, data)
            make_folder(place.parent)
            durable_write(place, data)


def _is_there(place: Path, target: TargetFile) -> bool:
    try:
        check_target(target, place.read_bytes())
    except (OSError, WherryError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
