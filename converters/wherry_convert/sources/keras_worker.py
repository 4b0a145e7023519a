"""Runs in TensorFlow's own environment: convert a checked .keras file, or score rows.

    python keras_worker.py export MODEL.keras OUT.onnx OUT.tflite [NAMES.json]
    python keras_worker.py score MODEL.keras ROWS.npy OUT.npy [NAMES.json]
    python keras_worker.py quantize MODEL.keras METHOD ROWS.npy OUT.tflite [NAMES.json]

NAMES.json lists the inputs in the order of the columns of a row; without it they come as
the model has them. Nothing of Wherry is installed there, so that this file imports nothing
of it. Files are opened in Keras's safe mode, without what training left in them.
"""

from __future__ import annotations

import io
import json
import math
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

BATCH = 8192
OPSET = 17  # the newest that tf2onnx knows well, and below what boards take
LIBRARIES = ("tensorflow-cpu", "keras", "tf2onnx")
WEIGHTS = "model.weights.h5"


def _load(path: str) -> Any:
    import keras
    import tensorflow as tf

    _check_weights(path)
    # sums of several threads come in any order
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.set_floatx("float32")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (TypeError, ValueError, KeyError, OSError) as error:
        sys.exit("K04 Keras cannot read it: " + " ".join(str(error).split())[:250])
    if len(model.outputs) != 1:
        sys.exit(f"K01 it has {len(model.outputs)} outputs, and a bundle has one")
    return model


def _check_weights(path: str) -> None:
    """Refuse weights that lie in other files: HDF5 follows such links wherever they lead."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        data = archive.read(WEIGHTS)
    with h5py.File(io.BytesIO(data), "r") as file:
        groups = [file]
        while groups:
            group = groups.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    sys.exit(f"K05 its weights have a link at {name!r}")
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif item.external or item.is_virtual:
                    sys.exit(f"K05 its weights {name!r} lie in another file")


def _inputs(model: Any) -> list[dict[str, Any]]:
    return [
        {"name": item.name, "shape": list(item.shape), "dtype": str(item.dtype)}
        for item in model.inputs
    ]


def _frozen(model: Any, names: list[str], rows: int | None) -> Any:
    """The model as a function of one matrix, with its weights as constants."""
    import keras
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants as freezer

    flat = keras.Model(model.inputs, model.outputs[0])
    items = {item.name: item for item in model.inputs}
    shapes = {name: [int(size) for size in item.shape[1:]] for name, item in items.items()}
    starts, width = {}, 0
    for name in names or list(items):
        starts[name] = width
        width += math.prod(shapes[name])

    def run(table: Any) -> Any:
        parts = []
        for name, item in items.items():
            end = starts[name] + math.prod(shapes[name])
            part = table[:, starts[name] : end] if len(items) > 1 else table
            part = part if len(shapes[name]) == 1 else tf.reshape(part, [-1, *shapes[name]])
            parts.append(part if item.dtype == "float32" else tf.cast(part, item.dtype))
        found = flat(parts if len(parts) > 1 else parts[0], training=False)
        return tf.reshape(found, [-1, *(int(size) for size in found.shape[1:])])

    entry = tf.TensorSpec([rows, width], tf.float32, name="rows")
    made = tf.function(run, input_signature=[entry], autograph=False).get_concrete_function()
    return freezer.convert_variables_to_constants_v2(made)


def _names(paths: tuple[str, ...]) -> list[str]:
    return [str(name) for name in json.loads(Path(paths[0]).read_text())] if paths else []


def export(path: str, onnx: str, tflite: str, *names: str) -> dict[str, Any]:
    """Write the model as ONNX and as TFLite; returns its inputs and the versions that made them."""
    import tf2onnx

    model = _load(path)
    frozen = _frozen(model, _names(names), None)
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[item.name for item in frozen.inputs],
        output_names=[item.name for item in frozen.outputs],
        opset=OPSET,
    )
    _spell_out(proto.graph)
    _in_order(proto.graph)
    Path(onnx).write_bytes(proto.SerializeToString(deterministic=True))
    versions = {name: version(name) for name in LIBRARIES}
    try:
        Path(tflite).write_bytes(_converter(model, _names(names)).convert())
        refused = ""
    except Exception as error:  # noqa: BLE001 - passes of its compiler fail in any way; ONNX stands
        words = next((line for line in str(error).splitlines() if line.strip()), "no word")
        refused = f"TensorFlow's converter refuses it: {words}"[:300]
    return {"inputs": _inputs(model), "versions": versions, "refused": refused}


def _spell_out(graph: Any) -> None:
    """Write GELU's Erfc, which ONNX has not, as 1 - Erf."""
    from onnx import TensorProto, helper

    nodes = []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        inner, one = f"{node.output[0]}/erf", f"{node.output[0]}/one"
        graph.initializer.append(helper.make_tensor(one, TensorProto.FLOAT, [], [1.0]))
        nodes.append(helper.make_node("Erf", list(node.input), [inner]))
        nodes.append(helper.make_node("Sub", [one, inner], list(node.output)))
    _replace(graph.node, nodes)


