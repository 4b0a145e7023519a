"""Making a blob out of another one and a delta, in a child: ``python -m wherry_agent.update.patching``.

A delta is signed by nobody, so what it does stays in a process with bounded memory and
time; what comes out is judged by its digest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wherry_agent.child import ChildFailure, cap_memory, child_main, run_child
from wherry_agent.store import BlobStore, durable_write
from wherry_contract.delta import Delta, apply_delta
from wherry_contract.errors import BundleError

_SECONDS: Final = 180.0
_SPARE_MIB: Final = 32


def patch(store: BlobStore, folder: Path, delta: Delta, size: int) -> None:
    """Make a blob from a delta that is in the store, and put it into the store.

    Args:
        store: holds the source and the delta, whole.
        folder: the store's.
        delta: what to apply.
        size: of the blob that should come out, in bytes.

    Raises:
        BundleError: B11, it does not fit, or something else came out.
        StoreError: D01, D06 or D07.
    """
    request = {
        "store": str(folder.absolute()),
        "source": delta.source,
        "delta": delta.digest,
        "result": str(store.part(delta.result).absolute()),
        "size": size,
    }
    try:
        run_child(__name__, request, seconds=_SECONDS)
    except ChildFailure as failure:
        raise BundleError("B11", str(failure)) from failure
    if not store.adopt(delta.result):
        raise BundleError("B11", f"it did not make {delta.result}")


def _work(request: Mapping[str, Any]) -> Mapping[str, Any]:
    store, size = BlobStore(Path(request["store"])), int(request["size"])
    source = store.read_whole(request["source"])
    packed = store.read_whole(request["delta"])
    # the old, the new, its three streams unpacked, and the delta
    cap_memory(_SPARE_MIB + (len(source) + 4 * size + 2 * len(packed)) // 2**20)
    try:
        made = apply_delta(source, packed, size)
    except MemoryError as error:
        raise BundleError("B11", "it needs more memory than its size explains") from error
    durable_write(Path(request["result"]), made)
    return {}


if __name__ == "__main__":
    sys.exit(child_main(_work))
