"""What stands between the encoder's tensor and the first layer of a dense model.

A number that is filled, clipped and scaled keeps its column; the factor is one
multiplication in the graph. What an encoder makes of a value, and scalers of that, is one
row of a table that the code of the value looks up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Step
from wherry_contract.errors import ConvertError

from .sklearn_column import Column, Columns, Fill, Map

EXACT_INTEGERS: Final = 2.0**24  # above it float32 leaves out integers


@dataclass(frozen=True)
class Table:
    """Columns of the model that the code of one feature looks up: float32 (codes, columns)."""

    slot: int
    columns: list[int]
    rows: NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """What stands between the encoder's tensor and the model's first layer.

    Attributes:
        slots: for each column that is scaled, where it comes from in the tensor.
        columns: which columns of the model these are.
        factors: what they are multiplied by.
        shifts: what is added then; only flags of a gap have one.
        gaps: what they are where the tensor holds a gap; None where none can.
        tables: all other columns.
    """

    slots: list[int]
    columns: list[int]
    factors: list[float]
    shifts: list[float]
    gaps: list[float] | None
    tables: list[Table]


def lay_out(
    columns: Columns, order: tuple[str, ...]
) -> tuple[list[Step], Layout, dict[str, NDArray[np.float64]]]:
    """The encoder's steps, what follows them in the graph, and where values jump.

    Args:
        columns: what reaches the model.
        order: the features' names, in the order of the tensor.

    Raises:
        ConvertError: K01, K02 or K07.
    """
    steps: list[Step] = []
    edges: dict[str, NDArray[np.float64]] = {}
    layout = Layout([], [], [], [], None, [])
    for slot, name in enumerate(order):
        mine = [place for place, column in enumerate(columns) if column.feature.name == name]
        if not mine:
            continue
        group = [columns[place] for place in mine]
        if group[0].feature.dtype == "category" or not any(c.linear for c in group):
            found, table = _looked_up(group)
            layout.tables.append(Table(slot, mine, table))
            edges[name] = np.array(found[0].settings.get("edges", ()), np.float64)
        else:
            found, layout = _scaled(group, slot, mine, layout)
        steps += found
    layout = _plain_codes(layout, steps, order)
    return steps, layout, edges


def _looked_up(group: list[Column]) -> tuple[list[Step], NDArray[np.float32]]:
    """Steps that send a class of values, and what the model gets for each class."""
    feature = group[0].feature
    if not all(column.flat for column in group):
        raise ConvertError(
            "K01",
            f"{feature.name} is changed at single values before a dense model",
            cure="send null for a missing value, and let SimpleImputer fill that",
        )
    points = np.unique([point for column in group for point in column.points])
    codes = replace(group[0], points=tuple(points.tolist())).classes()
    cells = np.stack([column.mapped(codes) for column in group], axis=1)
    if np.isnan(cells).any():
        raise ConvertError(
            "K07",
            f"a value of {feature.name} reaches the model as missing",
            cure="give the encoder a code for unknown and missing values",
        )
    if feature.dtype != "category":
        steps = [
            Step("rank", feature.name, {"edges": points.tolist()}),
            Step("fill", feature.name, {"value": float(len(points) + 1)}),
        ]
        return steps, cells.astype(np.float32)
    rows = {-2 if np.isnan(code) else int(code): place for place, code in enumerate(codes)}
    settings = {
        "values": [float(code) for code in range(len(feature.categories))],
        "unseen": float(rows.get(-1, 0)),
        "missing": float(rows.get(-2, 0)),
    }
    return [Step("codes", feature.name, settings)], cells.astype(np.float32)


def _plain_codes(layout: Layout, steps: list[Step], order: tuple[str, ...]) -> Layout:
    """Where one column comes of a category, the code can be the column itself."""
    for table in [t for t in layout.tables if len(t.columns) == 1]:
        place = next(n for n, step in enumerate(steps) if step.feature == order[table.slot])
        if steps[place].op != "codes":
            continue
        cells = table.rows[:, 0].astype(np.float64).tolist()
        settings = {
            name: cells[int(code)] if isinstance(code, float) else cells[: len(code)]
            for name, code in steps[place].settings.items()
        }
        steps[place] = replace(steps[place], settings=settings)
        layout.tables.remove(table)
        layout.slots.append(table.slot)
        layout.columns.append(table.columns[0])
        layout.factors.append(1.0)
        layout.shifts.append(0.0)
        if layout.gaps is not None:
            layout.gaps.append(0.0)
    return layout


def _scaled(
    group: list[Column], slot: int, mine: list[int], layout: Layout
) -> tuple[list[Step], Layout]:
    """Encoder steps of a number that is filled, clipped and scaled, and its columns."""
    name, gap = group[0].feature.name, math.nan
    flags = [column for column in group if not column.linear]
    if any(column.points or not column.flat for column in flags):
        raise ConvertError(
            "K01",
            f"{name} is both scaled and looked up before a dense model",
            cure="send it as two features",
        )
    straight = [_straight(column) for column in group if column.linear]
    if any(found.steps != straight[0].steps for found in straight):
        raise ConvertError("K01", f"{name} is used twice, with two scalers")
    _check_magnitude(group, straight[0].offset)
    steps = list(straight[0].steps)
    gaps = [float(column.mapped(np.array([gap]))[0]) for column in group]
    fills = {found.fill for found in straight}
    open_gaps = group[0].feature.missing == "allow"
    if open_gaps and not flags and len(fills) == 1 and not math.isnan(straight[0].fill):
        steps.insert(0, Step("fill", name, {"value": straight[0].fill}))
        open_gaps = False
    factors = iter(straight)
    layout.slots.extend([slot] * len(mine))
    layout.columns.extend(mine)
    layout.factors.extend(next(factors).factor if column.linear else 0.0 for column in group)
    present = [float(column.mapped(np.zeros(1))[0]) for column in group]
    layout.shifts.extend(
        0.0 if column.linear else value for column, value in zip(group, present, strict=True)
    )
    known = layout.gaps if layout.gaps is not None else [0.0] * (len(layout.slots) - len(mine))
    if open_gaps or layout.gaps is not None:
        layout = replace(layout, gaps=known + (gaps if open_gaps else [0.0] * len(mine)))
    return steps, layout


@dataclass(frozen=True)
class _Straight:
    """A scaled column: factor * (clip(fill(x)) - offset), `steps` without the filling."""

    steps: tuple[Step, ...]
    fill: float
    offset: float
    factor: float


def _straight(column: Column) -> _Straight:
    name = column.feature.name
    factor, shift, fill = 1.0, 0.0, math.nan
    clips: list[Step] = []
    for item in column.maps:
        if isinstance(item, Fill):
            fill = (item.value - shift) / factor if math.isnan(fill) else fill
        elif isinstance(item, Map) and item.op == "clip":
            ends = {"low": (item.value - shift) / factor, "high": (item.high - shift) / factor}
            clips.append(Step("clip", name, ends))
        elif isinstance(item, Map) and item.op in {"sub", "add"}:
            shift += item.value if item.op == "add" else -item.value
        elif isinstance(item, Map):
            value = item.value if item.op == "mul" else 1.0 / item.value
            factor, shift = factor * value, shift * value
    offset = -shift / factor if shift else 0.0
    last = (Step("offset", name, {"value": offset}),) if offset else ()
    return _Straight((*clips, *last), fill, offset, factor)


def _check_magnitude(group: list[Column], offset: float) -> None:
    feature = group[0].feature
    ends = [abs(end - offset) for end in (feature.minimum, feature.maximum) if end is not None]
    scaled = any(isinstance(step, Map) for column in group for step in column.maps)
    if max(ends, default=0.0) > EXACT_INTEGERS and not scaled:
        raise ConvertError(
            "K02",
            f"{feature.name} reaches {max(ends):.0f}, which float32 cannot hold to the unit",
            cure="put a StandardScaler before the model and fit it again",
        )


def put_before(proto: Any, layout: Layout, features: int) -> None:
    """Choose, scale and look up columns, before the graph's first node.

    Args:
        proto: the model's ModelProto, whose input is named ``input``; it is changed.
        layout: what to do.
        features: columns of the encoder's tensor.
    """
    graph, nodes = proto.graph, _Nodes()
    last = _scaled_nodes(nodes, layout, features)
    tables = [_table_nodes(nodes, table, place) for place, table in enumerate(layout.tables)]
    if tables:
        parts = [last, *tables] if layout.slots else tables
        last = nodes.add("Concat", parts, "wherry_all", axis=1)
    columns = layout.columns + [place for table in layout.tables for place in table.columns]
    if columns != list(range(len(columns))):
        last = nodes.add(
            "Gather", [last, nodes.put("order", np.argsort(columns))], "wherry_o", axis=1
        )
    for node in graph.node:
        node.input[:] = [last if name == "input" else name for name in node.input]
    graph.initializer.extend(nodes.constants)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes.nodes + rest)
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = features


class _Nodes:
    """Collects nodes and their constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def put(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value), f"wherry_{name}"))
        return f"wherry_{name}"


