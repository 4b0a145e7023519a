"""One parser under atheris (libFuzzer): ``fuzz.py PARSER bytes|structures [libFuzzer's arguments]``.

``bytes`` are the parser's own; with ``structures`` they are choices of hypothesis', of which
support_structures.py makes documents. To take what was found into a kept corpus:
``fuzz.py PARSER bytes -merge=1 tests/faults/corpus/PARSER FOUND``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
with atheris.instrument_imports(include=["wherry_contract"]):
    from support_parsers import PARSERS, seeds

    from wherry_contract.errors import WherryError


def main() -> None:
    """Try inputs until told to stop; whatever is no coded error ends it."""
    name, kind = sys.argv.pop(1), sys.argv.pop(1)
    parse = PARSERS[name]

    def one(data: bytes) -> None:
        try:
            parse(data)
        except WherryError:
            return
        except Exception:
            Path("input").write_bytes(data)  # what was parsed; libFuzzer keeps the choices
            raise

    atheris.Setup(sys.argv, one if kind == "bytes" else _chosen(name, one))
    atheris.Fuzz()


def _chosen(name: str, one: Callable[[bytes], None]) -> Callable[[bytes], object]:
    from hypothesis import given, settings
    from support_structures import structures

    seeds(name)  # else the first input would seem slow
    found = structures(name)
    test = settings(database=None, deadline=None)(given(found)(one))
    return test.hypothesis.fuzz_one_input  # type: ignore[no-any-return]  # hypothesis' own


if __name__ == "__main__":
    main()
