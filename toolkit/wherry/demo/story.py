"""The demo's chapters: from transactions to a report, with the commands that a user has."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wherry.keys import load_signer
from wherry.metrics import Metrics, measure
from wherry.project import Project, load_project
from wherry_contract.bundle import read_bundle
from wherry_contract.when import to_text

from .mistake import make_mistake, turned_onnx, turned_tflite
from .terminals import Reply, Terminals, ready

if TYPE_CHECKING:
    from .payments import Stream
    from .stage import Stage

MODEL: Final = "fraud"
DRIFTING: Final = "birch"
# the amounts of that chain, and the customer averages over the shortest window with them
MOVED: Final = frozenset({"TX_AMOUNT", "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"})
_SETTLE_SECONDS: Final = 30.0
_PROBE_SECONDS: Final = 30.0
_LIMITS: Final = "\n[limits]\nwindow_rows = 100\nheartbeat_seconds = 5.0\n"


@dataclass(frozen=True)
class Fleet:
    """The demo's terminals and what runs beside them."""

    terminals: Mapping[str, Terminals]

    @property
    def replies(self) -> list[Reply]:
        """Everything that was answered so far."""
        return [reply for group in self.terminals.values() for reply in group.ledger.replies]

    @property
    def answered(self) -> dict[str, int]:
        """How many were answered so far, by group."""
        return {name: len(group.ledger.replies) for name, group in self.terminals.items()}

    def since(self, answered: Mapping[str, int]) -> list[Reply]:
        """What was answered after that many."""
        return [
            reply
            for name, group in self.terminals.items()
            for reply in group.ledger.replies[answered[name] :]
        ]

    @property
    def failures(self) -> list[str]:
        """Every payment that was not answered."""
        return [text for group in self.terminals.values() for text in group.ledger.failures]

    def send(self, payments: Mapping[str, Sequence[Any]], *, pause: float) -> None:
        """Hand payments over, to be sent with a pause between two of a group."""
        for group, found in payments.items():
            self.terminals[group].pause_seconds = pause
            self.terminals[group].add(found)

    def hurry(self) -> None:
        """Send the rest without a pause."""
        for group in self.terminals.values():
            group.pause_seconds = 0.0

    @property
    def waiting(self) -> int:
        """Payments that were not sent yet."""
        return sum(group.waiting for group in self.terminals.values())


def train(stage: Stage) -> None:
    """A model, and whether one is needed."""
    stage.chapter("Train a fraud model on a week of payments, beside rules. Is a model needed?")
    done = stage.run([sys.executable, str(stage.example / "train.py")])
    for line in done.stdout.splitlines():
        stage.say(f"    {line}")
    found = json.loads((stage.example / "build" / "metrics.json").read_text())["models"]
    names = [name for name in found if name.startswith("rule")]
    best = max(found[name]["average_precision"] for name in names)
    model = found["gradient_boosting"]["average_precision"]
    stage.check(
        "the model beats the best rule", passed=model > best, seen=f"AP {model:.3f}, {best:.3f}"
    )


def build(stage: Stage) -> Path:
    """One signed file, if no decision changed."""
    stage.chapter("Convert, compare decisions, pack and sign: one file")
    bundle = stage.folder / "fraud-1.0.0.wherry"
    stage.wherry("key", "generate", "release")
    project = str(_project(stage))
    found = stage.ask("build", project, "--out", str(bundle), "--key", "release")
    classes = found["gate"]["classes"].values()
    rows, flips = sum(c["rows"] for c in classes), sum(c["flips"] for c in classes)
    stage.check("no decision flips", passed=not flips, seen=f"{flips} of {rows} raw rows")
    return bundle


def _project(stage: Stage) -> Path:
    """The example's project file; for a board with TFLite a copy that says so."""
    plain = stage.example / "project.toml"
    if not _is_tflite(stage):
        return plain
    text = plain.read_text() + '\n[target]\nruntime = "tflite"\n'
    for folder in ("build", "data"):  # paths are relative to the file
        text = text.replace(f'"{folder}/', f'"{stage.example.resolve()}/{folder}/')
    copy = stage.folder / "project.toml"
    copy.write_text(text)
    return copy


def _is_tflite(stage: Stage) -> bool:
    return stage.board is not None and stage.board.name != "onnxruntime"


def start(stage: Stage, stream: Stream) -> Fleet:
    """Server, broker, depot, and an agent for each group of terminals."""
    stage.chapter("Start the server (broker, depot, ingest) and an agent for each chain of shops")
    programs, environment = stage.programs, stage.environment
    programs.start(
        "server", [sys.executable, "-m", "wherry", "serve", "--broker", stage.broker], environment
    )
    programs.wait("server", (stage.fleet / "server.json").exists, seconds=60)
    terminals = {}
    for group in stream.groups:
        address = ("127.0.0.1", _free_port())
        _enrol(stage, group, address)
        config = stage.folder / group / "agent.toml"
        stage.start_agent(group, config)
        terminals[group] = Terminals(group, address, MODEL)
        live = partial(ready, address, "live")
        programs.wait(group, live, seconds=60 * stage.patience)
        terminals[group].start()
    server = json.loads((stage.fleet / "server.json").read_text())
    stage.say(f"    listen with: mosquitto_sub -L {server['broker']}/wherry/#  -v")
    return Fleet(terminals)


