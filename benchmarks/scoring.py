"""What the agent's own work costs on top of the model, for each payment.

    python benchmarks/scoring.py

The agent's path (named raw values, contract check, encoder, session, answers, counting;
and with the protocol's JSON around it) beside the bare ONNX Runtime session on the same
model, and beside scikit-learn's predict_proba on the source model. One row at a time, and
in batches; rows differ from call to call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from common import EXAMPLE, example_parts, example_rows, print_machine, print_race, race, turns

from wherry_agent.clock import SystemClock
from wherry_agent.config import AgentConfig, Limits
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_agent.serving.service import Call, Service
from wherry_contract.bundle import Parts

ROWS: Final = 500
SLOW_ROWS: Final = 25  # of an entry that takes a millisecond a row
BATCH: Final = 250
BOUND: Final = "the same, memory bound once"
BARE: Final = "onnxruntime session.run, rows encoded before"


def bare_session(parts: Parts) -> Callable[[Any], object]:
    """The peer: ONNX Runtime with the agent's own settings, and nothing around it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = parts.manifest.runtime.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(parts.model, options, providers=["CPUExecutionProvider"])
    outputs, name = [parts.manifest.output.tensor], session.get_inputs()[0].name
    return lambda tensor: session.run(outputs, {name: tensor})


def bound_session(parts: Parts) -> Callable[[Any], object]:
    """The peer with memory bound once: the least that Python can do."""
    session = load_model("sha256:" + "0" * 64, parts)
    tensor = np.empty((1, len(parts.manifest.input.features)), np.float32)
    score = session.bind(tensor)
    assert score is not None  # noqa: S101 - the example's models have one score

    def run(row: Any) -> float:
        tensor[...] = row
        return score()

    return run


def source_model(file: str) -> Any:
    """The model as it was trained."""
    import skops.io

    path = EXAMPLE / "build" / file
    return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))


def agent(parts: Parts) -> tuple[Scorer, Served]:
    """An agent's scorer that serves the bundle; full windows go nowhere."""
    served = Served.by_model(load_model("sha256:" + "0" * 64, parts))
    scorer = Scorer(Limits(), SystemClock(), lambda _: None)
    scorer.swap(served)
    return scorer, served


def contestants(project: str, file: str, batch: int) -> dict[str, Callable[[], int]]:
    """All entries, on chunks of `batch` rows."""
    parts = example_parts(project)
    contract, encoder = parts.manifest.input, parts.manifest.encoder
    named = example_rows(ROWS)
    chunks = [named[start : start + batch] for start in range(0, ROWS, batch)]
    raws = [contract.matrix(chunk) for chunk in chunks]
    tensors = [encoder.encode(raw) for raw in raws]
    few = raws[: max(1, SLOW_ROWS // batch)]
    scorer, served = agent(parts)
    service = Service(_config(), scorer, "bench")
    now = time.monotonic()
    calls = [
        Call("POST", "/v2/models/fraud/infer", json.dumps({"rows": chunk}).encode(), started=now)
        for chunk in chunks
    ]
    source, bare = source_model(file), bare_session(parts)
    single = {
        BARE: (tensors, bare),
        "scikit-learn predict_proba": (few, source.predict_proba),
        "agent: contract check alone": (chunks, contract.matrix),
        "agent: encoder alone": (raws, encoder.encode),
        "agent: check, encoder, session": (
            chunks, lambda chunk: served.model and served.model.answer(contract.matrix(chunk)),
        ),
        "agent: the same and counting": (
            chunks,
            lambda chunk: scorer.answer(contract.matrix(chunk), served, started=time.monotonic(), at=1.5e9),
        ),
        "agent: the same from and to JSON": (calls, service.handle),
    }  # fmt: skip
    if batch == 1:
        rows = [row for (row,) in chunks]
        single |= {
            BOUND: (tensors, bound_session(parts)),
            "agent: short way, counted": (rows, scorer.answer_one),
        }
    return {name: _by_rows(turns(*entry), batch) for name, entry in single.items()}


def _by_rows(run: Callable[[], int], batch: int) -> Callable[[], int]:
    return lambda: run() * batch


def _config() -> AgentConfig:
    nowhere = Path()
    return AgentConfig("bench", "bench", "fraud", nowhere, nowhere, None, "", "127.0.0.1:8600")


def main() -> None:
    """The command line."""
    from threadpoolctl import threadpool_limits

    print_machine("numpy", "onnxruntime", "scikit-learn")
    print("one thread each")
    for title, project, file in (
        ("boosted trees, 150 trees of 15 leaves", "project.toml", "gradient_boosting.skops"),
        ("neural net, int8", "mlp.toml", "mlp.skops"),
    ):
        for batch in (1, BATCH):
            print(f"\n{title}; {batch} row{'s' if batch > 1 else ''} a call")
            entries = contestants(project, file, batch)
            with threadpool_limits(1):  # scikit-learn would start as many as there are cores
                print_race(race(entries), BARE)


if __name__ == "__main__":
    main()
