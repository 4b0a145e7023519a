"""Short-lived children: work that may crash, hang or grow, in a process that may be killed.

A child is a module of ours that reads one JSON request from standard input and writes one
JSON answer to standard output. It dies with its parent, starts no program, and has an
empty folder as its working directory, so that a model's references to files lead nowhere.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wherry_contract.errors import CODES, WherryError

_ANSWER_LIMIT_BYTES: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1
_STDERR_SHOWN: Final = 300  # characters


@dataclass(frozen=True)
class ChildFailure(Exception):  # noqa: N818 - the caller turns it into a coded error
    """A child that gave no answer.

    Attributes:
        timed_out: it was killed because its time was up.
        signal: the signal that ended it, 0 if none did.
        detail: the end of what it said.
    """

    timed_out: bool
    signal: int
    detail: str

    def __str__(self) -> str:
        if self.timed_out:
            return "it was stopped because its time was up"
        cause = f"signal {self.signal}" if self.signal else "it ended without an answer"
        return f"{cause}: {self.detail}" if self.detail else cause


def run_child(module: str, request: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    """Run a module of ours as a child and return its answer.

    Raises:
        ChildFailure: it crashed, hung or said nothing sensible.
        WherryError: the child reports a coded error.
    """
    environment = dict(os.environ) | {"ORT_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory(prefix="wherry-") as nowhere:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=nowhere,
            env=environment,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(json.dumps(request).encode(), seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise ChildFailure(timed_out=True, signal=0, detail="") from None
        except BaseException:
            process.kill()
            process.wait()
            raise
    return _answer(output, process.returncode, errors.decode(errors="replace"))


def _answer(output: bytes, returned: int, errors: str) -> dict[str, Any]:
    detail = " ".join(errors.split())[-_STDERR_SHOWN:]
    ended_by = -returned if returned < 0 else 0
    try:
        answer = json.loads(output) if 0 < len(output) <= _ANSWER_LIMIT_BYTES else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or ended_by:
        raise ChildFailure(timed_out=False, signal=ended_by, detail=detail)
    error = answer.get("error")
    if isinstance(error, dict) and error.get("code") in CODES:
        raise _leaf(error["code"])(error["code"], str(error.get("detail", "")))
    return answer


def _leaf(code: str) -> type[WherryError]:
    leaves = {
        leaf.__name__[0] if leaf.__name__ != "MessageError" else "G": leaf
        for leaf in WherryError.__subclasses__()
        if leaf.__name__ in ("BundleError", "ManifestError", "TrustError", "ProbeError")
    }
    return leaves.get(code[0], WherryError)


def child_main(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> int:
    """The other side: read the request, do the work, write the answer."""
    die_with_parent()
    request = json.load(sys.stdin)
    try:
        answer = work(request)
    except WherryError as error:
        answer = {"error": {"code": error.code, "detail": error.detail}}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return 0


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (Linux prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
