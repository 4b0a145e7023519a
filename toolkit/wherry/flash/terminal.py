"""One terminal: who it is to be, and the files that make it so."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from wherry.boards.overlay import Pin
from wherry.boards.verify import pins_for
from wherry.bundle_view import look, read_trust, verify
from wherry.profiles import Board
from wherry_contract.errors import SetupError, WherryError
from wherry_contract.identity import FILES as PAPERS
from wherry_contract.identity import ClaimCode
from wherry_contract.wire import SLUG

CONFIG: Final = "agent.toml"
CLAIM: Final = "claim.toml"
KEY: Final = "device.key"
FIRST: Final = "first"
WHOLE: Final = ".whole"  # the last member of what is sent: without it some was lost
_ORDERS: Final = "assignments"
_OTHER_PAPERS: Final = "name the folder that `wherry device add` wrote for it"
_MOST_FIRST_BYTES: Final = 512 * 2**20
_PAPER_BYTES: Final = 256 * 1024
_TAIL_DIGITS: Final = 8


@dataclass(frozen=True)
class Terminal:
    """What is asked for.

    Attributes:
        device: its id; "" for the one that its claim code names.
        to: the card's folder, or ``ssh://[user@]host[:port][/root]``.
        family: the model family, where a claim code is yet to be made.
        labels: likewise.
        listen: its serving port; "" for the default.
        claim: a claim code; "" to have one made, or where there are papers.
        url: where it enrols.
        papers: the folder that `wherry device add` wrote: identity, configuration, trust.
        first: the bundle that it starts with: a file, or what `wherry export` wrote.
    """

    device: str
    to: str
    family: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    listen: str = ""
    claim: str = ""
    url: str = ""
    papers: Path | None = None
    first: Path | None = None

    def problem(self) -> str:
        """What is wrong with it, in words; "" if nothing is."""
        found = self.misuse()
        try:
            if not found:
                self.check_files()
        except WherryError as error:
            return str(error)
        return found

    def misuse(self) -> str:
        """What is wrong with how it is named, in words; "" if nothing is. Pure."""
        named = not self.device or bool(re.fullmatch(SLUG, self.device))
        ways = sum((bool(self.papers), bool(self.claim), bool(self.family)))
        found = (
            (named, f"device {self.device[:80]!r} should be lower-case letters, digits and dashes"),
            (self.device or self.claim, "device: it has no id"),
            (self.to, "to: where it is to be written is not said"),
            (ways == 1, "one of papers, claim and family: papers and a claim code bring theirs"),
            (self.family or not self.labels, "labels come with the papers or the claim code"),
            (not (self.papers and self.listen), "listen stands in the papers' agent.toml"),
            (self.url or not self.claim, "url: where it enrols is not said"),
        )
        return next((words for right, words in found if not right), "")

    def check_files(self) -> None:
        """Look at the claim code and at the files that it names.

        Raises:
            IdentityError: I01, the code is none.
            SetupError: H02 a file is not there, H16 it does not fit.
        """
        if self.claim:
            ClaimCode.from_text(self.claim)
        if self.papers:
            _papers(self.papers, self.device)
        if self.first:
            bundle_of(self.first)


@dataclass(frozen=True)
class Folder:
    """The device's folder as it will lie on the board.

    Attributes:
        name: of the folder; equal material has an equal name.
        files: content by path in it.
    """

    name: str
    files: Mapping[str, bytes]

    def to_tar(self) -> bytes:
        """As a tar, for its owner's eyes alone."""
        out = io.BytesIO()
        folders = {str(up) for path in self.files for up in PurePosixPath(path).parents} - {"."}
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(folders):
                tar.addfile(_member(name, tarfile.DIRTYPE, 0o700))
            for name, data in sorted(self.files.items()):
                item = _member(name, tarfile.REGTYPE, 0o600)
                item.size = len(data)
                tar.addfile(item, io.BytesIO(data))
            tar.addfile(_member(WHOLE, tarfile.REGTYPE, 0o600))
        return out.getvalue()


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.mode = kind, mode
    item.uname = item.gname = "root"
    return item


def folder_of(terminal: Terminal, board: Board) -> Folder:
    """The files of a terminal; what can be checked without the board is checked.

    Raises:
        SetupError: H02 a file cannot be read, H16 papers or bundle do not fit.
        TrustError: the first bundle is not signed by whom the papers trust.
        BundleError, ManifestError: it is no usable bundle.
    """
    if terminal.papers:
        files = _papers(terminal.papers, terminal.device)
        material = files[KEY] if KEY in files else files[CONFIG]
    else:
        files = {CLAIM: _claim_text(terminal).encode()}
        material = ClaimCode.from_text(terminal.claim).digest.encode()
    if terminal.first:
        _check_first(terminal, board)
        files |= dict(_first_files(terminal.first, terminal.device))
    tail = hashlib.sha256(material).hexdigest()[:_TAIL_DIGITS]
    return Folder(f"{terminal.device or 'device'}-{tail}", files)


