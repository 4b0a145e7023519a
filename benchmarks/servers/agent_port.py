"""The agent's own port with its scorer: contract check, drift counting, windows; no network link."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from wherry_agent.clock import SystemClock
from wherry_agent.config import AgentConfig, Limits
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_agent.serving.server import Hooks, HttpServer
from wherry_agent.serving.service import Service
from wherry_agent.thrift import give_back, share_memory
from wherry_contract.bundle import open_bundle


def main(path: str, bundle: str) -> None:
    """Serve until killed."""
    share_memory()
    nowhere, listen = Path(), f"unix:{path}"
    config = AgentConfig("bench", "bench", "fraud", nowhere, nowhere, None, "", listen)
    scorer = Scorer(Limits(), SystemClock(), lambda _: None)
    with Path(bundle).open("rb") as stream:
        found = open_bundle(stream)
        scorer.swap(Served.by_model(load_model(found.layout().digest, found.parts())))
    service = Service(config, scorer, "bench")
    hooks = Hooks(service.handle, lambda _: None, lambda error: print(error, file=sys.stderr))
    server = HttpServer(listen, Limits(), hooks)
    threading.Thread(target=server.run, daemon=True).start()
    give_back()
    while True:
        time.sleep(1)
        scorer.tick()


if __name__ == "__main__":
    main(*sys.argv[1:])
