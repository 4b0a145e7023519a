"""Forests: the source model against what Wherry and the plain converters make of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from common.bed import Bed
from common.forests import Forests
from common.measured import ALERTS, MADE, session_of, timed
from common.peers import TREE_PEERS
from wherry_contract.wire import canonical
from wherry_convert.parity import between_scores, compare, row_classes
from wherry_convert.scoring import Scored
from wherry_convert.sources import SourceModel, load_source
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import Converted, convert

Judged = tuple[Mapping[str, Any], Mapping[str, Any], float]
TREE_TARGETS: Final[Mapping[str, Callable[[SourceModel, Any], Converted]]] = {
    "Wherry": convert,
    "Wherry, TFLite": convert_tflite,
    "Wherry, TFLite, 16-bit leaves": partial(convert_tflite, leaves="int16"),
}
TREE_HEADS: Final = (
    "forest", "bytes", "encoder", "seconds", "flips", "missing", "thresholds", "largest", "three the same",
)  # fmt: skip


def tree_rows(bed: Bed, made: Forests) -> list[list[str]]:
    """The table of forests."""
    rows = []
    for forest in made:
        source = load_source(forest.kind, forest.path)
        reference = source.scores(bed.test, bed.contract)
        threshold = between_scores(reference, float(np.quantile(reference, 1 - ALERTS)))
        converted = convert(source, bed.contract)
        sample = bed.test[:: max(1, len(bed.test) // 20_000)]
        classes = row_classes(sample, bed.contract, cuts=converted.cuts, limit=MADE)
        expected = {name: source.scores(raw, bed.contract) for name, raw in classes.items()}
        judged = (classes, expected, threshold)
        for name, to in TREE_TARGETS.items():
            make = lambda f=forest, to=to: to(load_source(f.kind, f.path), bed.contract)  # noqa: E731
            rows.append(our_tree_row(f"{forest.name}: {name}", make, judged))
        rows += [
            tree_row(
                f"{forest.name}: {peer.name}",
                lambda p=peer, f=forest: p.make(f.model, None),
                _positive,
                judged,
            )
            for peer in TREE_PEERS
            if forest.kind in peer.kinds
        ]
    return rows


def our_tree_row(name: str, make: Callable[[], Converted], judged: Judged) -> list[str]:
    """Wherry's file, which its encoder and its runtime score."""
    made: list[Converted] = []

    def model() -> bytes:
        made.append(make())
        return made[-1].model

    def scorer(_model: bytes) -> Callable[[Any], Any]:
        done = made[-1]
        return Scored(done.model, done.needs, done.encoder, done.tensor, done.column).scores

    def encoder(_model: bytes) -> int:
        steps = made[-1].encoder.to_list()
        return len(canonical({"encoder": steps})) if steps else 0

    return tree_row(name, model, scorer, judged, encoder)


def _positive(model: bytes) -> Callable[[Any], Any]:
    run = session_of(model)
    return lambda raw: run(raw.astype(np.float32))[:, 1]


def tree_row(
    name: str,
    make: Callable[[], bytes],
    scorer: Callable[[bytes], Callable[[Any], Any]],
    judged: Judged,
    encoder: Callable[[bytes], int] = lambda _: 0,
) -> list[str]:
    """One contestant, made three times; `encoder` says what stands beside the file, in bytes."""
    classes, expected, threshold = judged
    try:
        model, taken = timed(make)
        made = (model, *(timed(make)[0] for _ in range(2)))
        hashes = {hashlib.sha256(item).hexdigest() for item in made}
        run = scorer(model)
        found = {
            kind: compare(expected[kind], run(raw), threshold) for kind, raw in classes.items()
        }
    except Exception as error:  # noqa: BLE001 - a peer's failure is a result
        return [name, *[""] * (len(TREE_HEADS) - 2), f"{type(error).__name__}: {error}"[:120]]
    missing = [item.flips for kind, item in found.items() if kind.startswith("missing")]
    near = found.get("near a threshold")
    return [
        name,
        f"{len(model):,}",
        f"{encoder(model):,}",
        f"{taken:.1f}",
        str(found["clean"].flips),
        str(sum(missing)),
        str(near.flips) if near else "",
        f"{max(item.largest for item in found.values()):.2g}",
        "yes" if len(hashes) == 1 else f"no, {len(hashes)}",
    ]
