"""What the contract's tests share: the golden bundle, opened, and tars bent out of shape."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from functools import cache
from typing import Any

from support import ROOT

from wherry_contract.bundle import Bundle, Parts, open_bundle

VECTORS = ROOT / "contract" / "vectors"


def vector(name: str) -> bytes:
    """A golden file's bytes."""
    return (VECTORS / name).read_bytes()


def document(name: str) -> Any:
    """A golden file, parsed."""
    return json.loads(vector(name))


@cache
def golden_bundle() -> bytes:
    """The signed golden bundle."""
    return vector("fraud-mini.wherry")


@cache
def golden_parts() -> Parts:
    """What is in it."""
    return opened(golden_bundle()).parts()


def opened(data: bytes) -> Bundle:
    """Open a bundle in memory."""
    return open_bundle(io.BytesIO(data))


def entries(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    """A bundle's entries, read by another reader than ours."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]


def retar(
    change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None],
    *,
    form: int = tarfile.USTAR_FORMAT,
    data: bytes | None = None,
) -> bytes:
    """The golden bundle, packed again after `change` has had its way with the entries."""
    found = entries(data or golden_bundle())
    change(found)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for info, content in found:
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()
