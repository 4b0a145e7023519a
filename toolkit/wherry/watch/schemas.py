"""JSON Schemas of the messages, and the AsyncAPI document that names them.

Made of the contract's own limits, patterns and words. What a schema cannot say, as that counts
add up, stays the reader's: a reader accepts nothing that its schema refuses (a test holds
the two against each other).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from wherry_contract import answer, assignment, command, messages, shadow
from wherry_contract.features import NAME
from wherry_contract.histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS, TEMPERATURE_BINS
from wherry_contract.manifest import MAX_CLASSES
from wherry_contract.oci import DIGEST
from wherry_contract.signature import KEY_ID
from wherry_contract.slots import MAX_BINS, MAX_PAIR_CELLS, MAX_PAIRS
from wherry_contract.states import Outcome, SlotTrust, UpdateState
from wherry_contract.topics import DOWN, RETAINED, UP
from wherry_contract.wire import SLUG

Schema = dict[str, Any]

DIALECT: Final = "http://json-schema.org/draft-07/schema#"  # what AsyncAPI 3 speaks
_LARGEST: Final = 2**53 - 1
_TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z"
_MOST_RANGES: Final = 1024
_ABOUT: Final[Mapping[str, str]] = {
    "state": "What a device reports of itself.",
    "presence": "Online or offline; the last will writes here.",
    "window": "Counts of one stretch of traffic, and nothing else of what was scored.",
    "event": "One fact.",
    "assignment": "The signed order, as a DSSE envelope.",
    "ack": "What the ingest has stored, or will never take.",
    "command": "A signed request, as a DSSE envelope.",
}
_QOS: Final[Mapping[str, int]] = {"ack": 0}


def schema_of(channel: str) -> Schema:
    """The JSON Schema of a channel's payload in its JSON form.

    Args:
        channel: one of the contract's `UP` and `DOWN`.
    """
    made = _MAKERS[channel]()
    encoding = "dsse" if channel in ("assignment", "command") else "json"
    head = {
        "$schema": DIALECT,
        "$id": f"https://wherry.invalid/schemas/{channel}-1.json",
        "title": f"wherry/{channel}/1",
        "description": _ABOUT[channel],
    }
    name = {"type": "string", "pattern": f"^wherry/{channel}/1(\\+[a-z]+)?$"}
    name["examples"] = [f"wherry/{channel}/1+{encoding}"]  # type: ignore[assignment]  # a list
    made["properties"] = {"schema": name} | made["properties"]
    made["required"] = ["schema", *made["required"]]
    return head | made


def asyncapi(version: str) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the broker's topics.

    Args:
        version: of Wherry.
    """
    channels = {name: _channel(name) for name in (*UP, *DOWN)}
    operations = {name: _operation(name) for name in (*UP, *DOWN)}
    found = {name: _message(name) for name in (*UP, *DOWN)}
    compact = {
        "name": "windowCompact",
        "title": "One to 64 windows in the compact form",
        "summary": "Begins with the byte W; contract/SPEC-compact.md.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }
    about = (
        "Topics between devices and the fleet's server, as an application on a device's side"
        " sees them: it sends what goes up, and receives what comes down. MQTT 3.1.1."
    )
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Wherry", "version": version, "description": about},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": found | {"windowCompact": compact}},
    }


def documents(version: str) -> dict[str, str]:
    """Every file by name, as it is checked in and as the command writes it."""
    found: dict[str, Any] = {f"{name}.json": schema_of(name) for name in (*UP, *DOWN)}
    found["asyncapi.json"] = asyncapi(version)
    return {name: json.dumps(item, indent=1) + "\n" for name, item in found.items()}


def _channel(name: str) -> dict[str, Any]:
    parts = {"fleet": "The fleet's name.", "device": "The device's id."}
    held = {name: {"$ref": f"#/components/messages/{name}"}}
    if name == "window":
        held["windowCompact"] = {"$ref": "#/components/messages/windowCompact"}
    return {
        "address": f"wherry/v1/{{fleet}}/{{device}}/{name}",
        "description": _ABOUT[name],
        "parameters": {part: {"description": text} for part, text in parts.items()},
        "messages": held,
    }


