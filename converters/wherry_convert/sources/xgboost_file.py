"""Models of XGBoost, from its own files (JSON or UBJSON); no pickle is needed.

The file is read here, strictly; XGBoost then scores raw rows with the model as it was read,
written anew (`xgboost_clean`).
"""

from __future__ import annotations

import json
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
from .outputs import ONE_PROBABILITY, Picked, Wanted
from .ubjson import read_ubjson
from .xgboost_trees import CURE, Facts, read_model

_LIBRARIES: Final = ("onnx", "numpy")
MAX_BYTES: Final = 128 * 2**20
_SAVE: Final = "save it with Booster.save_model('model.ubj') or 'model.json'"


@dataclass(frozen=True)
class XgboostModel:
    """A booster.

    Attributes:
        booster: as XGBoost read it.
        grown: its trees.
        facts: what scoring needs.
        picked: what of its output is looked at.
        versions: of the libraries that read it.
        digest: ``sha256:...`` of its file.
        family: ``trees``.
    """

    booster: Any
    grown: Grown
    facts: Facts
    picked: Picked
    versions: Mapping[str, str]
    digest: str
    family: str = "trees"

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """The scores, by XGBoost itself.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories.

        Returns:
            float64, shape (rows,) or (rows, classes); XGBoost computes them in float32.

        Raises:
            ConvertError: K07, the model does not take these rows.
        """
        import xgboost

        table = model_table(self.grown, raw, contract)
        if not len(table):
            return self.picked.of(np.empty(0))
        try:
            matrix = xgboost.DMatrix(
                table,
                feature_types=list(self.facts.kinds) or None,
                nthread=1,
            )
            found = self.booster.predict(matrix, iteration_range=(0, self.facts.rounds))
        except (ValueError, xgboost.core.XGBoostError) as error:
            detail = " ".join(str(error).split())[:300]
            raise ConvertError("K07", f"the model does not take these rows: {detail}") from error
        scores: Scores = self.picked.of(found)
        if self.facts.objective != "binary:logitraw":
            return scores
        return np.asarray(1 / (1 + np.exp(-scores)))

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
) -> XgboostModel:
    """Read a model from a file's bytes.

    Args:
        data: the file, JSON or UBJSON.
        trusted: nothing here.
        trust_pickle: nothing here: pickles are not read.
        wanted: what the project decides by.

    Raises:
        ConvertError: K01 not known, K04 unreadable, K06 XGBoost is missing.
    """
    try:
        import xgboost
    except ImportError as error:
        raise ConvertError("K06", how_to_install("xgboost")) from error
    if data[:1] != b"{" or len(data) > MAX_BYTES:
        detail = f"it is no JSON and no UBJSON model of XGBoost of at most {MAX_BYTES} bytes"
        raise ConvertError("K04", detail, cure=_SAVE)
    try:
        grown, facts = read_model(_parse(data))
        picked = grown.pick(wanted, classes=facts.classes, cure=CURE)
        with xgboost.config_context(verbosity=0):
            booster = xgboost.Booster({"nthread": 1})
            booster.load_model(bytearray(facts.clean))
    except xgboost.core.XGBoostError as error:
        detail = str(error).partition("\nStack trace")[0].strip()[-300:]
        raise ConvertError("K04", f"XGBoost does not read it: {detail}", cure=_SAVE) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        detail = f"a part of the model is missing or malformed: {error}"
        raise ConvertError("K04", detail[:300], cure=_SAVE) from error
    versions = {"xgboost": xgboost.__version__} | {name: version(name) for name in _LIBRARIES}
    return XgboostModel(booster, grown, facts, picked, versions, sha256_digest(data))


def _parse(data: bytes) -> Any:
    # after the brace, JSON has a name in quotes or white space, UBJSON the length of a name
    if data[1:2] in b'" \t\r\n':
        return json.loads(data)
    return read_ubjson(data)
