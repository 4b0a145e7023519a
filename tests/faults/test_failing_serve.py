"""`wherry serve` on a disk that fails at random, while it works and while it starts.

A real server with its broker under the shim, which makes calls fail with EIO, ENOSPC, EROFS or
short writes. It goes on running and says what it could not do; once the disk is well again
everything that it had answered is there, once, and all of the work can be done.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from support_release import copied
from support_serve import Shop, Victim, check, make_data, running_shop
from support_victim import Victims

from wherry_contract.errors import StoreError, WherryError

SEED = int(os.environ.get("WHERRY_CRASH_SEED", "20261201"))
WORK = ("take", "enrol", "tell", "roll", "revoke")


@pytest.fixture
def shop(memory: Path, victims: Victims, tmp_path: Path) -> Iterator[Shop]:
    with running_shop(victims, memory / "data", tmp_path) as running:
        yield running


def trouble(shop: Shop, number: int, chance: random.Random, per_million: int) -> int:
    """One piece of work while the disk fails, and again when it is well; returns what failed."""
    what, page = chance.choice(WORK), shop.server.victims.page
    if what == "revoke":
        shop.enrol(number)
    if what == "take":
        shop.release(number)
    work: Callable[[int], Any] = getattr(shop, what)
    page.set(failed=0, seed=chance.randrange(2**32), per_million=per_million)
    end = time.monotonic() + 0.5
    shop.enough = lambda: page.get("failed") > 0 and time.monotonic() > end
    with suppress(WherryError, OSError):
        work(number)
    page.set(per_million=0)
    shop.enough = lambda: False
    assert shop.server.victims.alive, shop.server.said()
    answer = work(number)
    check(shop, [answer] if what == "roll" else ())
    return page.get("failed")


def test_a_server_whose_disk_fails_goes_on(shop: Shop) -> None:
    chance = random.Random(SEED)
    assert sum(trouble(shop, number, chance, 200_000) for number in range(1, 6))


def test_an_upload_to_a_full_disk_is_told(shop: Shop) -> None:
    """What is small is only written when it is read, and may fail again when it is put away."""
    page = shop.server.victims.page
    for times in (1, 2):
        page.set(asked=0, failed=0, fail_at=1, fail_times=times, fail_errno=errno.ENOSPC)
        with pytest.raises(StoreError) as caught:
            shop.server.client.upload("bundles", BytesIO(b"x" * 100), 100)
        assert (caught.value.code, page.get("failed")) == ("D01", times)
    page.set(fail_at=0)
    check(shop, ())


def start(victims: Victims, base: Path, data: Path, seed: int, per_million: int) -> int:
    """A start on a disk that fails, and one on a disk that is well; returns what failed."""
    server = Victim(copied(base, data), victims)
    if server.begin(seed=seed, per_million=per_million):
        victims.page.set(per_million=0)
        server.kill()
    else:
        assert server.bury() == 3, server.said()
        assert "should not have happened" not in server.said(), server.said()
    failed = victims.page.get("failed")
    server.start()
    try:
        assert server.client.get("devices")["devices"] == []
        root = base / "depot" / "tuf" / "1.root.json"
        Shop(server, data, root.read_bytes()).check_list()
    finally:
        server.kill()
    return failed


def test_a_start_on_a_disk_that_fails_is_told(victims: Victims, memory: Path) -> None:
    base = memory / "base"
    make_data(base)
    assert start(victims, base, memory / "started", SEED, 20_000)


@pytest.mark.long
@pytest.mark.parametrize("per_million", [20_000, 100_000, 300_000])
def test_a_server_whose_disk_fails_goes_on_for_long(
    shop: Shop, per_million: int, record_property: Callable[[str, object], None]
) -> None:
    began, chance, rounds = time.monotonic(), random.Random(SEED + per_million), 80
    failed = sum(trouble(shop, number, chance, per_million) for number in range(1, rounds + 1))
    took = time.monotonic() - began
    told = f"seed {SEED + per_million}, p = {per_million / 1e6}: {rounds} rounds, {failed} calls failed"
    record_property("figure", f"{told}, 0 failures, {took:.0f} s")


@pytest.mark.long
def test_starts_on_a_disk_that_fails(
    victims: Victims, memory: Path, record_property: Callable[[str, object], None]
) -> None:
    began, base = time.monotonic(), memory / "base-long"
    make_data(base)
    rates = (3_000, 10_000, 30_000)
    failed = sum(start(victims, base, memory / "started", s, rates[s % 3]) for s in range(60))
    took = time.monotonic() - began
    told = f"seeds 0 to 59 at p = 0.003, 0.01 and 0.03: {failed} calls failed"
    record_property("figure", f"{told}, 0 failures, {took:.0f} s")
