"""What pip brings with each contestant, and the environment that has nearly all of them."""

from __future__ import annotations

import os
import re
from typing import Final

from common import ROOT
from common.olive import PACKAGES as OLIVE
from common.venvs import (
    MEBI,
    InstallFailedError,
    environment,
    install_seconds,
    installed_sizes,
)

INSTALL_HEADS: Final = ("pip install", "MiB", "seconds", "largest")
_OURS: Final = "sklearn,xgboost,lightgbm,tflite"
EVERYTHING: Final = (
    "-e",
    f"{ROOT}[{_OURS}]",
    "onnxmltools==1.16.0",
    "onnx_ir",
    "sympy",
    "ai-edge-quantizer==0.10.0",
    "pandas",
)
INSTALLS: Final = {
    "wherry[host]": (f"{ROOT}[host]",),
    "wherry[sklearn]": (f"{ROOT}[sklearn]",),
    f"wherry[{_OURS}]": (f"{ROOT}[{_OURS}]",),
    "skl2onnx onnxmltools lightgbm xgboost-cpu onnxruntime": (
        "skl2onnx", "onnxmltools", "lightgbm", "xgboost-cpu", "onnxruntime<1.29", "protobuf<7",
    ),
    "onnxruntime onnx sympy onnx_ir": ("onnxruntime<1.29", "onnx<2", "sympy", "onnx_ir"),
    "ai-edge-quantizer": ("ai-edge-quantizer==0.10.0",),
    "olive": OLIVE,
}  # fmt: skip


def installs() -> list[list[str]]:
    """The table of what pip brings."""
    rows = []
    for name, packages in INSTALLS.items():
        try:
            folder = environment(re.sub(r"[^a-z0-9]+", "-", name).strip("-"), packages)
        except InstallFailedError as error:
            rows.append([name, "", "", str(error)])
            continue
        sizes = installed_sizes(folder)
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{part} {size / MEBI:.0f}" for part, size in largest)
        total = sum(sizes.values()) / MEBI
        rows.append([name, f"{total:,.0f}", f"{install_seconds(folder):.0f}", parts])
    return rows


def enter_own_environment(program: str) -> None:
    """Run a program again in the environment that has all peers but Olive."""
    python = environment("compiler", EVERYTHING) / "bin" / "python"
    os.execv(python, [str(python), program, "--here"])  # noqa: S606 - our own program again
