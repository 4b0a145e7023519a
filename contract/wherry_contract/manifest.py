"""`wherry.json`: what a bundle says about itself. Specification: SPEC-bundle.md.

It is made and checked on the host and signed; the device reads it, checks that it fits,
and never parses the graph itself. Unknown fields survive a read and a write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .encoder import MAX_STEPS, Encoder
from .errors import ManifestError
from .features import InputContract
from .operators import forbidden
from .rule import Rule
from .versions import in_range
from .wire import SLUG, Fields, canonical, parse_json

SCHEMA: Final = "wherry/manifest"
LIMIT_BYTES: Final = 4 * 2**20
KINDS: Final = ("onnxruntime", "tflite")
VERSION: Final = r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}"


@dataclass(frozen=True)
class RuntimeNeeds:
    """What runs the model.

    Attributes:
        kind: ``onnxruntime``, or ``tflite``, which several distributions run.
        version: range of versions that the bundle was checked for: of onnxruntime, or of
            tflite-runtime.
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
        return {own: self.version} | dict(self.also)

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
    """Where the score is and what it means.

    Attributes:
        tensor: the graph's output that holds probabilities.
        column: which column is the positive class; -1 if the tensor holds just the one.
        threshold: a score at or above it is flagged.
        positive: what a flag means, in a word, as ``fraud``.
    """

    tensor: str
    column: int
    threshold: float
    positive: str = "positive"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Output:
        """Read the output's part."""
        return cls(
            tensor=fields.text("tensor", limit=256),
            column=fields.integer("column", low=-1, high=4096),
            threshold=fields.number("threshold"),
            positive=fields.text("positive", "positive", limit=64),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "tensor": self.tensor,
            "column": self.column,
            "threshold": self.threshold,
            "positive": self.positive,
        } | dict(self.extra)


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
        steps = fields.tables("encoder", [], limit=MAX_STEPS)
        return cls(
            name=fields.text("name", pattern=SLUG),
            version=fields.text("version", pattern=VERSION),
            family=fields.text("family", pattern=SLUG),
            runtime=RuntimeNeeds.from_fields(fields.table("runtime")),
            board=BoardNeeds.from_fields(fields.table("board", {})),
            input=contract,
            encoder=Encoder.from_fields(steps, contract, fields),
            output=Output.from_fields(fields.table("output")),
            soak=Soak.from_fields(fields.table("soak", {})),
            fallback=Rule.from_fields(Fields(rule, "fallback"), contract) if rule else None,
            provenance=fields.mapping("provenance", {}),
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
