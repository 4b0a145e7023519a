"""Golden vectors under every runtime version that a bundle claims, each in its own environment.

A range in a manifest is a promise, and runtimes of one range do differ: so the agent's own
probe is run, as on a board, with each released version in the range. The environments are
made by `wherry doctor --install runtimes`, with pins that were tested together; onnxruntime
from 1.29 on is in no range, since its wheels report home.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from wherry_contract.bundle import Layout, Parts, assemble
from wherry_contract.errors import CODES, GateError, SetupError
from wherry_contract.extras import how_to_install
from wherry_contract.manifest import RuntimeNeeds
from wherry_contract.oci import blob_path
from wherry_contract.versions import in_range
from wherry_convert.environments import MARK, Environment, home

from .environments import Made, make

PROBE_SECONDS: Final = 120.0
PROBE_MIB: Final = 1024
INSTALL: Final = "runtimes"  # what `wherry doctor --install` calls all of them
HEADS: Final = ("golden vectors under", "largest difference", "one row, us", "verdict")
_AGENT: Final = "wherry_agent"
_PACKAGES: Final = (_AGENT, "wherry_contract")
_SHOWN: Final = 300  # characters of what a child said

Progress = Callable[[str], None]
# kind of model -> the distribution whose range is the manifest's `version`
_MAIN: Final = {"onnxruntime": "onnxruntime", "tflite": "tflite-runtime"}
_ORT: Final = ("numpy==2.4.6", "protobuf==6.33.6", "flatbuffers==25.12.19", "packaging==26.3")


@dataclass(frozen=True)
class Runtime:
    """A released runtime that a bundle may claim.

    Attributes:
        name: the distribution.
        version: of it.
        needs: what is installed with it, pinned.
        module: what it is imported as.
        megabytes: about how much disk the environment takes.
        newest_python: the last Python that it has a wheel for; "" if it goes on.
    """

    name: str
    version: str
    needs: tuple[str, ...]
    module: str
    megabytes: int
    newest_python: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def folder(self) -> Path:
        """Where its environment is, or would be; wheels are of one Python."""
        return home() / f"{self.name}-{self.version}-{sys.implementation.cache_tag}"

    @property
    def python(self) -> Path | None:
        """The interpreter that has it: its environment's, or this one; None if neither does."""
        if (self.folder / MARK).exists():
            return self.folder / "bin" / "python"
        return Path(sys.executable) if self._is_here else None

    @property
    def _is_here(self) -> bool:
        try:  # the agent takes the first runtime of a kind that it finds: only this one is alone
            return self.name == _MAIN["onnxruntime"] and version(self.name) == self.version
        except PackageNotFoundError:
            return False

    @property
    def installable(self) -> bool:
        """Whether it has a wheel for the Python here."""
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        return not self.newest_python or in_range(here, f"<={self.newest_python}")


RUNTIMES: Final[tuple[Runtime, ...]] = (
    Runtime("onnxruntime", "1.27.0", _ORT, "onnxruntime", 160),
    Runtime("onnxruntime", "1.28.0", _ORT, "onnxruntime", 160),
    Runtime(
        "tflite-runtime",
        "2.14.0",
        ("numpy==1.26.4",),  # with numpy 2 it imports, and fails at the first model
        "tflite_runtime.interpreter",
        110,
        "3.11",
    ),
    Runtime(
        "ai-edge-litert",
        "2.3.0",
        ("numpy==2.4.6", "protobuf==6.33.6", "flatbuffers==25.12.19"),
        "ai_edge_litert.interpreter",
        165,
    ),
)


@dataclass(frozen=True)
class Run:
    """What became of the golden vectors under one version.

    Attributes:
        name: the distribution.
        version: of it.
        largest_gap: between a score and the recorded one; None if it did not come to that.
        p50_us: median for one row, microseconds, on this machine; likewise.
        failure: code and words; "" if all agreed.
    """

    name: str
    version: str
    largest_gap: float | None = None
    p50_us: float | None = None
    failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


