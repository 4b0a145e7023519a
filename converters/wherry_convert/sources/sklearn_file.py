"""Reading scikit-learn models from files: skops first, pickles only on demand.

A skops file is a zip with a schema of types; nothing in it runs unless its type is
trusted. A pickle or joblib file is a program, and opening it runs it.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, Final

from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install
from wherry_contract.wire import sha256_digest

from .outputs import ONE_PROBABILITY, Wanted
from .sklearn_model import SklearnModel

MAX_ENTRIES: Final = 200_000
MAX_UNPACKED: Final = 2 * 2**30
_ZIP: Final = b"PK\x03\x04"
# What models that we know hold and skops asks about. A crafted tree could point outside its
# arrays: `SklearnModel.wrap` checks that every node stays inside. The rest has no effects.
_OWN_TYPES: Final = (
    "functools.partial",  # of check_array alone, which `sklearn_growers.check_trees` sees to
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils.validation.check_array",
)
_PICKLE_CURE: Final = (
    "save it with skops.io.dump, or say --trust-pickle if you know who made the file"
)


def load(
    data: bytes,
    trusted: tuple[str, ...],
    *,
    trust_pickle: bool,
    wanted: Wanted = ONE_PROBABILITY,
) -> SklearnModel:
    """Read a model from a file's bytes.

    Args:
        data: the file.
        trusted: further types that a skops file may hold.
        trust_pickle: whether to open a pickle or joblib file.
        wanted: what the project decides by.

    Raises:
        ConvertError: K01 not a model of scikit-learn, K04 unreadable, K05 not trusted,
            K06 skops or scikit-learn missing.
    """
    try:
        import sklearn  # noqa: F401 - asked for by name, so that its absence has its own error
        import skops  # noqa: F401 - likewise
    except ImportError as error:
        raise ConvertError("K06", how_to_install("sklearn")) from error
    if data[:4] == _ZIP:
        estimator = _read_skops(data, (*_OWN_TYPES, *trusted))
    elif trust_pickle:
        estimator = _read_pickle(data)
    elif not data:
        raise ConvertError("K04", "the file is empty")
    else:
        raise ConvertError(
            "K05", "it is no skops file; a pickle runs code when it is opened", cure=_PICKLE_CURE
        )
    try:
        return SklearnModel.wrap(estimator, sha256_digest(data), wanted)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        detail = f"a part of the model is missing or malformed: {error}"
        raise ConvertError("K04", detail[:300]) from error


def _read_skops(data: bytes, trusted: tuple[str, ...]) -> Any:
    from skops.io import get_untrusted_types, loads
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        _check_zip(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared by parity, not by a warning
            _check_types(get_untrusted_types(data=data), trusted)
            return loads(data, trusted=list(trusted))
    except ConvertError:
        raise
    except UntrustedTypesFoundException as error:
        raise ConvertError("K05", str(error)[:300]) from error
    except Exception as error:  # a damaged file fails anywhere in zip, json, numpy or skops
        raise ConvertError("K04", f"{type(error).__name__}: {error}"[:300]) from error


def _check_types(asked: Sequence[str], trusted: tuple[str, ...]) -> None:
    unknown = sorted(set(asked) - set(trusted))
    if unknown:
        raise ConvertError("K05", ", ".join(unknown[:8])[:300])


def _check_zip(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES or size > MAX_UNPACKED:
        raise ConvertError("K04", f"it unpacks to {len(entries)} parts of {size} bytes in all")


def _read_pickle(data: bytes) -> Any:
    import joblib  # type: ignore[import-untyped]  # it ships no types

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared by parity, not by a warning
            return joblib.load(io.BytesIO(data))
    except Exception as error:  # a pickle can fail in any way that code can
        raise ConvertError("K04", f"{type(error).__name__}: {error}"[:300]) from error
