"""`wherry.json`: what a bundle says about itself. Specification: SPEC-bundle.md.

It is made and checked on the host and signed; the device reads it, checks that it fits,
and never parses the graph itself. Unknown fields survive a read and a write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .decision import Scores, winning
from .encoder import MAX_STEPS, Encoder
from .errors import ManifestError
from .features import InputContract
from .histograms import SCORE_BINS, score_bins, value_bins
from .operators import forbidden
from .reaction import Reaction
from .rule import Rule
from .versions import in_range
from .wire import SLUG, Fields, canonical, parse_json

SCHEMA: Final = "wherry/manifest"
LIMIT_BYTES: Final = 4 * 2**20
KINDS: Final = ("onnxruntime", "tflite")
VERSION: Final = r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}"
MAX_CLASSES: Final = 1024
NEVER: Final = "<0"  # the range of a runtime that would run the model otherwise


@dataclass(frozen=True)
class RuntimeNeeds:
    """What runs the model.

    Attributes:
        kind: ``onnxruntime``, or ``tflite``, which several distributions run.
        version: range of versions that the bundle was checked for: of onnxruntime, or of
            tflite-runtime; `NEVER` where only those in `also` score it right.
        ir: IR version of the ONNX file; schema version of a TFLite file.
        opsets: operator set version by domain; "" is the default domain. Of a TFLite file
            the version of each operator.
        operators: every operator in the graph.
        threads: for one inference.
        also: likewise, ranges of other distributions that run the same file, by name.
    """

    kind: str
    version: str
    ir: int
    opsets: Mapping[str, int]
    operators: tuple[str, ...]
    threads: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> RuntimeNeeds:
        """Read the runtime's part."""
        version, also = fields.text("version", limit=128), fields.mapping("also", {})
        for name, wanted in (("version", version), *(("also", item) for item in also.values())):
            try:
                in_range("0", wanted if isinstance(wanted, str) else "?")
            except ValueError as error:
                raise fields.error(name, "a range like >=1.27,<1.29") from error
        opsets = fields.mapping("opsets")
        if not all(type(value) is int and 0 < value < 1000 for value in opsets.values()):
            raise fields.error("opsets", "versions by domain")
        return cls(
            kind=fields.choice("kind", KINDS),
            version=version,
            ir=fields.integer("ir", low=1, high=1000),
            opsets=opsets,
            operators=fields.texts("operators"),
            threads=fields.integer("threads", 1, low=1, high=64),
            extra=fields.rest(),
            also=also,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document = {
            "kind": self.kind,
            "version": self.version,
            "ir": self.ir,
            "opsets": dict(self.opsets),
            "operators": list(self.operators),
            "threads": self.threads,
        }
        if self.also:
            document["also"] = dict(self.also)
        return document | dict(self.extra)

    @property
    def ranges(self) -> Mapping[str, str]:
        """The range of versions of each distribution that runs the model."""
        own = "tflite-runtime" if self.kind == "tflite" else self.kind
        every = {own: self.version} | dict(self.also)
        return {name: wanted for name, wanted in every.items() if wanted != NEVER}

    @property
    def words(self) -> str:
        """The same for a person."""
        return " or ".join(f"{name} {wanted}" for name, wanted in self.ranges.items())

    def takes(self, runtime: str, version: str) -> bool:
        """Whether that version of that distribution runs the model."""
        wanted = self.ranges.get(runtime)
        return wanted is not None and in_range(version, wanted)


@dataclass(frozen=True)
class BoardNeeds:
    """What the board must have; an empty list of architectures means any."""

    architectures: tuple[str, ...] = ()
    memory_mib: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> BoardNeeds:
        """Read the board's part."""
        return cls(
            architectures=fields.texts("architectures", [], limit=32),
            memory_mib=fields.integer("memory_mib", 0),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "architectures": list(self.architectures),
            "memory_mib": self.memory_mib,
        } | dict(self.extra)


@dataclass(frozen=True)
class Output:
    """Where the score is and what it means: a probability, one for each class, or a value.

    Attributes:
        tensor: the graph's output that holds the scores.
        column: which column is the score; -1 if the tensor holds just the one, or all of
            `classes` are looked at.
        threshold: a score at or above it is flagged; of classes the least probability of a
            decision (`wherry_contract.decision`).
        positive: what a flag means, in a word, as ``fraud``.
        classes: names of the tensor's columns, if the decision is between all of them; empty
            for one score.
        edges: if the score is a value and no probability, the inner edges of its histogram:
            ascending, at least one and at most 63; empty for a probability.
    """

    tensor: str
    column: int
    threshold: float
    positive: str = "positive"
    extra: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    @classmethod
    def from_fields(cls, fields: Fields) -> Output:
        """Read the output's part."""
        found = cls(
            tensor=fields.text("tensor", limit=256),
            column=fields.integer("column", low=-1, high=4096),
            threshold=fields.number("threshold"),
            positive=fields.text("positive", "positive", limit=64),
            classes=fields.texts("classes", [], limit=MAX_CLASSES),
            edges=fields.numbers("edges", [], limit=SCORE_BINS - 1),
            extra=fields.rest(),
        )
        if found.classes and not _are_classes(found.classes):
            raise fields.error("classes", "at least two different names of at most 64 characters")
        if found.classes and (found.column != -1 or found.edges):
            raise fields.error("classes", "absent, or column -1 and no edges beside it")
        if any(b <= a for a, b in pairwise(found.edges)):
            raise fields.error("edges", "an ascending list")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document: dict[str, Any] = {
            "tensor": self.tensor,
            "column": self.column,
            "threshold": self.threshold,
            "positive": self.positive,
        }
        if self.classes:
            document["classes"] = list(self.classes)
        if self.edges:
            document["edges"] = list(self.edges)
        return document | dict(self.extra)

    @property
    def kind(self) -> str:
        """``probability``, ``classes`` or ``value``."""
        return "classes" if self.classes else "value" if self.edges else "probability"

    def bins(self, scores: Scores) -> NDArray[np.int64]:
        """The histogram's bin of each row, int64 (rows,), 0 to 63.

        Args:
            scores: float64, shape (rows,) or (rows, classes).
        """
        if self.edges:
            return value_bins(scores, self.edges)
        return score_bins(winning(scores))


def _are_classes(names: tuple[str, ...]) -> bool:
    short = all(0 < len(name) <= 64 for name in names)
    return short and len(set(names)) == len(names) >= 2


@dataclass(frozen=True)
class Soak:
    """How long a new model must do well on real traffic before it is committed.

    Attributes:
        rows: least rows scored.
        seconds: least time.
        longest_seconds: after that an undecided soak is reported; the model is not committed.
        error_share: largest share of rows that may fail to score.
    """

    rows: int = 200
    seconds: int = 1800
    longest_seconds: int = 86_400
    error_share: float = 0.01
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Soak:
        """Read the limits."""
        return cls(
            rows=fields.integer("rows", 200),
            seconds=fields.integer("seconds", 1800),
            longest_seconds=fields.integer("longest_seconds", 86_400, low=1),
            error_share=fields.number("error_share", 0.01),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "rows": self.rows,
            "seconds": self.seconds,
            "longest_seconds": self.longest_seconds,
            "error_share": self.error_share,
        } | dict(self.extra)


@dataclass(frozen=True)
class Manifest:
    """The whole of `wherry.json`.

    Attributes:
        name: the model's name; it is served under this name.
        version: for people; nothing is decided by it.
        family: models of a family replace each other; a device is pinned to one.
        reaction: when something else answers though there is a model; nothing for never.
    """

    name: str
    version: str
    family: str
    runtime: RuntimeNeeds
    board: BoardNeeds
    input: InputContract
    encoder: Encoder
    output: Output
    soak: Soak
    fallback: Rule | None
    provenance: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    reaction: Reaction | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read `wherry.json`.

        Raises:
            ManifestError: M01 to M04, M08.
        """
        document = parse_json(data, limit=LIMIT_BYTES, what="wherry.json")
        fields = Fields(document, "wherry.json")
        fields.schema(SCHEMA)
        contract = InputContract.from_fields(fields.table("input"))
        rule = fields.mapping("fallback", {})
        output = Output.from_fields(fields.table("output"))
        if rule and output.classes:
            raise fields.error("fallback", "absent with output.classes: a rule names no class")
        reaction = fields.mapping("reaction", {})
        if reaction and not rule:
            raise fields.error("reaction", "absent without a fallback rule")
        steps = fields.tables("encoder", [], limit=MAX_STEPS)
        return cls(
            name=fields.text("name", pattern=SLUG),
            version=fields.text("version", pattern=VERSION),
            family=fields.text("family", pattern=SLUG),
            runtime=RuntimeNeeds.from_fields(fields.table("runtime")),
            board=BoardNeeds.from_fields(fields.table("board", {})),
            input=contract,
            encoder=Encoder.from_fields(steps, contract, fields),
            output=output,
            soak=Soak.from_fields(fields.table("soak", {})),
            fallback=Rule.from_fields(Fields(rule, "fallback"), contract) if rule else None,
            provenance=fields.mapping("provenance", {}),
            reaction=Reaction.from_fields(Fields(reaction, "reaction")) if reaction else None,
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        document = {
            "schema": f"{SCHEMA}/1",
            "name": self.name,
            "version": self.version,
            "family": self.family,
            "runtime": self.runtime.to_dict(),
            "board": self.board.to_dict(),
            "input": self.input.to_dict(),
            "encoder": self.encoder.to_list(),
            "output": self.output.to_dict(),
            "soak": self.soak.to_dict(),
            "provenance": dict(self.provenance),
        }
        if self.fallback:
            document["fallback"] = self.fallback.to_dict()
        if self.reaction:
            document["reaction"] = self.reaction.to_dict()
        return canonical(document | dict(self.extra))

    def check_operators(self) -> None:
        """Refuse operators outside the allow-list.

        Raises:
            ManifestError: M05.
        """
        outside = forbidden(self.runtime.operators, self.runtime.kind)
        if outside:
            raise ManifestError("M05", ", ".join(outside[:8]))

    def check_fits(self, *, runtime: str, version: str, architecture: str) -> None:
        """Refuse a bundle that this board or runtime cannot serve.

        Raises:
            ManifestError: M05, M06 or M07.
        """
        self.check_operators()
        if not self.runtime.takes(runtime, version):
            wanted = self.runtime.words
            raise ManifestError("M06", f"it wants {wanted}, here is {runtime} {version}")
        if self.board.architectures and architecture not in self.board.architectures:
            wanted = ", ".join(self.board.architectures)
            raise ManifestError("M07", f"it is for {wanted}, here is {architecture}")
