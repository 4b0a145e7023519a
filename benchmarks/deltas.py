"""What a delta saves, by family of model: bsdiff, zstd's patch-from and the plain whole.

    python benchmarks/deltas.py

Trains on one year's payments (synthetic, seeded), and again with newer ones, both from
scratch and from where the old model stood; holds the sizes of the deltas against the
compressed whole, and says how long this machine takes to make and to apply one.
"""

from __future__ import annotations

import lzma
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import print_machine
from numpy.typing import NDArray

from wherry.deltas import make_delta
from wherry_contract.delta import LARGEST_SHARE, apply_delta

FEATURES = 64
ROWS = 10_000
LAYERS = (256, 128)
Floats = NDArray[np.float64]


def payments(seed: int, shift: float) -> tuple[Floats, Any]:
    """Rows and labels; `shift` moves what fraud looks like."""
    make = np.random.default_rng(seed)
    rows = make.normal(size=(ROWS, FEATURES))
    truth = np.random.default_rng(0).normal(size=FEATURES)
    truth += shift * np.random.default_rng(1).normal(size=FEATURES)
    odds = rows @ truth / 4 + np.sin(rows[:, 0] * rows[:, 1])
    return rows, (odds + make.normal(size=ROWS) > 1).astype(int)


def net_weights(net: Any) -> list[NDArray[np.float32]]:
    """The weights and biases."""
    return [np.asarray(item, np.float32) for item in (*net.coefs_, *net.intercepts_)]


def net_file(weights: list[Any]) -> bytes:
    """An ONNX file that holds them as initializers."""
    from onnx import TensorProto, helper, numpy_helper

    held = [numpy_helper.from_array(item, f"w{place}") for place, item in enumerate(weights)]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w0"], ["y"])],
        "net",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        held,
    )
    return bytes(helper.make_model(graph).SerializeToString(deterministic=True))


def int8(weights: list[Any], scales: list[float]) -> list[Any]:
    """Weights as 8-bit numbers, biases as they are."""
    halves = [
        np.clip(np.round(item / scale), -127, 127).astype(np.int8)
        for item, scale in zip(weights[: len(scales)], scales, strict=True)
    ]
    return halves + weights[len(scales) :]


def scales_of(weights: list[Any]) -> list[float]:
    """One scale for each matrix."""
    return [float(np.abs(item).max() / 127) for item in weights if item.ndim == 2]


def nets() -> Iterator[tuple[str, bytes, bytes]]:
    """Families of nets: name, the old file, the new one."""
    from sklearn.neural_network import MLPClassifier

    old_data, new_data = payments(1, 0.0), payments(2, 0.2)
    old = MLPClassifier(LAYERS, max_iter=8, random_state=0, warm_start=True).fit(*old_data)
    before = net_weights(old)
    fresh = net_weights(MLPClassifier(LAYERS, max_iter=8, random_state=5).fit(*new_data))
    tuned = old.set_params(learning_rate_init=1e-4, max_iter=2).fit(*new_data)
    after = net_weights(tuned)
    frozen, new = scales_of(before), scales_of(after)
    was = net_file(int8(before, frozen))
    yield "net, float32, tuned", net_file(before), net_file(after)
    yield "net, float32, from scratch", net_file(before), net_file(fresh)
    yield "net, int8, tuned, own scales", was, net_file(int8(after, new))
    yield "net, int8, tuned, scales kept", was, net_file(int8(after, frozen))
    yield "net, int8, from scratch", was, net_file(int8(fresh, scales_of(fresh)))


def trees() -> Iterator[tuple[str, bytes, bytes]]:
    """Families of trees: grown on, and from scratch."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import HistGradientBoostingClassifier

    def file_of(model: Any) -> bytes:
        return bytes(to_onnx(model, np.zeros((1, FEATURES), np.float32)).SerializeToString())

    old_data, new_data = payments(1, 0.0), payments(2, 0.2)
    model = HistGradientBoostingClassifier(max_iter=100, warm_start=True, random_state=0)
    before = file_of(model.fit(*old_data))
    after = file_of(model.set_params(max_iter=110).fit(*new_data))
    fresh = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(*new_data)
    yield "trees, 10 more on 100", before, after
    yield "trees, from scratch", before, file_of(fresh)


def patch_from(old: bytes, new: bytes) -> int:
    """Bytes of zstd's patch-from at its highest level."""
    import zstandard

    known = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    settings = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=27, enable_ldm=True, source_size=len(new)
    )
    return len(zstandard.ZstdCompressor(dict_data=known, compression_params=settings).compress(new))


def timed(work: Callable[[], bytes]) -> tuple[bytes, float]:
    """What came out, and milliseconds."""
    began = time.perf_counter()
    found = work()
    return found, 1000 * (time.perf_counter() - began)


def main() -> None:
    """Print the table."""
    print_machine()
    warnings.simplefilter("ignore")  # nets that have not converged; they need not
    print(
        "| model | whole, bytes | xz | bsdiff | zstd patch-from | bsdiff / xz | shipped | make, apply |"
    )
    print("|---|---:|---:|---:|---:|---:|---|---:|")
    for family in (nets, trees):
        for name, old, new in family():
            whole = len(lzma.compress(new, preset=9))
            delta, making = timed(lambda old=old, new=new: make_delta(old, new))
            _, applying = timed(
                lambda old=old, new=new, delta=delta: apply_delta(old, delta, len(new))
            )
            share = len(delta) / whole
            shipped = "delta" if share < LARGEST_SHARE else "whole"
            sizes = f"{len(new):,} | {whole:,} | {len(delta):,} | {patch_from(old, new):,}"
            print(
                f"| {name} | {sizes} | {share:.0%} | {shipped} | {making:.0f}, {applying:.0f} ms |"
            )


if __name__ == "__main__":
    main()
