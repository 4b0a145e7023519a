"""Forests on the bed: what converters are known to get wrong, and what they get right."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.bed import Bed


@dataclass(frozen=True)
class Trained:
    """A forest: its name, Wherry's kind of source, its file, and the model for the peers."""

    name: str
    kind: str
    path: Path
    model: Any


Forests = Sequence[Trained]


def forests(bed: Bed, folder: Path) -> Forests:
    """Train them; the table's gaps, epoch seconds and small integers are in all of them."""
    raw, labels = bed.train, bed.train_labels
    return [*_sklearn(raw, labels, folder), *_boosted(raw, labels, folder)]


def _sklearn(raw: Any, labels: Any, folder: Path) -> Forests:
    import skops.io
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    found = []
    for name, model in (
        ("RandomForest 50, gaps", RandomForestClassifier(50, max_depth=8, random_state=0)),
        ("HistGradientBoosting 100", HistGradientBoostingClassifier(random_state=0)),
    ):
        path = folder / f"{type(model).__name__}.skops"
        skops.io.dump(model.fit(raw, labels), path)
        found.append(Trained(name, "sklearn", path, model))
    return found


def _boosted(raw: Any, labels: Any, folder: Path) -> Forests:
    found = []
    with suppress(ImportError):
        from lightgbm import LGBMClassifier

        light = LGBMClassifier(n_estimators=200, num_leaves=31, random_state=0, verbose=-1)
        light.fit(raw, labels)
        light.booster_.save_model(folder / "light.txt")
        found.append(Trained("LightGBM 200 of 31 leaves", "lightgbm", folder / "light.txt", light))
    with suppress(ImportError):
        from xgboost import XGBClassifier

        extreme = XGBClassifier(n_estimators=200, max_depth=5, random_state=0)
        extreme.fit(raw, labels)
        extreme.save_model(folder / "extreme.ubj")
        found.append(Trained("XGBoost 200 of depth 5", "xgboost", folder / "extreme.ubj", extreme))
    return found
