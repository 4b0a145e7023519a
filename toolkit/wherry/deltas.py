"""Deltas for the depot: from the bundles that the fleet runs to one that is published.

A delta is made for each large part by its file name, and kept only where it pays: below
60 % of what the compressed whole would be. What was made, and what was not worth it, is
said. Format and limits: `wherry_contract.delta`.
"""

from __future__ import annotations

import bz2
import lzma
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wherry_contract.delta import LARGEST_SHARE, Delta, apply_delta, write_deltas
from wherry_contract.oci import Descriptor, OciManifest, blob_path
from wherry_contract.wire import sha256_digest

from .files import write_durably

LARGE_BYTES = 64 << 20  # beyond it bsdiff takes a GiB of memory and minutes
SMALL_BYTES = 16 * 1024  # below it the whole always comes: a delta saves less than it asks for


@dataclass(frozen=True)
class DeltaVerdict:
    """What a delta of one part would be.

    Attributes:
        name: of the part's file.
        source: digest of the bundle that it starts from.
        size: of the whole part, in bytes.
        compressed: of the whole when compressed (xz).
        delta: of the delta.
        kept: whether it is in the depot.
    """

    name: str
    source: str
    size: int
    compressed: int
    delta: int
    kept: bool

    @property
    def share(self) -> float:
        """The delta's size over that of the compressed whole."""
        return self.delta / max(1, self.compressed)

    def __str__(self) -> str:
        verdict = "kept" if self.kept else "not worth it"
        text = f"{self.name} from {self.source[:19]}: {self.delta} bytes"
        return f"{text}, {self.share:.0%} of the compressed whole: {verdict}"


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
    """Put the deltas that lead to a bundle into the depot, and list them there.

    Args:
        depot: its folder; it holds the blobs of all these bundles.
        digest: of the published bundle.
        running: digests of the bundles that devices run; those without blobs here are skipped.

    Returns:
        What was made and what was not worth it.

    Raises:
        StoreError: D01 or D06.
        BundleError: a bundle's list of parts cannot be read.
    """
    new = _parts(depot, digest)
    verdicts, deltas = [], []
    for source in sorted(set(running) - {digest}):
        if not (depot / blob_path(source)).is_file():
            continue
        old = {item.file_name: item for item in _parts(depot, source)}
        for part in new:
            before = old.get(part.file_name)
            if (
                before is None
                or before.digest == part.digest
                or not SMALL_BYTES < part.size <= LARGE_BYTES
            ):
                continue
            verdict, delta = _judge(depot, source, before, part)
            verdicts.append(verdict)
            deltas += [delta] if verdict.kept else []
    if deltas:
        write_durably(depot / _list_path(digest), write_deltas(deltas))
    return verdicts


def _parts(depot: Path, digest: str) -> Sequence[Descriptor]:
    return OciManifest.from_bytes((depot / blob_path(digest)).read_bytes()).blobs


def _list_path(digest: str) -> str:
    return f"deltas/{digest.partition(':')[2]}.json"


def _judge(
    depot: Path, source: str, before: Descriptor, part: Descriptor
) -> tuple[DeltaVerdict, Delta]:
    old, new = ((depot / blob_path(item.digest)).read_bytes() for item in (before, part))
    made = make_delta(old, new)
    compressed = compressed_size(new)
    kept = len(made) < LARGEST_SHARE * compressed
    delta = Delta(before.digest, part.digest, sha256_digest(made), len(made))
    if kept:
        write_durably(depot / blob_path(delta.digest), made)
    return (
        DeltaVerdict(part.file_name, source, part.size, compressed, len(made), kept),
        delta,
    )
