"""The application's veto at the serving port: what it may say, and what it is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_agent import agent_config
from support_device import HandClock

from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.service import Call, Service

ROWS = [
    ("a minute", "POST", b'{"seconds": 60}', 200, 60.0),
    ("an end", "POST", b'{"seconds": 0}', 200, 0.0),
    ("half a second", "POST", b'{"seconds": 0.5, "why": "payment"}', 200, 0.5),
    ("less than nothing", "POST", b'{"seconds": -1}', 400, None),
    ("no number", "POST", b'{"seconds": "60"}', 400, None),
    ("a truth", "POST", b'{"seconds": true}', 400, None),
    ("no seconds", "POST", b"{}", 400, None),
    ("a list", "POST", b"[60]", 400, None),
    ("no JSON", "POST", b"60 s", 400, None),
    ("nothing", "POST", b"", 400, None),
    ("a novel", "POST", b" " * 2000, 413, None),
    ("a question", "GET", b"", 405, None),
]


@pytest.mark.parametrize(
    ("method", "body", "status", "held"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_row(tmp_path: Path, method: str, body: bytes, status: int, held: float | None) -> None:
    config, asked = agent_config(tmp_path), list[float]()

    def hold(seconds: float) -> float:
        asked.append(seconds)
        return seconds

    scorer = Scorer(config.limits, HandClock(), lambda _: None)
    reply = Service(config, scorer, "s", hold).handle(Call(method, "/wherry/v1/hold", body))
    assert reply.status == status
    assert asked == ([held] if held is not None else [])
    if held is not None:
        assert json.loads(reply.body) == {"seconds": held}


@pytest.mark.parametrize(
    "text",
    [b'{"seconds": 1e999}', b'{"seconds": NaN}', b'{"seconds":' + b"[" * 1000],
    ids=["infinite", "none", "deep"],
)
def test_what_is_no_number_of_seconds(tmp_path: Path, text: bytes) -> None:
    config = agent_config(tmp_path)
    scorer = Scorer(config.limits, HandClock(), lambda _: None)
    reply = Service(config, scorer, "s", lambda _: 1.0).handle(
        Call("POST", "/wherry/v1/hold", text)
    )
    assert reply.status == 400
