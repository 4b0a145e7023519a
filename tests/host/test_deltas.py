"""The server makes deltas from what its fleet runs, and serves them."""

from __future__ import annotations

import io
import random
from pathlib import Path

from support_agent import make_bundle
from support_fleet import open_store, state, trust_keys

from wherry.server.intake import Batch
from wherry.server.office import Office, Site
from wherry_contract.delta import apply_delta, read_deltas
from wherry_contract.signature import PublicKey

CARD = random.Random(7).randbytes(40_000).hex().encode()
OLD = make_bundle("1.0.0", card=CARD)
NEW = make_bundle("2.0.0", card=CARD[:500] + b"rewritten" + CARD[509:])
KEY = PublicKey("a" * 64, "b" * 64)


def test_a_bundle_that_is_taken_gets_deltas_from_what_the_fleet_runs(tmp_path: Path) -> None:
    trust_keys(tmp_path)
    with open_store(tmp_path, "a", "b", "c") as store:
        site = Site("http://h", "f", lambda _: "", lambda: None, "", own_broker=True)
        office = Office(store, site, KEY, clock=lambda: 1.8e9, news=lambda: None)
        office.take_bundle(io.BytesIO(OLD.to_tar()))
        reported = {name: state(name, bundle=OLD.digest, trust="good") for name in ("a", "b")}
        store.add(Batch(1.8e9, states=reported))
        office.take_bundle(io.BytesIO(NEW.to_tar()))
        depot = store.depot
        listed = depot.served(f"deltas/{NEW.digest[7:]}.json")
        assert listed is not None
        (delta,) = read_deltas(listed.read_bytes())
        packed = depot.served(f"blobs/sha256/{delta.digest[7:]}")
        assert packed is not None
        new = NEW.layout.blobs[delta.result]
        made = apply_delta(OLD.layout.blobs[delta.source], packed.read_bytes(), len(new))
        assert made == new
        assert delta.size == packed.stat().st_size < 0.1 * len(new)
        assert depot.served(f"deltas/{OLD.digest[7:]}.json") is None  # nobody ran anything then
