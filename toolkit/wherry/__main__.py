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
        from wherry_contract.extras import how_to_install

        sys.stderr.write(
            "error[H06]: an extra is not installed\n"
            "  why:  the command line needs click\n"
            f"  next: {how_to_install('host')}\n"
        )
        sys.exit(3)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