def _scaled_nodes(nodes: _Nodes, layout: Layout, features: int) -> str:
    last = "input"
    if layout.slots != list(range(features)):
        chosen = nodes.put("columns", np.array(layout.slots, np.int64))
        last = nodes.add("Gather", [last, chosen], "wherry_x", axis=1)
    raw = last
    if any(factor != 1.0 for factor in layout.factors):
        row = nodes.put("factors", np.array([layout.factors], np.float32))
        last = nodes.add("Mul", [last, row], "wherry_z")
    if any(layout.shifts):
        row = nodes.put("shifts", np.array([layout.shifts], np.float32))
        last = nodes.add("Add", [last, row], "wherry_shifted")
    if layout.gaps is not None:
        row = nodes.put("gaps", np.array([layout.gaps], np.float32))
        gap = nodes.add("IsNaN", [raw], "wherry_gap")
        last = nodes.add("Where", [gap, row, last], "wherry_filled")
    return last


def _table_nodes(nodes: _Nodes, table: Table, place: int) -> str:
    from onnx import TensorProto

    rows = nodes.put(f"rows{place}", table.rows)
    slot = nodes.put(f"slot{place}", np.array(table.slot, np.int64))
    value = nodes.add("Gather", ["input", slot], f"wherry_value{place}", axis=1)
    code = nodes.add("Cast", [value], f"wherry_code{place}", to=TensorProto.INT64)
    return nodes.add("Gather", [rows, code], f"wherry_row{place}", axis=0)
