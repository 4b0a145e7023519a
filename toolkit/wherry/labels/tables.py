"""Rows of CSV, Parquet and JSON lines, one by one, and the values in them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install
from wherry_contract.histograms import SCORE_BINS

LIMIT_BYTES: Final = 4 * 2**30
LIMIT_LINE: Final = 1 << 20
_TRUE: Final = ("1", "true", "1.0")
_FALSE: Final = ("0", "false", "0.0")


def rows_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with where it stands, as ``labels.csv, row 7``.

    Raises:
        SetupError: H02 it cannot be read, H06 pyarrow is missing, H10 it is no such table.
    """
    kinds = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    kind = kinds.get(path.suffix)
    if kind is None:
        raise SetupError("H10", f"{path.name}: should end in {', '.join(kinds)}")
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise SetupError("H10", f"{path.name} has more than {LIMIT_BYTES} bytes")
        for number, row in enumerate(kind(path), start=1):
            yield f"{path.name}, row {number}", row
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror or error}") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise SetupError("H10", f"{path.name}: {str(error).partition(chr(10))[0][:200]}") from error


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream, strict=True)


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        while line := stream.readline(LIMIT_LINE + 1):
            if len(line) > LIMIT_LINE:
                raise ValueError(f"a line has more than {LIMIT_LINE} characters")
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:40]!r} is no object")  # noqa: TRY004 - its text is what is wrong
            yield row


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SetupError("H06", how_to_install("host")) from error
    for part in parquet.ParquetFile(path).iter_batches():
        yield from part.to_pylist()


# --- values -----------------------------------------------------------------------------


def is_gap(value: Any) -> bool:
    """Whether nothing stands there."""
    return value is None or value == "" or value != value  # noqa: PLR0124 - NaN


def text_of(value: Any, what: str) -> str:
    """A name, or a number that is used as one.

    Raises:
        ValueError: there is none.
    """
    if is_gap(value) or isinstance(value, bool | list | dict):
        raise ValueError(f"{what} should be a text, it is {value!r}"[:200])
    return str(value)


def label_of(value: Any) -> bool:
    """0 or 1, true or false.

    Raises:
        ValueError: it is neither.
    """
    word = str(value).strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(f"label should be 0 or 1, it is {value!r}"[:200])
    return word in _TRUE


def whole_of(value: Any, what: str, below: int) -> int:
    """A whole number from 0 on.

    Raises:
        ValueError: it is none.
    """
    number = number_of(value, what)
    if number != int(number) or not 0 <= number < below:
        raise ValueError(f"{what} should be a whole number below {below}, it is {value!r}"[:200])
    return int(number)


def bin_of(value: Any) -> int:
    """A score bin."""
    return whole_of(value, "score_bin", SCORE_BINS)


def number_of(value: Any, what: str) -> float:
    """A finite number.

    Raises:
        ValueError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool):
        raise ValueError(f"{what} should be a number, it is {value!r}"[:200])
    return found


def moment_of(value: Any) -> float:
    """A time or date, or Unix seconds; without a zone it is UTC.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_of(value, "day")
    if isinstance(value, date):
        found = value if isinstance(value, datetime) else datetime(*value.timetuple()[:3])  # noqa: DTZ001 - its zone comes below
    elif isinstance(value, str):
        if value.replace(".", "", 1).isdigit() and len(value) > 8:  # 20180701 is a date
            return number_of(value, "day")
        found = datetime.fromisoformat(value)
    else:
        raise ValueError(f"day should be a date or a time, it is {value!r}"[:200])  # noqa: TRY004 - as the others
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
