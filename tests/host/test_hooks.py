"""Hooks: a real HTTP server, a real broker and a real command are told once, whatever fails between."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from support import running_mosquitto, wait_for
from support_build import write_project, write_shop
from support_labels import BUNDLE, History, World

from wherry.bundle_view import look
from wherry.hooks import Cause, Ledger, causes, read_hooks, tell
from wherry.monitor import FleetView, Forecast, Outlook, Policy
from wherry.monitor.view import DAY, Baseline
from wherry_contract.errors import SetupError
from wherry_contract.wire import canonical

NOW = 1.79e9
SECRET = "as-secret-as-it-gets"
CAUSE = Cause("retrain-1", BUNDLE, ("labels: 1.8 positives for each",), 0.0)


@dataclass
class Receiver:
    """An HTTP server that answers as it is told and remembers what came."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def receiving(*answers: int) -> Iterator[Receiver]:
    """Run it; the last answer is repeated."""
    found = Receiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((self.path, dict(self.headers), body))
            status = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _hooks(folder: Path, text: str) -> Path:
    (folder / "hook.secret").write_text(SECRET + "\n")
    path = folder / "hooks.toml"
    path.write_text(text)
    return path


def _webhook(port: int) -> str:
    return f"""
        [[hooks]]
        name = "ci"
        kind = "webhook"
        url = "http://127.0.0.1:{port}/hook?token={SECRET}"
        secret_file = "hook.secret"
    """


def test_a_webhook_is_told_once_and_signed(tmp_path: Path) -> None:
    with receiving(503, 302, 204) as receiver:
        hooks = read_hooks(_hooks(tmp_path, _webhook(receiver.port)))
        states = [
            tell([CAUSE], hooks, Ledger(tmp_path / "told.json"), lambda: NOW)[0] for _ in range(5)
        ]
    assert [item.state for item in states] == ["failed", "failed", "told", *["told before"] * 2]
    assert "503" in states[0].outcome
    assert "302" in states[1].outcome, "a redirect is not followed"
    assert len(receiver.got) == 3
    path, headers, body = receiver.got[-1]
    assert path == f"/hook?token={SECRET}"
    assert headers["Idempotency-Key"] == CAUSE.id
    mark = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Wherry-Signature"] == f"sha256={mark}"
    assert json.loads(body) == CAUSE.to_dict()
    (line,) = Ledger(tmp_path / "told.json").lines
    assert (line.tries, bool(line.done_at)) == (3, True)
    said = repr(hooks) + (tmp_path / "told.json").read_text() + repr(states)
    assert SECRET not in said


def test_told_again_under_the_same_id_if_the_plug_was_pulled(tmp_path: Path) -> None:
    """It was told and not noted: the ledger says begun, so it is told again, under the same id."""
    with receiving(200) as receiver:
        hooks = read_hooks(_hooks(tmp_path, _webhook(receiver.port)))
        ledger = Ledger(tmp_path / "told.json")
        assert ledger.begin(CAUSE.id, CAUSE.bundle, "ci", NOW)
        hooks.ways["ci"].send(CAUSE.id, canonical(CAUSE.to_dict()))
        (again,) = tell([CAUSE], hooks, Ledger(tmp_path / "told.json"), lambda: NOW)
    assert again.state == "told"
    assert {headers["Idempotency-Key"] for _, headers, _ in receiver.got} == {CAUSE.id}


def test_one_that_fails_keeps_no_other(tmp_path: Path) -> None:
    with receiving(200) as receiver:
        gone = _webhook(1).replace('"ci"', '"gone"')
        hooks = read_hooks(_hooks(tmp_path, gone + _webhook(receiver.port)))
        told = tell([CAUSE], hooks, Ledger(tmp_path / "told.json"), lambda: NOW)
    assert [(item.hook, item.state) for item in told] == [("gone", "failed"), ("ci", "told")]


def test_a_broker_is_told(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path) as broker:
        heard: list[bytes] = []
        ear = paho.Client(CallbackAPIVersion.VERSION2)
        ear.on_message = lambda _c, _u, message: heard.append(message.payload)
        ready = threading.Event()
        ear.on_subscribe = lambda *_: ready.set()
        ear.connect("127.0.0.1", broker.port)
        ear.subscribe("ml/retrain", 1)
        ear.loop_start()
        wait_for(ready.is_set, what="the subscription")
        text = f"""
            [[hooks]]
            name = "bus"
            kind = "mqtt"
            url = "mqtt://127.0.0.1:{broker.port}"
            topic = "ml/retrain"
        """
        ledger = Ledger(tmp_path / "told.json")
        for _ in range(2):
            tell([CAUSE], read_hooks(_hooks(tmp_path, text)), ledger, lambda: NOW)
        wait_for(lambda: bool(heard), what="the message")
        ear.disconnect()
        ear.loop_stop()
    assert [json.loads(item) for item in heard] == [CAUSE.to_dict()]


