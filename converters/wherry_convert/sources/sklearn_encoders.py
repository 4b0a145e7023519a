"""Encoders of scikit-learn as tables, by asking the encoder itself.

OneHotEncoder, OrdinalEncoder and TargetEncoder look a value up. What they answer, with all
their rules about values that are rare, dropped, unknown or missing, is read off by calling
`transform` on one row for each value that can arrive.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from wherry_contract.errors import ConvertError

from .sklearn_column import Column, Columns, Doubles, Lookup


def is_gap(value: Any) -> bool:
    """Whether it is None or NaN."""
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def encode(encoder: Any, columns: Columns) -> Columns:
    """The columns behind an encoder.

    Raises:
        ConvertError: K07, a value can arrive that the encoder refuses, or is of another kind.
    """
    widths = getattr(encoder, "_n_features_outs", [1] * len(columns))
    found: list[Column] = []
    start = 0
    for place, (column, known) in enumerate(zip(columns, encoder.categories_, strict=True)):
        stop = start + int(widths[place])
        _check_kinds(column, known)
        cells = _string_cells if column.names is not None else _number_cells
        keys, values = cells(column, list(known))
        answers = _ask(encoder, column, place, values)[:, start:stop]
        found += [_behind(column, keys, answers[:, slot]) for slot in range(stop - start)]
        start = stop
    return tuple(found)


def _check_kinds(column: Column, known: Any) -> None:
    strings = any(isinstance(name, str) for name in known)
    if all(map(is_gap, known)) or strings == (column.names is not None):
        return
    name, kind = column.feature.name, "category" if strings else "number"
    raise ConvertError(
        "K07",
        f"the model was trained on a {kind} {name}, the contract has a {column.feature.dtype}",
        cure=f'let the contract have dtype = "{kind}", or train on what is sent',
    )


OTHER, MISSING = "other", "missing"
Keys = list[float | str]  # of a table's cells: numbers, `OTHER` and `MISSING`


def _string_cells(column: Column, known: list[Any]) -> tuple[Keys, list[Any]]:
    feature, names = column.feature, column.names or ()
    keys: Keys = []
    values = []
    for code in column.classes().tolist():
        keys.append(MISSING if math.isnan(code) else OTHER if code < 0 else code)
        values.append(names[len(names) - 2 if math.isnan(code) else int(code)])
    strangers = {str(name) for name in known if not is_gap(name)} - set(map(str, names))
    if feature.unseen == "allow" and strangers:
        listed = ", ".join(sorted(strangers)[:4])
        raise ConvertError(
            "K07",
            f"the model knows values of {feature.name} that the contract does not list: {listed}",
            cure="list them in the feature's categories",
        )
    return keys, values


def _number_cells(column: Column, known: list[Any]) -> tuple[Keys, list[Any]]:
    if column.flat:
        reached = np.unique(column.mapped(column.classes()))
        values = reached[~np.isnan(reached)].tolist()
        keys: Keys = list(values)
    else:
        values = sorted({float(value) for value in known if not is_gap(value)})
        keys = [*values, OTHER]
        values.append(float(np.nextafter(values[-1], np.inf)) if values else 0.0)
    return ([*keys, MISSING], [*values, math.nan]) if column.gaps else (keys, values)


def _ask(encoder: Any, column: Column, place: int, values: list[Any]) -> Doubles:
    first = [known[0] if len(known) else math.nan for known in encoder.categories_]
    rows = np.empty((len(values), len(first)), object)
    rows[:] = np.array(first, object)
    rows[:, place] = np.array([*values, None], object)[:-1]
    if all(np.asarray(known).dtype != object for known in encoder.categories_):
        rows = rows.astype(np.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names of columns, and unknown categories
            found = encoder.transform(rows)
    except (ValueError, TypeError) as error:
        kind = type(encoder).__name__
        way = "ignore" if kind == "OneHotEncoder" else "use_encoded_value"
        raise ConvertError(
            "K07",
            f"the contract allows values of {column.feature.name} that the model has not seen: "
            + " ".join(str(error).split())[:160],
            cure=f"give {kind} handle_unknown='{way}', or list only what it saw as categories",
        ) from error
    dense = found.toarray() if hasattr(found, "toarray") else found
    return np.asarray(dense, np.float64)


def _behind(column: Column, keys: Keys, answers: Doubles) -> Column:
    cells = dict(zip(keys, answers.tolist(), strict=True))
    spare = float(answers[0])  # for a cell that no row reads
    other, missing = cells.pop(OTHER, spare), cells.pop(MISSING, spare)
    order = sorted(key for key in cells if isinstance(key, float))
    table = Lookup(tuple(order), tuple(cells[key] for key in order), other, missing)
    return column.looked_up(table, gaps=bool(np.isnan(answers).any()))
