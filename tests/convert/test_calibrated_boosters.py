"""CalibratedClassifierCV of XGBoost's and LightGBM's classifiers: their probabilities are calibrated."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support_convert import differences, fitted, numbers, table

from wherry_contract.errors import ConvertError
from wherry_convert.sources.sklearn_model import SklearnModel
from wherry_convert.to_onnx import convert

lightgbm = pytest.importorskip("lightgbm", reason="the extra lightgbm is absent")
xgboost = pytest.importorskip("xgboost", reason="the extra xgboost is absent")

DIGEST = "sha256:" + "0" * 64
RAW, LABEL = table()
LIGHT = lightgbm.LGBMClassifier(n_estimators=15, verbose=-1, n_jobs=1)
EXTREME = xgboost.XGBClassifier(n_estimators=15, max_depth=4, n_jobs=1)


def calibrated(model: Any, method: str, *, ensemble: bool = True) -> Any:
    return CalibratedClassifierCV(model, method=method, cv=3, ensemble=ensemble)


@pytest.mark.parametrize(
    ("model", "gap"),
    [
        pytest.param(calibrated(LIGHT, "sigmoid"), 1e-12, id="lightgbm, sigmoid"),
        pytest.param(calibrated(LIGHT, "isotonic"), 1e-9, id="lightgbm, isotonic"),
        pytest.param(calibrated(LIGHT, "isotonic", ensemble=False), 1e-9, id="lightgbm, one fold"),
        pytest.param(
            make_pipeline(StandardScaler(), calibrated(LIGHT, "isotonic")),
            1e-9,
            id="behind a scaler",
        ),
        pytest.param(calibrated(EXTREME, "sigmoid"), 1e-6, id="xgboost, sigmoid"),
        pytest.param(calibrated(EXTREME, "sigmoid", ensemble=False), 1e-6, id="xgboost, one fold"),
    ],
)
def test_decides_as_the_source(model: Any, gap: float) -> None:
    raw, contract = RAW[:, [0, 1, 3]], numbers(3)
    source = SklearnModel.wrap(fitted(model, raw, LABEL), DIGEST)
    found = differences(source, convert(source, contract), raw, contract)
    assert sum(item.flips for item in found.values()) == 0
    assert max(item.largest for item in found.values()) < gap


def test_steps_that_float32_falls_off_are_refused() -> None:
    """XGBoost sums in float32, and an isotonic calibration is steep where its scores are."""
    raw = RAW[:, [0, 1, 3]]
    source = SklearnModel.wrap(fitted(calibrated(EXTREME, "isotonic"), raw, LABEL), DIGEST)
    with pytest.raises(ConvertError, match=r"K02.*steeper") as caught:
        convert(source, numbers(3))
    assert "sigmoid" in caught.value.cure
