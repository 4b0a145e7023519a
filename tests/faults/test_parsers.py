"""Parsers on bytes that nobody wrote on purpose: a value or a coded error, nothing else.

Each begins from real documents and from `corpus/`: every input that once failed, and some that
reached what the real ones do not.
``WHERRY_FUZZ_SECONDS`` says for how long each is tried (half a one by default), and
``WHERRY_FUZZ_SEED`` with what seed. Those marked `fuzz`, a step of `make test`, have atheris look
for inputs by coverage, a minute for each parser that matters most; those marked `long`, for all.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE
from support_parsers import PARSERS, seeds, spoil

from wherry_contract.errors import WherryError

HERE = Path(__file__).parent
FOUND = HERE.parent.parent / ".fuzz-found"
MAIN = ("bundle", "manifest", "assignment", "window", "batch", "command")
SEED = int(os.environ.get("WHERRY_FUZZ_SEED", "20261124"))


def _seconds(default: float) -> float:
    return float(os.environ.get("WHERRY_FUZZ_SECONDS", default))


def _parse(name: str, data: bytes) -> None:
    try:
        PARSERS[name](data)
    except WherryError:
        return
    except Exception as error:
        raise AssertionError(
            f"{name}: {type(error).__name__}: {error}; input {data[:2000]!r}"
        ) from error


@pytest.mark.parametrize("path", sorted(HERE.glob("corpus/*/*")), ids=lambda path: path.name)
def test_the_kept_corpus(path: Path) -> None:
    _parse(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", PARSERS)
def test_spoiled_documents(name: str) -> None:
    chance = random.Random(SEED)
    end = time.monotonic() + _seconds(0.5)
    rounds = 0
    while time.monotonic() < end or rounds < 50:
        data = chance.choice(seeds(name))
        for _ in range(chance.choice((1, 1, 2))):
            data = spoil(data, chance)
        _parse(name, data)
        rounds += 1


@pytest.mark.long
@pytest.mark.parametrize("name", PARSERS)
def test_inputs_found_by_coverage(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("figure", fuzz(name, "bytes", _seconds(60), tmp_path))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", MAIN)
def test_a_minute_of_looking(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Half of it among bytes, half among documents that hypothesis makes; `make fuzz` runs it."""
    for kind in ("bytes", "structures"):
        record_property("figure", fuzz(name, kind, _seconds(60) / 2, tmp_path / kind))


def fuzz(name: str, kind: str, seconds: float, folder: Path) -> str:
    """Let atheris look for an input that fails; one that does is kept in `FOUND`, and shown.

    Returns:
        What libFuzzer says at its end.
    """
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it has no wheel for this Python")
    start = folder / "start"
    start.mkdir(parents=True)
    kept = sorted((HERE / "corpus" / name).glob("*"))
    known = [*seeds(name), *(path.read_bytes() for path in kept)]
    if kind == "structures":  # choices, to begin from
        chance = random.Random(SEED)
        known = [chance.randbytes(chance.choice((200, 1000, 3000))) for _ in range(40)]
    for place, data in enumerate(known):
        (start / str(place)).write_bytes(data)
    limits = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={SEED}",
        f"-timeout={round(20 * PATIENCE)}",
        "-max_len=100000",
    ]
    command = [sys.executable, str(HERE / "fuzz.py"), name, kind, *limits, str(start)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        said = done.stdout[-1500:] + done.stderr[-4000:]
        raise AssertionError(f"{_keep(name, folder)}\n{said}")
    last = next(line for line in reversed(done.stderr.splitlines()) if line.startswith("Done"))
    return f"{kind}, seed {SEED}: {last}"


def _keep(name: str, folder: Path) -> str:
    """Put the input that failed where it is found, and say so in words that fit into a log."""
    paths = [*folder.glob("input"), *folder.glob("crash-*"), *folder.glob("timeout-*")]
    if not paths:
        return f"{name}: the fuzzer itself failed"
    data = paths[0].read_bytes()
    FOUND.mkdir(parents=True, exist_ok=True)
    place = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    place.write_bytes(data)
    text = base64.b64encode(data[:6000]).decode()
    return f"{name}: an input fails; mend it and keep it in tests/faults/corpus/{name}: {place}\n{text}"
