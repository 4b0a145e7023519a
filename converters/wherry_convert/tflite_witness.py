"""A program for an environment with another TFLite runtime: what models make of rows.

It gets a folder with ``rows.npy`` and the models, and leaves ``<model>.npy`` or, with the
reason, ``<model>.txt`` for each that it is named. It needs no more than numpy and the runtime.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from wherry_contract.errors import ConvertError

from .tflite_scoring import TfliteRunner


def main(folder: Path, names: list[str]) -> None:
    """Score.

    Args:
        folder: as above.
        names: pairs of a model's file and its output.
    """
    rows = np.load(folder / "rows.npy")
    for name, tensor in zip(names[::2], names[1::2], strict=True):
        try:
            found = TfliteRunner((folder / name).read_bytes(), 1, tensor).run(rows)
        except ConvertError as error:
            (folder / f"{name}.txt").write_text(error.detail)
        else:
            np.save(folder / f"{name}.npy", found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
