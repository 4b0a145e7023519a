"""What tests of flashing share: cards, a small kit, a real sshd as an ordinary process."""

from __future__ import annotations

import getpass
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import accepts, free_port, wait_for

from wherry.boards.recipe import Recipe, recipe_of
from wherry.flash.kit import UNIT, Kit
from wherry.flash.terminal import WHOLE, Folder
from wherry.profiles import load_board

BOARD = "pi3"
OLD_FOLDER = Folder("till-1-00000001", {"claim.toml": b"old", "first/a.wherry": b"a" * 9000})
NEW_FOLDER = Folder("till-1-00000002", {"claim.toml": b"new", "first/b.wherry": b"b" * 9000})


def recipe() -> Recipe:
    """Of the board of these tests."""
    return recipe_of(load_board(BOARD, Path()))


def make_card(
    root: Path,
    *,
    architecture: str = "arm64",
    python: str = "python3.11",
    without: Sequence[str] = (),
) -> Path:
    """A mounted card as far as anybody looks: links, and what dpkg says is installed."""
    (root / "usr/bin").mkdir(parents=True)
    if python:
        (root / "usr/bin/python3").symlink_to(python)
    packages = ["dpkg", "libc6", *recipe().emulation.packages]
    text = "".join(
        f"Package: {name}\nStatus: {_status(name, without)}\nArchitecture: {architecture}\n\n"
        for name in packages
    )
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(text)
    return root


def _status(name: str, without: Sequence[str]) -> str:
    return "deinstall ok config-files" if name in without else "install ok installed"


def small_kit(folder: Path, content: bytes = b"agent") -> Kit:
    """A kit of a few files, with a name of its own."""
    key = hashlib.sha256(content).hexdigest()[:16]
    file = folder / f"{key}.tar"
    files = {UNIT: b"[Service]\n", "agent/a.py": content, "site/s.so": content * 4000}
    with tarfile.open(file, "w") as tar:
        for name, data in files.items():
            item = tarfile.TarInfo(name)
            item.size, item.mode = len(data), 0o644
            tar.addfile(item, io.BytesIO(data))
        tar.addfile(tarfile.TarInfo(WHOLE))
    return Kit(key, file, "onnxruntime 1.27.0")


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder, with its kind, mode and content."""
    return {str(path.relative_to(folder)): _what(path) for path in sorted(folder.rglob("*"))}


def _what(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    mode = f"{path.stat().st_mode & 0o777:o}"
    if path.is_dir():
        return f"{mode} folder"
    return f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"


# --- ssh ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sshd:
    """A server that lets one key in.

    Attributes:
        port: on loopback.
        config: what `ssh -F` is given.
    """

    port: int
    config: Path

    def to(self, root: Path) -> str:
        """The address of a board whose root is there."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{root}"


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """Debian's sshd on a free port, for the length of a block."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    assert program, "sshd is missing; `make test-tools` installs openssh-server"
    folder.mkdir()
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd puts its unprivileged half
    port = free_port()
    (folder / "sshd").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    host_key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "ssh").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "StrictHostKeyChecking yes\nBatchMode yes\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd")], stderr=log)
    try:
        wait_for(lambda: accepts(port), what=(folder / "log").read_text)
        yield Sshd(port, folder / "ssh")
    finally:
        process.terminate()
        process.wait()
