"""How long it takes to sign an order for every device of a large fleet.

    python benchmarks/signing.py [--orders N]

Signs orders as the server does (`ListedSigner`: payload, DSSE envelope, topic's wrapping) with
a key that `fleet/keys.json` lists, and beside it, in turn in the same run, the same payloads
with a bare Ed25519 key and nothing around them. The ratio is what our house adds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from common import print_machine

from wherry.repository.lab import hold_ceremony
from wherry.repository.repository import Repository
from wherry.server.orders import ListedSigner
from wherry_contract.assignment import Assignment
from wherry_contract.messages import wrap_assignment

BATCHES = 10


def orders(count: int, start: int) -> list[Assignment]:
    """Orders for as many devices, each bound to a key of its own."""
    now = time.time()
    return [
        Assignment(
            device=f"till-{number}",
            rollout="r1-fraud-1-4-0",
            family="fraud",
            digest="sha256:" + "ab" * 32,
            size=1234,
            sequence=1,
            issued_at=now,
            expires=now + 30 * 86_400,
            device_key=f"{number:064x}",
        )
        for number in range(start, start + count)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=100_000)
    total = parser.parse_args().orders
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        keys, repository = Path(folder) / "keys", Repository(Path(folder))
        began = time.perf_counter()
        hold_ceremony(repository, keys, ["fraud"])
        print(f"ceremony of a laboratory, keys and all: {time.perf_counter() - began:.2f} s")
        signer = ListedSigner(keys, repository)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        bare = load_pem_private_key((keys / "assignment.key").read_bytes(), None)
        ours, alone, size = [], [], 0
        for batch in range(BATCHES):
            todo = orders(total // BATCHES, batch * total)
            began = time.perf_counter()
            signed = [wrap_assignment(signer.sign(order)) for order in todo]
            ours.append(time.perf_counter() - began)
            payloads = [order.to_bytes() for order in todo]
            began = time.perf_counter()
            for payload in payloads:
                bare.sign(payload)  # type: ignore[union-attr,call-arg]  # Ed25519
            alone.append(time.perf_counter() - began)
            size = len(signed[0])
    ratios = [mine / its for mine, its in zip(ours, alone, strict=True)]
    print(
        f"{total:,} orders signed: {sum(ours):.1f} s, {total / sum(ours):,.0f}/s, {size} bytes each"
    )
    print(f"the same payloads, bare Ed25519: {sum(alone):.1f} s, {total / sum(alone):,.0f}/s")
    print(f"ratio: median {statistics.median(ratios):.2f} of {BATCHES} batches in turn")


if __name__ == "__main__":
    main()
