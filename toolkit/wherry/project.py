"""`project.toml`: what a bundle is made from, and what it must hold to. Reference: docs/project.md.

A project file is written by hand, so that a name that nobody knows is refused with the
nearest one that is known: a misspelt budget must not become a default. Paths are relative
to the file.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import ManifestError, SetupError
from wherry_contract.features import InputContract
from wherry_contract.golden import MAX_ROWS
from wherry_contract.manifest import KINDS as RUNTIMES
from wherry_contract.manifest import VERSION, BoardNeeds, Soak
from wherry_contract.rule import Rule
from wherry_contract.wire import PROJECT, SLUG, Fields
from wherry_convert.quantize import Budgets, methods_for
from wherry_convert.sources import KINDS
from wherry_convert.tflite_convert import LEAVES, WEIGHTS

from .drift_settings import Drift, read_drift
from .output import NAMES, Threshold, read_output
from .own_metric import OwnMetric
from .profiles import Board, load_board
from .quantized import SEARCH

LIMIT_BYTES: Final = 2**20
ON_BOARDS: Final = ("there", "required", "off")
MAX_CARD: Final = 20_000  # characters of one text of the model card

# every name that a project file may hold, by section; docs/project.md describes each
KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "": (
        "project", "source", "target", "input", "data", "output", "fallback", "quantize", "gates",
        "metric", "golden", "soak", "board", "card", "sign", "out", "drift",
    ),
    "project": ("name", "version", "family", "counter"),
    "source": ("kind", "path", "trusted"),
    "target": ("runtime", "leaves", "weights", "boards"),
    "input": ("name", "version", "features"),
    "input.features": (
        "name", "dtype", "unit", "minimum", "maximum", "missing", "categories", "unseen",
        "supplied_by", "period",
    ),
    "data": ("reference", "check", "label", "time", "card"),
    "output": NAMES,
    "fallback": ("join", "conditions"),
    "fallback.conditions": ("feature", "op", "value"),
    "quantize": ("method", "flips", "bytes", "distinct_share", "metric_drop", "latency_ratio"),
    "gates": ("flips", "edge_flips", "metric_drop", "runtimes", "boards"),
    "metric": ("path", "function", "drop"),
    "golden": ("rows", "tolerance"),
    "soak": ("rows", "seconds", "longest_seconds", "error_share"),
    "board": ("architectures", "memory_mib"),
    "drift": ("pairs", "reaction"),
    "drift.reaction": ("missing_share", "outside_share", "rows", "answer"),
    "card": ("purpose", "limits", "owner"),
    "sign": ("key",),
    "out": ("bundle", "report"),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The trained model: which framework wrote it, where it lies, which types are trusted."""

    kind: str
    path: Path
    trusted: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """What runs the bundle, and where.

    Attributes:
        runtime: ``onnxruntime`` or ``tflite``.
        leaves: how leaves of trees are kept there.
        weights: how matrices of nets are kept there.
        boards: that must be able to run it.
    """

    runtime: str
    leaves: str
    weights: str
    boards: tuple[Board, ...]


@dataclass(frozen=True)
class Data:
    """The rows, and the columns beside the features; "" for a column that is not named.

    Attributes:
        reference: rows that the model was trained on; edges, counts and threshold.
        check: rows that it was not trained on; decisions and business metrics.
        label: 1 for the positive class, 0 for the other; or the class, or the value.
        time: when it happened; card precision counts by day.
        card: whose it is; card precision counts cards.
    """

    reference: Path
    check: Path
    label: str
    time: str
    card: str


@dataclass(frozen=True)
class Gates:
    """Budgets: what may differ between the source model and the bundle.

    Attributes:
        flips: decisions on the check rows that may flip.
        edge_flips: likewise on rows made to be hard, all classes together.
        metric_drop: how much lower than the source's a business metric may be.
    """

    flips: int
    edge_flips: int
    metric_drop: float


@dataclass(frozen=True)
class Quantize:
    """How a neural net is made smaller: by which method, within which budgets."""

    method: str
    budgets: Budgets


