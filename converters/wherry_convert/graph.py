"""ONNX graphs: look inside, keep only what one output needs, and write the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wherry_contract.errors import ConvertError
from wherry_contract.operators import forbidden


@dataclass(frozen=True)
class GraphFacts:
    """What a graph is made of.

    Attributes:
        ir: IR version of the file.
        opsets: operator set version by domain; "" is the default domain.
        operators: sorted; others than the default domain's as ``domain:name``.
        inputs: names of the inputs.
        outputs: names of the outputs.
        parameter_bytes: raw size of weights, thresholds and leaves.
    """

    ir: int
    opsets: Mapping[str, int]
    operators: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameter_bytes: int


def parse(model: bytes) -> Any:
    """The ModelProto in `model`.

    Raises:
        ConvertError: K04, the bytes are no ONNX model.
    """
    import onnx

    try:
        found = onnx.load_model_from_string(model)
    except Exception as error:  # DecodeError, of whichever protobuf onnx brings
        raise ConvertError("K04", "the file is no ONNX model") from error
    if not found.graph.node:
        raise ConvertError("K04", "the file is no ONNX model, or an empty one")
    return found


def inspect_graph(model: bytes) -> GraphFacts:
    """Read what a model is made of, subgraphs included.

    Raises:
        ConvertError: K04.
    """
    return _facts(parse(model))


def _facts(model: Any) -> GraphFacts:
    names: set[str] = set()
    sizes: list[int] = []
    _walk(model.graph, names, sizes)
    weights = {tensor.name for tensor in model.graph.initializer}
    return GraphFacts(
        ir=int(model.ir_version),
        opsets={_domain(item.domain): int(item.version) for item in model.opset_import},
        operators=tuple(sorted(names)),
        inputs=tuple(item.name for item in model.graph.input if item.name not in weights),
        outputs=tuple(item.name for item in model.graph.output),
        parameter_bytes=sum(sizes),
    )


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _walk(graph: Any, names: set[str], sizes: list[int]) -> None:
    sizes += [tensor.ByteSize() for tensor in graph.initializer]
    for node in graph.node:
        domain = _domain(node.domain)
        names.add(f"{domain}:{node.op_type}" if domain else node.op_type)
        for attribute in node.attribute:
            sizes.append(4 * len(attribute.floats) + 8 * len(attribute.ints))
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(
                attribute.graphs
            ):
                _walk(inner, names, sizes)


def seal(model: Any, output: str) -> bytes:
    """Write a model canonically: same model, same bytes.

    What `output` does not need is dropped (labels, ZipMap), nodes and tensors are numbered
    anew, everything that names a tool or a time is cleared, operator sets that are not
    used are left out, and the IR version is the lowest that the operator sets allow.

    Args:
        model: a ModelProto; it is changed.
        output: the one output to keep.

    Raises:
        ConvertError: K01, an operator is outside the allow-list.
    """
    from onnx import ModelProto, helper

    graph = model.graph
    _prune(graph, output)
    _rename(graph, output)
    versions: dict[str, int] = {}
    for item in model.opset_import:
        domain = _domain(item.domain)
        versions[domain] = max(versions.get(domain, 1), item.version)
    used = {_domain(node.domain) for node in graph.node} | {""}
    clean = ModelProto()
    clean.graph.CopyFrom(graph)
    clean.producer_name = "wherry"
    clean.opset_import.extend(
        helper.make_opsetid(domain, versions.get(domain, 1)) for domain in sorted(used)
    )
    refuse_operators(_facts(clean))
    clean.ir_version = helper.find_min_ir_version_for(clean.opset_import)
    return bytes(clean.SerializeToString(deterministic=True))


def refuse_operators(facts: GraphFacts) -> None:
    """Refuse a graph that needs operators outside the allow-list.

    Raises:
        ConvertError: K01.
    """
    outside = forbidden(facts.operators)
    if outside:
        listed = ", ".join(outside[:8])
        raise ConvertError("K01", f"its graph needs operators that no bundle may hold: {listed}")


def _prune(graph: Any, output: str) -> None:
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    outputs = [item for item in graph.output if item.name == output]
    _replace(graph.node, reversed(kept))
    _replace(graph.initializer, weights)
    _replace(graph.output, outputs)
    _replace(graph.input, [item for item in graph.input if item.name in needed])
    del graph.value_info[:]
    graph.name, graph.doc_string = "wherry", ""


def _replace(field: Any, items: Any) -> None:
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)
        copies.append(copy)
    del field[:]
    field.extend(copies)


def _rename(graph: Any, output: str) -> None:
    names = {"": "", output: "score", graph.input[0].name: "input"}
    for place, tensor in enumerate(graph.initializer):
        names[tensor.name] = f"w{place}"
    for place, node in enumerate(graph.node):
        for slot, name in enumerate(node.output):
            if name:
                names.setdefault(name, f"t{place}" + (f"_{slot}" if slot else ""))
        node.name, node.doc_string = f"n{place}", ""
        _forget(node)  # exporters keep stack traces there, with the paths of who trained it
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = names[tensor.name], ""
        _forget(tensor)
    graph.input[0].name, graph.output[0].name = "input", "score"
    for item in (graph, *graph.input, *graph.output):
        item.doc_string = ""
        _forget(item)


def _forget(item: Any) -> None:
    del item.metadata_props[:]
