"""Wherry's compiler beside the plain tools, on one net and three forests.

    python benchmarks/compiler.py

It makes its environments itself, once, under `.cache/benchmarks/venvs`: one with Wherry and
all peers but Olive, in which it then runs, one for Olive, and one for each row of the table
of installs (about 6 GB in all, half an hour on a slow line). `--here` runs it in the
environment that it was started in.

Nets: the same float graph, the same calibration rows, all quantized files judged on 60,000
other rows. Forests: source model against converted file, on rows as they come, with values
missing, and one float step beside thresholds. Flips are decisions that differ from the
source model's at the threshold that flags 1 % of rows. A peer that is not installed, or
fails, has a row that says so.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import ROOT, print_machine
from common.bed import Bed, bare_net, make_bed
from common.forests import forests
from common.installs import INSTALL_HEADS, enter_own_environment, installs
from common.measured import ALERTS, MADE, session_of, timed
from common.peers import NET_PEERS, TREE_PEERS, version_of
from common.tree_table import TREE_HEADS, tree_rows

from wherry.cli.output import table
from wherry_convert.parity import between_scores, compare
from wherry_convert.quantize import Budgets, methods_for, quantize
from wherry_convert.sources import SourceModel, load_source
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import Converted, convert

CACHE: Final = ROOT / ".cache" / "benchmarks"
CALIBRATION: Final = 512
ROUNDS: Final = 15
ONE_BY_ONE: Final = 60
FLIPS: Final = 5
SMALLER: Final = 2.9
NET_HEADS: Final = (
    "net 30-256-256-64-1", "bytes", "smaller", "seconds", "flips", "missing", "out of range",
    "largest", "distinct", "recall", "one row", "twice the same",
)  # fmt: skip


@dataclass(frozen=True)
class Net:
    """The float net, and the rows that judge.

    Attributes:
        converted: Wherry's float graph, which every peer is given.
        calibration: float32, shape (512, 30).
        train: float32, all rows that Wherry's search may use.
        test: float32, the rows that judge.
        labels: of the rows that judge.
        reference: the source model's scores of them.
        threshold: flags 1 % of them.
        encode: from raw rows to what the graph takes.
        hard: raw rows that were made to be hard by kind, and the source model's scores.
    """

    converted: Converted
    calibration: Any
    train: Any
    test: Any
    labels: Any
    reference: Any
    threshold: float
    encode: Callable[[Any], Any]
    hard: Mapping[str, tuple[Any, Any]]


def hard_rows(bed: Bed) -> dict[str, Any]:
    """Rows with one value as imputed (0, the mean) or outside of what was seen, each column in turn."""
    sample = bed.test[np.linspace(0, len(bed.test) - 1, MADE).astype(np.int64)]
    low, high = bed.train.min(axis=0), bed.train.max(axis=0)
    beyond = (low - (high - low) / 4, high + (high - low) / 4)
    made: dict[str, list[Any]] = {"missing": [], "out of range": []}
    for place in range(sample.shape[1]):
        ends = [("missing", 0.0), *(("out of range", end[place]) for end in beyond)]
        for kind, value in ends:
            rows = sample.copy()
            rows[:, place] = np.float32(value)
            made[kind].append(rows)
    return {kind: np.concatenate(rows) for kind, rows in made.items()}


def load_net(path: Path, bed: Bed) -> tuple[SourceModel, Net]:
    """Read it; convert it."""
    source = load_source("sklearn", path)
    converted = convert(source, bed.contract)
    reference = source.scores(bed.test, bed.contract)
    edge = float(np.quantile(reference, 1 - ALERTS))
    train = converted.encoder.encode(bed.train)
    few = np.linspace(0, len(train) - 1, CALIBRATION).astype(np.int64)
    return source, Net(
        converted,
        train[few],
        train,
        converted.encoder.encode(bed.test),
        bed.test_labels,
        reference,
        between_scores(reference, edge),
        converted.encoder.encode,
        {kind: (raw, source.scores(raw, bed.contract)) for kind, raw in hard_rows(bed).items()},
    )


def wherry_net(net: Net, **budgets: Any) -> bytes:
    """The search, on the training rows."""
    done = quantize(
        net.converted,
        net.train,
        threshold=net.threshold,
        methods=methods_for(net.converted.needs.kind),
        budgets=Budgets(flips=FLIPS, bytes=int(len(net.converted.model) / SMALLER), **budgets),
    )
    print(f"  kept: {done.kept.method}, in float: {done.kept.floats}", file=sys.stderr)
    return done.converted.model


def tflite_of(model: bytes) -> Callable[[Any], Any]:
    """Likewise by LiteRT, row by row."""
    from wherry_convert.tflite_scoring import TfliteRunner

    runner = TfliteRunner(model, 1, _tflite_output(model))
    return runner.run


def _tflite_output(model: bytes) -> str:
    from ai_edge_litert.interpreter import Interpreter

    return str(Interpreter(model_content=model).get_output_details()[0]["name"])


def ratio(one: Callable[[Any], Any], other: Callable[[Any], Any], rows: Any) -> str:
    """Time of single rows, in turns: median of the rounds' own ratios, and their middle half."""
    found = []
    for turn in range(ROUNDS):
        spent: dict[int, float] = {}
        for place, entry in enumerate((one, other) if turn % 2 else (other, one)):
            began = time.perf_counter()
            for row in range(len(rows)):
                entry(rows[row : row + 1])
            spent[place if turn % 2 else 1 - place] = time.perf_counter() - began
        found.append(spent[0] / spent[1])
    low, middle, high = statistics.quantiles(found[1:], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def recall(labels: Any, scores: Any) -> float:
    """In the first decile."""
    top = np.argsort(-scores, kind="stable")[: len(scores) // 10]
    return float(labels[top].sum() / labels.sum())


def net_row(name: str, net: Net, make: Callable[[], bytes], base: bytes) -> list[str]:
    """One contestant, made twice."""
    try:
        model, taken = timed(make)
        same = "yes" if timed(make)[0] == model else "no"
        tflite = model[4:8] == b"TFL3"
        run, plain = ((tflite_of if tflite else session_of)(file) for file in (model, base))
        scores, before = (score(net.test).reshape(-1) for score in (run, plain))
        hard = {
            kind: compare(wanted, run(net.encode(raw)).reshape(-1), net.threshold).flips
            for kind, (raw, wanted) in net.hard.items()
        }
    except Exception as error:  # noqa: BLE001 - a peer's failure is a result
        return [name, *[""] * (len(NET_HEADS) - 2), f"{type(error).__name__}: {error}"[:120]]
    found = compare(net.reference, scores, net.threshold)
    return [
        name,
        f"{len(model):,}",
        f"{len(base) / len(model):.2f}",
        f"{taken:.1f}",
        str(found.flips),
        *(f"{flips}" for flips in hard.values()),
        f"{found.largest:.3f}",
        f"{found.distinct_found:,}",
        f"{recall(net.labels, scores) - recall(net.labels, before):+.4f}",
        ratio(run, plain, net.test[:ONE_BY_ONE]),
        same,
    ]


def nets(bed: Bed) -> list[list[str]]:
    """The table of nets."""
    path, bed = bare_net(bed, CACHE)
    source, net = load_net(path, bed)
    base = net.converted.model
    rows = [net_row("ONNX: float32, by Wherry", net, lambda: base, base)]
    made = {
        "ONNX: Wherry, 5 flips, 2.9 times smaller": lambda: wherry_net(net),
    }
    for name, make in made.items():
        rows.append(net_row(name, net, make, base))
    given = flat_biases(base)
    rows += [
        net_row(
            f"ONNX: {peer.name}", net, lambda peer=peer: peer.make(given, net.calibration), base
        )
        for peer in NET_PEERS
        if not peer.tflite
    ]
    return rows + tflite_rows(source, bed, net)


def flat_biases(model: bytes) -> bytes:
    """The graph with biases of shape (n,) in place of (1, n): the peers fail on those of skl2onnx.

    Their preprocessing makes Gemm of MatMul and Add, and their static quantization takes the
    bias of a Gemm for a list of numbers: an error by channel, wrong scores without.
    """
    import onnx
    from onnx import numpy_helper

    proto = onnx.load_model_from_string(model)
    added = {name for node in proto.graph.node if node.op_type == "Add" for name in node.input}
    for tensor in proto.graph.initializer:
        if tensor.name in added:
            flat = numpy_helper.to_array(tensor).reshape(-1)
            tensor.CopyFrom(numpy_helper.from_array(flat, tensor.name))
    return bytes(proto.SerializeToString())


def tflite_rows(source: SourceModel, bed: Bed, net: Net) -> list[list[str]]:
    """The same net as a TFLite file of Wherry's, which the peers quantize."""
    base = convert_tflite(source, bed.contract)
    encode = base.encoder.encode
    same = replace(
        net, converted=base, train=encode(bed.train), test=encode(bed.test), encode=encode
    )
    few = np.linspace(0, len(bed.train) - 1, CALIBRATION).astype(np.int64)
    calibration = base.encoder.encode(bed.train[few])
    rows = [
        net_row("TFLite: float32, by Wherry", same, lambda: base.model, base.model),
        net_row(
            "TFLite: Wherry, 5 flips, 2.9 times smaller",
            same,
            lambda: wherry_net(same),
            base.model,
        ),
    ]
    for peer in NET_PEERS:
        if peer.tflite:
            make = lambda peer=peer: peer.make(base.model, calibration)  # noqa: E731 - one call
            rows.append(net_row(f"TFLite: {peer.name}", same, make, base.model))
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--here", action="store_true", help="in this environment, not its own")
    if not parser.parse_args().here:
        enter_own_environment(__file__)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print_machine("onnxruntime", "onnx", "scikit-learn", "skl2onnx")
    libraries = {peer.library for peer in (*NET_PEERS, *TREE_PEERS)} | {
        "lightgbm",
        "xgboost-cpu",
        "ai-edge-litert",
    }
    print(" ".join(version_of(library) for library in sorted(libraries)))
    bed = make_bed()
    print(f"{len(bed.test):,} rows judge, 512 calibrate\n")
    for line in table(NET_HEADS, nets(bed)):
        print(line)
    print("\nsmaller: than the float file of the same format; one row: time, float file = 1\n")
    with tempfile.TemporaryDirectory() as folder:
        for line in table(TREE_HEADS, tree_rows(bed, forests(bed, Path(folder)))):
            print(line)
    print()
    for line in table(INSTALL_HEADS, installs()):
        print(line)


if __name__ == "__main__":
    main()
