"""The serving port while models are swapped under it, and when more is asked than it can do."""

from __future__ import annotations

import json
import resource
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_agent import make_bundle
from support_serving import ROW, Port, infer, make_served, post, read_reply, running_port

SWAPS = 1000
MODELS = [make_served(make_bundle(f"{k}.0.0", bias=-3.0 + k)) for k in range(4)]
RULE = make_served(make_bundle("9.0.0", flaw="nan"))
STRANGE = post(
    "/v2/models/fraud/infer", json.dumps({"rows": [ROW]}).encode(), "Expect: 100-continue"
)


def expected() -> dict[str, float]:
    """What each bundle says of `ROW`."""
    raw = MODELS[0].manifest.input.matrix([ROW])
    found = {}
    for served in MODELS:
        assert served.model
        answers = served.model.answer(raw)
        assert not isinstance(answers, str)
        found[served.digest] = float(answers.scores[0])
    return found


class Client(threading.Thread):
    """Asks again and again on one connection, and keeps what was wrong."""

    def __init__(self, port: Port, right: dict[str, float], stop: threading.Event) -> None:
        super().__init__()
        self._port, self._right, self._stop_asking = port, right, stop
        self.answered = 0
        self.seen: set[str] = set()
        self.wrong: list[Any] = []

    def run(self) -> None:
        """Ask."""
        with self._port.connect(60) as client:
            while not self._stop_asking.is_set():
                client.sendall(infer({"rows": [ROW] * (1 + self.answered % 2)}))
                status, _, body = read_reply(client)
                answer = json.loads(body)
                if status != 200:
                    self.wrong.append(answer)
                    return
                bundle = answer["parameters"]["bundle"]
                self.seen.add(bundle)
                scores = answer["outputs"][0]["data"]
                if any(abs(score - self._right[bundle]) > 1e-6 for score in scores):
                    self.wrong.append((bundle, scores))
                self.answered += len(scores)


def test_no_request_is_lost_or_mixed_up_while_models_are_swapped(tmp_path: Path) -> None:
    right, stop = expected(), threading.Event()
    with running_port(tmp_path, MODELS[0], window_rows=100) as port:
        clients = [Client(port, right, stop) for _ in range(4)]
        for client in clients:
            client.start()
        for turn in range(SWAPS):
            port.scorer.swap(MODELS[turn % len(MODELS)])
            if turn % 10 == 0:  # or all the swaps would fall between two requests
                before = sum(client.answered for client in clients)
                wait_for(lambda n=before: sum(client.answered for client in clients) > n)  # type: ignore[misc]
        stop.set()
        for client in clients:
            client.join()
        port.scorer.stop()
    assert [client.wrong for client in clients] == [[]] * 4
    assert set.union(*(client.seen for client in clients)) == right.keys()
    rows = sum(client.answered for client in clients)
    assert sum(tally.rows for tally in port.tallies) == rows
    assert sum(tally.fallback for tally in port.tallies) == 0
    assert sum(sum(tally.latency) for tally in port.tallies) <= rows


def test_the_rule_answers_in_the_middle_of_it_all_and_is_marked(tmp_path: Path) -> None:
    request = infer({"rows": [ROW | {"AMOUNT": 2000.0}]})
    with running_port(tmp_path, MODELS[0]) as port, port.connect() as client:
        sources = []
        for served in (MODELS[0], RULE, MODELS[1]):
            port.scorer.swap(served)
            client.sendall(request)
            sources.append(json.loads(read_reply(client)[2])["parameters"]["source"])
        port.scorer.stop()
    assert sources == ["model", "rule", "model"]
    assert [tally.fallback for tally in port.tallies] == [0, 1, 0]


