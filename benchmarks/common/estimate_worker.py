"""Recall at the first decile without labels: NannyML's CBPE and Wherry's estimate, in one process.

`python estimate_worker.py SCORES.npz`, in NannyML's environment, with Wherry's sources on the path.
Both learn from the same labelled rows what a score means, and are asked of the same chunks. Of
CBPE the question is put as recall of the decision "among the highest tenth of the chunk".
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any

import numpy as np

from wherry.monitor.estimate import Belief, highest
from wherry_contract.calibration import Calibration
from wherry_contract.histograms import SCORE_BINS, score_bins

CHUNK = 10_000


def top(score: Any) -> Any:
    """Whether a row is among the highest tenth of its chunk."""
    found = np.zeros(len(score), bool)
    for start in range(0, len(score), CHUNK):
        part = score[start : start + CHUNK]
        found[start + np.argsort(-part, kind="stable")[: len(part) // 10]] = True
    return found


def recalls(truth: Any, among: Any) -> Any:
    """The true recall of each chunk."""
    hits, whole = ((truth & mask).reshape(-1, CHUNK).sum(1) for mask in (among, truth))
    return hits / whole


def said(value: Any, low: Any, high: Any, true: Any, seconds: float) -> dict[str, Any]:
    """How far estimates are off, and how often their interval holds the truth."""
    return {
        "bias": round(float((value - true).mean()), 4),
        "rms": round(float(np.sqrt(((value - true) ** 2).mean())), 4),
        "held": round(float(((low <= true) & (true <= high)).mean()), 3),
        "ms": round(1000 * seconds / len(true), 2),
    }


def ours(belief: Belief, score: Any, true: Any) -> dict[str, Any]:
    """From counts by score bin, as devices send them."""
    began, figures = time.process_time(), []
    for part in score.reshape(-1, CHUNK):
        counts = np.bincount(score_bins(part), minlength=SCORE_BINS).astype(float)
        figure = belief.quality(counts, counts * highest(counts)).recall_decile
        figures.append((figure.value, figure.low, figure.high))
    return said(*np.array(figures).T, true, time.process_time() - began)


def theirs(calculator: Any, frame: Any, true: Any) -> dict[str, Any]:
    """From the rows themselves."""
    began = time.process_time()
    table = calculator.estimate(frame).filter(period="analysis").to_df()["recall"]
    taken = time.process_time() - began
    names = ("value", "lower_confidence_boundary", "upper_confidence_boundary")
    return said(*(table[name].to_numpy(float) for name in names), true, taken)


def main() -> None:
    """Estimate each case by both."""
    warnings.simplefilter("ignore")
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    import nannyml as nml
    import pandas as pd

    with np.load(sys.argv[1]) as file:
        table = {key: file[key] for key in file.files}

    def frame(name: str) -> Any:
        score, truth = table[f"{name}/score"], table[f"{name}/truth"]
        return pd.DataFrame({"p": score, "top": top(score).astype(int), "y": truth.astype(int)})

    calculator = nml.CBPE(
        problem_type="classification_binary",
        y_pred_proba="p",
        y_pred="top",
        y_true="y",
        metrics=["recall"],
        chunk_size=CHUNK,
    )
    began = time.process_time()
    calculator.fit(frame("reference"))
    fitted = [0.0, time.process_time() - began]
    began = time.process_time()
    known = Calibration.of(table["reference/score"], table["reference/truth"])
    belief = Belief.of(known)
    fitted[0] = time.process_time() - began
    cases = {}
    for name in dict.fromkeys(key.split("/")[0] for key in table if "reference" not in key):
        score, truth = table[f"{name}/score"], table[f"{name}/truth"]
        true = recalls(truth, top(score))
        cases[name] = {
            "true": round(float(true.mean()), 4),
            "wherry": ours(belief, score, true),
            "nannyml": theirs(calculator, frame(name).drop(columns="y"), true),
        }
    print(json.dumps({"cases": cases, "fit_seconds": [round(each, 2) for each in fitted]}))


if __name__ == "__main__":
    main()
