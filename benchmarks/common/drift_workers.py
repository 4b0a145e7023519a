"""One drift tool in an environment of its own: `python drift_workers.py PEER TABLE.npz`.

Each is called as its documentation says, and prints one JSON document: microseconds a row where
rows come one by one, bytes of what would travel, and which of 30 features it calls drifted in
windows without drift and with it. Knows nothing of the other contestants, nor of numpy above 1.x.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

NUMBERS, FEATURES = 24, 30
SIZES = (250, 1000, 10_000)
ROWS = 400  # timed one by one
Flags = Callable[[Any], Any]  # a window's rows in, bool (30,) out


def windows(rows: Any, size: int, most: int) -> Iterator[Any]:
    """Windows of `size` rows, at most `most`."""
    for start in range(0, min(len(rows), most * size) - size + 1, size):
        yield rows[start : start + size]


def judged(flags: Flags, table: Any, size: int, most: int = 10**6) -> dict[str, Any]:
    """Calls per window of features that did not move, and of the 11 that did."""
    moved = np.zeros(FEATURES, bool)
    moved[[*range(9), NUMBERS, NUMBERS + 1]] = True
    null = np.array([flags(part) for part in windows(table["null"], size, most)])
    loud = np.array([flags(part) for part in windows(table["drifted"], size, most)])
    return {
        "windows": len(null),
        "false": round(float(null.sum(1).mean()), 3),
        "any": round(float(null.any(1).mean()), 3),
        "found": round(float(loud[:, moved].sum(1).mean()), 2),
        "false_beside": round(float(loud[:, ~moved].sum(1).mean()), 2),
    }


def row_by_row(step: Callable[[Any], None], rows: Any, count: int = ROWS) -> float:
    """Microseconds a row: the median of four rounds."""
    rounds = []
    for turn in range(4):
        part = rows[turn * count : (turn + 1) * count]
        began = time.process_time()
        for row in part:
            step(row)
        rounds.append((time.process_time() - began) / count * 1e6)
    return round(float(np.median(rounds)), 2)


def frame(rows: Any) -> Any:
    """A data frame as a user has it."""
    import pandas as pd

    numbers = {f"f{i}": rows[:, i] for i in range(NUMBERS)}
    names = {f"f{i}": [f"c{int(x)}" for x in rows[:, i]] for i in range(NUMBERS, FEATURES)}
    return pd.DataFrame(numbers | names)


def datasketches(table: Any) -> dict[str, Any]:
    """KLL sketches of numbers with their Kolmogorov-Smirnov test; strings are only counted."""
    import datasketches as ds

    def sketch(rows: Any) -> list[Any]:
        found = [ds.kll_floats_sketch(200) for _ in range(NUMBERS)]
        for place, item in enumerate(found):
            item.update(rows[:, place][~np.isnan(rows[:, place])].astype(np.float32))
        return found

    reference = sketch(table["reference"])
    level = 0.05  # at 0.05 / 24 it says nothing: the sketches are too small for that

    def flags(rows: Any) -> Any:
        found = np.zeros(FEATURES, bool)
        for place, item in enumerate(sketch(rows)):
            found[place] = ds.ks_test(item, reference[place], level)
        return found

    vector = ds.vector_of_kll_floats_sketches(200, NUMBERS)
    numbers = table["null"][:, :NUMBERS].astype(np.float32)
    return {
        "us_row": row_by_row(vector.update, numbers),
        "bytes": {n: sum(len(s.serialize()) for s in sketch(table["null"][:n])) for n in SIZES},
        "judged": {n: judged(flags, table, n) for n in SIZES},
        "note": "numbers only",
    }


def river(table: Any) -> dict[str, Any]:
    """ADWIN on each feature, warmed with 10,000 rows; what it calls within the window."""
    import copy

    from river.drift import ADWIN

    def take(detectors: list[Any], row: Any) -> None:
        for item, value in zip(detectors, row):  # noqa: B905 - as many
            if value == value:  # noqa: PLR0124 - NaN
                item.update(value)

    warm = [ADWIN() for _ in range(FEATURES)]
    for row in table["reference"][:10_000].tolist():
        take(warm, row)

    def flags(rows: Any) -> Any:
        found, mine = np.zeros(FEATURES, bool), copy.deepcopy(warm)
        for row in rows.tolist():
            take(mine, row)
            found |= [item.drift_detected for item in mine]
        return found

    mine = copy.deepcopy(warm)

    def step(row: Any) -> None:
        take(mine, row)

    return {
        "us_row": row_by_row(step, table["null"].tolist()),
        "bytes": {n: len(pickle.dumps(mine)) for n in SIZES},
        "judged": {n: judged(flags, table, n, 20) for n in SIZES},
        "note": "cannot be merged",
    }


def whylogs(table: Any) -> dict[str, Any]:
    """A profile; drift by its own scores and limits (Kolmogorov-Smirnov, chi-square)."""
    import whylogs as why
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    reference = why.log(frame(table["reference"][:20_000])).profile().view()

    def flags(rows: Any) -> Any:
        view = why.log(frame(rows)).profile().view()
        scores = calculate_drift_scores(
            target_view=view, reference_view=reference, with_thresholds=True
        )
        words = [(scores.get(f"f{i}") or {}).get("drift_category") for i in range(FEATURES)]
        return np.array([word == "DRIFT" for word in words])

    profile = why.log(row={"f0": 1.0}).profile()
    names = [f"f{i}" for i in range(FEATURES)]
    rows = [dict(zip(names, row)) for row in table["null"][: 4 * ROWS].tolist()]  # noqa: B905 - as many

    def sized(n: int) -> int:
        return len(why.log(frame(table["null"][:n])).profile().view().serialize())

    return {
        "us_row": row_by_row(lambda row: profile.track(row=row), rows),
        "bytes": {n: sized(n) for n in SIZES},
        "judged": {n: judged(flags, table, n, 10) for n in SIZES},
        "note": "reference of 20,000 rows",
    }


def evidently(table: Any) -> dict[str, Any]:
    """Its preset for data drift, with its own choice of tests."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [f"f{i}" for i in range(NUMBERS)]
    definition = DataDefinition(
        numerical_columns=numbers,
        categorical_columns=[f"f{i}" for i in range(NUMBERS, FEATURES)],
    )
    reference = Dataset.from_pandas(frame(table["reference"][:20_000]), definition)
    size = [0]

    def flags(rows: Any) -> Any:
        current = Dataset.from_pandas(frame(rows), definition)
        done = Report([DataDriftPreset()]).run(current, reference)
        text = done.json()
        size[0] = len(text)
        found = np.zeros(FEATURES, bool)
        for metric in json.loads(text)["metrics"]:
            config = metric.get("config", {})
            column = config.get("column")
            if column and isinstance(metric["value"], float | int):
                method = str(config.get("method", "")).lower()
                limit = config.get("threshold") or (0.05 if "p_value" in method else 0.1)
                small = "p_value" in method
                value = metric["value"]
                found[int(column[1:])] = value < limit if small else value >= limit
        return found

    found: dict[str, Any] = {"judged": {}, "bytes": {}}
    for n in SIZES:
        found["judged"][n] = judged(flags, table, n, 3)
        found["bytes"][n] = size[0]
    return found | {"us_row": None, "note": "reference of 20,000 rows, 3 windows; batch only"}


