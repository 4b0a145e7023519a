"""Who may import whom, and which library may be imported where (docs/architecture.md)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
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
        "device_agent/wherry_agent/link/mqtt.py",
        "toolkit/wherry/broker.py",
        "toolkit/wherry/server/",
        "toolkit/wherry/watch/bridge.py",
    ),
    "h11": ("device_agent/wherry_agent/serving/connection.py",),
    "onnxruntime": (
        "device_agent/wherry_agent/serving/runtime_onnx.py",
        "converters/",
        "toolkit/wherry/",
    ),
    "cryptography": (
        "toolkit/wherry/keys.py",
        "toolkit/wherry/signers.py",
        "toolkit/wherry/identity/",
        "toolkit/wherry/server/",
    ),
    "securesystemslib": ("contract/wherry_contract/signature.py", "toolkit/wherry/"),
    "tuf": (
        "device_agent/wherry_agent/trust/tuf_flow.py",
        "device_agent/wherry_agent/trust/tuf_client.py",
        "device_agent/wherry_agent/trust/tuf_verify.py",
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
        "device_agent/wherry_agent/serving/runtime_tflite.py",
        "converters/wherry_convert/tflite_scoring.py",
    ),
    "ai_edge_litert": (
        "device_agent/wherry_agent/serving/runtime_tflite.py",
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
    "alembic": ("toolkit/wherry/server/migrations/",),
    "starlette": ("toolkit/wherry/server/",),
    "uvicorn": ("toolkit/wherry/server/",),
    "prometheus_client": ("toolkit/wherry/server/",),
    "google": ("toolkit/wherry/watch/sparkplug.py",),
    "pyarrow": ("toolkit/wherry/",),
    "markdown_it": ("toolkit/wherry/server/",),
    "jinja2": ("toolkit/wherry/report/", "toolkit/wherry/build_report/"),
    "markupsafe": (
        "toolkit/wherry/report/",
        "toolkit/wherry/build_report/",
        "toolkit/wherry/server/web/",
    ),
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
            lazy = name in LAZY and not place.startswith(
                "device_agent/wherry_agent/serving/runtime_"
            )
            assert not (lazy and at_load), f"{place} imports {name} when it loads"
        else:
            assert name in sys.stdlib_module_names or name == "__future__", f"{place}: {name}"


def test_the_rule_can_fail() -> None:
    found = dict(_imports(ast.parse("import wherry.cli\ndef f():\n    import onnx")))
    assert found == {"wherry": True, "onnx": False}


# --- no circles -----------------------------------------------------------------------------


def _loads(package: str) -> dict[str, set[str]]:
    """What each file of a package imports of that package when it loads."""
    names = {
        ".".join(path.relative_to(PACKAGES[package]).with_suffix("").parts): path
        for _, path in _files()
        if path.is_relative_to(PACKAGES[package] / package)
    }
    return {name: _of_package(path, name, names.keys()) for name, path in names.items()}


def _of_package(path: Path, name: str, names: Collection[str]) -> set[str]:
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            nodes += ast.iter_child_nodes(node)
    return (found & set(names)) - {name}


def _circle(loads: Mapping[str, set[str]]) -> list[str]:
    """The files of a circle; none if there is no circle."""
    left = {name: set(wanted) for name, wanted in loads.items()}
    while ready := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in ready:
            del left[name]
    return sorted(left)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_waits_for_itself(package: str) -> None:
    assert _circle(_loads(package)) == []


def test_a_circle_is_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]
