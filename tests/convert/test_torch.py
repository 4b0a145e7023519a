"""PyTorch's .pt2 files: read before PyTorch sees them, exported and scored in its own environment."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_convert import numbers, scored
from support_frameworks import needs_framework

from wherry.cli.doctor import ENVIRONMENTS as OFFERED
from wherry_contract.errors import ConvertError, WherryError
from wherry_convert.environments import ENVIRONMENTS, FOLDER_VARIABLE, MARK, folder_of, run_in
from wherry_convert.parity import compare
from wherry_convert.quantize import METHODS, Budgets, quantize
from wherry_convert.sources import load_source
from wherry_convert.sources.torch_archive import check_archive
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.to_onnx import convert

# Linear 5-64, batch norm, ReLU, dropout, Linear 64-32, GELU, Linear 32-1, sigmoid; any number of
# rows; torch 2.13.0. What an exporter writes of paths and stack traces has been emptied.
NET = Path(__file__).parent / "data" / "net.pt2"
GRAPH = "net/models/model.json"


def changed(change: Callable[[Any], object] | None = None, **parts: bytes) -> bytes:
    """The archive with its graph changed, or with further parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(NET) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            data = parts.pop(entry.filename, None) or old.read(entry)
            if entry.filename == GRAPH and change:
                document = json.loads(data)
                change(document)
                data = json.dumps(document).encode()
            new.writestr(entry.filename, data)
        for name, data in parts.items():
            new.writestr(name, data)
    return buffer.getvalue()


def nodes(document: Any) -> Any:
    """The graph's nodes."""
    return document["graph_module"]["graph"]["nodes"]


def rows_of(document: Any) -> Any:
    """The sizes of the input."""
    return document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]


def test_a_good_one_passes() -> None:
    check_archive(NET.read_bytes())
    check_archive(changed())


