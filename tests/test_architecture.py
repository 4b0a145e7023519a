"""Who may import whom, and which library may be imported where (docs/architecture.md)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

PACKAGES = {
    "wherry_contract": ROOT / "contract",
    "wherry_agent": ROOT / "device_agent",
    "wherry_convert": ROOT / "converters",
    "wherry": ROOT / "toolkit",
}
OURS = {
    "wherry_contract": set(),
    "wherry_agent": {"wherry_contract"},
    "wherry_convert": {"wherry_contract"},
    "wherry": {"wherry_contract", "wherry_convert"},
}
# third-party library -> where it may be imported, as prefixes of paths under the root
HOMES = {
    "click": ("toolkit/wherry/cli/", "toolkit/wherry/__main__.py"),
    "paho": (
        "device_agent/wherry_agent/mqtt.py",
        "toolkit/wherry/broker.py",
        "toolkit/wherry/server/",
    ),
    "h11": ("device_agent/wherry_agent/server.py",),
    "onnxruntime": ("device_agent/wherry_agent/runtime_onnx.py", "converters/", "toolkit/wherry/"),
    "cryptography": (
        "toolkit/wherry/keys.py",
        "toolkit/wherry/signers.py",
        "toolkit/wherry/identity/",
        "toolkit/wherry/server/",
    ),
    "securesystemslib": ("contract/wherry_contract/signature.py", "toolkit/wherry/"),
    "tuf": (
        "device_agent/wherry_agent/tuf_flow.py",
        "device_agent/wherry_agent/tuf_client.py",
        "device_agent/wherry_agent/tuf_verify.py",
        "toolkit/wherry/",
    ),
    "bsdiff4": ("toolkit/wherry/deltas.py",),
    "PyKCS11": ("toolkit/wherry/signers.py",),
    "onnx": ("converters/", "toolkit/wherry/"),
    "sklearn": ("converters/",),
    "tflite": ("converters/wherry_convert/tflite_",),
    "flatbuffers": (
        "converters/wherry_convert/tflite_write.py",
        "converters/wherry_convert/tflite_graph.py",
    ),
    "ai_edge_quantizer": ("converters/wherry_convert/tflite_quant.py",),
    "tflite_runtime": (
        "device_agent/wherry_agent/runtime_tflite.py",
        "converters/wherry_convert/tflite_scoring.py",
    ),
    "ai_edge_litert": (
        "device_agent/wherry_agent/runtime_tflite.py",
        "converters/wherry_convert/tflite_scoring.py",
        "converters/wherry_convert/tflite_graph.py",
    ),
    "xgboost": ("converters/wherry_convert/sources/xgboost_file.py",),
    "lightgbm": ("converters/wherry_convert/sources/lightgbm_file.py",),
    "torch": ("converters/wherry_convert/sources/torch_worker.py",),
    **dict.fromkeys(
        ("keras", "tensorflow", "tf2onnx", "h5py"),
        ("converters/wherry_convert/sources/keras_worker.py",),
    ),
    "pandas": ("converters/wherry_convert/sources/sklearn_model.py",),
    "skl2onnx": ("converters/",),
    "skops": ("converters/",),
    "joblib": ("converters/",),
    "sqlalchemy": ("toolkit/wherry/server/",),
    "starlette": ("toolkit/wherry/server/",),
    "uvicorn": ("toolkit/wherry/server/",),
    "prometheus_client": ("toolkit/wherry/server/",),
    "pyarrow": ("toolkit/wherry/",),
    "jinja2": ("toolkit/wherry/report/", "toolkit/wherry/build_report/"),
    "markupsafe": ("toolkit/wherry/report/", "toolkit/wherry/build_report/"),
    "vl_convert": ("toolkit/wherry/",),
    "numpy": ("contract/", "device_agent/", "converters/", "toolkit/wherry/"),
}
# lives history through with the agent's own code
SIMULATOR = "toolkit/wherry/replay/"
# programs that are started as files on a board: they import what is there, and nothing of the host
GUESTS = "toolkit/wherry/boards/guest_"
# heavy libraries are imported inside functions, so that what does not need them does not pay
LAZY = {
    "onnx",
    "onnxruntime",
    "sklearn",
    "skl2onnx",
    "skops",
    "joblib",
    "tflite",
    "tflite_runtime",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "xgboost",
    "lightgbm",
    "torch",
    "keras",
    "tensorflow",
    "tf2onnx",
    "h5py",
    "pyarrow",
    "vl_convert",
}


def _files() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted((folder / package).rglob("*.py")):
            yield package, path


def _imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Top-level names that are imported, and whether that happens when the file loads."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    } | {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], id(node) not in inside
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], id(node) not in inside


@pytest.mark.parametrize(
    ("package", "path"), [pytest.param(*x, id=str(x[1].relative_to(ROOT))) for x in _files()]
)
def test_imports(package: str, path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for name, at_load in _imports(ast.parse(path.read_text())):
        if place.startswith(GUESTS) and name in PACKAGES:
            assert name in ("wherry_agent", "wherry_contract"), f"{place} imports {name}"
        elif name == "wherry_agent" and place.startswith(SIMULATOR):
            pass
        elif name in PACKAGES:
            assert name == package or name in OURS[package], f"{place} imports {name}"
        elif name in HOMES:
            assert place.startswith(HOMES[name]), f"{place} imports {name}"
            # a runtime's own file is itself imported only where that runtime is wanted
            lazy = name in LAZY and not place.startswith("device_agent/wherry_agent/runtime_")
            assert not (lazy and at_load), f"{place} imports {name} when it loads"
        else:
            assert name in sys.stdlib_module_names or name == "__future__", f"{place}: {name}"


def test_the_rule_can_fail() -> None:
    found = dict(_imports(ast.parse("import wherry.cli\ndef f():\n    import onnx")))
    assert found == {"wherry": True, "onnx": False}
