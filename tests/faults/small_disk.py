"""Updates on a file system of 24 MiB: started by test_small_disk.py, which mounted it.

Reads one JSON request, prints one JSON document of what was seen.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support_device import Device

from wherry_contract.signature import TrustRoot

RESERVE_MIB = 8.0


def free(folder: Path) -> int:
    """Bytes that may still be written."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, left: int) -> None:
    """Leave so many bytes free."""
    (folder / "filler").unlink(missing_ok=True)
    (folder / "filler").write_bytes(bytes(max(0, free(folder) - left)))


def main() -> None:
    """Too little room; enough; and somebody else who fills the disk during the download."""
    asked = json.load(sys.stdin)
    folder, need = Path(asked["folder"]), int(asked["need"])
    root = TrustRoot.from_bytes(asked["root"].encode())
    orders = [base64.b64decode(order) for order in asked["orders"]]
    reserve = int(RESERVE_MIB * 2**20)
    seen: dict[str, object] = {}
    with Device(
        folder / "device", depot=asked["depot"], root=root, reserve_mib=RESERVE_MIB
    ) as device:
        device.updater.start()
        fill(folder, reserve + int(1.2 * need) - 50_000)
        device.updater.offer(orders[0])
        device.settle()
        seen["too little"] = device.outcomes()[-1][1:]
        fill(folder, reserve + int(1.2 * need) + 200_000)
        device.updater.offer(orders[1])
        device.step_to("fetch")
        fill(folder, reserve - 100_000)
        device.step()
        seen["meanwhile"] = device.events()[-1].code
        seen["used of the reserve"] = reserve - 100_000 - free(folder)
        fill(folder, reserve + int(1.2 * need) + 200_000)
        least = free(folder)
        for _ in range(100):
            if device.state == "idle":
                break
            device.step()
            device.pay()
            device.clock.pass_by(1)
            least = min(least, free(folder))
        seen["enough"] = device.outcomes()[-1][1:]
        seen["least free, over the reserve"] = least - reserve
    print(json.dumps(seen))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
