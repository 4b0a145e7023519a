"""Devices as Sparkplug B: payloads, sequence numbers, births and deaths. Pure.

Eclipse Sparkplug 3.0.0. The edge node is this bridge, each device of the fleet a device of it. The
payload is the subset of Tahu's ``sparkplug_b.proto`` that is used here, field numbers as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

Value = bool | int | float | str
Message = tuple[str, bytes]  # topic and payload

REBIRTH: Final = "Node Control/Rebirth"
_BD_SEQ: Final = "bdSeq"
_WRAP: Final = 256
_PACKAGE: Final = "org.eclipse.tahu.protobuf"
_F: Final = descriptor_pb2.FieldDescriptorProto
_METRIC: Final = (
    ("name", 1, _F.TYPE_STRING),
    ("timestamp", 3, _F.TYPE_UINT64),
    ("datatype", 4, _F.TYPE_UINT32),
    ("long_value", 11, _F.TYPE_UINT64),
    ("double_value", 13, _F.TYPE_DOUBLE),
    ("boolean_value", 14, _F.TYPE_BOOL),
    ("string_value", 15, _F.TYPE_STRING),
)
# the first that fits, since a bool is an int: Python's type, Sparkplug's number for it, the field
_TYPES: Final = (
    (bool, 11, "boolean_value"),
    (int, 4, "long_value"),
    (float, 10, "double_value"),
    (str, 12, "string_value"),
)


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="wherry_sparkplug_b.proto", package=_PACKAGE)
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    for name, number, kind in _METRIC:
        metric.field.add(name=name, number=number, type=kind, label=_F.LABEL_OPTIONAL)
    for name, number in (("timestamp", 1), ("seq", 3)):
        payload.field.add(name=name, number=number, type=_F.TYPE_UINT64, label=_F.LABEL_OPTIONAL)
    payload.field.add(
        name="metrics",
        number=2,
        type=_F.TYPE_MESSAGE,
        label=_F.LABEL_REPEATED,
        type_name=f".{_PACKAGE}.Payload.Metric",
    )
    pool = descriptor_pool.DescriptorPool()  # its own, so that Tahu's may be loaded beside it
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


_Payload: Final = _payload_class()


@dataclass(frozen=True)
class Seen:
    """A device as it is now: whether it is connected, and its metrics by name."""

    device: str
    online: bool
    metrics: Mapping[str, Value]


class EdgeNode:
    """What one edge node says, in order; hands out messages and sends none."""

    def __init__(self, group: str, node: str) -> None:
        """Take the Sparkplug names of group and edge node."""
        self._group, self._node = group, node
        self._seq = 0
        self._bd_seq = -1
        self._born: dict[str, Mapping[str, Value]] = {}
        self.commands = self._topic("NCMD")

    def connecting(self, now: float) -> Message:
        """The last will of the connection that comes next.

        Args:
            now: Unix seconds, as everywhere here.
        """
        self._bd_seq = (self._bd_seq + 1) % _WRAP
        return self.death(now)

    def death(self, now: float) -> Message:
        """The node's death certificate; a will, and a farewell before a disconnection."""
        return self._topic("NDEATH"), _encode(now, {_BD_SEQ: self._bd_seq}, None)

    def birth(self, now: float, devices: Iterable[Seen]) -> list[Message]:
        """Births of the node and of every device that is online; begins the sequence anew."""
        self._seq, self._born = 0, {}
        said = {_BD_SEQ: self._bd_seq, REBIRTH: False}
        return [self._say("NBIRTH", now, said), *self.update(now, devices)]

    def update(self, now: float, devices: Iterable[Seen]) -> list[Message]:
        """What has changed since: births, deaths, and of living devices what differs."""
        found, there = list[Message](), {item.device: item for item in devices if item.online}
        for device in [name for name in self._born if name not in there]:
            del self._born[device]
            found.append(self._say("DDEATH", now, {}, device))
        for name, item in there.items():
            known = self._born.get(name)
            if known is None or known.keys() != item.metrics.keys():  # a birth names all there is
                found.append(self._say("DBIRTH", now, item.metrics, name))
            elif changed := {k: v for k, v in item.metrics.items() if v != known[k]}:
                found.append(self._say("DDATA", now, changed, name))
            self._born[name] = item.metrics
        return found

    def _say(
        self, kind: str, now: float, metrics: Mapping[str, Value], device: str = ""
    ) -> Message:
        payload = _encode(now, metrics, self._seq)
        self._seq = (self._seq + 1) % _WRAP
        return self._topic(kind, device), payload

    def _topic(self, kind: str, device: str = "") -> str:
        parts = ["spBv1.0", self._group, kind, self._node, *([device] if device else [])]
        return "/".join(parts)


def wants_rebirth(payload: bytes) -> bool:
    """Whether a command to the node asks it to be born again; anything else is passed over."""
    try:
        found = _Payload.FromString(payload)
    except DecodeError:
        return False
    return any(item.name == REBIRTH and item.boolean_value for item in found.metrics)


def _encode(now: float, metrics: Mapping[str, Value], seq: int | None) -> bytes:
    milliseconds = round(now * 1000)
    payload = _Payload(timestamp=milliseconds)
    if seq is not None:
        payload.seq = seq
    for name, value in metrics.items():
        kind, field = next((n, f) for python, n, f in _TYPES if isinstance(value, python))
        payload.metrics.add(name=name, timestamp=milliseconds, datatype=kind, **{field: value})
    return bytes(payload.SerializeToString(deterministic=True))


def seen(
    devices: Sequence[Mapping[str, Any]], standing: Mapping[str, Mapping[str, int]]
) -> list[Seen]:
    """Devices as the server lists them, as metrics.

    Args:
        devices: of ``/api/v1/devices``.
        standing: of the monitor: by device, how many comparisons stand how.
    """
    return [
        Seen(
            row["device"],
            bool(row["online"]),
            _metrics(row.get("state") or {}, standing.get(row["device"], {})),
        )
        for row in devices
    ]


def _metrics(state: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Value]:
    return {
        "Model/Name": str(state.get("bundle_name", "")),
        "Model/Version": str(state.get("bundle_version", "")),
        "Model/Digest": str(state.get("bundle", "")),
        "Model/Trust": str(state.get("trust", "")),
        "Update/Phase": str(state.get("phase", "")),
        "Fallback": bool(state.get("fallback", False)),
        "Agent/Version": str(state.get("agent", "")),
        "Agent/Runtime": str(state.get("runtime", "")),
        "Drift/Act": int(counts.get("act", 0)),
        "Drift/Warn": int(counts.get("warn", 0)),
        "Drift/Watch": int(counts.get("watch", 0)),
        "Drift/Stable": int(counts.get("stable", 0)),
    }
