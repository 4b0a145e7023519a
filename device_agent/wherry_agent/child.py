"""Short-lived children: work that may crash, hang or grow, in a process that may be killed.

A child is a module of ours that reads one JSON request from standard input and writes one
JSON answer to standard output. It dies with its parent, starts no program, and has an
empty folder as its working directory, so that a model's references to files lead nowhere.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import CODES, StoreError, WherryError, coded_error

_ANSWER_LIMIT_BYTES: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1
_STDERR_SHOWN: Final = 300  # characters
_PARENT: Final = "parent"


class ChildFailure(Exception):  # noqa: N818 - the caller turns it into a coded error
    """A child that gave no answer.

    Attributes:
        timed_out: it was killed because its time was up.
        signal: the signal that ended it, 0 if none did.
        detail: the end of what it said.
    """

    def __init__(self, detail: str = "", *, timed_out: bool = False, ended_by: int = 0) -> None:
        super().__init__(detail, timed_out, ended_by)
        self.detail = detail
        self.timed_out = timed_out
        self.signal = ended_by

    def __str__(self) -> str:
        if self.timed_out:
            return "it was stopped because its time was up"
        cause = f"signal {self.signal}" if self.signal else "it ended without an answer"
        return f"{cause}: {self.detail}" if self.detail else cause


def run_child(module: str, request: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    """Run a module of ours as a child and return its answer.

    Raises:
        ChildFailure: it crashed, hung or said nothing sensible.
        StoreError: D07, the board could not even start it.
        WherryError: the child reports a coded error.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="wherry-") as nowhere:
            output, errors, returned = _run(module, dict(request), nowhere, seconds)
    except OSError as error:
        raise StoreError("D07", f"{module}: {error.strerror or error}") from error
    return _answer(output, returned, errors.decode(errors="replace"))


def _run(
    module: str, request: dict[str, Any], folder: str, seconds: float
) -> tuple[bytes, bytes, int]:
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=dict(os.environ) | {"ORT_DISABLE_TELEMETRY": "1"},
        start_new_session=True,
    )
    asked = json.dumps(request | {_PARENT: os.getpid()}).encode()
    try:
        output, errors = process.communicate(asked, seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise ChildFailure(timed_out=True) from None
    except BaseException:  # also a stop of ours: no child is left behind
        process.kill()
        process.communicate()
        raise
    return output, errors, process.returncode


def _answer(output: bytes, returned: int, errors: str) -> dict[str, Any]:
    detail = " ".join(errors.split())[-_STDERR_SHOWN:]
    try:
        answer = json.loads(output) if 0 < len(output) <= _ANSWER_LIMIT_BYTES else None
    except ValueError:  # no JSON, or no UTF-8
        answer = None
    if not isinstance(answer, dict) or returned:
        raise ChildFailure(detail, ended_by=max(0, -returned))
    error = answer.get("error")
    if isinstance(error, dict) and error.get("code") in CODES:
        raise coded_error(error["code"], str(error.get("detail", "")))
    return answer


def child_main(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> int:
    """The other side: read the request, do the work, write the answer."""
    die_with_parent()
    request = json.load(sys.stdin)
    if request.pop(_PARENT) != os.getppid():  # it died before it could be watched
        return 1
    try:
        answer = work(request)
    except WherryError as error:
        answer = {"error": {"code": error.code, "detail": error.detail}}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return 0


def cap_memory(mib: int) -> None:
    """Cap what this process may write to, over what it has: what is only reserved is free."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def cap_processor(seconds: float) -> None:
    """Cap the processor time of this process and its threads; and no core file is left."""
    limit = math.ceil(seconds * max(1, os.cpu_count() or 1))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (Linux prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