def _operation(name: str) -> dict[str, Any]:
    mqtt = {"qos": _QOS.get(name, 1), "retain": name in RETAINED, "bindingVersion": "0.2.0"}
    return {
        "action": "send" if name in UP else "receive",
        "channel": {"$ref": f"#/channels/{name}"},
        "bindings": {"mqtt": mqtt},
    }


def _message(name: str) -> dict[str, Any]:
    payload = {key: value for key, value in schema_of(name).items() if key != "$id"}
    return {
        "name": name,
        "title": payload["title"],
        "summary": _ABOUT[name],
        "contentType": "application/json",
        "payload": payload,
    }


# --- parts ----------------------------------------------------------------------------------


def _object(required: Iterable[str], properties: Mapping[str, Schema], **more: Any) -> Schema:
    """An object; fields that are not named may be there, for a later writer may know more."""
    made = {"type": "object", "properties": dict(properties), "required": list(required)}
    return made | more


def _text(limit: int = 4096) -> Schema:
    return {"type": "string", "maxLength": limit}


def _like(pattern: str, *, empty: bool = False) -> Schema:
    return {"type": "string", "pattern": f"^({pattern}){'?' if empty else ''}$"}


def _word(words: Iterable[str]) -> Schema:
    return {"enum": [str(word) for word in words]}


def _count(low: int = 0) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": _LARGEST}


def _counts(most: int, *, exact: int = 0) -> Schema:
    made = {"type": "array", "items": _count(), "maxItems": exact or most}
    return made | ({"minItems": exact} if exact else {})


def _either(none_or: int) -> Schema:
    """Exactly so many counts, or none."""
    return {"anyOf": [_counts(0, exact=none_or), {"type": "array", "maxItems": 0}]}


def _by_name(values: Schema, pattern: str = "") -> Schema:
    made: Schema = {"type": "object", "additionalProperties": values}
    return made | ({"propertyNames": _like(pattern)} if pattern else {})


def _time() -> Schema:
    return _like(_TIME) | {"format": "date-time"}


_FLAG: Final = Schema(type="boolean")
_PLACE: Final[Mapping[str, Schema]] = {
    "device": _like(SLUG),
    "spool": _like(messages.SPOOL),
    "seq": _count(1),
    "oldest": _count(1),
}


def _presence() -> Schema:
    fields = {"device": _like(SLUG), "online": _FLAG, "session": _like(messages.SPOOL)}
    return _object(fields, fields)


def _state() -> Schema:
    short = ("agent", "runtime", "runtime_version", "architecture")
    phases, trusts = [str(x) for x in UpdateState], [str(x) for x in SlotTrust]
    fields: dict[str, Schema] = {
        "device": _like(SLUG),
        "phase": _text(32) | {"examples": phases},
        "rollout": _text(63),
        "bundle": _like(DIGEST, empty=True),
        "bundle_name": _text(63),
        "bundle_version": _text(64),
        "active": _word(("", "a", "b")),
        "trust": _text(16) | {"examples": trusts},
        "fallback": _FLAG,
        "sequences": _by_name(_count()),
        "commands": _by_name(_count()),
        **{name: _text(64) for name in short},
        "labels": _by_name({"type": "string"}),
        "session": _like(messages.SPOOL),
        "spool": _like(messages.SPOOL),
        "started_at": _time(),
        "reported_at": _time(),
    }
    needed = ("device", "phase", "sequences", *short, "labels", "session", "spool")
    optional = ("labels", "sequences")
    times = ("started_at", "reported_at")
    return _object([name for name in (*needed, *times) if name not in optional], fields)