def test_a_command_trains_and_leaves_a_candidate(tmp_path: Path) -> None:
    """It is given the cause on stdin; the project that it leaves behind becomes a bundle."""
    (tmp_path / "shop").mkdir()
    shop = write_shop(tmp_path / "shop")
    project = write_project(shop)
    script = (
        "import os, sys; open('seen', 'w').write(os.environ['WHERRY_CAUSE'] + sys.stdin.read())"
    )
    text = f"""
        [[hooks]]
        name = "train"
        kind = "command"
        command = [{json.dumps(sys.executable)}, "-c", {json.dumps(script)}]
        project = {json.dumps(str(project))}
        bundle = "next.wherry"
    """
    (told,) = tell([CAUSE], read_hooks(_hooks(tmp_path, text)), Ledger(tmp_path / "l"), lambda: NOW)
    assert told.state == "told", told.outcome
    assert (tmp_path / "seen").read_text() == CAUSE.id + canonical(CAUSE.to_dict()).decode()
    assert look(tmp_path / "next.wherry").digest in told.outcome


def test_a_command_that_fails_is_run_again(tmp_path: Path) -> None:
    script = "import pathlib, sys; p = pathlib.Path('n'); n = len(p.read_text()) if p.exists() else 0; p.write_text('x' * (n + 1)); sys.exit(n == 0)"
    text = f"""
        [[hooks]]
        name = "train"
        kind = "command"
        command = [{json.dumps(sys.executable)}, "-c", {json.dumps(script)}]
    """
    hooks, ledger = read_hooks(_hooks(tmp_path, text)), Ledger(tmp_path / "l")
    states = [tell([CAUSE], hooks, ledger, lambda: NOW)[0].state for _ in range(3)]
    assert states == ["failed", "told", "told before"]
    assert (tmp_path / "n").read_text() == "xx"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("lead_dayz = 3", "lead_dayz", id="unknown name"),
        pytest.param('[[hooks]]\nname = "a"\nkind = "pigeon"', "kind", id="kind"),
        pytest.param('[[hooks]]\nname = "a"\nkind = "webhook"\nurl = "ftp://x"', "url", id="url"),
        pytest.param('[[hooks]]\nname = "a"\nkind = "command"\ncommand = []', "command", id="none"),
        pytest.param(
            '[[hooks]]\nname = "a"\nkind = "webhook"\nurl = "http://x"\nsecret_file = "gone"',
            "gone",
            id="no secret",
        ),
        pytest.param("[[hooks", "TOML", id="no TOML"),
        pytest.param("#" * 65_537, "H01: .*has more than 65536 bytes", id="too large"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        read_hooks(_hooks(tmp_path, text))


def _view(**changes: Any) -> FleetView:
    known = Baseline("e", "world", 1, 9, (BUNDLE,))
    view = FleetView(Policy(), NOW, 1, ("a",), (known,), (), (), (), ())
    return replace(view, **changes)


def _due(days: float) -> Forecast:
    at = NOW + days * DAY
    return Forecast("AMOUNT", "", Outlook.DUE, 0.1, 0.05, 9, "", at, at + DAY, at + 2 * DAY)


def test_causes() -> None:
    """One for a model, whatever speaks against it; none far ahead of the date."""
    assert causes(_view(), 28 * DAY) == ()
    assert causes(_view(forecasts=(_due(40),)), 28 * DAY) == ()
    (soon,) = causes(_view(forecasts=(_due(20),)), 28 * DAY)
    assert (soon.bundle, soon.due) == (BUNDLE, NOW + 20 * DAY)
    rng = np.random.default_rng(8)
    history = History.begin(rng)
    for _ in range(3):
        history.add(rng, World(slope=0.4), 8000)
    (now,) = causes(_view(performance=history.judged(), forecasts=(_due(20),)), 28 * DAY)
    assert (now.id, now.due, len(now.reasons)) == (soon.id, 0.0, 2)