def nannyml(table: Any) -> dict[str, Any]:
    """Univariate drift by Jensen-Shannon distance, limits from the reference's own chunks."""
    import nannyml as nml

    names = [f"f{i}" for i in range(FEATURES)]
    found: dict[str, Any] = {"judged": {}, "bytes": {}}
    moved = np.zeros(FEATURES, bool)
    moved[[*range(9), NUMBERS, NUMBERS + 1]] = True
    reference = frame(table["reference"])
    for n in SIZES:
        calculator = nml.UnivariateDriftCalculator(
            column_names=names,
            chunk_size=n,
            continuous_methods=["jensen_shannon"],
            categorical_methods=["jensen_shannon"],
        )
        calculator.fit(reference)
        alerts = {}
        for kind in ("null", "drifted"):
            result = calculator.calculate(frame(table[kind])).filter(period="analysis").to_df()
            alerts[kind] = np.column_stack(
                [result[(name, "jensen_shannon", "alert")].to_numpy() for name in names]
            ).astype(bool)
        null, loud = alerts["null"], alerts["drifted"]
        found["judged"][n] = {
            "windows": len(null),
            "false": round(float(null.sum(1).mean()), 3),
            "any": round(float(null.any(1).mean()), 3),
            "found": round(float(loud[:, moved].sum(1).mean()), 2),
            "false_beside": round(float(loud[:, ~moved].sum(1).mean()), 2),
        }
    return found | {"us_row": None, "note": "batch only"}


PEERS = {
    "datasketches": datasketches,
    "river": river,
    "whylogs": whylogs,
    "evidently": evidently,
    "nannyml": nannyml,
}


def main() -> None:
    """Run one peer."""
    warnings.simplefilter("ignore")
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    name, path = sys.argv[1:]
    with np.load(path) as found:
        table = {key: found[key] for key in found.files}
    began = time.process_time()
    done = PEERS[name](table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    taken = round(time.process_time() - began, 1)
    print(json.dumps(done | {"peak_mib": round(peak), "cpu_seconds": taken}))


if __name__ == "__main__":
    main()