def runtime_for(terminal: Terminal, board: Board, pins: list[Pin]) -> Pin:
    """The first of a board's runtimes that the first bundle claims, or the first at all.

    Raises:
        SetupError: H16, the bundle claims none of them.
    """
    if terminal.first is None:
        return pins[0]
    found = [
        pin
        for pin in pins
        if pin in pins_for(board, look(bundle_of(terminal.first)).parts.manifest)
    ]
    if not found:
        words = ", ".join(map(str, pins))
        cure = f"build it for this board: name {board.name} in [target] boards"
        raise SetupError("H16", f"{terminal.first.name} claims none of {words}", cure=cure)
    return found[0]


def bundle_of(first: Path) -> Path:
    """The bundle's file.

    Raises:
        SetupError: H02, it is not there; H16, a folder has more than one.
    """
    if not first.is_dir():
        if not first.is_file():
            raise SetupError("H02", f"{first}: there is no such file")
        return first
    found = sorted(first.glob("*.wherry"))
    if len(found) != 1:
        cure = "name a bundle's file, or a folder that `wherry export` wrote for one bundle"
        raise SetupError("H16", f"{first} has {len(found)} bundles", cure=cure)
    return found[0]


def _check_first(terminal: Terminal, board: Board) -> None:
    assert terminal.first  # noqa: S101 - asked for by the caller
    view = look(bundle_of(terminal.first))
    wanted = view.parts.manifest.board.architectures
    if wanted and board.architecture not in wanted:
        raise SetupError(
            "H16", f"{view.path.name} is for {', '.join(wanted)}, not {board.architecture}"
        )
    pinned = terminal.papers / "trust.json" if terminal.papers else None
    if pinned and pinned.exists():
        verify(view, read_trust(pinned))


def _first_files(first: Path, device: str) -> Iterator[tuple[str, bytes]]:
    """The bundle, and of a stick's folder the list of releases and this device's own order."""
    if not first.is_dir():
        yield f"{FIRST}/{first.name}", first.read_bytes()
        return
    total = 0
    for path in sorted(first.rglob("*")):
        name = path.relative_to(first).as_posix()
        foreign = name.startswith(f"{_ORDERS}/") and name != f"{_ORDERS}/{device}.json"
        if foreign or not path.is_file():
            continue
        total += path.stat().st_size
        if total > _MOST_FIRST_BYTES:
            raise SetupError("H16", f"{first} has more than {_MOST_FIRST_BYTES} bytes")
        yield f"{FIRST}/{name}", path.read_bytes()


def _claim_text(terminal: Terminal) -> str:
    fields = {"url": terminal.url, "claim": terminal.claim, "device": terminal.device}
    if terminal.listen:
        fields["listen"] = terminal.listen
    # a JSON string is a TOML string, but for the rare half of a surrogate pair
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())


def _papers(folder: Path, device: str) -> dict[str, bytes]:
    """The files that `wherry device add` wrote; they must belong to this device.

    Raises:
        SetupError: H02 or H16.
    """
    files = {}
    for name in (*PAPERS, KEY):
        path = folder / name
        if path.is_file():
            with path.open("rb") as stream:
                files[name] = stream.read(_PAPER_BYTES)
    if CONFIG not in files:
        raise SetupError(
            "H02", f"{folder} has no {CONFIG}", cure="make it with `wherry device add`"
        )
    try:
        config = tomllib.loads(files[CONFIG].decode())
    except ValueError as error:
        raise SetupError("H16", f"{folder / CONFIG}: {error}") from error
    _check_config(config, folder, device, files)
    return files


def _check_config(
    config: Mapping[str, Any], folder: Path, device: str, files: Mapping[str, bytes]
) -> None:
    if config.get("device") != device:
        whose = f"of the device {config['device']!r}" if "device" in config else "of no device"
        raise SetupError("H16", f"{folder} is {whose}, not of {device!r}", cure=_OTHER_PAPERS)
    state = str(config.get("state_dir", "state"))
    if PurePosixPath(state).is_absolute() or ".." in PurePosixPath(state).parts:
        cure = "leave state_dir out of agent.toml: on a board it lies in the device's folder"
        raise SetupError("H16", f"state_dir {state!r} leads out of the folder", cure=cure)
    named = [str(config.get("trust", "trust.json"))]
    identity = config.get("identity", {})
    named += [
        str(identity[name]) for name in ("key", "certificate", "authority") if name in identity
    ]
    for name in named:
        if name not in files:
            raise SetupError("H16", f"{folder / CONFIG} names {name}, which is not there")