# every place at which torch.export.load would run what a file says, and files that are none
REFUSED: list[tuple[str, Callable[[], bytes], str, str]] = [
    ("empty", lambda: b"", "K04", "no archive"),
    ("a pickle", lambda: pickle.dumps({"a": 1}), "K04", "no archive"),
    ("cut", lambda: NET.read_bytes()[:9000], "K04", "no archive"),
    ("a function of another module", lambda: changed(lambda d: nodes(d)[0].update(target="torch.os.system")), "K05", "torch.os.system"),
    ("an operator of a library", lambda: changed(lambda d: nodes(d)[0].update(target="torch.ops.mine.op.default")), "K05", "mine"),
    ("an extension", lambda: changed(lambda d: nodes(d)[0].update(target="#mine")), "K05", "#mine"),
    ("a size that is code", lambda: changed(lambda d: rows_of(d)[0]["as_expr"].update(expr_str="__import__('os').getpid()")), "K05", "__import__"),
    ("a size without end", lambda: changed(lambda d: rows_of(d)[0]["as_expr"].update(expr_str="9**9**9")), "K05", "9**9"),
    ("a guard", lambda: changed(lambda d: d.update(guards_code=["print(1)"])), "K05", "guards"),
    ("a name that is code", lambda: changed(lambda d: nodes(d)[0].update(name="x;print(1)")), "K05", "no name"),
    ("an argument of a class", lambda: changed(lambda d: d["graph_module"]["module_call_graph"][0]["signature"].update(in_spec='[1, {"type": "my.Type"}]')), "K05", "my.Type"),
    ("a custom object", lambda: changed(**{"net/data/constants/custom_obj_0": b"x"}), "K05", "custom_obj_0"),
    ("a compiled library", lambda: changed(**{"net/data/aotinductor/model/m.so": b"x"}), "K05", "m.so"),
    ("weights that are pickles", lambda: changed(**{"net/data/weights/model_weights_config.json": b'{"config": {"w": {"use_pickle": true}}}'}), "K05", "pickles"),
    ("two models", lambda: changed(**{"net/models/other.json": b"{}"}), "K04", "2 models"),
    ("no graph in it", lambda: changed(lambda d: d.pop("graph_module")), "K04", "lacks"),
    ("a fixed number of rows", lambda: changed(lambda d: rows_of(d).__setitem__(0, {"as_int": 2})), "K02", "2 rows"),
    ("a deep document", lambda: changed(**{GRAPH: b"[" * 100_000}), "K04", "no archive"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "code", "says"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_refused_before_pytorch_sees_it(make: Callable[[], bytes], code: str, says: str) -> None:
    with pytest.raises(ConvertError) as caught:
        check_archive(make())
    assert caught.value.code == code
    assert says in caught.value.detail
    assert caught.value.cure


def test_without_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(WherryError, match="K06") as caught:
        load_source("torch", NET)
    assert "wherry doctor --install torch" in caught.value.cure


def test_the_menu_is_the_table() -> None:
    assert tuple(ENVIRONMENTS) == OFFERED


@pytest.fixture
def borrowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is this interpreter's own, to try how programs are run."""
    import sys

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    folder = folder_of("torch")
    (folder / "bin").mkdir(parents=True)
    (folder / MARK).touch()
    (folder / "bin" / "python").symlink_to(sys.executable)


def test_a_program_that_fails_says_its_last_line(borrowed: None, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os, sys\nprint(sorted(os.environ))\nsys.exit(sys.argv[1])")
    with pytest.raises(ConvertError, match=r"K04.*torch: no luck"):
        run_in("torch", program, ["no luck"])
    program.write_text("import os\nprint('SECRET' in os.environ, os.environ['A'])")
    os.environ["SECRET"] = "1"
    assert run_in("torch", program, [], settings={"A": "b"}).split() == ["False", "b"]
    program.write_text("import threading\nthreading.Event().wait()")
    program.write_text("import os, sys\nsys.exit('K07 os.environ' * ('A' in os.environ))")
    with pytest.raises(ConvertError) as caught:
        run_in("torch", program, [], settings={"A": "b"})
    assert (caught.value.code, caught.value.detail) == ("K07", "os.environ")
    program.write_text("import threading\nthreading.Event().wait()")
    with pytest.raises(ConvertError, match="more than"):
        run_in("torch", program, [], timeout_seconds=0.5)


needs_torch = needs_framework("torch")


@needs_torch
@pytest.mark.slow
def test_exported_scored_and_quantized() -> None:
    source = load_source("torch", NET)
    assert source.family == "neural"
    assert source.versions["torch"].startswith("2.13.0")
    contract, raw = numbers(5), np.random.default_rng(3).normal(size=(2000, 5))
    converted = convert(source, contract)
    expected = source.scores(raw, contract)
    threshold = float(np.median(expected)) + 1e-5
    found = compare(expected, scored(converted).scores(raw), threshold)
    assert (found.flips, found.largest < 1e-6) == (0, True)
    pytest.importorskip("ai_edge_litert")
    lite = compare(expected, scored(convert_tflite(source, contract)).scores(raw), threshold)
    assert (lite.flips, lite.largest < 1e-6) == (0, True)
    assert b"torch" not in converted.model, "what the exporter wrote of itself is left out"
    assert convert(load_source("torch", NET), contract).model == converted.model
    done = quantize(
        converted,
        converted.encoder.encode(raw),
        threshold=float(np.median(expected)),
        methods=tuple(METHODS),
        budgets=Budgets(flips=20),
    )
    assert done.bytes_after * 1.9 < done.bytes_before


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@needs_torch
@pytest.mark.slow
def test_a_pickle_among_the_sample_inputs_is_not_opened(tmp_path: Path) -> None:
    """`torch.export.load` falls back to opening it; here that is forbidden."""
    mark, path = tmp_path / "ran", tmp_path / "m.pt2"
    path.write_bytes(changed(**{"net/data/sample_inputs/model.pt": pickle.dumps(_Bomb(mark))}))
    with pytest.raises(WherryError, match="K04"):
        load_source("torch", path)
    assert not mark.exists()
