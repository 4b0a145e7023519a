"""Commands of the fleet: who is obeyed, that each is obeyed once, and what an answer may hold."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_agent import (
    DEVICE,
    FAR_AHEAD,
    agent_config,
    keys,
    public_key,
    running_depot,
    sign,
)
from support_device import CutOutbox, CutPair, HandClock, HereTrust, Power, PowerCut
from support_tuf import DAY, START, TufRepository, signer

from wherry_agent.clock import TrustedClock
from wherry_agent.link.commands import STATE, Allowance, Commands
from wherry_agent.link.log_ring import LINE_CHARACTERS, LINES_KEPT, LogRing
from wherry_agent.link.spool import Spool
from wherry_agent.trust.tuf_trust import FOLDER, TufTrust, floor_of
from wherry_agent.update.fetch import Depot as Source
from wherry_contract.answer import DOCUMENT_LIMIT_BYTES, Answer, size_of
from wherry_contract.command import PAYLOAD_TYPE, Command
from wherry_contract.errors import StoreError
from wherry_contract.messages import LIMIT_BYTES, Event, wrap_command

KEY = public_key(keys().order).keyid


def command(sequence: int = 1, ask: str = "logs", **changes: Any) -> Command:
    plain = Command(DEVICE, ask, sequence, issued_at=1.79e9, expires=FAR_AHEAD)
    return replace(plain, **changes)


def signed(what: Command, who: Any = None) -> bytes:
    """The payload of the command topic."""
    return wrap_command(sign(what.to_bytes(), PAYLOAD_TYPE, who or keys().order))


class Till:
    """One start of a device's commands over a real folder, on a power that may fail."""

    def __init__(
        self,
        folder: Path,
        power: Power | None = None,
        trust: Any = None,
        pair: type[CutPair] = CutPair,
    ) -> None:
        self.config = agent_config(folder)
        state = self.config.state_dir
        state.mkdir(exist_ok=True)
        self.clock = HandClock()
        self.outbox = CutOutbox(state, DEVICE, mib=1, days=30)
        files = pair(state, STATE)
        files.power = self.outbox.power = power or Power()
        self.spool = Spool(self.outbox, self.clock)
        self.ring = LogRing()
        self.quiet = False
        self.commands = Commands(
            self.config,
            files,
            trust or HereTrust(keys().root()),
            self.spool,
            self.clock,
            self.ring,
            quiet=lambda: self.quiet,
        )
        self.commands.start()

    def hear(self, *payloads: bytes) -> None:
        """Take commands, and do all that is to be done."""
        for payload in payloads:
            self.commands.take(payload)
        while self.commands.run_once() == 0:
            pass
        self.spool.flush()

    def close(self) -> None:
        """Close its files."""
        self.outbox.close()

    @property
    def events(self) -> list[Event]:
        """What is in the outbox."""
        return [Event.from_bytes(message.payload) for message in self.outbox.after(0, 1000)]

    @property
    def answers(self) -> list[tuple[int, str, str]]:
        """(sequence, outcome, code) of each."""
        return [
            (event.answer.sequence, event.answer.outcome, event.code)
            for event in self.events
            if event.answer
        ]

    @property
    def codes(self) -> list[str]:
        """Of what was told beside answers."""
        return [event.code for event in self.events if not event.answer]


@pytest.fixture
def till(tmp_path: Path) -> Iterator[Till]:
    with closing(Till(tmp_path)) as found:
        yield found


def said(till: Till) -> Answer:
    """The one answer."""
    (answer,) = (event.answer for event in till.events if event.answer)
    return answer


# --- obeyed, and once -----------------------------------------------------------------------


def test_a_command_is_answered_once_however_often_it_comes(till: Till) -> None:
    till.hear(signed(command()), signed(command()))
    till.hear(signed(command()))
    assert till.answers == [(1, "done", "command.answer")]
    assert said(till).keyid == KEY
    assert till.commands.sequences == {KEY: 1}


