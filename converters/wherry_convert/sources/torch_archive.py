"""What a .pt2 file may hold, checked before PyTorch sees it.

`torch.export.load` is no safe reader: it opens sample inputs and custom objects as pickles
if need be, evaluates the text of symbolic sizes, compiles guards, and looks operators up by
dotted names of any module. So the archive is read here first, and whatever could be more
than aten operators on tensors is refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, Final

from wherry_contract.errors import ConvertError

MAX_ENTRIES: Final = 20_000
MAX_UNPACKED: Final = 2 * 2**30
MAX_GRAPH: Final = 64 * 2**20
_HOW: Final = (
    "export with torch.export.export(module.eval(), (rows,), "
    "dynamic_shapes=({0: torch.export.Dim('rows')},)) and torch.export.save"
)
# parts of an archive that nothing but tensors and the graph need
_PARTS: Final = re.compile(
    r"data/(weights/(weight_\d+|\w+_config\.json)|constants/(tensor_\d+|\w+_config\.json)"
    r"|sample_inputs/\w+\.pt)|models/\w+\.json|archive_format|archive_version|byteorder"
    r"|\.data/\w+|\.format_version|\.storage_alignment|version"
)
_TARGET: Final = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|neg"
    r"|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_NAME: Final = re.compile(r"[A-Za-z_]\w{0,255}")
_SIZE: Final = re.compile(
    r"(?!.*\*\*)(?:Symbol\('[su]\d{1,6}'|(?:positive|integer|nonnegative)=True"
    r"|Integer|Add|Mul|Max|Min|Mod|FloorDiv|[su]\d{1,6}|\d{1,12}|[-+*(), ]){1,64}"
)
_SPEC_TYPES: Final = frozenset({"builtins.tuple", "builtins.list", "builtins.dict"})


def check_archive(data: bytes) -> None:
    """Refuse a .pt2 file that could run code, or that takes only one number of rows.

    Raises:
        ConvertError: K04 it is none, K05 it holds more than tensors and aten operators,
            K02 the number of rows is fixed.
    """
    names, graphs = _read(data)
    odd = [name for name in names if not _PARTS.fullmatch(name.partition("/")[2])]
    if odd:
        raise _untrusted(f"part {odd[0]!r} is more than a graph and tensors")
    if len(graphs) != 1:
        raise ConvertError("K04", f"the archive holds {len(graphs)} models", cure=_HOW)
    document = graphs[0]
    for path, value in _strings(document):
        _check_string(path, value)
    try:
        _check_graph(document)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        detail = f"its graph lacks a part that is known: {error!r}"
        raise ConvertError("K04", detail[:300], cure=_HOW) from error


def _untrusted(detail: str) -> ConvertError:
    return ConvertError("K05", detail[:300], cure=_HOW)


def _read(data: bytes) -> tuple[list[str], list[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if len(entries) > MAX_ENTRIES or size > MAX_UNPACKED:
                raise ConvertError("K04", f"it unpacks to {len(entries)} parts of {size} bytes")
            names = [entry.filename for entry in entries]
            if len(set(names)) != len(names):
                raise _untrusted("a part stands in the archive twice")
            configs = [entry for entry in entries if entry.filename.endswith(".json")]
            large = [entry.filename for entry in configs if entry.file_size > MAX_GRAPH]
            if large:
                raise ConvertError("K04", f"{large[0]} has more than {MAX_GRAPH} bytes")
            documents = {entry.filename: json.loads(archive.read(entry)) for entry in configs}
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, EOFError) as error:
        detail = f"the file is no archive of torch.export.save: {error}"
        raise ConvertError("K04", detail[:300], cure=_HOW) from error
    for name, document in documents.items():
        if any(path[-1:] == ("use_pickle",) and value for path, value in _leaves(document)):
            raise _untrusted(f"{name} names weights that are pickles")
    return names, [item for name, item in documents.items() if "/models/" in name]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    stack = [(path, value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, dict):
            stack += [((*place, str(key)), inner) for key, inner in item.items()]
        elif isinstance(item, list):
            stack += [(place, inner) for inner in item]
        else:
            yield place, item


def _strings(document: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    return (pair for pair in _leaves(document) if isinstance(pair[1], str))


def _check_string(path: tuple[str, ...], value: str) -> None:
    last = path[-1] if path else ""
    if "metadata" in path:  # stack traces and module names; nothing looks at them
        return
    if last == "target" and not _TARGET.fullmatch(value):
        raise _untrusted(f"operator {value!r} is none of aten")
    if last == "expr_str" and not _SIZE.fullmatch(value):
        raise _untrusted(f"size {value!r} is no arithmetic on symbols")
    if last == "name" and not _NAME.fullmatch(value):
        raise _untrusted(f"{value!r} is no name")
    if last in {"in_spec", "out_spec"}:
        types = set(re.findall(r'"type":\s*"([^"]*)"', value)) - _SPEC_TYPES
        if types:
            raise _untrusted(f"its arguments have type {min(types)!r}")


def _check_graph(document: Any) -> None:
    if document["guards_code"]:
        raise _untrusted("it holds guards, which are code")
    odd = [name for name in document["range_constraints"] if not _SIZE.fullmatch(name)]
    if odd:
        raise _untrusted(f"size {odd[0]!r} is no symbol")
    graph = document["graph_module"]["graph"]
    specs = document["graph_module"]["signature"]["input_specs"]
    inputs = [item["user_input"]["arg"] for item in specs if "user_input" in item]
    for item in inputs:
        sizes = graph["tensor_values"][item["as_tensor"]["name"]]["sizes"]
        if sizes and "as_expr" not in sizes[0]:
            detail = f"it takes {sizes[0]['as_int']} rows at a time, and no other number"
            raise ConvertError("K02", detail, cure=_HOW)