@dataclass(frozen=True)
class Golden:
    """How many golden vectors, and how far a board's score may be from ours."""

    rows: int
    tolerance: float


@dataclass(frozen=True)
class Card:
    """What only people know about a model; it stands in the model card."""

    purpose: str
    limits: str
    owner: str


@dataclass(frozen=True)
class Project:
    """A project file, read and checked.

    Attributes:
        path: the file.
        counter: the release counter that is signed; it grows with every release.
        fallback: answers when no model can, and is held against the model in reports.
        quantize: how a neural net is made smaller; None if it is not.
        metric: the project's own; None for none.
        on_boards: whether the bundle is run on the emulated boards that are named: where their
            environments are ``there``, on all of them (``required``), or not at all (``off``).
        runtimes: whether golden vectors run under ``all`` claimed versions, or the one ``here``.
        key: name of a signing key, or the path of its file; "" for an unsigned bundle.
        bundle: the file to be made.
        report: the page about it that is to be written; None for none.
    """

    path: Path
    name: str
    version: str
    family: str
    counter: int
    source: Source
    target: Target
    input: InputContract
    data: Data
    threshold: Threshold
    fallback: Rule | None
    quantize: Quantize | None
    gates: Gates
    metric: OwnMetric | None
    on_boards: str
    runtimes: str
    golden: Golden
    soak: Soak
    board: BoardNeeds
    drift: Drift
    card: Card
    key: str
    bundle: Path
    report: Path | None


def load_project(path: Path) -> Project:
    """Read and check a project file.

    Raises:
        SetupError: H01 it is wrong, H02 it cannot be read.
    """
    document = _parse(path)
    _refuse_unknown(document, "")
    try:
        return _project(Fields(document, path.name, PROJECT), path)
    except ManifestError as error:  # the fallback rule names a feature that is not there
        raise SetupError("H01", error.detail) from error


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    if len(data) > LIMIT_BYTES:
        raise SetupError("H01", f"{path.name} has more than {LIMIT_BYTES} bytes")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # TOML or UTF-8 that is none
        raise SetupError("H01", f"{path.name} is not valid TOML: {error}") from error


def _refuse_unknown(table: Mapping[str, Any], section: str) -> None:
    known = KNOWN[section]
    for name, value in table.items():
        inner = f"{section}.{name}".lstrip(".")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            where = f"[{section}]" if section else "the file"
            raise SetupError("H01", f"{where} holds {name[:64]!r}, which nobody knows; {hint}")
        if inner in KNOWN:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict):
                    _refuse_unknown(item, inner)


def _project(fields: Fields, path: Path) -> Project:
    about = fields.table("project")
    name = about.text("name", pattern=SLUG)
    version = about.text("version", pattern=VERSION)
    contract = InputContract.from_fields(fields.table("input"))
    data = _data(fields.table("data"), path.parent)
    rule = fields.mapping("fallback", {})
    out = fields.table("out", {})
    output = read_output(fields.table("output"))
    _refuse_beside(fields, output, rule=rule)
    gates = fields.table("gates", {})
    target = _target(fields, path.parent)
    report = out.text("report", "", limit=4096)
    return Project(
        path=path,
        name=name,
        version=version,
        family=about.text("family", name, pattern=SLUG),
        counter=about.integer("counter", low=1),
        source=_source(fields.table("source"), path.parent),
        target=target,
        input=contract,
        data=data,
        threshold=output,
        fallback=Rule.from_fields(Fields(rule, "fallback", PROJECT), contract) if rule else None,
        quantize=_quantize(fields, target),
        gates=_gates(gates),
        metric=_metric(fields, path.parent, data),
        on_boards=gates.choice("boards", ON_BOARDS, ON_BOARDS[0]),
        runtimes=gates.choice("runtimes", ("here", "all"), "here"),
        golden=_golden(fields.table("golden", {})),
        soak=Soak.from_fields(fields.table("soak", {})),
        board=BoardNeeds.from_fields(fields.table("board", {})),
        drift=read_drift(fields.table("drift", {}), contract, rule=rule),
        card=_card(fields.table("card", {})),
        key=_key(fields.table("sign", {}), path.parent),
        bundle=path.parent / out.text("bundle", f"build/{name}-{version}.wherry"),
        report=path.parent / report if report else None,
    )


