"""The command `wherry`: everything that can go wrong ends in one line and an exit code."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the exit codes are README's."""
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(
            "error[H06]: an extra is not installed\n"
            "  why:  the command line needs click\n"
            "  next: pip install 'wherry[host]'\n"
        )
        sys.exit(3)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
