"""Heavy frameworks live in environments of their own, and only programs of ours run there.

An environment is a venv under the user's cache folder, made by `wherry doctor --install`.
Its pins are stated here; a program that runs in it gets files and gives files, in a
process that may be killed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_contract.errors import ConvertError

FOLDER_VARIABLE: Final = "WHERRY_ENVIRONMENTS"
TIMEOUT_SECONDS: Final = 600.0
MARK: Final = "wherry-complete"  # written last, so that half an environment is none
_CODED: Final = re.compile(r"(K0[1-7]) ")
_LEAST_PIPE: Final = 2000  # characters of what it said that an error keeps


@dataclass(frozen=True)
class Environment:
    """An environment that can be made.

    Attributes:
        name: as `wherry doctor --install` takes it.
        title: what is in it, for people.
        packages: pins that were tested together.
        index: a further package index; "" for none.
        probe: Python that fails if the environment does not work.
        megabytes: about how much disk it takes.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    index: str
    probe: str
    megabytes: int


ENVIRONMENTS: Final[Mapping[str, Environment]] = {
    "torch": Environment(
        "torch",
        "PyTorch",
        (
            "torch==2.13.0",
            "numpy>=2,<3",
            "onnx>=1.19,<2",
            "onnxscript>=0.7,<0.8",
            "protobuf>=4.25,<7",
        ),
        # PyPI's wheels for Linux bring two gigabytes of GPU libraries
        "https://download.pytorch.org/whl/cpu",
        "import onnx, onnxscript, torch; torch.ones(2).sum().item()",
        1100,
    ),
    "tensorflow": Environment(
        "tensorflow",
        "Keras",
        (
            "tensorflow-cpu==2.21.0",
            "keras==3.15.1",
            "tf2onnx==1.17.0",
            "numpy==2.4.6",
            "onnx==1.23.2",
            "protobuf==6.33.6",
            "h5py==3.14.0",
            "ml-dtypes==0.6.0",
        ),
        "",
        "import h5py, keras, tensorflow, tf2onnx; tensorflow.ones(2).numpy()",
        1600,
    ),
}


def home() -> Path:
    """Where environments are."""
    own = os.environ.get(FOLDER_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own) if own else cache / "wherry" / "environments"


def folder_of(name: str) -> Path:
    """Where an environment is, or would be; its pins and Python's version are part of the name."""
    packages = ENVIRONMENTS[name].packages
    pins = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:8]
    release = packages[0].partition("==")[2]
    return home() / f"{name}-{release}-{sys.implementation.cache_tag}-{pins}"


def python_of(name: str) -> Path:
    """The interpreter of an environment.

    Raises:
        ConvertError: K06, it has not been made.
    """
    folder = folder_of(name)
    if not (folder / MARK).exists():
        detail = f"{name} runs in an environment of its own, and there is none at {folder}"
        raise ConvertError("K06", detail, cure=f"run: wherry doctor --install {name}")
    return folder / "bin" / "python"


def run_in(
    name: str,
    program: Path,
    arguments: Sequence[str],
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    settings: Mapping[str, str] | None = None,
) -> str:
    """Run a program of ours in an environment, with nothing of the caller's environment but paths.

    Args:
        name: of the environment.
        program: a file of Python.
        arguments: its arguments.
        timeout_seconds: it is killed then.
        settings: further environment variables.

    Returns:
        What it printed.

    Raises:
        ConvertError: K06 the environment is missing, K04 the program failed; the last line
            that it wrote to standard error is the detail, and its code if it begins with one.
    """
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    try:
        done = subprocess.run(
            # not -I, which would leave the hash seed to chance
            [str(python_of(name)), "-s", "-P", str(program), *arguments],
            env=kept | dict(settings or {}),
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConvertError("K04", f"{name} took more than {timeout_seconds:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip()[-_LEAST_PIPE:].splitlines() or [f"exit {done.returncode}"]
        code, words = _CODED.match(lines[-1]), lines[-1]
        if code:
            raise ConvertError(code[1], words[code.end() :][:300])
        raise ConvertError("K04", f"{name}: {words}"[:300])
    return done.stdout
