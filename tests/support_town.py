"""A town: a real server and broker, three shops with light devices, and their days."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from support import wait_for
from support_agent import Made, make_bundle, reference_rows, statement_of
from support_fleet import Device, Server, enrol, release, running_devices, running_server, wherry
from support_monitor import THRESHOLD, Fleet, scores

from wherry_contract.bundle import assemble
from wherry_contract.features import RawMatrix
from wherry_contract.profile import build_profile

SHOPS = {"till-1": "paris", "till-2": "paris", "till-3": "lyon"}


def town_bundle() -> Made:
    """A bundle whose profile has rows enough to judge by."""
    made = make_bundle()
    inputs = made.parts.manifest.input
    raw = reference_rows(inputs, 4000)
    profile = build_profile(inputs, raw, scores(raw), THRESHOLD)
    layout = assemble(parts := replace(made.parts, profile=profile))
    return Made(layout, parts, statement_of(layout, made.parts.manifest))


@dataclass
class Town:
    """A server, its shops, and a counter for their windows."""

    server: Server
    shops: dict[str, Device]
    bundle: Made

    def day(self, day: int, *, doubled: str = "") -> None:
        """Every shop counts a day's payments and sends its window."""
        counting = Fleet()
        parts = self.bundle.parts
        counting.contract, counting.profile = parts.manifest.input, parts.profile
        counting.counter = counting.profile.counter(counting.contract)
        for number, (name, shop) in enumerate(self.shops.items()):
            raw: RawMatrix = reference_rows(counting.contract, 500, seed=100 * day + number)
            if name == doubled:
                raw[:, 0] *= 2
            place = shop.place()
            counting.send(name, day, raw, bundle=self.bundle.digest, place=place)
            shop.send("window", counting.windows[-1].window.to_bytes(), place.seq)

    def await_stored(self) -> None:
        """Wait until all that was sent has been acknowledged."""
        wait_for(lambda: not any(shop.outbox for shop in self.shops.values()), what="the acks")


@contextmanager
def running_town(folder: Path, *arguments: str) -> Iterator[Town]:
    """Three shops that run a bundle and have sent two quiet days."""
    bundle = town_bundle()
    with running_server(folder / "data", *arguments) as server:
        shops = {name: Device(enrol(server, name, site=site)) for name, site in SHOPS.items()}
        with running_devices(*shops.values()):
            release(server.data, bundle)
            path = folder / "fraud.wherry"
            path.write_bytes(bundle.to_tar())
            wherry(server.data, "push", str(path), "--yes", "--wait", "--soak", "0s")
            found = Town(server, shops, bundle)
            for day in range(2):
                found.day(day)
            found.await_stored()
            yield found
