"""What a .keras file may hold, checked before Keras sees it.

`keras.saving.load_model` looks classes up by the names of modules that a file gives, even in
its safe mode, and layers of text read the files that they name. So the archive is read here
first, and only layers of a list, which compute with nothing but tensors, go on.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Final

from wherry_contract.errors import ConvertError

MAX_UNPACKED: Final = 2 * 2**30
MAX_CONFIG: Final = 64 * 2**20
_MOST_PARTS: Final = 100
_HOW: Final = "save it with model.save('model.keras') of Keras 3"
_PARTS: Final = ("metadata.json", "config.json", "model.weights.h5")
_LOOKUPS: Final = ("StringLookup", "IntegerLookup", "TextVectorization", "Hashing")
_LAYERS: Final = """
    Activation Add Average AveragePooling1D AveragePooling2D BatchNormalization CategoryEncoding
    Concatenate Conv1D Conv2D Cropping1D Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dropout
    ELU Embedding Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D InputLayer LayerNormalization
    LeakyReLU MaxPooling1D MaxPooling2D Maximum Minimum Multiply Normalization PReLU Permute ReLU
    Rescaling Reshape SeparableConv1D SeparableConv2D Softmax SpatialDropout1D SpatialDropout2D
    Subtract UnitNormalization ZeroPadding1D ZeroPadding2D
"""
LAYERS: Final = frozenset(_LAYERS.split())
_MODELS: Final = frozenset({"Functional", "Sequential", "Model"})
_MODULES: Final = re.compile(
    r"keras(\.layers|\.initializers|\.regularizers|\.constraints|\.models"
    r"|\.src\.models\.(functional|sequential))?"
)
# their classes hold numbers and names, whichever they are
_PLAIN: Final = ("keras.initializers", "keras.regularizers", "keras.constraints")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
# stand without a module of their own
_MARKS: Final = frozenset({"__keras_tensor__", "__tuple__"})


def check_archive(data: bytes) -> Any:
    """Refuse a .keras file that could run code or read other files.

    Args:
        data: the file.

    Returns:
        The document that describes the model.

    Raises:
        ConvertError: K01 a layer is not known, K04 it is no such file, K05 it holds more
            than known layers and tensors.
    """
    document = _read(data)
    if not isinstance(document, dict) or document.get("class_name") not in _MODELS:
        named = document.get("class_name") if isinstance(document, dict) else document
        detail = f"its model is a {str(named)[:60]!r}, and only Functional and Sequential say all"
        raise ConvertError("K05", detail, cure="build it of layers, without a class of its own")
    for item in _objects(document):
        _check_object(item)
    return document


def sizes(document: Any) -> Mapping[str, int]:
    """For each input that layers look up or encode: how many categories the least of them has.

    Args:
        document: as `check_archive` returns it.
    """
    found: dict[str, int] = {}
    for item in _objects(document):
        config = item.get("config")
        if item["class_name"] not in {"Embedding", "CategoryEncoding"} or not isinstance(
            config, dict
        ):
            continue
        most = config.get("input_dim") or config.get("num_tokens")
        for name in _feeders(item.get("inbound_nodes")):
            if isinstance(most, int):
                found[name] = min(most, found.get(name, most))
    return found


def _feeders(nodes: Any) -> Iterator[str]:
    for item in _objects(nodes):
        if item["class_name"] == "__keras_tensor__" and isinstance(item.get("config"), dict):
            history = item["config"].get("keras_history")
            if isinstance(history, list) and history:
                yield str(history[0])


def _read(data: bytes) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if len(entries) > _MOST_PARTS or size > MAX_UNPACKED:
                raise ConvertError("K04", f"it unpacks to {len(entries)} parts of {size} bytes")
            names = [entry.filename for entry in entries]
            odd = [name for name in names if name not in _PARTS]
            if odd or len(set(names)) != len(names):
                more = f"part {odd[0]!r}" if odd else "a part twice"
                raise ConvertError("K05", f"it holds {more}, beside layers and weights"[:300])
            if set(names) != set(_PARTS):
                raise ConvertError("K04", "it lacks its config or its weights", cure=_HOW)
            if archive.getinfo("config.json").file_size > MAX_CONFIG:
                raise ConvertError("K04", f"its config has more than {MAX_CONFIG} bytes")
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, EOFError) as error:
        detail = f"the file is no archive of Keras 3: {error}"
        raise ConvertError("K04", detail[:300], cure=_HOW) from error


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    """Everything that Keras would make an object of."""
    stack = [document]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            # what training left is never opened
            stack += [inner for key, inner in item.items() if key != "compile_config"]
            if "class_name" in item:
                yield item


def _check_object(item: Mapping[str, Any]) -> None:
    name, module = str(item["class_name"]), item.get("module")
    registered = item.get("registered_name")
    if name in _MARKS and module is None:
        return
    if name == "Lambda":
        detail = "it has a Lambda layer, which is code"
        cure = "say it in layers, or compute it before the model"
        raise ConvertError("K05", detail, cure=cure)
    if not isinstance(module, str) or not _MODULES.fullmatch(module):
        raise _unknown(name, module)
    if registered not in {None, name}:
        raise _unknown(name, registered)
    if module in _PLAIN or (module == "keras" and name == "DTypePolicy"):
        if not _PLAIN_NAME.fullmatch(name):
            raise _unknown(name, module)
        _check_policy(name, item.get("config"))
        return
    if name in _LOOKUPS:
        detail = f"layer {name} looks words up, and boards give a category as its place in a list"
        raise ConvertError("K01", detail, cure="take the place in the contract's list as input")
    if name not in LAYERS | _MODELS:
        raise ConvertError("K01", f"layer {name} is not known", cure=f"known: {_listed()}")


def _check_policy(name: str, config: Any) -> None:
    if name == "DTypePolicy" and config != {"name": "float32"}:
        kind = config.get("name") if isinstance(config, dict) else config
        detail = f"it computes in {str(kind)[:60]}, and boards in float32"
        raise ConvertError("K01", detail, cure="save it with the policy float32")


def _unknown(name: str, where: Any) -> ConvertError:
    detail = f"{name!r} of {str(where)!r} is none of Keras's own, and loading it runs code"
    return ConvertError("K05", detail[:300], cure="build the model of Keras's own layers")


def _listed() -> str:
    return ", ".join(sorted(LAYERS))
