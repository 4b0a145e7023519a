"""Deltas for the depot: from the bundles that the fleet runs to one that is published.

A delta is made for each large part by its file name, and kept only where it pays: below
60 % of what the compressed whole would be. What was made, and what was not worth it, is
said, and stands in the list, so that nothing is made twice. Format and limits:
`wherry_contract.delta`.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wherry_contract.bundle import open_bundle
from wherry_contract.delta import (
    LARGEST_SHARE,
    LIST_LIMIT_BYTES,
    Delta,
    apply_delta,
    read_deltas,
    write_deltas,
)
from wherry_contract.errors import ManifestError, SetupError
from wherry_contract.oci import Descriptor, OciManifest, blob_path
from wherry_contract.wire import Fields, compact, parse_json, sha256_digest

from .files import write_durably

if TYPE_CHECKING:
    from .rows import DeviceRow

LARGE_BYTES = 64 << 20  # beyond it bsdiff takes a GiB of memory and minutes
MOST_SOURCES = 4  # versions of a fleet that deltas are made from
_MOST_ROWS = 64  # of a list, the newest; it has a limit in bytes
SMALL_BYTES = 16 * 1024  # below it the whole always comes: a delta saves less than it asks for


@dataclass(frozen=True)
class DeltaVerdict:
    """What a delta of one part would be.

    Attributes:
        name: of the part's file.
        source: digest of the bundle that it starts from.
        size: of the whole part, in bytes.
        compressed: of the whole when compressed (xz); 0 if it was not tried.
        delta: of the delta; likewise.
        kept: whether it is in the depot.
        old: digest of the part that it starts from.
        new: of the part that comes out.
    """

    name: str
    source: str
    size: int
    compressed: int
    delta: int
    kept: bool
    old: str
    new: str

    @property
    def share(self) -> float:
        """The delta's size over that of the compressed whole."""
        return self.delta / max(1, self.compressed)

    def __str__(self) -> str:
        start = f"delta of {self.name} from {self.source[:19]}"
        if not self.compressed:
            return f"{start}: none, {self.size} bytes are too many to compare"
        verdict = "kept" if self.kept else f"not worth it, which begins at {LARGEST_SHARE:.0%}"
        size = f"{self.delta} bytes, {self.share:.0%} of the compressed whole's {self.compressed}"
        return f"{start}: {size}: {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**vars(self), "share": round(self.share, 4)}

    @classmethod
    def from_fields(cls, fields: Fields) -> DeltaVerdict:
        """Read one."""
        return cls(
            name=fields.text("name"),
            source=fields.text("source"),
            size=fields.integer("size"),
            compressed=fields.integer("compressed"),
            delta=fields.integer("delta"),
            kept=fields.flag("kept", default=False),
            old=fields.text("old"),
            new=fields.text("new"),
        )


@dataclass(frozen=True)
class OldBundle:
    """A bundle that devices may have.

    Attributes:
        digest: of its OCI manifest.
        parts: its blobs.
        read: reads one, by its descriptor.
    """

    digest: str
    parts: Sequence[Descriptor]
    read: Callable[[Descriptor], bytes]


def bundle_in(depot: Path, digest: str) -> OldBundle | None:
    """A bundle whose blobs lie in a depot; nothing if they do not.

    Raises:
        BundleError: its list of parts cannot be read.
    """
    if not (depot / blob_path(digest)).is_file():
        return None
    parts = _parts(depot, digest)
    if not all((depot / blob_path(part.digest)).is_file() for part in parts):
        return None
    return OldBundle(digest, parts, lambda part: (depot / blob_path(part.digest)).read_bytes())


def bundle_file(path: Path) -> OldBundle:
    """A bundle's file.

    Raises:
        BundleError, ManifestError, InputError: it is no usable bundle.
        SetupError: H02.
    """
    try:
        bundle = open_bundle(io.BytesIO(path.read_bytes()))
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    bundle.parts()
    return OldBundle(bundle.digest, bundle.oci.blobs, bundle.blob)


def most_run(devices: Iterable[DeviceRow], family: str) -> list[str]:
    """The bundles that most devices of a family report, at most four; most frequent first."""
    states = [item.state for item in devices if item.family == family]
    running = Counter(state.bundle for state in states if state and state.bundle)
    return [digest for digest, _ in running.most_common(MOST_SOURCES)]


def make_delta(old: bytes, new: bytes) -> bytes:
    """A BSDIFF40 file, checked: it makes the new file out of the old one.

    The smaller of two: bsdiff's own, which follows what was inserted (trees), and the
    differences byte by byte, which are small where every weight moved by a little and
    no run of bytes stayed for bsdiff to find.
    """
    import bsdiff4

    delta = min(bytes(bsdiff4.diff(old, new)), in_place_delta(old, new), key=len)
    assert apply_delta(old, delta, len(new)) == new  # noqa: S101 - the library's promise, held to
    return delta


