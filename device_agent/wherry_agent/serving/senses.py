"""What the board says of itself: the agent's memory, and a temperature where there is a sensor."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

_PLAUSIBLE: Final = (-60.0, 200.0)  # degrees; a sensor that is not connected says anything


class Senses:
    """Looks at files of the kernel's; what cannot be read is not known."""

    def __init__(
        self, process: Path = Path("/proc/self"), thermal: Path = Path("/sys/class/thermal")
    ) -> None:
        self._statm = process / "statm"
        self._zones = sorted(thermal.glob("thermal_zone*/temp"))

    def memory_mib(self) -> float | None:
        """Resident memory of this process, in MiB."""
        try:
            pages = int(self._statm.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return None
        return pages * resource.getpagesize() / 2**20

    def celsius(self) -> float | None:
        """The warmest plausible sensor."""
        found = []
        for zone in self._zones:
            with suppress(OSError, ValueError):  # a zone may be asleep
                found.append(int(zone.read_text()) / 1000)
        return max((degrees for degrees in found if _is_plausible(degrees)), default=None)


def _is_plausible(degrees: float) -> bool:
    return _PLAUSIBLE[0] < degrees < _PLAUSIBLE[1]