def _enrol(stage: Stage, group: str, address: tuple[str, int]) -> None:
    out = stage.folder / group
    arguments = ["device", "add", group, "--family", MODEL, "--label", f"chain={group}"]
    stage.wherry(*arguments, "--listen", f"{address[0]}:{address[1]}", "--out", str(out))
    config = out / "agent.toml"
    probing = f"probe_seconds = {_PROBE_SECONDS * stage.patience}\n"
    config.write_text(config.read_text() + _LIMITS + probing)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def publish(stage: Stage, bundle: Path, *others: str) -> None:
    """Two people release a bundle: the second signature is what lets devices have it."""
    keys = [word for name in (*others, "models-1") for word in ("--key", name)]
    stage.wherry("publish", str(bundle), *keys, codes=(1,))
    stage.wherry("sign", f"models/{MODEL}", "--key", "models-2")
    stage.wherry("publish")


def release(stage: Stage, bundle: Path) -> None:
    """The list of what devices may run, signed by two people each."""
    stage.chapter("Release it: keepers of the targets allow the family, two people the bundle")
    refused = stage.wherry("push", str(bundle), "--yes", codes=(1, 3)).stderr
    publish(stage, bundle, "targets-1", "targets-2")
    stage.check(
        "nothing is pushed that two people did not release",
        passed="T12" in refused,
        seen=refused.strip().partition("\n")[0],
    )


def push(stage: Stage, stream: Stream, fleet: Fleet, bundle: Path) -> None:
    """Canary first, then the rest, on live traffic."""
    stage.chapter("Push the bundle: canary first. Payments of 22 to 24 July are the soak")
    fleet.send(stream.days(22, 24), pause=0.02)
    soak = ["--soak", "1s", "--soak-rows", "40"]
    found = stage.ask("push", str(bundle), *soak, "--waves", "1,100%", "--yes", "--wait")
    _tell_rollout(stage, found)
    outcomes = [item["outcome"] for item in found["devices"]]
    passed = found["state"] == "done" and set(outcomes) == {"committed"}
    stage.check("every device committed", passed=passed, seen=f"{found['state']}, {outcomes}")
    fleet.hurry()


def _tell_rollout(stage: Stage, found: Mapping[str, Any]) -> None:
    for step in found["decisions"]:
        stage.say(f"    {step['before']} -> {step['after']}: {step['reason']}")
    for item in found["devices"]:
        code = f" {item['code']}" if item["code"] else ""
        stage.say(f"    {item['device']}: {item['outcome'] or 'never asked'}{code}")


def stream_days(stage: Stage, fleet: Fleet, payments: Mapping[str, Sequence[Any]]) -> None:
    """Send payments as tills do, and wait until all are answered."""
    total = sum(map(len, payments.values()))
    fleet.send(payments, pause=0.0)
    with stage.progress(f"    {total} payments", total + fleet.waiting) as step:
        before = fleet.waiting
        while (waiting := fleet.waiting) or waiting != before:
            step(before - waiting)
            before = waiting
            time.sleep(0.1)
    _settle(stage, lambda: not fleet.waiting)


def _settle(stage: Stage, done: Callable[[], bool]) -> bool:
    end = time.monotonic() + _SETTLE_SECONDS * stage.patience
    while not done() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(done())


def compare(stage: Stage, fleet: Fleet, bundle: Path) -> None:
    """The business metric over HTTP against the source model, on the same payments."""
    project = load_project(stage.example / "project.toml")
    replies = fleet.replies
    threshold = read_bundle(bundle).manifest.output.threshold
    source = _source_scores(project, replies)
    agent = np.array([reply.score for reply in replies])
    ours, theirs = _measure(replies, agent, threshold), _measure(replies, source, threshold)
    gaps = {name: abs(value - ours.ranked()[name]) for name, value in theirs.ranked().items()}
    worst = max(gaps, key=gaps.__getitem__)
    figures = f"AUC {ours.auc:.4f} and {theirs.auc:.4f}, AP {ours.average_precision:.4f} and"
    stage.check(
        "metrics through the agents are the source model's",
        passed=gaps[worst] <= 0.002,
        seen=f"{figures} {theirs.average_precision:.4f}, n = {len(replies)}",
    )
    flags = np.array([reply.flagged for reply in replies])
    flips = int((flags != (source >= threshold)).sum())
    stage.check("no decision flips on the way", passed=not flips, seen=f"{flips} flips")


def _source_scores(project: Project, replies: Iterable[Reply]) -> np.ndarray[Any, Any]:
    from wherry_convert.sources import load_source

    source = load_source(project.source.kind, project.source.path, trusted=project.source.trusted)
    raw = project.input.matrix([reply.payment.row for reply in replies])
    return source.scores(raw, project.input)


