"""The probe: does a bundle do on this board what it did where it was made?

Run as a child: ``python -m wherry_agent.serving.probe``. It loads the model from bytes, scores the
golden vectors, and measures latency and memory under limits that it sets on itself.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from wherry_agent.child import ChildFailure, cap_memory, cap_processor, child_main, run_child
from wherry_agent.store import BlobStore
from wherry_contract.bundle import Parts, load_parts
from wherry_contract.errors import ProbeError

from .inference import Model, load_model
from .runtime import preload

_TIMED_ROUNDS: Final = 200
_TIMED_SECONDS: Final = 1.0


def probe(store: Path, digest: str, *, seconds: float, mib: int) -> dict[str, Any]:
    """Probe a bundle whose blobs are in a store.

    Args:
        store: the state folder that holds ``blobs/``.
        digest: of the OCI manifest.
        seconds: after which the child is killed.
        mib: memory that the child may take over what it has when the runtime is loaded.

    Returns:
        ``largest_gap``, ``p50_us``, ``p95_us``, ``peak_mib``.

    Raises:
        ProbeError: P01 to P05.
        BundleError, ManifestError: what is in the store is no good bundle.
        StoreError: D06 or D07; the bundle is not to blame.
    """
    request = {"store": str(store.absolute()), "digest": digest, "mib": mib, "seconds": seconds}
    try:
        return run_child(__name__, request, seconds=seconds)
    except ChildFailure as failure:
        code = "P03" if failure.timed_out else "P02"
        raise ProbeError(code, str(failure)) from failure


def _work(request: Mapping[str, Any]) -> Mapping[str, Any]:
    preload()  # its memory is not the model's: before the cap
    cap_memory(request["mib"])
    cap_processor(request["seconds"])
    blobs = BlobStore(Path(request["store"]))
    try:
        parts = load_parts(
            blobs.read_whole(request["digest"]), lambda item: blobs.read(item.digest)
        )
        model = _load(request["digest"], parts)
        gap = _check_golden(model, parts)
        median, slow = _latency(model, parts)
    except MemoryError as error:
        raise ProbeError("P05", f"more than {request['mib']} MiB") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"largest_gap": gap, "p50_us": median, "p95_us": slow, "peak_mib": round(peak, 1)}


def _load(digest: str, parts: Parts) -> Model:
    try:
        return load_model(digest, parts)
    except ProbeError as error:
        _refuse_hunger(error)
        raise


def _check_golden(model: Model, parts: Parts) -> float:
    """Together and one by one: for one row a runtime has other kernels, which may be wrong.

    Seen: onnxruntime 1.21 for armhf, exact for two rows and more, wrong for every single one.
    """
    raw = parts.golden.matrix(parts.manifest.input)
    try:
        together = model.scores(raw)
        alone = np.concatenate([model.scores(row[np.newaxis]) for row in raw])
    except Exception as error:  # whatever a runtime throws at its own golden vectors is a refusal
        _refuse_hunger(error)
        raise ProbeError("P04", " ".join(str(error).split())[:300]) from error
    threshold = parts.manifest.output.threshold
    return max(parts.golden.judge(scores, threshold) for scores in (together, alone))


def _refuse_hunger(error: Exception) -> None:
    """A runtime tells of memory in words only: bad_alloc, bad allocation, failed to allocate."""
    if "alloc" in str(error).lower():
        raise MemoryError from error


def _latency(model: Model, parts: Parts) -> tuple[float, float]:
    """Median and 95 % quantile of one row, in microseconds, over varied rows."""
    raw = parts.golden.matrix(parts.manifest.input)
    times: list[float] = []
    end = time.perf_counter() + _TIMED_SECONDS
    for turn in range(_TIMED_ROUNDS):
        row = raw[turn % len(raw)][np.newaxis]
        start = time.perf_counter()
        model.scores(row)
        now = time.perf_counter()
        times.append((now - start) * 1e6)
        if now > end:
            break
    return round(float(np.quantile(times, 0.5)), 1), round(float(np.quantile(times, 0.95)), 1)


if __name__ == "__main__":
    sys.exit(child_main(_work))