def test_ten_times_too_much_is_bounded_and_nobody_accepted_is_lost(tmp_path: Path) -> None:
    """Eighty clients for eight places, each with a pipeline, half of them odd or slow."""
    wanted, places = 80, 8
    outcomes: list[str] = []
    lock = threading.Lock()
    begin = threading.Barrier(wanted)

    def work(port: Port, number: int) -> None:
        begin.wait()
        try:
            with port.connect(60) as client:
                outcome = ask_all(client, number)
        except OSError:  # closed before its first answer: it made way, or was turned away
            outcome = "closed"
        with lock:
            outcomes.append(outcome)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with running_port(tmp_path, MODELS[0], connections=places, request_seconds=2) as port:
        threads = [threading.Thread(target=work, args=(port, n)) for n in range(wanted)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert port.server.connections <= places
        with ExitStack() as stack:  # and it is as it was
            wait_for(lambda: port.server.connections == 0, what="all places to be free")
            client = stack.enter_context(port.connect())
            client.sendall(infer({"rows": [ROW]}))
            assert read_reply(client)[0] == 200
        assert port.server.overdue(0.0) == 0
    assert len(outcomes) == wanted
    assert set(outcomes) <= {"200", "503", "408", "closed"}
    assert outcomes.count("200") >= places
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, "KiB"


def ask_all(client: socket.socket, number: int) -> str:
    """What one client of the crowd sees in the end: a status."""
    odd = number % 4
    if odd == 1:
        client.sendall(infer({"rows": [ROW]})[:40])  # and nothing more: a slow loris
        return f"{read_reply(client)[0]}"
    requests = [infer({"rows": [ROW], "id": f"{number}-{turn}"}) for turn in range(10)]
    if odd == 2:
        requests = [STRANGE] * 3
    client.sendall(b"".join(requests) if odd == 3 else requests[0])
    stream = client.makefile("rb")
    for turn, request in enumerate(requests):
        if odd != 3 and turn:
            client.sendall(request)
        status = read_one(stream)
        if status != 200:
            return str(status)
    return "200"


def read_one(stream: Any) -> int:
    """The status of one answer; continuations are passed over, bodies are read."""
    while True:
        line = stream.readline().split()
        if not line:
            raise ConnectionError
        size = 0
        while header := stream.readline().strip():
            name, _, value = header.decode().partition(":")
            size = int(value) if name.lower() == "content-length" else size
        stream.read(size)
        if line[1] != b"100":
            return int(line[1])


ALTERED = {
    "another target": lambda r: r.replace(b"/infer", b"/ready", 1),
    "another length": lambda r: r.replace(b"Content-Length: ", b"Content-Length: 0", 1),
    "two lengths": lambda r: r.replace(b"Host: till", b"Host: till\r\nContent-Length: 3", 1),
    "bare line feeds": lambda r: r.replace(b"\r\n", b"\n"),
    "an encoding": lambda r: r.replace(b"Host: till", b"Host: till\r\nContent-Encoding: br", 1),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED.keys())
def test_a_remembered_head_changes_no_answer(tmp_path: Path, alter: Any) -> None:
    plain = infer({"rows": [ROW]})
    other = alter(plain)
    found = []
    for known in (False, True):
        with running_port(tmp_path, MODELS[0]) as port:
            if known:
                with port.connect() as client:
                    for request in (plain, plain, other):
                        client.sendall(request)
                        if read_reply(client)[1].get("connection") == "close":
                            break
            with port.connect() as client:
                client.sendall(other)
                status, _, body = read_reply(client)
            answer = json.loads(body)
            found.append((status, {k: v for k, v in answer.items() if k != "id"}))
    assert found[0] == found[1]


def test_bytes_that_end_a_head_in_a_body_are_no_head(tmp_path: Path) -> None:
    """A head of bare line feeds, whose body holds the end of another: nothing is remembered."""
    body = b'{"rows": [{"AMOUNT": 1,\r\n\r\n"NIGHTS": 2, "RISK": 3}]}'
    request = (
        b"POST /v2/models/fraud/infer HTTP/1.1\nHost: a\nContent-Length: %d\n\n" % len(body) + body
    )
    with running_port(tmp_path, MODELS[0]) as port, port.connect() as client:
        for _ in range(3):
            client.sendall(request)
            assert read_reply(client)[0] == 200