def in_place_delta(old: bytes, new: bytes) -> bytes:
    """A BSDIFF40 file of one step: each byte against the one in the same place."""
    shared = min(len(old), len(new))
    before = np.frombuffer(old, np.uint8, shared)
    differences = np.frombuffer(new, np.uint8, shared) - before
    step = struct.pack("<QQQ", shared, len(new) - shared, 0)
    parts = [bz2.compress(part) for part in (step, differences.tobytes(), new[shared:])]
    return (
        b"BSDIFF40" + struct.pack("<QQQ", len(parts[0]), len(parts[1]), len(new)) + b"".join(parts)
    )


def compressed_size(data: bytes) -> int:
    """Bytes of a file when compressed as well as it may be (xz)."""
    return len(lzma.compress(data, preset=9))


def offer_deltas(depot: Path, digest: str, running: Iterable[str]) -> list[DeltaVerdict]:
    """As `make_deltas`, from bundles of the depot; those whose blobs are not there are skipped."""
    olds = (bundle_in(depot, source) for source in sorted(set(running)))
    return make_deltas(depot, digest, [old for old in olds if old])


def make_deltas(
    depot: Path,
    digest: str,
    olds: Iterable[OldBundle],
    step: Callable[[str], None] = lambda _: None,
) -> list[DeltaVerdict]:
    """Put the deltas that lead to a bundle into the depot, and list them there.

    Args:
        depot: its folder; it holds the blobs of the bundle.
        digest: of the published bundle.
        olds: the bundles that devices have.
        step: told before each part, in words.

    Returns:
        What was made and what was not worth it, now or earlier.

    Raises:
        StoreError: D01 or D06.
        BundleError: a bundle's list of parts cannot be read.
    """
    listed, known = read_list(depot, digest)
    verdicts: list[DeltaVerdict] = []
    for old in olds:
        for before, part in _pairs(old, _parts(depot, digest)):
            step(f"delta of {part.file_name} from {old.digest[:19]}")
            found = known.get((before.digest, part.digest))
            if found is None:
                found, delta = _judge(depot, old, before, part)
                listed += [delta] if delta else []
                known[before.digest, part.digest] = found
            verdicts.append(found)
    if verdicts:
        rows = _write_list(listed[-_MOST_ROWS:], list(known.values())[-_MOST_ROWS:])
        write_durably(depot / list_path(digest), rows)
    return verdicts


def read_list(depot: Path, digest: str) -> tuple[list[Delta], dict[tuple[str, str], DeltaVerdict]]:
    """What a depot lists for a bundle: the deltas whose blobs are there, and verdicts by parts."""
    path = depot / list_path(digest)
    if not path.is_file():
        return [], {}
    data = path.read_bytes()
    try:
        fields = Fields(parse_json(data, limit=LIST_LIMIT_BYTES, what="deltas"), "deltas")
        rows = [item for item in read_deltas(data) if (depot / blob_path(item.digest)).is_file()]
        said = [DeltaVerdict.from_fields(item) for item in fields.tables("verdicts", [])]
    except ManifestError:  # not of our making: it is made anew
        return [], {}
    there = {(item.source, item.result) for item in rows}
    known = {(item.old, item.new): item for item in said}
    return rows, {pair: item for pair, item in known.items() if pair in there or not item.kept}


def list_path(digest: str) -> str:
    """Where a depot lists the deltas that lead to a bundle."""
    return f"deltas/{digest.partition(':')[2]}.json"


def _write_list(deltas: list[Delta], verdicts: Iterable[DeltaVerdict]) -> bytes:
    """The list with the verdicts beside it, which devices pass over."""
    document = parse_json(write_deltas(deltas), limit=LIST_LIMIT_BYTES, what="deltas")
    return compact(document | {"verdicts": [item.to_dict() for item in verdicts]})


def _parts(depot: Path, digest: str) -> Sequence[Descriptor]:
    return OciManifest.from_bytes((depot / blob_path(digest)).read_bytes()).blobs


def _pairs(old: OldBundle, parts: Iterable[Descriptor]) -> Iterator[tuple[Descriptor, Descriptor]]:
    """The parts that differ and are large enough for a delta to matter."""
    before = {item.file_name: item for item in old.parts}
    for part in parts:
        found = before.get(part.file_name)
        if found and found.digest != part.digest and part.size > SMALL_BYTES:
            yield found, part


def _judge(
    depot: Path, old: OldBundle, before: Descriptor, part: Descriptor
) -> tuple[DeltaVerdict, Delta | None]:
    about = (part.file_name, old.digest, part.size)
    pair = (before.digest, part.digest)
    if max(part.size, before.size) > LARGE_BYTES:
        return DeltaVerdict(*about, 0, 0, False, *pair), None
    new = (depot / blob_path(part.digest)).read_bytes()
    made = make_delta(old.read(before), new)
    compressed = compressed_size(new)
    kept = len(made) < LARGEST_SHARE * compressed
    delta = Delta(*pair, sha256_digest(made), len(made))
    if kept:
        write_durably(depot / blob_path(delta.digest), made)
    verdict = DeltaVerdict(*about, compressed, len(made), kept, *pair)
    return verdict, delta if kept else None
