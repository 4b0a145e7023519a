"""Print docs/cli.md: the help of every command, as the program itself gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["COLUMNS"] = "100"

import click

from wherry.cli import SECTIONS, menu

HEAD = """# Command line

Made by `make docs` from the commands' own help; `make test` fails if it is old.

Every command: data goes to standard output, talk to standard error. `--json` prints one
document with a schema name. Exit codes: 0 done or yes, 1 the answer is no, 2 wrong usage,
3 could not do it, 130 interrupted.
"""


def pages(command: click.Command, path: tuple[str, ...], parent: click.Context) -> Iterator[str]:
    """The help of a command and of those below it."""
    context = click.Context(
        command, info_name=path[-1], parent=parent, max_content_width=100, terminal_width=100
    )
    title = "wherry " + " ".join(path)
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"{'#' * (2 + len(path))} {title}\n\n```\n{text}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below and not below.hidden:
                yield from pages(below, (*path, name), context)


def main() -> None:
    """Print the page."""
    print(HEAD)
    with click.Context(menu, info_name="wherry") as root:
        for section, entries in SECTIONS.items():
            print(f"## {section}\n")
            for name in entries:
                command = menu.get_command(root, name)
                if command:
                    print("\n".join(pages(command, (name,), root)))


if __name__ == "__main__":
    main()
