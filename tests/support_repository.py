"""What tests of the repository share: a ceremony, a disk that stops, and TUF's own client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from securesystemslib.signer import CryptoSigner
from support_agent import FAMILY
from support_tuf import signer
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from wherry.repository.ceremony import Ceremony
from wherry.repository.repository import Repository
from wherry.repository.state import Disk
from wherry_contract.signature import PublicKey

PEOPLE = {
    "root": ("root-1", "root-2", "root-3"),
    "targets": ("targets-1", "targets-2"),
    "models": ("models-1", "models-2"),
}


class Stopped(BaseException):
    """The power was cut."""


@dataclass
class StoppingDisk(Disk):
    """Does so many changes and no more; counts them.

    Attributes:
        left: how many; none for ever.
    """

    left: int | None = None
    done: int = 0

    def put(self, path: Path, data: bytes) -> None:
        """Replace a file."""
        self._count()
        super().put(path, data)

    def point(self, link: Path, to: str) -> None:
        """Exchange a link."""
        self._count()
        super().point(link, to)

    def remove(self, path: Path) -> None:
        """Take a file away."""
        self._count()
        super().remove(path)

    def _count(self) -> None:
        if self.left is not None and self.done >= self.left:
            raise Stopped
        self.done += 1


def public(name: str) -> PublicKey:
    """The public half of a test's key."""
    key = signer(name).public_key
    return PublicKey(key.keyid, key.keyval["public"])


def publics(*names: str) -> tuple[PublicKey, ...]:
    return tuple(public(name) for name in names)


def ceremony(**thresholds: int) -> Ceremony:
    """The usual one: root 2 of 3, everybody else two of two."""
    return Ceremony(
        publics(*PEOPLE["root"]),
        publics(*PEOPLE["targets"]),
        {FAMILY: publics(*PEOPLE["models"])},
        public("online"),
        public("order"),
        public("time"),
        thresholds={"root": 2, "targets": 2, "models": 2} | thresholds,
    )


def sign(repository: Repository, *names: str) -> None:
    """Sign whatever is staged with each of these keys that has a part in it."""
    for role in repository.staged():
        for name in names:
            item = repository.waiting(role, repository.must(role))
            if public(name).keyid in item.may:
                repository.sign(role, signer(name))


def online(*names: str) -> list[CryptoSigner]:
    return [signer(name) for name in names or ("online",)]


def begun(repository: Repository) -> Repository:
    """A repository after its ceremony."""
    repository.begin(ceremony())
    sign(repository, "root-1", "root-2", *PEOPLE["targets"], *PEOPLE["models"])
    repository.finish(online())
    return repository


class _Folder(FetcherInterface):
    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(unquote(urlsplit(url).path.replace("%25", "%2525").replace("%2F", "%252F")))
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is not there", 404)
        yield path.read_bytes()


@dataclass
class Client:
    """TUF's reference client, with a memory of its own and the root of the beginning."""

    depot: Path
    root: bytes
    memory: Path

    def sees(self, target: str) -> dict[str, object] | None:
        """Refresh, and look for a target; raises what the client raises."""
        self.memory.mkdir(parents=True, exist_ok=True)
        base = f"file://{self.depot}"
        updater = Updater(
            str(self.memory),
            f"{base}/tuf/",
            target_dir=str(self.memory),
            target_base_url=f"{base}/targets/",
            fetcher=_Folder(),
            bootstrap=self.root,
        )
        updater.refresh()
        found = updater.get_targetinfo(target)
        return found.to_dict() if found else None


def newcomer(depot: Path, root: bytes, target: str) -> dict[str, object] | None:
    """What a client sees that was born with a root and comes for the first time."""
    with TemporaryDirectory() as memory:
        return Client(depot, root, Path(memory)).sees(target)
