"""One parser under atheris (libFuzzer): ``fuzz.py PARSER [libFuzzer's own arguments]``."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
with atheris.instrument_imports(include=["wherry_contract"]):
    from support_parsers import PARSERS

    from wherry_contract.errors import WherryError


def main() -> None:
    """Try inputs until told to stop; whatever is no coded error ends it."""
    parse = PARSERS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        try:
            parse(data)
        except WherryError:
            return

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