def _measure(replies: Sequence[Reply], scores: np.ndarray[Any, Any], threshold: float) -> Metrics:
    fraud = np.array([reply.payment.fraud for reply in replies])
    cards = np.array([reply.payment.card for reply in replies], np.int64)
    days = np.array([reply.payment.at // 86_400 for reply in replies], np.int64)
    return measure(fraud, scores, threshold, cards=cards, days=days)


def push_mistake(stage: Stage, stream: Stream, fleet: Fleet, good: Path) -> None:
    """A bundle that loads and is wrong: refused at the canary, while payments go on."""
    stage.chapter("Two people release the wrong file: it loads, but its golden vectors disagree")
    bad = stage.folder / "fraud-1.1.0.wherry"
    signer = load_signer(stage.fleet / "keys" / "release.key")
    turn = turned_tflite(stage.example) if _is_tflite(stage) else turned_onnx
    wrong = make_mistake(good, bad, signer, version="1.1.0", turn=turn)
    publish(stage, bad)
    before, failed = fleet.answered, len(fleet.failures)
    fleet.send(stream.days(27, 27), pause=0.01)
    found = stage.ask("push", str(bad), "--waves", "1,100%", "--yes", "--wait", codes=(1,))
    _tell_rollout(stage, found)
    fleet.hurry()
    _settle(stage, lambda: not fleet.waiting)
    touched = [item for item in found["devices"] if item["offered_at"]]
    refused = [item["code"] for item in touched]
    stage.check(
        "the canary refused it, and nobody else saw it",
        passed=refused == ["P01"] and found["state"] == "reverted",
        seen=f"{[item['device'] for item in touched]} {refused}, rollout {found['state']}",
    )
    since = fleet.since(before)
    lost, wrongly = len(fleet.failures) - failed, sum(r.bundle == wrong for r in fleet.replies)
    by_rule = sum(reply.source != "model" for reply in since)
    stage.check(
        "payments went on being scored",
        passed=bool(since) and not lost and not wrongly and not by_rule,
        seen=f"{len(since)} answered meanwhile, {lost} failed, {wrongly} by the bad model",
    )


def drift(stage: Stage, stream: Stream, fleet: Fleet) -> None:
    """Amounts move at one chain; the monitor says which features, where, and why."""
    stage.chapter(f"From 28 July on, {DRIFTING}'s tills report leva instead of EUR")
    stream_days(stage, fleet, stream.drifted(DRIFTING, 28, 31))
    newest = max(reply.payment.at for reply in fleet.replies)
    stage.say(f"    waiting for the windows up to {to_text(newest)[:16]}")
    found: dict[str, Any] = {}
    end = time.monotonic() + _SETTLE_SECONDS * stage.patience
    while time.monotonic() < end:
        found = stage.ask("monitor", codes=(0, 1))
        if sum(item["rows"] for item in _alerts(found)) and found["newest"] >= "2018-08-01":
            break
        time.sleep(1.0)
    _judge_alerts(stage, found)


def _alerts(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        cell for cell in found["cells"] if cell["current"] and cell["decision"] in ("act", "warn")
    ]


def _judge_alerts(stage: Stage, found: Mapping[str, Any]) -> None:
    alerts = _alerts(found)
    for cell in alerts:
        evidence = cell["evidence"]
        where = cell["device"] or "all devices"
        stage.say(
            f"    {cell['decision']:5} {where:12} {cell['subject']}: {evidence['value']:.3f}"
            f" (n {evidence['n']}, m {evidence['m']}, p {evidence['p']:.1g}): {cell['rule']}"
        )
    at_chain = {cell["subject"] for cell in alerts if cell["device"] == DRIFTING}
    features = at_chain - {"score", "flagged"}
    elsewhere = {cell["device"] for cell in alerts} - {DRIFTING, ""}
    stage.check(
        "exactly the features that moved are raised, at the chain where they moved",
        passed=features == MOVED and not elsewhere,
        seen=f"{sorted(features)}" + (f", and at {sorted(elsewhere)}" if elsewhere else ""),
    )


def report(stage: Stage) -> None:
    """One page that needs no network."""
    stage.chapter("Write the report")
    stage.wherry("report", "-o", str(stage.report))
    size = stage.report.stat().st_size
    stage.check("the report is there", passed=size > 10_000, seen=f"{size:,} bytes")


def tell(stage: Stage, stream: Stream) -> None:
    """All chapters, in order."""
    train(stage)
    bundle = build(stage)
    fleet = start(stage, stream)
    try:
        release(stage, bundle)
        push(stage, stream, fleet, bundle)
        stage.chapter("The following days, as the tills send them")
        stream_days(stage, fleet, stream.days(25, 26))
        compare(stage, fleet, bundle)
        push_mistake(stage, stream, fleet, bundle)
        drift(stage, stream, fleet)
        lost = len(fleet.failures)
        why = f", the first: {fleet.failures[0]}" if lost else ""
        seen = f"{len(fleet.replies)} of {stream.rows}{why}"
        stage.check("every payment was answered", passed=not lost, seen=seen)
        sizes = [f"{stage.memory_mib(group):.0f}" for group in stream.groups]
        stage.say(f"    resident memory of the agents: {', '.join(sizes)} MiB")
    finally:
        for group in fleet.terminals.values():
            group.close()
    report(stage)