def test_nor_is_it_answered_again_after_a_start(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(Till(tmp_path)) as till:
            till.hear(signed(command()))
            assert till.answers == [(1, "done", "command.answer")]


def test_the_very_command_under_another_signature_s_bytes_is_no_news(till: Till) -> None:
    again = json.loads(signed(command()))
    again["envelope"]["more"] = "bytes"
    till.hear(signed(command()), json.dumps(again).encode())
    assert (till.answers, till.codes) == ([(1, "done", "command.answer")], [])


@pytest.mark.parametrize("after", [False, True])
def test_a_plug_pulled_at_any_write_leaves_one_answer(tmp_path: Path, *, after: bool) -> None:
    """Before the sequence is noted nothing was begun; after it, it is not begun again."""
    with closing(Till(tmp_path / "whole")) as till:
        till.hear(signed(command()))
        writes = till.outbox.power.writes
    assert writes == 3
    for cut in range(1, writes + 1):
        folder = tmp_path / f"{cut}"
        with closing(Till(folder, Power(cut, after=after))) as till, pytest.raises(PowerCut):
            till.hear(signed(command()))
        with closing(Till(folder)) as till:
            till.hear(signed(command()))
            (answer,) = till.answers
            assert answer in {(1, "done", "command.answer"), (1, "failed", "D07")}
            assert till.commands.sequences == {KEY: 1}


class FullDisk(Power):
    """Does not take one write."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self._which = which

    def write(self, do: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Do it, or say that there is no room."""
        if self.writes + 1 == self._which:
            self.writes += 1
            raise StoreError("D01", "no room")
        return super().write(do, *values, **named)


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_disk_that_was_full_costs_no_answer(tmp_path: Path, which: int) -> None:
    with closing(Till(tmp_path, FullDisk(which))) as till:
        till.hear(signed(command()))
        till.hear(signed(command()))
        assert till.answers == [(1, "done", "command.answer")]
        assert till.codes == ["D01"]
    with closing(Till(tmp_path)) as till:
        till.hear(signed(command()))
        assert len(till.answers) == 1


# --- refused --------------------------------------------------------------------------------


def flipped(payload: bytes) -> bytes:
    document = json.loads(payload)
    signature = bytearray(base64.b64decode(document["envelope"]["signatures"][0]["sig"]))
    signature[7] ^= 1
    document["envelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(document).encode()


REFUSED: list[tuple[str, Callable[[], bytes], str]] = [
    ("forged", lambda: flipped(signed(command())), "T01"),
    ("a stranger's", lambda: signed(command(), keys("stranger").order), "T02"),
    ("signed by who releases bundles", lambda: signed(command(), keys().bundle), "T02"),
    ("before its key was valid", lambda: signed(command(issued_at=1e9)), "T02"),
    ("another device's", lambda: signed(command(device="shop-2")), "T03"),
    ("from the future", lambda: signed(command(extra={"schema": "wherry/command/2"})), "T08"),
    ("relies on more", lambda: signed(command(extra={"must_understand": ["moon"]})), "T08"),
    ("over-long inside", lambda: signed(command(extra={"x": "x" * 17_000})), "T09"),
    ("over-long outside", lambda: signed(command(extra={"x": "x" * 60_000})), "T09"),
    ("more lines than there are", lambda: signed(command(lines=1001)), "T09"),
    ("a sequence that uses up all others", lambda: signed(command(2**53 - 1)), "T14"),
    ("no signature at all", lambda: b'{"schema":"wherry/command/1+dsse"}', "G01"),
    ("no JSON", lambda: b"\x00", "G01"),
    ("larger than any message", lambda: b" " * (LIMIT_BYTES + 1), "G02"),
    ("an order", lambda: signed(command()).replace(b"wherry/command", b"wherry/assignment"), "G01"),
]


@pytest.mark.parametrize(("make", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_refused_is_told_once_and_moves_nothing(
    till: Till, make: Callable[[], bytes], code: str
) -> None:
    payload = make()
    till.hear(payload, payload)
    assert (till.answers, till.codes) == ([], [code])
    assert till.commands.sequences == {}
    till.hear(signed(command()))
    assert till.answers == [(1, "done", "command.answer")]


ANSWERED_WITH_NO: list[tuple[str, Command, tuple[str, str]]] = [
    ("expired", command(expires=1.79e9 + 1), ("refused", "T05")),
    ("unknown", command(ask="reboot"), ("refused", "T08")),
]


@pytest.mark.parametrize(
    ("what", "wanted"), [r[1:] for r in ANSWERED_WITH_NO], ids=[r[0] for r in ANSWERED_WITH_NO]
)
def test_who_signed_it_learns_why_not(till: Till, what: Command, wanted: tuple[str, str]) -> None:
    till.hear(signed(what))
    assert till.answers == [(1, *wanted)]


def test_an_older_one_is_refused(till: Till) -> None:
    till.hear(signed(command(2)), signed(command(1)))
    assert (till.answers, till.codes) == ([(2, "done", "command.answer")], ["T04"])


def test_keys_have_sequences_of_their_own(tmp_path: Path) -> None:
    root, other = keys().root(), keys("other")
    both = replace(
        root,
        keys=dict(root.keys) | {public_key(other.order).keyid: public_key(other.order)},
        assignment_keys=(*root.assignment_keys, *other.root().assignment_keys),
    )
    with closing(Till(tmp_path, trust=HereTrust(both))) as till:
        till.hear(signed(command(5)), signed(command(1), other.order))
        assert [sequence for sequence, *_ in till.answers] == [5, 1]


def test_damaged_memory_is_told_and_begins_anew(tmp_path: Path) -> None:
    with closing(Till(tmp_path)) as till:
        till.hear(signed(command()))
    for path in (tmp_path / "state").glob("commands.*"):
        path.write_bytes(b"damage")
    with closing(Till(tmp_path)) as till:
        till.hear()
        assert till.codes == ["D02", "D02"]


class SomebodyElses(CutPair):
    """Files that this user may not read."""

    def load(self) -> dict[str, Any] | None:
        """As for a user who may not."""
        raise StoreError("D06", "Permission denied")


def test_who_cannot_remember_obeys_nobody_and_goes_on(tmp_path: Path) -> None:
    with closing(Till(tmp_path, pair=SomebodyElses)) as till:
        till.hear(signed(command()))
        assert (till.answers, till.codes) == ([], ["D06"])


# --- judged by the newest list of keys, in the real verifier ----------------------------------


@contextmanager
def listed(folder: Path) -> Iterator[tuple[TufRepository, Till, Callable[[], None]]]:
    """A device with a root, its repository, and what takes the depot away."""
    with running_depot(folder / "depot") as depot:
        repository = TufRepository(depot.folder)
        repository.publish()
        (folder / "root.json").write_bytes(repository.root_file())
        board = TrustedClock(HandClock(START + 60), floor_of(folder / FOLDER))
        trust = TufTrust(folder / "root.json", folder, board, Source(depot.url, seconds=5))
        till = Till(folder / "till", trust=trust)
        till.clock.wall = START + 60
        with closing(till):
            yield repository, till, lambda: setattr(depot.faults, "status", 503)


def now(sequence: int = 1, **changes: Any) -> Command:
    return command(sequence, **({"issued_at": START, "expires": START + DAY} | changes))


def test_a_listed_key_is_obeyed_and_one_that_was_taken_back_is_not(tmp_path: Path) -> None:
    with listed(tmp_path) as (repository, till, _):
        till.hear(signed(now(), signer("order")))
        repository.order_keys = ("order-2",)
        repository.publish()
        till.hear(signed(now(2), signer("order")), signed(now(1), signer("order-2")))
        assert [outcome for _, outcome, _ in till.answers] == ["done", "done"]
        assert till.codes == ["T02"]


def test_without_the_depot_the_keys_seen_last_decide(tmp_path: Path) -> None:
    with listed(tmp_path) as (_, till, take_away):
        till.hear(signed(now(), signer("order")))
        take_away()
        till.hear(signed(now(2), signer("order")), signed(now(3), signer("order-2")))
        assert [sequence for sequence, *_ in till.answers] == [1, 2]
        assert till.codes == ["T02"]


def test_a_device_that_knows_no_keys_yet_judges_it_when_it_comes_again(tmp_path: Path) -> None:
    with listed(tmp_path) as (_, till, take_away):
        take_away()
        till.hear(signed(now(), signer("order")))
        assert (till.answers, till.codes) == ([], ["L05"])


BEYOND: list[tuple[str, Command, str]] = [
    ("another device's key", now(device_key="ab" * 32), "T03"),
    ("dated more than a day ahead", now(issued_at=START + 3 * DAY, expires=START + 9 * DAY), "T14"),
]


@pytest.mark.parametrize(("what", "code"), [r[1:] for r in BEYOND], ids=[r[0] for r in BEYOND])
def test_rules_of_a_device_with_a_root(tmp_path: Path, what: Command, code: str) -> None:
    with listed(tmp_path) as (_, till, _):
        till.hear(signed(what, signer("order")))
        assert (till.answers, till.codes) == ([], [code])


# --- what it costs --------------------------------------------------------------------------


def test_a_flood_costs_a_few_and_one_a_minute(till: Till) -> None:
    for sequence in range(1, 50):
        till.hear(signed(command(sequence)))
    assert len(till.answers) == 20
    assert till.codes == ["command.busy"]
    till.clock.steady += 60
    till.hear(signed(command(50)), signed(command(51)))
    assert [sequence for sequence, *_ in till.answers][-1] == 50


def test_an_allowance_fills_no_further() -> None:
    allowance = Allowance()
    assert sum(allowance.take(1e9) for _ in range(100)) == 20


def test_nothing_is_done_while_the_application_wants_quiet(till: Till) -> None:
    till.quiet = True
    till.commands.take(signed(command()))
    assert till.commands.run_once() > 0
    assert till.answers == []
    till.quiet = False
    till.hear()
    assert len(till.answers) == 1


# --- the log --------------------------------------------------------------------------------


@contextmanager
def logger(ring: LogRing) -> Iterator[logging.Logger]:
    found = logging.getLogger("wherry.test-ring")
    found.setLevel(logging.INFO)
    found.addHandler(ring)
    try:
        yield found
    finally:
        found.removeHandler(ring)


def test_the_last_lines_are_answered_and_no_more_than_fit(till: Till) -> None:
    with logger(till.ring) as log:
        for turn in range(LINES_KEPT + 50):
            log.warning("line %d %s", turn, "\u20ac" * 1000)
    till.hear(signed(command(1)), signed(command(2, lines=7)))
    whole, few = (event.answer.document for event in till.events if event.answer)
    assert size_of(whole) <= DOCUMENT_LIMIT_BYTES < size_of(whole) + 4 * LINE_CHARACTERS
    assert len(whole["lines"]) + whole["left_out"] == LINES_KEPT + 50
    assert [f"line {1043 + place} " in line for place, line in enumerate(few["lines"])] == [
        True
    ] * 7
    assert few["left_out"] == LINES_KEPT + 43


def test_a_bug_s_own_words_stay_here() -> None:
    """They may repeat what was scored: its kind and its place must do."""
    ring = LogRing()
    with logger(ring) as log:
        try:
            float("4111 1111 1111 1111")
        except ValueError as error:
            log.error("serving crashed", exc_info=error)  # noqa: TRY400 - as the agent does
        log.debug("not kept")
    (line,) = ring.last(0, 10_000)["lines"]  # type: ignore[misc]
    assert "4111" not in line
    assert "ValueError < test_commands.py:" in line


def test_settings_that_were_damaged_meanwhile_are_the_answer(till: Till) -> None:
    till.config.file.write_text("no settings")
    till.hear(signed(command(1, "snapshot")))
    assert till.answers == [(1, "failed", "H08")]