class RuntimesDisagreeError(GateError):
    """A version that the bundle claims fails its golden vectors.

    Args:
        runs: of every version.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__("Q05", "; ".join(failures(runs)))
        self.runs = tuple(runs)


def failures(runs: Sequence[Run]) -> list[str]:
    """Each version that failed, in words."""
    return [f"{run.name} {run.version}: {run.failure}" for run in runs if run.failure]


def rows(runs: Sequence[Run]) -> list[Sequence[object]]:
    """Rows of a table under `HEADS`."""
    return [
        (
            f"{run.name} {run.version}",
            "" if run.largest_gap is None else f"{run.largest_gap:.2g}",
            "" if run.p50_us is None else f"{run.p50_us:,.0f}",
            run.failure or "agrees",
        )
        for run in runs
    ]


def ranges_of(needs: RuntimeNeeds) -> dict[str, str]:
    """The range of each distribution that a bundle claims."""
    return dict(needs.ranges)


def claimed(needs: RuntimeNeeds, known: Sequence[Runtime] = RUNTIMES) -> list[Runtime]:
    """The released versions in the ranges of a manifest.

    Raises:
        SetupError: H06, none that is known here.
    """
    ranges = ranges_of(needs)
    found = [item for item in known if in_range(item.version, ranges.get(item.name, "<0"))]
    if not found:
        words = ", ".join(f"{name} {wanted}" for name, wanted in ranges.items())
        have = ", ".join(map(str, known))
        detail = f"no version in {words} is known here; known: {have}"
        raise SetupError("H06", detail, cure='say runtimes = "here" in [gates]')
    return found


def require(runtimes: Sequence[Runtime]) -> None:
    """Refuse to go on where an environment is missing.

    Raises:
        SetupError: H06.
    """
    missing = [item for item in runtimes if item.python is None]
    if not missing:
        return
    names = ", ".join(map(str, missing))
    cure = f"run: wherry doctor --install {INSTALL}"
    if any(not item.installable for item in missing):
        python = min(item.newest_python for item in missing if not item.installable)
        cure += f" with a Python of at most {python}, for which there are wheels"
    raise SetupError("H06", f"no environment has {names}, which the bundle claims", cure=cure)


def install(progress: Progress, known: Sequence[Runtime] = RUNTIMES) -> list[Made]:
    """Make the environments of all versions that have a wheel for this Python.

    Args:
        progress: is told each step, in words.
        known: the versions.

    Raises:
        SetupError: H06 or H03.
    """
    made = []
    for place, item in enumerate(known, 1):
        if not item.installable:
            progress(f"left out: {item} has no wheel for this Python, at most {item.newest_python}")
            continue
        progress(f"{place} of {len(known)}: {item}")
        environment = Environment(
            f"{item.name}-{item.version}",
            str(item),
            (f"{item.name}=={item.version}", *item.needs),
            "",
            f"import {item.module}",
            item.megabytes,
        )
        made.append(make(environment, item.folder, progress))
    return made


def run_everywhere(parts: Parts, runtimes: Sequence[Runtime], progress: Progress) -> list[Run]:
    """Run the agent's probe under each version; a failure is an answer here.

    Args:
        parts: of the bundle; nobody needs to have signed it.
        runtimes: see `claimed`.
        progress: is told each step, in words.

    Raises:
        SetupError: H06, an environment or the agent is missing.
        ManifestError: the parts contradict each other.
    """
    require(runtimes)
    layout = assemble(parts)
    with tempfile.TemporaryDirectory(prefix="wherry-runtimes-") as folder:
        store, code = Path(folder, "store"), Path(folder, "code")
        lay_out(layout, store)
        _link_code(code)
        runs = []
        for item in runtimes:
            progress(f"golden vectors under {item}")
            runs.append(_probe(item, store, code, layout.digest))
        return runs


def lay_out(layout: Layout, store: Path) -> None:
    """Put a bundle's blobs where the agent keeps them."""
    for digest, data in ({layout.digest: layout.manifest} | dict(layout.blobs)).items():
        path = store / blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _link_code(folder: Path) -> None:
    """The agent and the contract alone: a path to all that is here would bring its runtime."""
    folder.mkdir()
    for name, place in agent_packages().items():
        (folder / name).symlink_to(place)


def agent_packages() -> dict[str, Path]:
    """What a board has of ours, by name, and where it is installed here.

    Raises:
        SetupError: H06, the agent is not installed here.
    """
    found = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise SetupError("H06", f"{name} is not installed", cure=how_to_install("agent"))
        found[name] = Path(spec.origin).parent
    return found


def _probe(item: Runtime, store: Path, code: Path, digest: str) -> Run:
    request = {
        "store": str(store),
        "digest": digest,
        "mib": PROBE_MIB,
        "seconds": PROBE_SECONDS,
        "parent": os.getpid(),
    }
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    try:
        done = subprocess.run(
            [str(item.python), "-W", "ignore", "-m", f"{_AGENT}.serving.probe"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            cwd=store,
            env=kept | {"PYTHONPATH": str(code), "PYTHONNOUSERSITE": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Run(item.name, item.version, failure=f"P03 {CODES['P03'].title}")
    return _answer(item, done)


def _answer(item: Runtime, done: subprocess.CompletedProcess[str]) -> Run:
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.returncode or not isinstance(answer, dict):
        cause = f"signal {-done.returncode}" if done.returncode < 0 else "no answer"
        said = " ".join(done.stderr.split())[-_SHOWN:]
        return Run(item.name, item.version, failure=f"P02 {CODES['P02'].title}: {cause} {said}")
    error = answer.get("error")
    if error:
        words = f"{error['code']} {CODES[error['code']].title}: {error['detail']}"
        return Run(item.name, item.version, failure=words)
    return Run(item.name, item.version, float(answer["largest_gap"]), float(answer["p50_us"]))
