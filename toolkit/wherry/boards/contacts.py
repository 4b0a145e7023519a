"""Whom a board's programs speak to: every address that the kernel was asked for.

QEMU's user mode hands network calls on to this machine's kernel, so that strace sees them
all, those of a runtime's own threads too. Without strace, or where a container forbids it,
nothing is known, and that is said.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

INSTALL: Final = "sudo apt-get install strace"
_OUT: Final = ("connect(", "sendto(", "sendmsg(", "sendmmsg(")
_OWN: Final = ("bind(", "getsockname")  # the second may stand on a line of its own, as resumed
_CALLS: Final = "bind,connect,getsockname,sendmmsg,sendmsg,sendto"
_FOUR: Final = re.compile(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)')
_SIX: Final = re.compile(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"')
_SECONDS: Final = 10.0


def tracer() -> str:
    """strace, if it is here and may trace; "" if not."""
    found = shutil.which("strace") or ""
    if not found:
        return ""
    asked = [found, "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-o", "/dev/null", "true"]
    done = subprocess.run(asked, capture_output=True, timeout=_SECONDS, check=False)
    return found if done.returncode == 0 else ""


def traced(strace: str, command: Sequence[str], log: Path) -> list[str]:
    """A command whose network calls, and those of its children, are written down.

    Args:
        strace: see `tracer`.
        command: stays the child of whoever starts it.
        log: the file.
    """
    # only the calls that are asked for stop it; no payload is written down
    options = ["-D", "-f", "--seccomp-bpf", "-qq", "-s", "0", "-e", f"trace={_CALLS}"]
    return [strace, *options, "-o", str(log), *command]


def contacts(log: str) -> set[tuple[str, int]]:
    """Hosts and ports that were spoken to, but for the programs' own. Pure.

    Args:
        log: that `traced` wrote. A client's pair of sockets is two ends of one program.
    """
    lines = log.splitlines()
    return _addresses(lines, _OUT) - _addresses(lines, _OWN)


def _addresses(lines: Iterable[str], calls: Sequence[str]) -> set[tuple[str, int]]:
    chosen = [line for line in lines if any(call in line for call in calls)]
    found = (match for line in chosen for kind in (_FOUR, _SIX) for match in kind.finditer(line))
    return {(match[2], int(match[1])) for match in found}
