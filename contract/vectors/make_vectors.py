"""Make the golden vectors beside this file; the same bytes every time.

    python contract/vectors/make_vectors.py [FOLDER]

The two private keys are made from seeds that stand here for everyone to read: they sign
these vectors and must never be trusted by a fleet.
"""  # noqa: INP001 - a script, no package

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import make_compact
import numpy as np

from wherry_contract import bundle, histograms, messages, psi, signature
from wherry_contract.assignment import PAYLOAD_TYPE, Assignment, ShadowPlan
from wherry_contract.encoder import Encoder, Step
from wherry_contract.features import Feature, InputContract
from wherry_contract.golden import GoldenVectors
from wherry_contract.manifest import BoardNeeds, Manifest, Output, RuntimeNeeds, Soak
from wherry_contract.profile import build_profile
from wherry_contract.rule import Condition, Rule
from wherry_contract.shadow import ShadowCounts
from wherry_contract.slots import FeatureCounts, SlotCounter
from wherry_contract.window import Window
from wherry_contract.wire import sha256_digest

DAY = 1_795_478_400.0  # 2026-11-24T00:00:00Z
SPOOL, SESSION = "00c0ffee00c0ffee", "5e55105e55105e55"
ROWS: tuple[tuple[float | str | None, ...], ...] = (
    (12.5, 0.0, "food"),
    (250.0, 3.0, "fuel"),
    (89.9, None, "other"),
    (1000.25, 7.0, "toys"),
    (0.01, 1.0, None),
)


def contract() -> InputContract:
    """Three features that show every rule of the input contract."""
    return InputContract(
        "mini",
        1,
        (
            Feature("AMOUNT", unit="EUR", minimum=0.0, maximum=1000.0),
            Feature("RISK", missing="allow", supplied_by="backend"),
            Feature(
                "KIND", "category", categories=("food", "fuel"), missing="allow", unseen="allow"
            ),
        ),
    )


def encoder(inputs: InputContract) -> Encoder:
    """One step of each kind but `rank`."""
    return Encoder(
        inputs,
        (
            Step("offset", "AMOUNT", {"value": 100.0}),
            Step("clip", "AMOUNT", {"low": -100.0, "high": 500.0}),
            Step("fill", "RISK", {"value": -1.0}),
            Step("codes", "KIND", {"values": [0.0, 1.0], "unseen": 2.0, "missing": 3.0}),
        ),
    )


