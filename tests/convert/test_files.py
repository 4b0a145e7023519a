"""Files from anywhere: each that is no trusted model is a coded error, and no code in it runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier
from support_convert import fitted, numbers, table

from wherry_contract.errors import WherryError
from wherry_convert.sources import load_source


def _good() -> bytes:
    raw, label = table(200)
    model = fitted(GradientBoostingClassifier(n_estimators=3), raw, label)
    return skops.io.dumps(model)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _crafted() -> bytes:
    """A tree whose root points far outside its arrays."""
    raw, label = table(200)
    model = fitted(DecisionTreeClassifier(max_depth=2), raw, label)
    state = model.tree_.__getstate__()
    state["nodes"]["left_child"][0] = 2**20
    model.tree_.__setstate__(state)
    return skops.io.dumps(model)


def _bomb_zip() -> bytes:
    """Its directory promises four gigabytes."""
    data = bytearray(_zip_of(schema_json=b"{}"))
    size = data.index(b"PK\x01\x02") + 24
    data[size : size + 4] = (2**32 - 2).to_bytes(4, "little")
    return bytes(data)


def _zip_of(**parts: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def _dumped(thing: object) -> bytes:
    return skops.io.dumps(thing)


ROWS: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty", lambda: b"", "K04"),
    ("text", lambda: b"not a model at all", "K05"),
    ("a pickle", lambda: pickle.dumps({"a": 1}), "K05"),
    ("truncated", lambda: _good()[:-700], "K04"),
    ("cut in half", lambda: _good()[: len(_good()) // 2], "K04"),
    ("a zip of nothing", _zip_of, "K05"),
    ("a zip without a schema", lambda: _zip_of(a_txt=b"hello"), "K04"),
    ("a schema that is no JSON", lambda: _zip_of(schema_json=b"{"), "K04"),
    ("a schema of something else", lambda: _zip_of(schema_json=b'{"a": 1}'), "K04"),
    ("a deep schema", lambda: _zip_of(schema_json=b"[" * 100_000), "K04"),
    ("something that is no model", lambda: _dumped({"a": [1, 2]}), "K01"),
    ("a crafted tree", _crafted, "K04"),
]


@pytest.mark.parametrize(("make", "code"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_refused(make: Callable[[], bytes], code: str, tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(make())
    with pytest.raises(WherryError) as caught:
        load_source("sklearn", path)
    assert caught.value.code == code


def test_a_zip_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(_bomb_zip())
    with pytest.raises(WherryError, match=r"K04.*unpacks"):
        load_source("sklearn", path)


def test_bits_that_flipped(tmp_path: Path) -> None:
    """Every damaged file is refused with a code, or is a model all the same."""
    good, make = _good(), np.random.default_rng(3)
    path = tmp_path / "model.skops"
    codes = set()
    for _ in range(60):
        bad = bytearray(good)
        for place in make.integers(0, len(good), 4):
            bad[place] ^= 1 << int(make.integers(8))
        path.write_bytes(bad)
        try:
            load_source("sklearn", path)
        except WherryError as error:
            codes.add(error.code)
    assert codes
    assert codes <= {"K01", "K04", "K05"}


def test_a_pickle_runs_only_on_demand(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(_Bomb(mark)))
    with pytest.raises(WherryError, match="K05") as caught:
        load_source("sklearn", path)
    assert "--trust-pickle" in caught.value.cure
    assert not mark.exists()
    with pytest.raises(WherryError, match="K01"):
        load_source("sklearn", path, trust_pickle=True)
    assert mark.exists()


def test_a_trusted_pickle(tmp_path: Path) -> None:
    raw, label = table(200)
    path = tmp_path / "model.joblib"
    joblib.dump(fitted(GradientBoostingClassifier(n_estimators=3), raw, label), path)
    source = load_source("sklearn", path, trust_pickle=True)
    assert source.family == "trees"
    assert source.scores(raw, numbers(5)).shape == (200,)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(WherryError, match="K04"):
        load_source("sklearn", path, trust_pickle=True)


def test_untrusted_types_are_listed_until_they_are_trusted(tmp_path: Path) -> None:
    raw, label = table(200)
    model = make_pipeline(FunctionTransformer(np.log1p), GradientBoostingClassifier(n_estimators=3))
    path = tmp_path / "model.skops"
    model = make_pipeline(FunctionTransformer(_unchanged), model.steps[1][1])
    skops.io.dump(fitted(model, raw, label), path)
    with pytest.raises(WherryError, match=r"K05.*_unchanged") as caught:
        load_source("sklearn", path)
    named = caught.value.detail
    assert load_source("sklearn", path, trusted=[named]).family == "trees"


def _unchanged(table: Any) -> Any:
    return table


def test_what_the_source_says_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(_good())
    source = load_source("sklearn", path)
    assert source.digest.startswith("sha256:")
    assert {"scikit-learn", "skl2onnx", "onnx", "numpy"} <= source.versions.keys()


@pytest.mark.parametrize(("kind", "code"), [("spark", "K01"), ("sklearn", "H02")])
def test_unknown_kind_or_path(kind: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(WherryError) as caught:
        load_source(kind, tmp_path / "nothing")
    assert caught.value.code == code
