"""Train the example's two models and say what they are worth beside a rule.

    python examples/fraud_terminals/train.py

Writes build/gradient_boosting.skops, build/mlp.skops and build/metrics.json, and prints a
table. The protocol is the book's: train on a week, wait a week until its frauds are known,
test on the week after without the cards known by then to be defrauded. README.md has more.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from make_data import FEATURES
from numpy.typing import NDArray
from pyarrow import parquet

from wherry.metrics import Metrics, measure

HERE: Final = Path(__file__).resolve().parent
FLAG_SHARE: Final = 0.01  # of the training payments; project.toml says the same
SEED: Final = 0
# what the book prints for other weeks of the same data: README.md, "Beside the book"
BOOK: Final = "AUC 0.76 to 0.87, average precision 0.31 to 0.66, card precision@100 0.24 to 0.29"

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Week:
    """Payments: features (rows, 15), and label, card and day of each row."""

    features: Matrix
    fraud: NDArray[np.bool_]
    cards: NDArray[np.int64]
    days: NDArray[np.int64]

    def column(self, name: str) -> Matrix:
        """One feature: float64, shape (rows,)."""
        return self.features[:, FEATURES.index(name)]

    def judge(self, scores: Matrix, threshold: float) -> Metrics:
        """What scores are worth on these payments."""
        return measure(self.fraud, scores, threshold, cards=self.cards, days=self.days)


def read_week(path: Path) -> Week:
    """Read one file of data/."""
    table = parquet.read_table(path)
    stamps = table["TX_DATETIME"].to_numpy()
    return Week(
        features=np.column_stack([table[name].to_numpy().astype(float) for name in FEATURES]),
        fraud=table["TX_FRAUD"].to_numpy() == 1,
        cards=table["CUSTOMER_ID"].to_numpy().astype(np.int64),
        days=stamps.astype("datetime64[D]").astype(np.int64),
    )


def gradient_boosting(week: Week) -> Any:
    """Fit boosted trees; the order of rows and the seed decide everything."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=150,
        max_leaf_nodes=15,
        learning_rate=0.05,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=SEED,
    )
    return model.fit(week.features, week.fraud)


def mlp(week: Week) -> Any:
    """Fit a small neural net on scaled features; a gap becomes the column's median."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    net = MLPClassifier((32, 16), alpha=0.01, batch_size=256, max_iter=25, random_state=SEED)
    model = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), net)
    with warnings.catch_warnings():
        # 25 rounds are enough; more of them only learn the week by heart
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(week.features, week.fraud)


def rules(week: Week) -> dict[str, Matrix]:
    """Scores of what one can do without a model: 1 for a payment that the rule flags."""
    large = week.column("TX_AMOUNT") > 220  # the fallback rule of project.toml
    risky = week.column("TERMINAL_ID_RISK_7DAY_WINDOW") > 0.3
    return {
        "rule: amount over 220": large.astype(float),
        "rule: or terminal risk over 0.3": (large | risky).astype(float),
    }


def train(data: Path, out: Path) -> dict[str, Metrics]:
    """Fit and save the models; returns what each is worth on the test week."""
    reference, check = read_week(data / "train.parquet"), read_week(data / "test.parquet")
    found = {name: check.judge(scores, 0.5) for name, scores in rules(check).items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, fit in {"gradient_boosting": gradient_boosting, "mlp": mlp}.items():
        model = fit(reference)
        threshold = float(
            np.quantile(model.predict_proba(reference.features)[:, 1], 1 - FLAG_SHARE)
        )
        found[name] = check.judge(model.predict_proba(check.features)[:, 1], threshold)
        (out / f"{name}.skops").write_bytes(sealed(model))
    return found


def sealed(model: Any) -> bytes:
    """A skops file whose bytes depend on the model alone, so that its digest names the model.

    skops names parts by where they lay in memory and stamps them with the time of day; here
    they are numbered in order of appearance and have no date.
    """
    import skops.io

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(model))) as written:
        schema = written.read("schema.json").decode()
        parts = {name: written.read(name) for name in written.namelist()}
    found = re.findall(r'"__id__": (\d+)|"file": "(\d+)\.', schema)
    numbers = {name: str(place) for place, name in enumerate(dict.fromkeys(map("".join, found)))}

    def renamed(text: str) -> str:
        return re.sub(r"\b\d{9,}\b", lambda match: numbers.get(match[0], match[0]), text)

    named = {renamed(name): data for name, data in parts.items()}
    named["schema.json"] = renamed(schema).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(named):
            archive.writestr(zipfile.ZipInfo(name), named[name], zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def document(found: dict[str, Metrics]) -> dict[str, Any]:
    """What metrics.json holds."""
    models = {name: metrics.to_dict() for name, metrics in found.items()}
    return {"schema": "example/metrics/1", "test": "2018-07-15/2018-07-21", "models": models}


def table(found: dict[str, Metrics]) -> str:
    """The same for people."""
    head = f"{'on 15 to 21 July':32}    AUC      AP  recall@10%  CP@100  flagged  precision  recall"
    lines = [
        f"{name:32} {m.auc:6.3f}  {m.average_precision:6.3f}  {m.recall_first_decile:10.3f}"
        f"  {m.card_precision_100:6.3f}  {m.flagged:7.2%}  {m.precision:9.3f}  {m.recall:6.3f}"
        for name, m in found.items()
    ]
    return "\n".join([head, *lines, f"the book's models, on other weeks: {BOOK}"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--out", type=Path, default=HERE / "build")
    arguments = parser.parse_args()
    found = train(arguments.data, arguments.out)
    text = json.dumps(document(found), indent=2) + "\n"
    (arguments.out / "metrics.json").write_text(text)
    print(table(found))


if __name__ == "__main__":
    main()
