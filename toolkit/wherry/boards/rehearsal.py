"""What a board did in a rehearsal, held against what was asked of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from wherry_contract.bundle import Parts
from wherry_contract.decision import decide
from wherry_contract.errors import ProbeError
from wherry_contract.golden import GoldenVectors
from wherry_contract.slots import FeatureCounts
from wherry_contract.states import Outcome, UpdateState
from wherry_contract.window import Window

ENROLLED: Final = "enrols, over mutual TLS"
UPDATED: Final = "goes through every state of the update"
SCORED: Final = "gives the same scores and decisions over HTTP"
COUNTED: Final = "sends windows that add up to the payments"
ALONE: Final = "speaks to nobody but the fleet's server"
ROOM: Final = "leaves room in the board's memory"
NAMES: Final = (ENROLLED, UPDATED, SCORED, COUNTED, ALONE, ROOM)

HEADS: Final = ("", "the agent", "seen")
RESERVED_MIB: Final = 64  # of a board's memory, for the kernel and Debian's own services
ROWS: Final = 200  # payments
WINDOW_ROWS: Final = 50
# states of an update that goes well, in order
_PATH: Final = (
    UpdateState.ADMIT, UpdateState.FETCH, UpdateState.VERIFY, UpdateState.STAGE,
    UpdateState.PROBE, UpdateState.SWITCH, UpdateState.SOAK, UpdateState.COMMIT,
    UpdateState.REPORT,
)  # fmt: skip
_SHOWN: Final = 300
_ANSWERS: Final = MappingProxyType({True: "yes", False: "no", None: "could not"})
_MARKS: Final = MappingProxyType({True: "ok", False: "NO", None: "??"})


@dataclass(frozen=True)
class Step:
    """Something that a board must do, and what was seen of it.

    Attributes:
        name: one of `NAMES`.
        well: whether it did; None if that could not be seen.
        seen: in words.
        code: of the error that the agent gave, if it gave one.
    """

    name: str
    well: bool | None
    seen: str
    code: str = ""

    @property
    def answer(self) -> str:
        """``yes``, ``no`` or ``could not``, of the question whether it did."""
        return _ANSWERS[self.well]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"answer": self.answer}


@dataclass(frozen=True)
class Rehearsal:
    """What became of a bundle's life on a board.

    Attributes:
        runtime: name and version.
        steps: as far as it came.
        peak_mib: resident memory of the agent and its children, the most that was seen.
        seconds: that it took here; nothing about the board.
        slow: whether its time was up before its end.
    """

    runtime: str
    steps: tuple[Step, ...]
    peak_mib: float
    seconds: float
    slow: bool = False

    @property
    def good(self) -> bool:
        """Whether it did everything that could be seen."""
        return not self.slow and self.failed is None

    @property
    def failed(self) -> Step | None:
        """The first step that is not well."""
        return next((step for step in self.steps if step.well is False), None)

    @property
    def unseen(self) -> Step | None:
        """The first step of which nothing is known."""
        return next((step for step in self.steps if step.well is None), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        steps = [step.to_dict() for step in self.steps]
        return asdict(self) | {"steps": steps, "good": self.good}


def rows(rehearsal: Rehearsal) -> list[Sequence[object]]:
    """Rows of a table under `HEADS`."""
    return [(_MARKS[step.well], step.name, step.seen) for step in rehearsal.steps]


def payments(golden: GoldenVectors) -> GoldenVectors:
    """The golden rows, again and again, until they are `ROWS`."""
    places = [place % len(golden.rows) for place in range(ROWS)]
    width = golden.width
    return replace(
        golden,
        rows=tuple(golden.rows[place] for place in places),
        scores=tuple(score for place in places for score in golden.scores[place * width :][:width]),
    )


def judge_update(events: Iterable[Mapping[str, Any]], rollout: str) -> Step:
    """Whether an update went the whole way, by what the agent told of it.

    Args:
        events: of the board, in order, as the server gives them.
        rollout: its id.
    """
    told = [event for event in events if event["rollout"] == rollout]
    codes = [event["code"] for event in told]
    passed = [state for state in _PATH if f"update.{state}" in codes]
    outcomes = [event["outcome"] for event in told if event["outcome"]]
    well = outcomes == [Outcome.COMMITTED] and passed == list(_PATH)
    if well:
        return Step(UPDATED, well, f"offered, {', '.join(passed)}: {outcomes[0]}")
    last = next((event for event in reversed(told) if event["severity"] == "error"), None)
    words = f"{last['code']} {last['text']}"[:_SHOWN] if last else "the agent says nothing more"
    code = last["code"] if last else ""
    return Step(UPDATED, well, f"{', '.join(passed) or 'not begun'}: {words}", code)


def judge_answers(
    asked: GoldenVectors, parts: Parts, digest: str, answers: Sequence[Mapping[str, Any]]
) -> Step:
    """Whether payments got the golden scores and decisions over HTTP.

    Args:
        asked: rows and what they must get; see `payments`.
        parts: of the bundle.
        digest: of the bundle.
        answers: of the Open Inference Protocol, one for each row.
    """
    by_others = sum(
        answer["parameters"] != {"bundle": digest, "source": "model"} for answer in answers
    )
    if by_others:
        return Step(SCORED, well=False, seen=f"{by_others} rows were not answered by this bundle")
    outputs = [{item["name"]: item["data"] for item in answer["outputs"]} for answer in answers]
    threshold, classes = parts.manifest.output.threshold, parts.manifest.output.classes
    scores = np.array([found["scores" if classes else "score"] for found in outputs], float)
    scores = scores.reshape(len(outputs), -1) if asked.width > 1 else scores.reshape(-1)
    try:
        gap = asked.judge(scores, threshold)
    except ProbeError as error:
        return Step(SCORED, well=False, seen=error.detail, code=error.code)
    wanted = np.array(asked.scores)
    decisions = decide(wanted.reshape(scores.shape), threshold)
    if classes:
        names = [*classes, ""]
        other = sum(
            found["label"][0] != names[d] for found, d in zip(outputs, decisions, strict=True)
        )
    else:
        other = sum(
            found["flagged"][0] != bool(d) for found, d in zip(outputs, decisions, strict=True)
        )
    words = f"{len(outputs)} payments, largest difference {gap:.2g}, {other} decisions differ"
    return Step(SCORED, other == 0, words)


def judge_windows(windows: Sequence[Window], parts: Parts, asked: GoldenVectors) -> Step:
    """Whether windows count exactly what was sent, bin by bin.

    Args:
        windows: that arrived.
        parts: of the bundle.
        asked: the rows that were sent.
    """
    contract, profile = parts.manifest.input, parts.profile
    counter = profile.counter(contract)
    counts = counter.zeros()
    counter.add(counts, asked.matrix(contract))
    wanted = dict(zip(contract.names, counter.split(counts), strict=True))
    wrong = [
        name
        for name, item in wanted.items()
        if item != sum((w.features[name] for w in windows), FeatureCounts((0,) * len(item.bins)))
    ]
    scored = sum(sum(window.scores) for window in windows)
    total = sum(window.rows for window in windows)
    words = f"{total} of {len(asked.rows)} payments in {len(windows)} windows"
    if wrong:
        words += f"; counted otherwise: {', '.join(wrong)}"
    return Step(COUNTED, not wrong and total == scored == len(asked.rows), words)


def judge_contacts(spoken: set[tuple[str, int]] | None, ours: set[tuple[str, int]]) -> Step:
    """Whether the board's programs spoke to the fleet's server alone.

    Args:
        spoken: hosts and ports; None if nobody watched.
        ours: likewise: broker, depot, enrolment.
    """
    if spoken is None:
        return Step(ALONE, well=None, seen="not watched: strace is not here, or may not trace")
    others = sorted(spoken - ours)
    listed = ", ".join(f"{host}:{port}" for host, port in others or sorted(spoken))
    return Step(ALONE, not others, f"it also spoke to {listed}" if others else listed)


def judge_memory(peak_mib: float, memory_mib: int) -> Step:
    """Whether agent and children leave the board its own share.

    Args:
        peak_mib: that they had at most.
        memory_mib: of the board.
    """
    room = memory_mib - RESERVED_MIB
    words = f"{peak_mib:.0f} MiB at most, of {memory_mib} less {RESERVED_MIB} for the system"
    return Step(ROOM, peak_mib <= room, words, "" if peak_mib <= room else "P05")
