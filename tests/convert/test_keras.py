"""Keras's files: read before Keras sees them, converted and scored in its own environment."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_convert import numbers, scored
from support_frameworks import needs_framework

from wherry_contract.errors import ConvertError, WherryError
from wherry_contract.features import InputContract
from wherry_convert.environments import FOLDER_VARIABLE, python_of
from wherry_convert.parity import compare
from wherry_convert.sources import keras_worker, load_source
from wherry_convert.sources.keras_archive import check_archive, sizes
from wherry_convert.sources.keras_file import KerasModel, quantized
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import convert

DATA = Path(__file__).parent / "data"  # made by make_keras.py there
NET = DATA / "perceptron.keras"
WEIGHTS = "model.weights.h5"


def changed(
    change: Callable[[Any], object] | None = None, *, of: Path = NET, **parts: bytes
) -> bytes:
    """The archive with its config changed, or with further parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(of) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            data = parts.pop(entry.filename, None) or old.read(entry)
            if entry.filename == "config.json" and change:
                document = json.loads(data)
                change(document)
                data = json.dumps(document).encode()
            new.writestr(entry.filename, data)
        for name, data in parts.items():
            new.writestr(name, data)
    return buffer.getvalue()


def layer(document: Any, name: str) -> Any:
    """The first layer of a class."""
    return next(item for item in document["config"]["layers"] if item["class_name"] == name)


def set_in(name: str, **values: Any) -> Callable[[Any], object]:
    """Change the description of a layer."""
    return lambda document: layer(document, name).update(values)


def set_config(name: str, **values: Any) -> Callable[[Any], object]:
    """Change a layer's own settings."""
    return lambda document: layer(document, name)["config"].update(values)


def test_good_ones_pass() -> None:
    check_archive(changed())
    document = check_archive((DATA / "named.keras").read_bytes())
    assert sizes(document) == {"mode": 3, "shop": 5}


FUNCTION = {"module": "builtins", "class_name": "function", "config": "f", "registered_name": "f"}
# every place at which keras.saving.load_model would run what a file says, and files that are none
REFUSED: list[tuple[str, Callable[[], bytes], str, str]] = [
    ("empty", lambda: b"", "K04", "no archive"),
    ("an HDF5 file of Keras 2", lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "K04", "no archive"),
    ("cut", lambda: NET.read_bytes()[:9000], "K04", "no archive"),
    ("a Lambda layer", (DATA / "code.keras").read_bytes, "K05", "Lambda"),
    ("a module of its own", lambda: changed(set_in("Dense", module="mine.layers")), "K05", "mine.layers"),
    ("a function of another module", lambda: changed(set_config("Dense", activation=FUNCTION)), "K05", "builtins"),
    ("a name of its own", lambda: changed(set_in("Dense", registered_name="mine>Dense")), "K05", "mine>Dense"),
    ("Keras's own tools", lambda: changed(set_in("Dense", module="keras.utils", class_name="get_file", registered_name=None)), "K05", "keras.utils"),
    ("no module", lambda: changed(set_in("Dense", module=None)), "K05", "none of Keras's own"),
    ("an initializer with dots", lambda: changed(set_config("Dense", kernel_initializer={"module": "keras.initializers", "class_name": "a.b", "config": {}})), "K05", "a.b"),
    ("a layer that calls TensorFlow", lambda: changed(set_in("Dense", class_name="TFSMLayer")), "K01", "TFSMLayer"),
    ("words", lambda: changed(set_in("Dense", class_name="StringLookup")), "K01", "place in a list"),
    ("half precision", lambda: changed(set_config("Dense", dtype={"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_float16"}, "registered_name": None})), "K01", "mixed_float16"),
    ("a class of model", lambda: changed(lambda d: d.update(class_name="Mine")), "K05", "Mine"),
    ("files beside it", lambda: changed(**{"assets/words.txt": b"x"}), "K05", "words.txt"),
    ("no weights", lambda: _without(WEIGHTS), "K04", "lacks"),
    ("a deep document", lambda: changed(**{"config.json": b"[" * 100_000}), "K04", "no archive"),
    ("another document", lambda: changed(**{"config.json": b"[]"}), "K05", "Functional"),
]  # fmt: skip


