"""Resident memory of a program of a board, without the emulator's own.

QEMU's user mode maps the board's memory into a region of its own process: from address 0 on
for 64-bit boards, from wherever there is room for 32-bit ones. The sum of what is resident
there is the program's. In a whole emulated machine the same agent had 62 MiB where this
gave 66: pages of libraries that other programs share are counted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import unpack_from
from typing import Final

_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ (\S+) \S+ \S+ *(.*)")
_RESIDENT: Final = re.compile(r"Rss: +(\d+) kB")
# bits of a program -> bits of addresses that QEMU gives it; its own memory lies far above
_SPAN: Final = {32: 32, 64: 39}
_LOAD: Final = 1


def resident_mib(pid: int, program: Path) -> float:
    """Resident memory of a running program, MiB.

    Args:
        pid: of the emulator.
        program: the file of the board that it runs.

    Raises:
        OSError: it has ended, or is somebody else's.
    """
    real = program.resolve()  # as the kernel names it
    return read_resident(Path(f"/proc/{pid}/smaps").read_text().splitlines(), real, _image(real))


def with_children(pid: int, program: Path) -> float:
    """The same of a program and of all that it has started, as far as they still run."""
    waiting, total = [pid], 0.0
    while waiting:
        now = waiting.pop()
        with suppress(OSError):  # it has ended meanwhile
            total += resident_mib(now, program)
            found = Path(f"/proc/{now}/task").glob("*/children")
            waiting += [int(child) for path in found for child in path.read_text().split()]
    return total


@dataclass(frozen=True)
class Image:
    """How a program lies in memory.

    Attributes:
        bits: of its addresses.
        first: the address at which it asks to be; 0 for wherever there is room.
    """

    bits: int
    first: int


def read_resident(lines: Iterable[str], program: Path, image: Image) -> float:
    """The same from the lines of ``smaps``. Pure.

    Args:
        lines: of the emulator's ``smaps``.
        program: the file of the board that it runs.
        image: of that file.
    """
    found: list[tuple[int, int]] = []  # start, KiB
    base = None if image.bits == 32 else 0
    start = 0
    for line in lines:
        if mapping := _MAPPING.match(line):
            start = int(mapping[1], 16)
            if base is None and mapping[4] == str(program) and int(mapping[3], 16) == 0:
                base = start - image.first
        elif resident := _RESIDENT.match(line):
            found.append((start, int(resident[1])))
    if base is None:
        return 0.0
    end = base + (1 << _SPAN[image.bits])
    return round(sum(kib for start, kib in found if base <= start < end) / 1024, 1)


def _image(program: Path) -> Image:
    """Of an ELF program (System V ABI, program headers)."""
    with program.open("rb") as stream:
        data = stream.read(4096)
    if data[4] == 1:
        (offset,), (size, number) = unpack_from("<I", data, 28), unpack_from("<HH", data, 42)
        heads = [unpack_from("<III", data, offset + place * size) for place in range(number)]
        return Image(32, next(address for kind, _, address in heads if kind == _LOAD))
    return Image(64, 0)
