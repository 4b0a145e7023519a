"""Parsers on bytes that nobody wrote on purpose: a value or a coded error, nothing else.

Each begins from real documents and from `corpus/`, where every input lies that once failed.
``WHERRY_FUZZ_SECONDS`` says for how long each is tried (half a one by default), and
``WHERRY_FUZZ_SEED`` with what seed. The tests marked `long` have atheris look for inputs by
coverage, a minute for each parser.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support_parsers import PARSERS, seeds, spoil

from wherry_contract.errors import WherryError

HERE = Path(__file__).parent
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
def test_what_once_failed(path: Path) -> None:
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
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it has no wheel for this Python")
    start = tmp_path / "start"
    start.mkdir()
    kept = sorted((HERE / "corpus" / name).glob("*")) if (HERE / "corpus" / name).is_dir() else []
    for place, data in enumerate([*seeds(name), *(path.read_bytes() for path in kept)]):
        (start / str(place)).write_bytes(data)
    seconds = int(_seconds(60))
    arguments = [f"-max_total_time={seconds}", f"-seed={SEED}", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), name, *arguments, str(start)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-6000:]
    last = done.stderr.strip().splitlines()[-1]
    record_property("figure", f"seed {SEED}: {last}")