def _without(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(NET) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            if entry.filename != name:
                new.writestr(entry.filename, old.read(entry))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "code", "says"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_refused_before_keras_sees_it(make: Callable[[], bytes], code: str, says: str) -> None:
    with pytest.raises(ConvertError) as caught:
        check_archive(make())
    assert caught.value.code == code
    assert says in caught.value.detail
    assert caught.value.cure


def test_without_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(WherryError, match="K06") as caught:
        load_source("keras", NET)
    assert "wherry doctor --install tensorflow" in caught.value.cure


def payments(order: tuple[str, ...], *, shops: int = 5, unseen: str = "refuse") -> InputContract:
    """The contract of the named net, in an order."""
    kinds = {
        "amount": {},
        "risk": {},
        "mode": {"dtype": "category", "categories": ["chip", "swipe", "web"]},
        "shop": {"dtype": "category", "categories": [f"s{k}" for k in range(shops)]},
    }
    kinds["shop"]["unseen"] = unseen
    features = [{"name": name} | kinds[name] for name in order]
    return InputContract.from_dict({"name": "test", "version": 1, "features": features})


def named_rows(order: tuple[str, ...]) -> Any:
    """Rows for it, the same in any order."""
    make = np.random.default_rng(4)
    columns = {
        "amount": make.normal(size=500),
        "risk": make.normal(size=500),
        "mode": make.integers(0, 3, 500).astype(float),
        "shop": make.integers(0, 5, 500).astype(float),
    }
    return np.stack([columns[name] for name in order], axis=1)


OWN = ("amount", "risk", "mode", "shop")
OTHER = ("shop", "risk", "mode", "amount")
# file, contract, rows
RIGHT: list[tuple[str, InputContract, Any]] = [
    ("perceptron", numbers(5), np.random.default_rng(3).normal(size=(2000, 5))),
    ("named", payments(OWN), named_rows(OWN)),
    ("named", payments(OTHER), named_rows(OTHER)),
    ("signal", numbers(16), np.random.default_rng(3).normal(size=(500, 16))),
    ("image", numbers(36), np.random.default_rng(3).normal(size=(500, 36))),
]


@functools.cache
def opened(name: str) -> KerasModel:
    """The model of a file: starting TensorFlow takes seconds, so each is converted once."""
    found = load_source("keras", DATA / f"{name}.keras")
    assert isinstance(found, KerasModel)
    return found


@needs_framework("tensorflow")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "contract", "raw"), RIGHT, ids=["matrix", "named", "other order", "1d", "2d"]
)
def test_both_targets_decide_as_keras(name: str, contract: InputContract, raw: Any) -> None:
    pytest.importorskip("ai_edge_litert")
    source = opened(name)
    assert source.family == "neural"
    assert source.versions["keras"].startswith("3.")
    expected = source.scores(raw, contract)
    threshold = float(np.median(expected)) + 1e-5
    assert len(np.unique(expected)) > 100
    for to in (convert, convert_tflite):
        made = to(source, contract)
        found = compare(expected, scored(made).scores(raw), threshold)
        assert (found.flips, found.largest < 2e-6) == (0, True)
    assert b"keras" not in convert(source, contract).model, "names of layers are left out"


@needs_framework("tensorflow")
@pytest.mark.slow
def test_contracts_that_do_not_fit() -> None:
    source = opened("named")
    for contract, says in (
        (numbers(4), "differ: amount"),
        (payments(OWN, shops=6), "6 categories"),
        (payments(OWN, unseen="allow"), "places in a list"),
    ):
        with pytest.raises(ConvertError, match=says) as caught:
            source.lower(contract)
        assert caught.value.code == "K07"


@needs_framework("tensorflow")
@pytest.mark.slow
def test_same_bytes_from_another_folder(tmp_path: Path) -> None:
    """tf2onnx goes through sets: what runs it gives the hash seed."""
    pytest.importorskip("ai_edge_litert")
    path, contract = tmp_path / "m.keras", payments(OWN)
    path.write_bytes((DATA / "named.keras").read_bytes())
    one, two = opened("named"), load_source("keras", path)
    assert convert(one, contract).model == convert(two, contract).model
    assert convert_tflite(one, contract).model == convert_tflite(two, contract).model


@needs_framework("tensorflow")
@pytest.mark.slow
def test_tensorflows_quantizer() -> None:
    pytest.importorskip("ai_edge_litert")
    source, contract, raw = opened("perceptron"), numbers(5), RIGHT[0][2][:300]
    rows = raw[:100].astype(np.float32)
    whole = convert_tflite(source, contract)
    made = quantized(source, contract, "int8", rows)
    assert len(made) < len(whole.model)
    assert made == quantized(source, contract, "int8", rows)
    half = convert_tflite(source, contract, weights="float16")
    assert np.abs(scored(half).scores(raw) - scored(whole).scores(raw)).max() < 2e-3
    for method, given in (("int3", rows), ("int8", rows[:0])):
        with pytest.raises(ConvertError, match="K02"):
            quantized(source, contract, method, given)


@needs_framework("tensorflow")
@pytest.mark.slow
def test_scores_that_are_no_probabilities() -> None:
    source = opened("logits")
    with pytest.raises(ConvertError, match="goes from") as caught:
        source.scores(RIGHT[0][2], numbers(5))
    assert caught.value.code == "K01"


LINKED = """
import h5py, sys
with h5py.File(sys.argv[1], "a") as file:
    if sys.argv[2] == "link":
        file["mine"] = h5py.ExternalLink("/etc/hostname", "/a")
    else:
        external = [("/etc/hostname", 0, 8)]
        file.create_dataset("mine", shape=(8,), dtype="u1", external=external)
"""


@needs_framework("tensorflow")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["link", "external"])
def test_weights_that_lie_in_other_files(kind: str, tmp_path: Path) -> None:
    weights, path = tmp_path / WEIGHTS, tmp_path / "m.keras"
    with zipfile.ZipFile(NET) as archive:
        weights.write_bytes(archive.read(WEIGHTS))
    python = str(python_of("tensorflow"))
    subprocess.run([python, "-c", LINKED, str(weights), kind], check=True)
    path.write_bytes(changed(**{WEIGHTS: weights.read_bytes()}))
    with pytest.raises(ConvertError, match="K05"):
        load_source("keras", path)


def test_the_program_imports_nothing_of_ours() -> None:
    """It runs where none of it is installed."""
    assert "wherry_" not in Path(str(keras_worker.__file__)).read_text()
