"""Runtimes in environments of their own that score quantized candidates before they are claimed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from wherry_contract.encoder import Tensor
from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install
from wherry_contract.manifest import RuntimeNeeds
from wherry_convert.environments import MARK
from wherry_convert.quantize import Witness
from wherry_convert.sources.base import Scores
from wherry_convert.tflite_scoring import interpreter_kind
from wherry_convert.to_onnx import Converted

from .runtimes import RUNTIMES, Runtime, ranges_of

TIMEOUT_SECONDS: Final = 300.0
_PROGRAM: Final = "wherry_convert.tflite_witness"
_PACKAGES: Final = ("wherry_contract", "wherry_convert")
_SHOWN: Final = 200  # characters of what a child said


def witnesses_for(needs: RuntimeNeeds, known: Sequence[Runtime] = RUNTIMES) -> list[Witness]:
    """The runtimes that a TFLite file claims beside the one here and that have an environment.

    onnxruntime has none: there is one distribution, and golden vectors judge its versions.
    """
    if needs.kind != "tflite":
        return []
    here, ranges = interpreter_kind()[0], ranges_of(needs)
    return [
        TfliteWitness(item)
        for item in known
        if item.name in ranges and item.name != here and (item.folder / MARK).exists()
    ]


@dataclass(frozen=True)
class TfliteWitness:
    """See `wherry_convert.quantize_workshop.Witness`."""

    runtime: Runtime

    @property
    def name(self) -> str:
        """The distribution."""
        return self.runtime.name

    @property
    def version(self) -> str:
        """Of it."""
        return self.runtime.version

    def score(self, models: Sequence[Converted], rows: Tensor) -> list[Scores | str]:
        """Scores of encoded rows, or in words why there are none, for each model."""
        with tempfile.TemporaryDirectory(prefix="wherry-witness-") as name:
            folder = Path(name)
            np.save(folder / "rows.npy", rows)
            for place, item in enumerate(models):
                (folder / str(place)).write_bytes(item.model)
            _link_code(folder / "code")
            self._run_all(folder, models)
            return [_answer(folder, place, item) for place, item in enumerate(models)]

    def _run_all(self, folder: Path, models: Sequence[Converted]) -> None:
        """Start again behind each model that ends the program."""
        left = list(range(len(models)))
        while left:
            names = [text for place in left for text in (str(place), models[place].tensor)]
            said = self._run(folder, names)
            left = [place for place in left if not _answered(folder, place)]
            if left:
                (folder / f"{left.pop(0)}.txt").write_text(said)

    def _run(self, folder: Path, names: Sequence[str]) -> str:
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        python = self.runtime.folder / "bin" / "python"
        try:
            done = subprocess.run(
                [str(python), "-W", "ignore", "-m", _PROGRAM, str(folder), *names],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                cwd=folder,
                env=kept | {"PYTHONPATH": str(folder / "code"), "PYTHONNOUSERSITE": "1"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {TIMEOUT_SECONDS:.0f} s"
        cause = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        return f"it ends there: {cause} {' '.join(done.stderr.split())[-_SHOWN:]}".strip()


def _link_code(folder: Path) -> None:
    folder.mkdir()
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise SetupError("H06", f"{name} is not installed", cure=how_to_install("host"))
        (folder / name).symlink_to(Path(spec.origin).parent)


def _answered(folder: Path, place: int) -> bool:
    return any((folder / f"{place}.{kind}").exists() for kind in ("npy", "txt"))


def _answer(folder: Path, place: int, model: Converted) -> Scores | str:
    words = folder / f"{place}.txt"
    if words.exists():
        return " ".join(words.read_text().split())[:_SHOWN]
    found = np.load(folder / f"{place}.npy")
    if model.column >= 0:
        found = found[:, model.column]
    return np.asarray(found, np.float64).reshape(len(found))