def model() -> bytes:
    """A logistic regression on the encoder's tensor, by hand."""
    from onnx import TensorProto, helper

    weights = [0.01, 0.25, 0.5]
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "weights", "bias"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["score"]),
        ],
        "mini",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, [3, 1], weights),
            helper.make_tensor("bias", TensorProto.FLOAT, [1], [-2.0]),
        ],
    )
    opset = [helper.make_opsetid("", 13)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="wherry")
    return made.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def score(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same regression in double precision, rounded to what float32 can carry."""
    logit = tensor.astype(np.float64) @ np.array([0.01, 0.25, 0.5]) - 2.0
    return np.round(1 / (1 + np.exp(-logit)), 6)


def parts() -> bundle.Parts:
    """All that is in the bundle."""
    inputs = contract()
    steps = encoder(inputs)
    raw = inputs.matrix([dict(zip(inputs.names, row, strict=True)) for row in ROWS])
    scores = score(steps.encode(raw))
    chance = np.arange(600)
    reference = np.column_stack(
        [chance * 1.5, np.where(chance % 50, chance % 7, np.nan), chance % 3 - 1.0]
    )
    manifest = Manifest(
        name="fraud-mini",
        version="1.0.0",
        family="fraud",
        runtime=RuntimeNeeds("onnxruntime", ">=1.27,<1.29", 8, {"": 13}, ("Gemm", "Sigmoid")),
        board=BoardNeeds(memory_mib=64),
        input=inputs,
        encoder=steps,
        output=Output("score", 0, 0.5, "fraud"),
        soak=Soak(rows=200, seconds=1800),
        fallback=Rule((Condition("AMOUNT", ">", 220.0), Condition("KIND", "==", "fuel")), "all"),
        provenance={"source": "contract/vectors/make_vectors.py"},
    )
    return bundle.Parts(
        manifest,
        model(),
        build_profile(inputs, reference, score(steps.encode(reference)), 0.5),
        GoldenVectors(inputs.names, ROWS, tuple(scores.tolist()), 1e-5),
        {bundle.CARD_FILE: b"# fraud-mini\n\nA logistic regression made by hand, for tests.\n"},
    )


def signer(seed: int) -> Any:
    """A key that everybody knows."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def sign(payload: bytes, payload_type: str, key: Any) -> bytes:
    """A DSSE envelope."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, payload_type, {})
    envelope.sign(key)
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()


def signed() -> tuple[dict[str, bytes], bundle.Layout]:
    """The bundle, whom to trust, and an order to run it."""
    maker, server = signer(1), signer(2)
    layout = bundle.assemble(parts())
    statement = signature.BundleStatement(
        "fraud", "fraud-mini", "1.0.0", layout.digest, len(layout.manifest), 7
    )
    envelope = sign(statement.to_bytes(), statement.PAYLOAD_TYPE, maker)
    keys = [
        signature.PublicKey(k.public_key.keyid, k.public_key.keyval["public"])
        for k in (maker, server)
    ]
    trust = signature.TrustRoot(
        {key.keyid: key for key in keys},
        {"fraud": signature.FamilyTrust((keys[0].keyid,), 1, 5)},
        (signature.AssignmentKey(keys[1].keyid, DAY - 86_400, DAY + 86_400 * 365),),
    )
    order = Assignment(
        device="shop-1",
        rollout="r-2026-11-24-1",
        family="fraud",
        digest=layout.digest,
        size=len(layout.manifest),
        sequence=3,
        issued_at=DAY,
        expires=DAY + 7 * 86_400,
        soak_rows=100,
    )
    order_envelope = sign(order.to_bytes(), PAYLOAD_TYPE, server)
    shadow = replace(order, mode="shadow", soak_rows=-1, shadow=ShadowPlan(200, 1800))
    shadow_envelope = sign(shadow.to_bytes(), PAYLOAD_TYPE, server)
    return {
        "fraud-mini.wherry": layout.to_tar(envelope),
        "statement.dsse.json": envelope,
        "trust.json": trust.to_bytes(),
        "messages/assignment.json": messages.wrap_assignment(order_envelope),
        "messages/assignment-shadow.json": messages.wrap_assignment(shadow_envelope),
    }, layout


def every_message(layout: bundle.Layout) -> dict[str, bytes]:
    """One payload of each kind."""
    inputs, profile = contract(), parts().profile
    place = messages.Place("shop-1", SPOOL, 41, 38)
    window = Window(
        place=place,
        bundle=layout.digest,
        edges=profile.edges_id,
        opened=DAY,
        closed=DAY + 3599.5,
        rows=5,
        flagged=2,
        fallback=0,
        errors={"C04": 1},
        features=dict(zip(inputs.names, _count(inputs, profile), strict=True)),
        scores=tuple(np.bincount(histograms.score_bins(_scores()), minlength=64).tolist()),
        latency=(0,) * 16 + (2, 1) + (0,) * 22,
        reason="time",
    )
    state = messages.State(
        device="shop-1",
        agent="0.1.0",
        runtime="onnxruntime",
        runtime_version="1.27.0",
        architecture="aarch64",
        labels={"group": "north", "site": "7"},
        session=SESSION,
        spool=SPOOL,
        phase="idle",
        rollout="r-2026-11-24-1",
        sequences={"ab" * 32: 3},
        active="a",
        bundle=layout.digest,
        bundle_name="fraud-mini",
        bundle_version="1.0.0",
        trust="good",
        fallback=False,
        started_at=DAY,
        reported_at=DAY + 300.25,
    )
    event = messages.Event(
        replace(place, seq=42),
        "update.report",
        "bundle 1.0.0 was committed",
        DAY + 60,
        "info",
        "r-2026-11-24-1",
        layout.digest,
        "committed",
    )
    ack = messages.Ack(SPOOL, ((1, 40), (42, 42)), ((41, "G01"),))
    return {
        "messages/presence.json": messages.Presence("shop-1", True, SESSION).to_bytes(),
        "messages/state.json": state.to_bytes(),
        "messages/window.json": window.to_bytes(),
        "messages/window-shadow.json": replace(window, shadow=_shadow()).to_bytes(),
        "messages/event.json": event.to_bytes(),
        "messages/ack.json": ack.to_bytes(),
    }


def _shadow() -> ShadowCounts:
    """A shadow that scores as the model does, but for one row that it flags too."""
    bins = histograms.score_bins(_scores())
    moved = [int(place) for place in bins]
    moved[moved.index(35)] = 40
    joint = [0] * 256
    for before, after in zip(bins, moved, strict=True):
        joint[before // 4 * 16 + after // 4] += 1
    return ShadowCounts(
        "sha256:" + "5ade0b0e" * 8,
        rows=5,
        dropped=2,
        decisions=(2, 1, 0, 2),
        scores=tuple(np.bincount(moved, minlength=64).tolist()),
        joint=tuple(joint),
        latency=(0,) * 14 + (3,) + (0,) * 25,
        cpu_ms=1,
    )


def _scores() -> list[float]:
    return list(parts().golden.scores)


def _count(inputs: InputContract, profile: Any) -> tuple[FeatureCounts, ...]:
    raw = inputs.matrix([dict(zip(inputs.names, row, strict=True)) for row in ROWS])
    counter = profile.counter(inputs)
    slots = counter.zeros()
    counter.add(slots, raw)
    return tuple(counter.split(slots))


def expectations(layout: bundle.Layout) -> Mapping[str, Any]:
    """What a reader must find in fraud-mini.wherry and its neighbours."""
    made = parts()
    raw = made.golden.matrix(made.manifest.input)
    return {
        "digest": layout.digest,
        "blobs": {name: sha256_digest(data) for name, data in _files(made)},
        "edges_id": made.profile.edges_id,
        "counter": 7,
        "tensor_bits": _bits(made.manifest.encoder.encode(raw)),
        "scores": list(made.golden.scores),
        "tolerance": made.golden.tolerance,
        "score_bins": histograms.score_bins(made.golden.scores).tolist(),
        "flagged": [value >= 0.5 for value in made.golden.scores],
        "fallback_flags": made.manifest.fallback.flags(raw, made.manifest.input).tolist()
        if made.manifest.fallback
        else [],
    }


def _files(made: bundle.Parts) -> Iterable[tuple[str, bytes]]:
    yield bundle.MODEL_FILE, made.model
    yield bundle.MANIFEST_FILE, made.manifest.to_bytes()
    yield bundle.PROFILE_FILE, made.profile.to_bytes()
    yield bundle.GOLDEN_FILE, made.golden.to_bytes()
    yield bundle.CARD_FILE, made.documents[bundle.CARD_FILE]


def _bits(tensor: np.ndarray[Any, Any]) -> list[list[str]]:
    """float32 cells as eight hexadecimal digits, since JSON has no NaN."""
    bits = tensor.astype(np.float32).view(np.uint32)
    return [[f"{cell:08x}" for cell in row] for row in bits.tolist()]


def psi_cases() -> list[dict[str, Any]]:
    """PSI and its statistics, to ten significant digits."""
    tables = {
        "no drift": ([100] * 10, [50] * 10),
        "a shift": ([100] * 10, [20, 25, 35, 45, 50, 50, 55, 65, 75, 80]),
        "too few rows": ([100] * 10, [9, 11, 10, 8, 12, 10, 9, 11, 10, 10]),
        "empty slots": ([0, 500, 500, 0], [10, 300, 290, 0]),
        "two slots": ([900, 100], [850, 150]),
        "many rows": ([50_000] * 4, [52_000, 49_000, 50_500, 48_500]),
    }
    return [
        {"name": name, "expected": expected, "actual": actual} | _assessed(expected, actual)
        for name, (expected, actual) in tables.items()
    ]


def _assessed(expected: list[int], actual: list[int]) -> dict[str, Any]:
    found = psi.assess(expected, actual)
    values = {name: _round(getattr(found, name)) for name in ("psi", "corrected", "p")}
    ends = {name: float(f"{getattr(found, name):.6g}") for name in ("low", "high")}
    material = {
        "p_material_0.05": _round(found.p_material(0.05)),
        "p_material_0.1": _round(found.p_material(0.1)),
    }
    return values | ends | material | {"needed": found.needed, "enough": found.enough}


def _round(value: float) -> float:
    return float(f"{value:.10g}")


def histogram_cases() -> dict[str, Any]:
    """Edges, and values that lie on them or beside them."""
    edges = histograms.SCORE_EDGES
    scores = [0.0, 1e-12, 0.001, 0.25, 0.5, 0.75, 0.999, 1.0]
    scores += [float(edges[10]), float(np.nextafter(edges[10], 0.0))]
    latencies = [0.0, 0.5, 1.0, 1.4, 1.5, 1.99, 2.0, 100.0, 1023.9, 1024.0, 524_288.0, 1e9]
    return {
        "score_edges": edges.tolist(),
        "scores": [[value, int(histograms.score_bins(value))] for value in scores],
        "latency_edges_us": histograms.LATENCY_EDGES_US.tolist(),
        "latencies_us": [[value, histograms.latency_bin(value)] for value in latencies],
    }


def encoder_cases() -> list[dict[str, Any]]:
    """Each step alone, and where double precision matters."""
    number = InputContract("n", 1, (Feature("X", missing="allow"),))
    kinds = ("a", "b", "c")
    category = InputContract(
        "c", 1, (Feature("X", "category", categories=kinds, missing="allow", unseen="allow"),)
    )
    table: list[tuple[str, InputContract, list[Step], list[Any]]] = [
        ("no step: the cast", number, [], [0.1, -1e-50, 16_777_217, True, None]),
        ("fill", number, [Step("fill", "X", {"value": -9.5})], [1.5, None]),
        (
            "offset before the cast keeps seconds apart",
            number,
            [Step("offset", "X", {"value": 1_795_478_400.0})],
            [1_795_478_400, 1_795_478_401, 1_795_478_402.5, None],
        ),
        ("clip", number, [Step("clip", "X", {"low": 0.0, "high": 2.0})], [-1, 0, 1.5, 3, None]),
        (
            "rank: how many edges lie below",
            number,
            [Step("rank", "X", {"edges": [0.0, 0.1, 7.0]})],
            [-1, 0, 0.05, 0.1, 0.10000000000000002, 7, 8, None],
        ),
        (
            "codes",
            category,
            [Step("codes", "X", {"values": [10.0, 20.0, 30.0], "unseen": -1.0})],
            ["a", "b", "c", "d", None],
        ),
        (
            "steps run in order",
            number,
            [
                Step("fill", "X", {"value": 5.0}),
                Step("offset", "X", {"value": 1.0}),
                Step("clip", "X", {"low": 0.0, "high": 3.5}),
            ],
            [0, 2, None],
        ),
        (
            "beyond float32 is infinity",
            number,
            [Step("offset", "X", {"value": -3e38})],
            [3e38, 0],
        ),
    ]
    found = []
    for name, inputs, steps, values in table:
        raw = inputs.matrix([{"X": value} for value in values])
        made = Encoder(inputs, tuple(steps))
        case = {"name": name, "input": inputs.to_dict(), "encoder": made.to_list()}
        found.append(case | {"values": values, "bits": [b[0] for b in _bits(made.encode(raw))]})
    return found


def slot_cases() -> list[dict[str, Any]]:
    """Which slot a value falls into."""
    up = math.nextafter
    table: list[tuple[str, Feature, list[float], list[Any]]] = [
        ("a value on an edge belongs below it", Feature("X"), [1.0, 2.0], [1, up(1, 2), 2, 3]),
        (
            "minimum and maximum are inside",
            Feature("X", minimum=0.0, maximum=10.0, missing="allow"),
            [5.0],
            [0, -0.0, up(0, -1), 10, up(10, 11), -1e300 / 1e262, None, 5],
        ),
        ("an edge beyond the maximum folds", Feature("X", maximum=2.0), [1.0, 3.0], [0, 1.5, 2, 4]),
        ("no edges: one bin", Feature("X", minimum=0.0), [], [1, 2, -1]),
        (
            "categories",
            Feature("X", "category", categories=("a", "b"), missing="allow", unseen="allow"),
            [],
            ["a", "b", "b", "zzz", None],
        ),
    ]
    found = []
    for name, feature, edges, values in table:
        inputs = InputContract("s", 1, (feature,))
        counter = SlotCounter(inputs.features, [edges])
        slots = counter.zeros()
        counter.add(slots, inputs.matrix([{"X": value} for value in values]))
        counts = counter.split(slots)[0]
        case = {"name": name, "feature": feature.to_dict(), "edges": edges, "values": values}
        found.append(case | {"counts": counts.to_dict()})
    return found


def every_file() -> dict[str, bytes]:
    """All vectors by their path."""
    files, layout = signed()
    documents = {
        "fraud-mini.json": expectations(layout),
        "psi.json": psi_cases(),
        "histograms.json": histogram_cases(),
        "encoder.json": encoder_cases(),
        "slots.json": slot_cases(),
    }
    shown = {
        name: json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"
        for name, document in documents.items()
    }
    return files | every_message(layout) | shown | make_compact.every_file()


def main(folder: Path) -> None:
    """Write them all."""
    for name, data in every_file().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
