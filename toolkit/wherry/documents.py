"""Frozen dataclasses as JSON documents, and back, by the types of their fields.

A document is read strictly: every field that has no default must be there, and each value
must be of its field's type; names that the class does not have are passed over, since a
newer writer may know more.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from wherry_contract.when import to_seconds, to_text

T = TypeVar("T")
_TIME: Final = "time"
# Unix seconds; in a document a time as text, or null for one that never was
Moment = Annotated[float, _TIME]
_DIGITS: Final = 6  # what our figures can carry
_MISSING: Final = dataclasses.MISSING


def to_document(value: Any) -> dict[str, Any]:
    """The JSON form of a dataclass; numbers are rounded to six digits."""
    return cast("dict[str, Any]", _write(value, type(value)))


def from_document(kind: type[T], document: Any, what: str) -> T:
    """Read the JSON form of a dataclass.

    Args:
        kind: the dataclass.
        document: a parsed document.
        what: its name, for the error.

    Raises:
        ValueError: a field is absent or of another type; its path is in the text.
    """
    return cast("T", _read(kind, document, what))


@lru_cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _write(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        return to_text(value) if value else None
    if dataclasses.is_dataclass(value):
        hints = _hints(value.__class__)
        names = [item.name for item in dataclasses.fields(value)]
        return {name: _write(getattr(value, name), hints[name]) for name in names}
    if isinstance(value, Mapping):
        return {str(name): _write(item, None) for name, item in value.items()}
    if isinstance(value, tuple | list):
        inner = (get_args(hint) or (None,))[0]
        return [_write(item, inner) for item in value]
    if isinstance(value, StrEnum):
        return str(value)
    return _rounded(value) if isinstance(value, float) else value


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _read(hint: Any, value: Any, path: str) -> Any:
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read_time(value, path)
    if origin in (Union, types.UnionType):
        return None if value is None else _read(inside[0], value, path)
    if origin is tuple:
        items = _typed(list, value, path)
        return tuple(_read(inside[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if origin is not None:
        table = _typed(dict, value, path)
        return {name: _read(inside[1], item, f"{path}.{name}") for name, item in table.items()}
    if dataclasses.is_dataclass(hint):
        return _read_fields(cast("type", hint), _typed(dict, value, path), path)
    return _read_plain(hint, value, path)


def _read_fields(kind: type, table: Mapping[str, Any], path: str) -> Any:
    hints, found = _hints(kind), {}
    for item in dataclasses.fields(kind):
        if item.name in table:
            found[item.name] = _read(hints[item.name], table[item.name], f"{path}.{item.name}")
        elif item.default is _MISSING and item.default_factory is _MISSING:
            raise ValueError(f"{path}.{item.name} is not there")
    return kind(**found)


def _read_plain(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if value not in list(hint):
            raise ValueError(f"{path} should be one of {', '.join(hint)}")
        return hint(value)
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{path} should be of the type {getattr(hint, '__name__', hint)}")
    return value


def _read_time(value: Any, path: str) -> float:
    if value is None:
        return 0.0
    try:
        return to_seconds(_typed(str, value, path))
    except ValueError as error:
        raise ValueError(f"{path} should be a time like 2026-11-24T07:54:29Z") from error


def _typed(kind: type[T], value: Any, path: str) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{path} should be a {kind.__name__}")  # noqa: TRY004 - one error for all
    return value
