"""The plain tools, called as their documentation says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.olive import VERSION, olive_static


@dataclass(frozen=True)
class Peer:
    """A contestant.

    Attributes:
        name: for the table.
        library: the distribution that it comes from.
        make: from a float file (or a model) and calibration rows to a file.
        tflite: whether it takes TFLite files.
        kinds: of forests, as Wherry names the source.
    """

    name: str
    library: str
    make: Callable[[Any, Any], bytes]
    tflite: bool = False
    kinds: tuple[str, ...] = ()


_KEY = "serving_default"


def version_of(library: str) -> str:
    """A distribution and its version."""
    if library == "olive-ai":  # in an environment of its own
        return f"{library} {VERSION}"
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} absent"


class Reader:
    """Calibration rows for onnxruntime, one at a time as its examples do."""

    def __init__(self, rows: Any) -> None:
        self._rows = iter(rows[:, None])

    def get_next(self) -> Any:
        """The next row."""
        row = next(self._rows, None)
        return None if row is None else {"input": row}


def _prepared(model: bytes, folder: Path) -> str:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready = folder / "f.onnx", folder / "p.onnx"
    plain.write_bytes(model)
    quant_pre_process(str(plain), str(ready))
    return str(ready)


def _dynamic(model: bytes, _rows: Any) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "q.onnx"
        quantize_dynamic(_prepared(model, Path(name)), str(out), weight_type=QuantType.QInt8)
        return out.read_bytes()


def _static(activation: str, method: str, *, per_channel: bool, keep_ends: bool = False) -> Any:
    def make(model: bytes, rows: Any) -> bytes:
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        with tempfile.TemporaryDirectory() as name:
            ready, out = _prepared(model, Path(name)), Path(name) / "q.onnx"
            layers = [
                n.name for n in onnx.load(ready).graph.node if n.op_type in {"MatMul", "Gemm"}
            ]
            quantize_static(
                ready,
                str(out),
                Reader(rows),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType[activation],
                weight_type=QuantType.QInt8,
                per_channel=per_channel,
                calibrate_method=CalibrationMethod[method],
                nodes_to_exclude=[layers[0], layers[-1]] if keep_ends else [],
            )
            return out.read_bytes()

    return make


def _four_bits(model: bytes, _rows: Any) -> bytes:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load_model_from_string(model), block_size=32)
    quantizer.process()
    return bytes(quantizer.model.model.SerializeToString())


def _signed(model: bytes) -> bytes:
    """A TFLite file with a signature, which calibration asks for."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    graph, signature = tree.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = _KEY, 0
    for name, places, kept in (
        ("input", graph.inputs, "inputs"),
        ("output", graph.outputs, "outputs"),
    ):
        item = schema.TensorMapT()
        item.name, item.tensorIndex = name, int(places[0])
        setattr(signature, kept, [item])
    tree.signatureDefs = [signature]
    builder = flatbuffers.Builder(len(model))
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _edge(recipe: str) -> Any:
    def make(model: bytes, rows: Any) -> bytes:
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer import recipe as recipes

        with tempfile.TemporaryDirectory() as name:
            plain, out = Path(name) / "f.tflite", Path(name) / "q.tflite"
            plain.write_bytes(_signed(model))
            made = quantizer.Quantizer(str(plain))
            made.load_quantization_recipe(getattr(recipes, recipe)())
            given = None
            if made.need_calibration:
                given = made.calibrate({_KEY: [{"input": row} for row in rows[:, None]]})
            made.quantize(given).export_model(str(out))
            return out.read_bytes()

    return make


def _skl2onnx(model: Any, _rows: Any) -> bytes:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    kinds = [("input", FloatTensorType([None, model.n_features_in_]))]
    done = to_onnx(model, initial_types=kinds, options={id(model): {"zipmap": False}})
    return bytes(done.SerializeToString())


def _onnxmltools(model: Any, _rows: Any) -> bytes:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    kinds = [("input", FloatTensorType([None, 30]))]
    if type(model).__module__.startswith("lightgbm"):
        done = onnxmltools.convert_lightgbm(model, initial_types=kinds, zipmap=False)
    else:
        done = onnxmltools.convert_xgboost(model, initial_types=kinds)
    return bytes(done.SerializeToString())


NET_PEERS = (
    Peer("onnxruntime dynamic int8", "onnxruntime", _dynamic),
    Peer("onnxruntime static U8S8 MinMax", "onnxruntime", _static("QUInt8", "MinMax", per_channel=False)),
    Peer("onnxruntime static S8S8 Entropy, by channel", "onnxruntime", _static("QInt8", "Entropy", per_channel=True)),
    Peer("onnxruntime static U8S8 Percentile, by channel", "onnxruntime", _static("QUInt8", "Percentile", per_channel=True)),
    Peer("onnxruntime static U16S8", "onnxruntime", _static("QUInt16", "MinMax", per_channel=False)),
    Peer("the same U8S8 MinMax, first and last layer float by hand", "onnxruntime", _static("QUInt8", "MinMax", per_channel=True, keep_ends=True)),
    Peer("onnxruntime MatMulNBits int4", "onnxruntime", _four_bits),
    Peer("Olive static int8", "olive-ai", olive_static),
    Peer("ai-edge-quantizer dynamic wi8", "ai-edge-quantizer", _edge("dynamic_wi8_afp32"), tflite=True),
    Peer("ai-edge-quantizer static wi8ai8", "ai-edge-quantizer", _edge("static_wi8_ai8"), tflite=True),
)  # fmt: skip
TREE_PEERS = (
    Peer("skl2onnx", "skl2onnx", _skl2onnx, kinds=("sklearn",)),
    Peer("onnxmltools", "onnxmltools", _onnxmltools, kinds=("lightgbm", "xgboost")),
)
