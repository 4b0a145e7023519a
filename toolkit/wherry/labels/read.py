"""From a file of labels to counts; request ids are looked up here and go no further.

Two kinds of files: counts, as an acquirer can make them who was told bundle, score bin and day with
each payment; or one row for each label, by request id, beside the application's own log of what the
agent answered it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from wherry_contract.errors import SetupError

from .counts import Counting, LabelBatch
from .tables import bin_of, is_gap, label_of, moment_of, number_of, rows_of, text_of, whole_of

_MOST: Final = 2**40
_DAYS: Final = ("day", "at", "time")
_IDS: Final = ("request_id", "id")
_AT_ONCE: Final = 1000  # rows, for who moves a bar
Step = Callable[[int], None]


def _silent(_rows: int) -> None:
    """Nobody wants to know."""


class _Answer(NamedTuple):
    bundle: str
    day: float
    place: int
    flagged: bool


@dataclass(frozen=True)
class Found:
    """What a file of labels held.

    Attributes:
        batch: the labels as counts.
        unknown: rows whose label is not known yet; they were passed over.
        unmatched: labels of requests that are not in the log of answers.
        answers: in that log; 0 without one.
        unlabelled: of them, those without a label ...
        unlabelled_flagged: ... and of those, the flagged ones: a declined payment yields no label.
    """

    batch: LabelBatch
    unknown: int = 0
    unmatched: int = 0
    answers: int = 0
    unlabelled: int = 0
    unlabelled_flagged: int = 0


def read_labels(
    path: Path, log: Path | None = None, *, day: str = "", batch: str = "", step: Step = _silent
) -> Found:
    """Count the labels of a file.

    Args:
        path: CSV, Parquet or JSON lines. With a log: ``request_id``, ``label``. Without:
            ``bundle``, ``score_bin``, ``label``, ``day``, and how many there are: ``count``, 1
            if it is left out. With both: ``weight``, 1 if it is left out.
        log: the application's log of answers: ``request_id``, ``bundle``, ``score_bin``,
            ``day``, or the answers themselves as JSON lines, each with the time as ``at``.
        day: of all payments, where no column says it.
        batch: names the labels; the file's digest if it is left out.
        step: is told how many rows were read.

    Raises:
        SetupError: H02, H06, H10.
    """
    reading = _Reading(day, step)
    if log is None:
        for where, row in rows_of(path):
            reading.with_place(where, reading.count, row)
        return Found(_batch(path, batch, reading), reading.unknown)
    for where, row in rows_of(log):
        reading.with_place(where, reading.note, row)
    for where, row in rows_of(path):
        reading.with_place(where, reading.match, row)
    rest = [answer for key, answer in reading.answers.items() if key not in reading.seen]
    return Found(
        _batch(path, batch, reading),
        reading.unknown,
        reading.unmatched,
        len(reading.answers),
        len(rest),
        sum(answer.flagged for answer in rest),
    )


def _batch(path: Path, name: str, reading: _Reading) -> LabelBatch:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    found = LabelBatch(name or f"sha256:{digest}", path.name, reading.counting.rows())
    try:
        found.check()
    except ValueError as error:
        raise SetupError("H10", f"{path.name}: {error}") from error
    return found


class _Reading:
    """What was read so far."""

    def __init__(self, day: str, step: Step) -> None:
        self._day = day
        self._step = step
        self.counting = Counting()
        self.answers: dict[tuple[str, int], _Answer] = {}
        self.seen: dict[tuple[str, int], bool] = {}
        self.unknown = self.unmatched = self._read = 0

    def with_place(
        self, where: str, do: Callable[[Mapping[str, Any]], None], row: Mapping[str, Any]
    ) -> None:
        """Do it; what is wrong with a row is told with where the row is."""
        try:
            do(row)
        except (ValueError, OverflowError) as error:
            raise SetupError("H10", f"{where}: {error}") from error
        self._read += 1
        if self._read % _AT_ONCE == 0:
            self._step(_AT_ONCE)

    def count(self, row: Mapping[str, Any]) -> None:
        """Labels as counts."""
        if is_gap(row.get("label")):
            self.unknown += 1
            return
        count = row.get("count")
        self.counting.add(
            text_of(row.get("bundle"), "bundle"),
            self._moment(row),
            bin_of(row.get("score_bin")),
            _weight(row),
            label=label_of(row["label"]),
            count=1 if is_gap(count) else whole_of(count, "count", _MOST),
        )

    def note(self, row: Mapping[str, Any]) -> None:
        """An answer of the log."""
        for key, answer in self._answers(row):
            if self.answers.setdefault(key, answer) != answer:
                raise ValueError(f"request {key[0]!r} was answered otherwise before"[:200])

    def _answers(self, row: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], _Answer]]:
        name, day = text_of(_first(row, _IDS), "request_id"), self._moment(row)
        if "outputs" not in row:
            flagged = not is_gap(row.get("flagged")) and label_of(row["flagged"])
            bundle, place = text_of(row.get("bundle"), "bundle"), bin_of(row.get("score_bin"))
            yield (name, _row(row)), _Answer(bundle, day, place, flagged)
            return
        outputs = {str(item["name"]): item for item in _objects(row["outputs"])}
        parameters = row.get("parameters")
        if not isinstance(parameters, dict) or "score_bin" not in outputs:
            raise ValueError("should be an answer with score_bin, and its bundle in parameters")
        bundle = text_of(parameters.get("bundle"), "bundle")
        if parameters.get("source", "model") != "model":  # no score of the model that was counted
            return
        flags = _data(outputs.get("flagged"))
        for number, place in enumerate(_data(outputs["score_bin"])):
            flagged = number < len(flags) and label_of(flags[number])
            yield (name, number), _Answer(bundle, day, bin_of(place), flagged)

    def match(self, row: Mapping[str, Any]) -> None:
        """A label by request id."""
        if is_gap(row.get("label")):
            self.unknown += 1
            return
        key, label = (text_of(_first(row, _IDS), "request_id"), _row(row)), label_of(row["label"])
        answer = self.answers.get(key)
        if answer is None:
            self.unmatched += 1
            return
        if key in self.seen:
            if self.seen[key] != label:
                raise ValueError(f"request {key[0]!r} had another label before"[:200])
            return
        self.seen[key] = label
        self.counting.add(answer.bundle, answer.day, answer.place, _weight(row), label=label)

    def _moment(self, row: Mapping[str, Any]) -> float:
        value = _first(row, _DAYS)
        if is_gap(value) and not self._day:
            raise ValueError("has no day; say --day if all payments are of one")
        return moment_of(self._day if is_gap(value) else value)


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _row(row: Mapping[str, Any]) -> int:
    """Which row of a request that had several."""
    value = row.get("row")
    return 0 if is_gap(value) else whole_of(value, "row", _MOST)


def _weight(row: Mapping[str, Any]) -> float:
    value = row.get("weight")
    return 1.0 if is_gap(value) else number_of(value, "weight")


def _objects(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(i, dict) and "name" in i for i in value):
        raise ValueError("outputs should be a list of named tensors")
    return value


def _data(output: Mapping[str, Any] | None) -> list[Any]:
    data = output.get("data") if output else []
    if not isinstance(data, list):
        raise ValueError("should hold its numbers as JSON, not as binary data")  # noqa: TRY004 - as the others
    return data
