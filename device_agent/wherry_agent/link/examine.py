"""What a command asks for, seen in a short-lived child: ``python -m wherry_agent.link.examine``.

So the resident agent carries none of what a self-test needs, and one that hangs is ended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wherry_agent.child import ChildFailure, child_main, run_child
from wherry_agent.config import AgentConfig
from wherry_contract.errors import StoreError

_SECONDS: Final = 60.0
_PROBES: Final = 3  # of a self-test: a small model in each of two runtimes, and the active bundle


def examine(config: AgentConfig, ask: str) -> dict[str, Any]:
    """The document of `wherry-agent self-test --json`, or of `wherry-agent status --json`.

    Args:
        config: of the agent that runs.
        ask: ``self-test`` or ``snapshot``.

    Raises:
        StoreError: D07, it could not be done; D06.
        WherryError: agent.toml is not what it was.
    """
    request = {"ask": ask, "config": str(config.file)}
    seconds = _SECONDS + _PROBES * config.limits.probe_seconds
    try:
        return run_child(__name__, request, seconds=seconds)
    except ChildFailure as failure:
        raise StoreError("D07", f"{ask}: {failure}") from failure


def _work(request: Mapping[str, Any]) -> Mapping[str, Any]:
    # only the child needs them
    from wherry_agent.config import load_config
    from wherry_agent.selftest import self_test, to_document
    from wherry_agent.status import read_status

    path = Path(request["config"])
    if request["ask"] == "snapshot":
        return read_status(load_config(path))
    return to_document(self_test(path))


if __name__ == "__main__":
    sys.exit(child_main(_work))
