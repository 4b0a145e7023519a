"""What the main job needs on this machine, whether it is here, and how to get it if not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install
from wherry_contract.versions import in_range
from wherry_convert.environments import ENVIRONMENTS, MARK, Environment, folder_of

DISK_BYTES: Final = 2**30  # a fleet's server, its depot and a demo fit

# distribution, range, what it is for, the extra that brings it
Library = tuple[str, str, str, str]
LIBRARIES: Final[tuple[Library, ...]] = (
    ("numpy", ">=1.24,<3", "rows", "host"),
    ("onnxruntime", ">=1.27,<1.29", "scoring; from 1.29 on its wheels phone home", "host"),
    ("onnx", ">=1.19,<2", "converting", "host"),
    ("protobuf", ">=4.25,<7", "converting; with 7 conversions fail", "host"),
    ("scikit-learn", ">=1.5,<2", "source models", "sklearn"),
    ("skl2onnx", ">=1.18,<2", "converting", "sklearn"),
    ("skops", ">=0.11,<1", "reading models without running code", "sklearn"),
    ("pyarrow", ">=18", "reading data", "host"),
    ("securesystemslib", ">=1.3,<2", "signatures", "host"),
    ("cryptography", ">=42", "signing", "host"),
    ("paho-mqtt", ">=2.1,<3", "MQTT", "host"),
    ("sqlalchemy", ">=2.0.36,<3", "the server's store", "host"),
    ("starlette", ">=0.45,<2", "the server", "host"),
    ("uvicorn", ">=0.34,<1", "the server", "host"),
    ("vl-convert-python", ">=1.7,<2", "plots in reports", "host"),
    ("h11", ">=0.14,<1", "the agent's serving port", "agent"),
)
# likewise, for those who have models of theirs: absent is fine, too old or too new is not
FRAMEWORKS: Final[tuple[Library, ...]] = (
    ("xgboost-cpu", ">=3.2,<4", "source models of XGBoost", "xgboost"),
    ("lightgbm", ">=4.6,<5", "source models of LightGBM", "lightgbm"),
    ("tflite", ">=2.18,<3", "writing TFLite files", "tflite"),
    ("ai-edge-litert", ">=2.3,<2.4", "scoring TFLite files", "tflite"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        use: what it is for.
        found: what is here.
        fine: whether that is enough for the main job.
        cure: what to do if it is not; "" if it is.
    """

    what: str
    use: str
    found: str
    fine: bool
    cure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def examine(folder: Path, libraries: Iterable[Library] = LIBRARIES) -> list[Finding]:
    """Look at everything the main job needs.

    Args:
        folder: where the job would write.
        libraries: what must be installed, as the rows of `LIBRARIES`.
    """
    return [
        *_python(),
        *map(_library, libraries),
        *map(_framework, FRAMEWORKS),
        *map(_environment, ENVIRONMENTS.values()),
        _runtime(),
        _broker(),
        _disk(folder),
    ]


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    fine = in_range(found, ">=3.11")
    yield Finding("python", "everything", found, fine, "" if fine else "install Python 3.11")


def _library(row: Library) -> Finding:
    name, wanted, use, extra = row
    cure = how_to_install(extra)
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, use, "absent", fine=False, cure=cure)
    fine = in_range(found, wanted)
    return Finding(name, use, found, fine, "" if fine else f"pip install '{name}{wanted}'")


def _framework(row: Library) -> Finding:
    name, wanted, use, extra = row
    for other in (name, name.removesuffix("-cpu")):  # the full one brings the same module
        try:
            version(other)
        except PackageNotFoundError:
            continue
        return _library((other, wanted, use, extra))
    return Finding(name, use, "absent", fine=True, cure=f"{how_to_install(extra)}, if you need it")


def _environment(made: Environment) -> Finding:
    """Whether a heavy framework's own environment is there; absent is fine."""
    use = f"models of {made.title}, in an environment of its own"
    mark = folder_of(made.name) / MARK
    try:
        listed = mark.read_text().splitlines()
    except OSError:
        cure = f"wherry doctor --install {made.name}, if you need it ({made.megabytes} MB)"
        return Finding(made.name, use, "absent", fine=True, cure=cure)
    return Finding(made.name, use, ", ".join(listed[:2]) or "there", fine=True)


def _runtime() -> Finding:
    """Whether the runtime loads: a wheel for another board installs, and then does not."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    use, cure = "loads and scores here", "pip install --force-reinstall 'onnxruntime>=1.27,<1.29'"
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        return Finding("runtime", use, str(error).partition("\n")[0][:120], fine=False, cure=cure)
    providers = onnxruntime.get_available_providers()
    fine = "CPUExecutionProvider" in providers
    return Finding("runtime", use, ", ".join(providers), fine, "" if fine else cure)


def _broker() -> Finding:
    from .broker import find_engine

    use = "carries telemetry and orders"
    try:
        engine = find_engine()
    except SetupError as error:
        return Finding("broker", use, "absent", fine=False, cure=error.cure)
    return Finding("broker", use, engine.kind, fine=True)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    fine = free >= DISK_BYTES
    found = f"{free / 2**30:.1f} GiB free"
    cure = "" if fine else f"free {DISK_BYTES / 2**30:.0f} GiB, or work in another folder"
    return Finding("disk", "models, depot, store", found, fine, cure)