def _source(fields: Fields, folder: Path) -> Source:
    return Source(
        kind=fields.choice("kind", KINDS),
        path=folder / fields.text("path", pattern=r".+"),
        trusted=fields.texts("trusted", [], limit=256),
    )


def _target(fields: Fields, folder: Path) -> Target:
    own = Fields(fields.mapping("target", {}), "target", PROJECT)
    runtime = own.choice("runtime", RUNTIMES, RUNTIMES[0])
    leaves = own.choice("leaves", LEAVES, LEAVES[0])
    weights = own.choice("weights", WEIGHTS, WEIGHTS[0])
    for name, value in (("leaves", leaves), ("weights", weights)):
        if runtime != "tflite" and value != "float32":
            raise own.error(name, 'there only with runtime = "tflite"')
    names = own.texts("boards", [], limit=64)
    return Target(runtime, leaves, weights, tuple(load_board(name, folder) for name in names))


def _data(fields: Fields, folder: Path) -> Data:
    return Data(
        reference=folder / fields.text("reference", pattern=r".+"),
        check=folder / fields.text("check", pattern=r".+"),
        label=fields.text("label", ""),
        time=fields.text("time", ""),
        card=fields.text("card", ""),
    )


def _refuse_beside(fields: Fields, output: Threshold, *, rule: Mapping[str, Any]) -> None:
    decision = output.wanted.decision
    if decision != "threshold" and fields.rest().get("quantize"):
        raise fields.error("quantize", f'absent with decision = "{decision}"')
    if decision == "class" and rule:
        raise fields.error("fallback", 'absent with decision = "class": a rule names no class')


def _quantize(fields: Fields, target: Target) -> Quantize | None:
    inner = fields.mapping("quantize", {"method": ""})
    if inner == {"method": ""}:
        return None
    own = Fields(inner, "quantize", PROJECT)
    if target.weights != "float32":
        words = f"absent with [target] weights; written-{target.weights} is the same"
        raise fields.error("quantize", words)
    method = own.choice("method", (SEARCH, *methods_for(target.runtime)), SEARCH)
    flips, size = (own.integer(name) if name in inner else None for name in ("flips", "bytes"))
    share, drop, ratio = map(
        own.optional_number, ("distinct_share", "metric_drop", "latency_ratio")
    )
    return Quantize(method, Budgets(flips, size, share, drop, ratio))


def _gates(fields: Fields) -> Gates:
    flips = fields.integer("flips", 0)
    drop = fields.number("metric_drop", 0.002)
    if not 0 <= drop <= 1:
        raise fields.error("metric_drop", "from 0 to 1")
    return Gates(flips, fields.integer("edge_flips", flips), drop)


def _metric(fields: Fields, folder: Path, data: Data) -> OwnMetric | None:
    inner = fields.mapping("metric", {})
    if not inner:
        return None
    if not data.label:
        raise fields.error("metric", "absent without [data] label")
    own = Fields(inner, "metric", PROJECT)
    drop = own.number("drop", 0.0)
    if drop < 0:
        raise own.error("drop", "0 or more")
    return OwnMetric(
        folder / own.text("path", pattern=r".+"),
        own.text("function", pattern=r"[A-Za-z_]\w*"),
        drop,
    )


def _golden(fields: Fields) -> Golden:
    tolerance = fields.number("tolerance", 1e-6)
    if not 0 <= tolerance <= 0.1:
        raise fields.error("tolerance", "from 0 to 0.1")
    return Golden(fields.integer("rows", 64, low=8, high=MAX_ROWS), tolerance)


def _card(fields: Fields) -> Card:
    return Card(
        purpose=fields.text("purpose", "", limit=MAX_CARD),
        limits=fields.text("limits", "", limit=MAX_CARD),
        owner=fields.text("owner", "", limit=MAX_CARD),
    )


def _key(fields: Fields, folder: Path) -> str:
    key = fields.text("key", "", limit=4096)
    if not key or re.fullmatch(SLUG, key):
        return key
    return str(folder / key)
