"""Models of LightGBM, from its own text files; no pickle is needed.

The text is read here, strictly; LightGBM then scores raw rows with the model as it was read,
written anew (`lightgbm_clean`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Final

import numpy as np

from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install
from wherry_contract.features import InputContract, RawMatrix
from wherry_contract.wire import sha256_digest

from .base import Lowered, Scores
from .boosted import lower_boosted, model_table
from .boosted_model import Grown
from .lightgbm_text import CURE, read_model
from .outputs import ONE_PROBABILITY, Picked, Wanted

_LIBRARIES: Final = ("onnx", "numpy")
_SAVE: Final = "save it with Booster.save_model('model.txt')"


@dataclass(frozen=True)
class LightgbmModel:
    """A booster.

    Attributes:
        booster: as LightGBM read it.
        grown: its trees.
        picked: what of its output is looked at.
        versions: of the libraries that read it.
        digest: ``sha256:...`` of its file.
        family: ``trees``.
    """

    booster: Any
    grown: Grown
    picked: Picked
    versions: Mapping[str, str]
    digest: str
    family: str = "trees"

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """The scores, by LightGBM itself.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories.

        Returns:
            float64, shape (rows,) or (rows, classes).

        Raises:
            ConvertError: K07, the model does not take these rows.
        """
        import lightgbm

        table = model_table(self.grown, raw, contract)
        if not len(table):
            return self.picked.of(np.empty(0))
        try:
            # one thread: sums do not depend on it, but a build shares its machine
            found = self.booster.predict(table, num_threads=1)
        except (ValueError, lightgbm.basic.LightGBMError) as error:
            detail = " ".join(str(error).split())[:300]
            raise ConvertError("K07", f"the model does not take these rows: {detail}") from error
        return self.picked.of(np.asarray(found))

    def lower(self, contract: InputContract) -> Lowered:
        """The neutral form.

        Raises:
            ConvertError: K02 or K07.
        """
        return replace(lower_boosted(self.grown, contract), picked=self.picked)


def load(
    data: bytes,
    trusted: tuple[str, ...],  # noqa: ARG001 - every framework's file is asked alike
    *,
    trust_pickle: bool,  # noqa: ARG001 - likewise
    wanted: Wanted = ONE_PROBABILITY,
) -> LightgbmModel:
    """Read a model from a file's bytes.

    Args:
        data: the file, as text.
        trusted: nothing here.
        trust_pickle: nothing here: pickles are not read.
        wanted: what the project decides by.

    Raises:
        ConvertError: K01 not known, K02 names and columns differ, K04 unreadable,
            K06 LightGBM is missing.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: its library needs libgomp
        raise ConvertError("K06", f"{how_to_install('lightgbm')} ({error})") from error
    try:
        grown, clean, classes = read_model(data.decode())
        picked = grown.pick(wanted, classes=classes, cure=CURE)
        booster = lightgbm.Booster(model_str=clean)
    except lightgbm.basic.LightGBMError as error:
        raise ConvertError(
            "K04", f"LightGBM does not read it: {error}"[:300], cure=_SAVE
        ) from error
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        detail = f"a part of the model is missing or malformed: {error}"
        raise ConvertError("K04", detail[:300], cure=_SAVE) from error
    versions = {"lightgbm": lightgbm.__version__} | {name: version(name) for name in _LIBRARIES}
    return LightgbmModel(booster, grown, picked, versions, sha256_digest(data))
