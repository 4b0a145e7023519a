"""Where models come from: one file for each framework, behind `load_source`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wherry_contract.errors import ConvertError, SetupError

from .base import Lowered, SourceModel
from .outputs import ONE_PROBABILITY, Wanted

MAX_BYTES: Final = 512 * 2**20
# kind -> module of this folder, whose `load(data, trusted, trust_pickle, wanted)` reads a
# file's bytes; `wanted` is only said where the default does not do
_KINDS: Final = {
    "sklearn": "sklearn_file",
    "xgboost": "xgboost_file",
    "lightgbm": "lightgbm_file",
    "onnx": "onnx_file",
    "torch": "torch_file",
    "keras": "keras_file",
    "tflite": "tflite_file",
}
KINDS: Final = tuple(_KINDS)

__all__ = ["KINDS", "Lowered", "SourceModel", "Wanted", "load_source"]


def load_source(
    kind: str,
    path: Path,
    *,
    trusted: Sequence[str] = (),
    trust_pickle: bool = False,
    wanted: Wanted = ONE_PROBABILITY,
) -> SourceModel:
    """Read a trained model.

    Args:
        kind: the framework, one of `KINDS`.
        path: the file.
        trusted: names of types beyond scikit-learn's own that a skops file may hold.
        trust_pickle: whether a pickle may be opened; opening one runs the code in it.
        wanted: what the project decides by.

    Raises:
        SetupError: H02, the file cannot be read.
        ConvertError: K01 unknown kind or model, K04 unreadable, K05 not trusted,
            K06 not installed.
    """
    place = _KINDS.get(kind)
    if place is None:
        raise ConvertError("K01", f"{kind!r} is no kind of source; known: {', '.join(KINDS)}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConvertError("K04", f"{path.name} has more than {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    reader = importlib.import_module(f"{__name__}.{place}")
    more = {} if wanted == ONE_PROBABILITY else {"wanted": wanted}
    found: SourceModel = reader.load(data, tuple(trusted), trust_pickle=trust_pickle, **more)
    return found