def _in_order(graph: Any) -> None:
    """Nodes and constants in the order in which the output asks for them.

    tf2onnx goes through sets of objects, so that its order is another one in each process.
    """
    makers = {name: node for node in graph.node for name in node.output}
    ordered: dict[str, Any] = {}
    open_nodes = [makers[item.name] for item in graph.output]
    while open_nodes:
        node = open_nodes[-1]
        inner = [makers[name] for name in node.input if name in makers]
        wanting = [item for item in inner if item.output[0] not in ordered]
        if wanting:
            open_nodes.append(wanting[0])
            continue
        ordered.setdefault(node.output[0], node)
        open_nodes.pop()
    uses: dict[str, int] = {}
    for node in ordered.values():
        for name in node.input:
            uses.setdefault(name, len(uses))
    kept = [item for item in graph.initializer if item.name in uses]
    _replace(graph.initializer, sorted(kept, key=lambda item: uses[item.name]))
    _replace(graph.node, ordered.values())


def _replace(items: Any, wanted: Iterable[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in wanted]
    del items[:]
    items.extend(copies)


def _converter(model: Any, names: list[str]) -> Any:
    import tensorflow as tf

    # one row at a time: no operators that ask for shapes
    made = tf.lite.TFLiteConverter.from_concrete_functions([_frozen(model, names, 1)])
    made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return made


def score(path: str, rows: str, out: str, *names: str) -> dict[str, Any]:
    """Write what Keras gives for rows, as float64."""
    import numpy as np
    import tensorflow as tf

    function = _frozen(_load(path), _names(names), None)
    table = np.load(rows, allow_pickle=False)
    parts = [
        np.asarray(function(tf.constant(table[start : start + BATCH]))[0], np.float64)
        for start in range(0, len(table), BATCH)
    ]
    np.save(out, np.concatenate(parts), allow_pickle=False)
    return {}


def quantize(path: str, method: str, rows: str, out: str, *names: str) -> dict[str, Any]:
    """Write a quantized TFLite file, by TensorFlow's own quantizer."""
    import numpy as np
    import tensorflow as tf

    made = _converter(_load(path), _names(names))
    table = np.load(rows, allow_pickle=False)

    def one_by_one() -> Iterator[list[Any]]:
        return ([table[place : place + 1]] for place in range(len(table)))

    made.optimizations = [tf.lite.Optimize.DEFAULT]
    if method == "float16":
        made.target_spec.supported_types = [tf.float16]
    elif method == "int8":
        made.representative_dataset = one_by_one
        made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    elif method == "int16":
        made.representative_dataset = one_by_one
        made.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    elif method != "dynamic":
        sys.exit(f"K02 {method!r} is no method of TensorFlow's quantizer")
    Path(out).write_bytes(made.convert())
    return {"versions": {name: version(name) for name in LIBRARIES}}


ACTS: dict[str, Callable[..., dict[str, Any]]] = {
    "export": export,
    "score": score,
    "quantize": quantize,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(ACTS[sys.argv[1]](*sys.argv[2:])))  # noqa: T201 - its answer
