"""The way to a board: its mounted card here, or OpenSSH's `ssh`; the same shell on both.

The board needs `sh`, `tar`, `awk` and coreutils, which every Debian has.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Final, cast
from urllib.parse import urlsplit

from wherry_contract.errors import SetupError

_PIECE_BYTES: Final = 256 * 1024
_SAID: Final = 400  # characters of what a failed script said
_NO_SSH: Final = 255  # ssh's own exit code, when it was not the script's


@dataclass(frozen=True)
class Way:
    """How a script is run there.

    Attributes:
        words: for people: the card's folder, or user, host and root.
        root: of the board, as the script sees it.
        command: what runs a shell there; empty for this machine.
        sudo: whether the shell there is another user's, and becomes root's.
    """

    words: str
    root: str
    command: tuple[str, ...] = ()
    sudo: bool = False

    @property
    def remote(self) -> bool:
        """Whether it leads to another machine."""
        return bool(self.command)


def way_to(to: str, *, ssh_config: Path | None = None, sudo: bool = False) -> Way:
    """Read where a board is.

    Args:
        to: a folder, or ``ssh://[user@]host[:port][/root]``.
        ssh_config: as `ssh -F` takes it; the user's own without.
        sudo: become root there with `sudo -n`.

    Raises:
        SetupError: H16, it is neither; H06, there is no ssh here.
    """
    if not to.startswith("ssh://"):
        if not Path(to).is_dir():
            cure = "mount the card's root file system there, or write ssh://root@host"
            raise SetupError("H16", f"{to} is no folder", cure=cure)
        return Way(to, str(Path(to).absolute()))
    parts = urlsplit(to)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0 or parts.hostname.startswith("-"):
        raise SetupError(
            "H16", f"{to[:100]!r} is no address", cure="write it like ssh://root@10.0.0.7"
        )
    program = shutil.which("ssh")
    if not program:
        raise SetupError("H06", "there is no ssh", cure="sudo apt-get install openssh-client")
    host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
    command = [program, "-T", "-o", "ServerAliveInterval=15"]
    command += ["-F", str(ssh_config)] if ssh_config else []
    command += ["-p", str(port)] if port else []
    return Way(to, parts.path or "/", (*command, "--", host), sudo)


def run_script(
    way: Way,
    name: str,
    arguments: Sequence[str],
    feed: Iterable[IO[bytes]] = (),
    step: Callable[[int], None] = lambda _: None,
) -> str:
    """Run one of our scripts at the board, and return what it printed.

    Args:
        way: to the board.
        name: of the script in this folder.
        arguments: of the script.
        feed: what it reads on stdin, one after the other.
        step: told how many bytes went.

    Raises:
        SetupError: H16, it failed; what it said is in the detail.
    """
    text = files(__package__).joinpath(name).read_text()
    command = ["sh", "-c", text, "wherry", *arguments]
    if way.remote:
        command = [*way.command, shlex.join([*(("sudo", "-n") if way.sudo else ()), *command])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        output: list[bytes] = []
        errors: list[bytes] = []
        streams = (cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr))
        readers = [
            threading.Thread(target=lambda s=s, into=into: into.append(s.read()))
            for s, into in zip(streams, (output, errors), strict=True)
        ]
        for reader in readers:
            reader.start()
        _pour(feed, cast("IO[bytes]", process.stdin), step)
        for reader in readers:
            reader.join()
    said = " ".join(b"".join(errors).decode(errors="replace").split())[-_SAID:]
    if process.returncode == _NO_SSH and way.remote:
        raise SetupError("H16", f"{way.words}: {said}", cure="see that `ssh` gets there by itself")
    if process.returncode:
        raise SetupError("H16", f"{way.words}: {said or f'exit code {process.returncode}'}")
    return b"".join(output).decode(errors="replace")


def _pour(feed: Iterable[IO[bytes]], into: IO[bytes], step: Callable[[int], None]) -> None:
    try:
        with into:
            for source in feed:
                while piece := source.read(_PIECE_BYTES):
                    into.write(piece)
                    step(len(piece))
    except BrokenPipeError:
        pass  # it ended early: its own words say why
