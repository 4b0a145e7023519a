"""PyTorch modules as .pt2 files of `torch.export.save`; PyTorch runs in an environment of its own.

The module becomes ONNX by PyTorch's exporter there, and is then looked at like any ONNX
file. Its own scores, against which the bundle is judged, come from PyTorch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from wherry_contract.encoder import Encoder
from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract, RawMatrix
from wherry_contract.wire import sha256_digest
from wherry_convert.environments import python_of, run_in

from . import onnx_file
from .base import Lowered, Scores
from .outputs import ONE_PROBABILITY, Wanted
from .torch_archive import check_archive

_WORKER: Final = Path(__file__).with_name("torch_worker.py")
_SETTINGS: Final = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PYTHONHASHSEED": "0"}


@dataclass(frozen=True)
class TorchModel:
    """A module of classes, or of one number.

    Attributes:
        file: the .pt2 file's bytes.
        exported: the ONNX file that PyTorch's exporter made of it.
        digest: ``sha256:...`` of the .pt2 file.
        versions: of the libraries that read it.
    """

    file: bytes
    exported: onnx_file.OnnxModel
    digest: str
    versions: Mapping[str, str]

    @property
    def family(self) -> str:
        """``neural`` or ``linear``."""
        return self.exported.family

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """The scores, by PyTorch itself on float32 rows.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories; one is its place in their list.

        Returns:
            float64, shape (rows,), or (rows, classes).

        Raises:
            ConvertError: K04 PyTorch cannot run it, K07 the model does not take these rows,
                K01 what it gives are no probabilities.
        """
        self.exported.check(contract)
        if not len(raw):
            return self.exported.picked.of(np.empty(0))
        with tempfile.TemporaryDirectory(prefix="wherry-") as folder:
            model, rows, out = (Path(folder) / name for name in ("m.pt2", "rows.npy", "out.npy"))
            model.write_bytes(self.file)
            np.save(rows, Encoder(contract, ()).encode(raw), allow_pickle=False)
            _run("score", model, rows, out)
            table = np.load(out, allow_pickle=False)
        return self.exported.looked_at(table, "the module's output")

    def lower(self, contract: InputContract) -> Lowered:
        """The neutral form: the graph that PyTorch's exporter wrote.

        Raises:
            ConvertError: K07, the contract does not fit.
        """
        return self.exported.lower(contract)


def load(
    data: bytes,
    trusted: tuple[str, ...],
    *,
    trust_pickle: bool,
    wanted: Wanted = ONE_PROBABILITY,
) -> TorchModel:
    """Read a .pt2 file.

    Args:
        data: the file.
        trusted: not used: operators beyond aten are never looked up.
        trust_pickle: not used: no pickle in it is ever opened.
        wanted: what the project decides by.

    Raises:
        ConvertError: K01 or K02 the graph is none for a bundle, K04 unreadable, K05 it holds
            more than a graph and tensors, K06 PyTorch's environment is missing.
    """
    del trusted, trust_pickle
    check_archive(data)
    python_of("torch")
    with tempfile.TemporaryDirectory(prefix="wherry-") as folder:
        model, out = Path(folder) / "m.pt2", Path(folder) / "m.onnx"
        model.write_bytes(data)
        versions = _run("export", model, out)
        graph = out.read_bytes()
    exported = onnx_file.load(graph, (), trust_pickle=False, wanted=wanted)
    return TorchModel(data, exported, sha256_digest(data), dict(exported.versions) | versions)


def _run(act: str, *paths: Path) -> dict[str, str]:
    said = run_in("torch", _WORKER, [act, *map(str, paths)], settings=_SETTINGS)
    try:
        return {str(key): str(value) for key, value in json.loads(said.splitlines()[-1]).items()}
    except (ValueError, IndexError, AttributeError) as error:
        raise ConvertError("K04", f"PyTorch's program gave no answer: {said[-200:]}") from error