def _event() -> Schema:
    outcome = {"examples": [str(x) for x in Outcome]}
    asked = {
        "keyid": _like(KEY_ID),
        "sequence": _count(1),
        "ask": _like(SLUG) | {"examples": list(command.ASKS)},
        "outcome": _word(answer.OUTCOMES),
        "document": {"type": "object"},
    }
    fields: dict[str, Schema] = {
        "code": _text(64),
        "severity": _word(("info", "warning", "error")),
        "text": _text(2000),
        "outcome": _text(16) | outcome,
        "rollout": _text(63),
        "bundle": _like(DIGEST, empty=True),
        "answer": {
            "anyOf": [
                {"type": "object", "maxProperties": 0},
                _object(("keyid", "sequence", "ask", "outcome"), asked),
            ]
        },
        "at": _time(),
        **_PLACE,
    }
    return _object(("code", "at", *_PLACE), fields)


def _window() -> Schema:
    slots = {
        "bins": _counts(MAX_BINS),
        "below": _count(),
        "above": _count(),
        "missing": _count(),
    }
    fields: dict[str, Schema] = {
        **_PLACE,
        "bundle": _like(DIGEST, empty=True),
        "edges": _like(DIGEST),
        "opened": _time(),
        "closed": _time(),
        "rows": _count(),
        "flagged": _count(),
        "fallback": _count(),
        "errors": _by_name(_count(), NAME),
        "reason": _word(("rows", "time", "switch", "stop")),
        "features": _by_name(_object(["bins"], slots), NAME),
        "scores": _counts(0, exact=SCORE_BINS),
        "latency": _counts(0, exact=LATENCY_BINS),
        "classes": _counts(MAX_CLASSES + 1),
        "flagged_scores": _either(SCORE_BINS),
        "near": _count(),
        "memory": _either(MEMORY_BINS),
        "temperature": _either(TEMPERATURE_BINS),
        "pairs": _by_name(_counts(MAX_PAIR_CELLS)) | {"maxProperties": MAX_PAIRS},
        "probing": _by_name(_count(), NAME),
        "shadow": {"anyOf": [{"type": "object", "maxProperties": 0}, _shadow()]},
    }
    needed = ("edges", "opened", "closed", "rows", "reason", "features", "scores", "latency")
    return _object((*_PLACE, *needed), fields)


def _shadow() -> Schema:
    fields: dict[str, Schema] = {
        "bundle": _like(DIGEST),
        "rows": _count(),
        "failed": _count(),
        "dropped": _count(),
        "cpu_ms": _count(),
        "off": _word(shadow.OFF_WORDS),
        "decisions": _counts(shadow.MAX_DECISIONS**2) | {"minItems": 4},
        "scores": _counts(0, exact=SCORE_BINS),
        "joint": _counts(0, exact=shadow.JOINT_CELLS),
        "latency": _counts(0, exact=LATENCY_BINS),
    }
    return _object(("bundle", "rows", "decisions", "scores", "joint", "latency"), fields)


def _ack() -> Schema:
    pair: Schema = {"type": "array", "minItems": 2, "maxItems": 2}
    stored = pair | {"items": _count(1)}
    refused = pair | {"items": [_count(1), {"type": "string"}]}
    fields = {
        "spool": _like(messages.SPOOL),
        "stored": {"type": "array", "items": stored, "maxItems": _MOST_RANGES},
        "refused": {"type": "array", "items": refused, "maxItems": _MOST_RANGES},
    }
    return _object(["spool"], fields)


def _envelope(payload_type: str) -> Schema:
    signature = _object(("keyid", "sig"), {"keyid": _text(), "sig": _text()})
    envelope: dict[str, Schema] = {
        "payload": {"type": "string", "contentEncoding": "base64"},
        "payloadType": {"const": payload_type},
        "signatures": {"type": "array", "items": signature, "minItems": 1},
    }
    return _object(["envelope"], {"envelope": _object(envelope, envelope)})


_MAKERS: Final[Mapping[str, Callable[[], Schema]]] = {
    "state": _state,
    "presence": _presence,
    "window": _window,
    "event": _event,
    "assignment": lambda: _envelope(assignment.PAYLOAD_TYPE),
    "ack": _ack,
    "command": lambda: _envelope(command.PAYLOAD_TYPE),
}
