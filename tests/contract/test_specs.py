"""The specifications hold: each example is read and written back, each snippet runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support import ROOT
from support_contract import document

from wherry_contract import (
    assignment,
    bundle,
    command,
    encoder,
    fleet_keys,
    golden,
    identity,
    messages,
    oci,
    profile,
    signature,
    told_time,
)
from wherry_contract.errors import CODES
from wherry_contract.features import LARGEST, MAX_FEATURES
from wherry_contract.manifest import Manifest, Output
from wherry_contract.operators import ALLOWED
from wherry_contract.states import AFTER_SWITCH, Outcome, SlotTrust, UpdateState
from wherry_contract.topics import DOWN, RETAINED, UP
from wherry_contract.window import Window
from wherry_contract.wire import MAX_DEPTH, Fields, canonical, compact

PAGES = {path.name: path.read_text() for path in sorted((ROOT / "contract").glob("SPEC-*.md"))}
BLOCK = re.compile(r"^```(\w+)(?: ([\w.-]+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

Read = Callable[[bytes], Any]
BY_NAME: Mapping[str, tuple[Read, Callable[[Any], bytes]]] = {
    "oci-manifest": (oci.OciManifest.from_bytes, canonical),
    "wherry.json": (Manifest.from_bytes, canonical),
    "profile.json": (profile.ReferenceProfile.from_bytes, canonical),
    "golden.json": (golden.GoldenVectors.from_bytes, canonical),
    "statement": (signature.BundleStatement.from_bytes, canonical),
    "trust.json": (signature.TrustRoot.from_bytes, canonical),
    "assignment": (assignment.Assignment.from_bytes, canonical),
    "command": (command.Command.from_bytes, canonical),
    "fleet-keys": (fleet_keys.FleetKeys.from_bytes, canonical),
    "time": (told_time.ToldTime.from_bytes, canonical),
    "presence": (messages.Presence.from_bytes, compact),
    "state": (messages.State.from_bytes, compact),
    "window": (Window.from_bytes, compact),
    "event": (messages.Event.from_bytes, compact),
    "answer": (messages.Event.from_bytes, compact),
    "ack": (messages.Ack.from_bytes, compact),
}
EXAMPLES = {
    name: json.loads(text)
    for page in PAGES.values()
    for kind, name, text in BLOCK.findall(page)
    if kind == "json"
}
OUTPUTS = ("output-of-values", "output-of-classes")
SNIPPETS = [
    pytest.param(text, id=f"{page}-{place}")
    for page, content in PAGES.items()
    for place, (kind, _, text) in enumerate(BLOCK.findall(content))
    if kind == "python"
]


def test_the_pages_are_known_and_have_examples() -> None:
    assert set(PAGES) == {
        "SPEC-bundle.md",
        "SPEC-compact.md",
        "SPEC-delta.md",
        "SPEC-drift.md",
        "SPEC-identity.md",
        "SPEC-mqtt.md",
        "SPEC-trust.md",
    }
    assert set(EXAMPLES) == {*BY_NAME, *OUTPUTS, "config", "envelope", "deltas"}
    assert len(SNIPPETS) >= 6


@pytest.mark.parametrize("name", BY_NAME)
def test_examples_are_read_and_written_back_byte_for_byte(name: str) -> None:
    read, write = BY_NAME[name]
    data = write(EXAMPLES[name])
    assert read(data).to_bytes() == data


@pytest.mark.parametrize("name", OUTPUTS)
def test_examples_of_a_part_are_read_and_written_back(name: str) -> None:
    assert Output.from_fields(Fields(EXAMPLES[name], "output")).to_dict() == EXAMPLES[name]


def test_the_examples_belong_to_each_other() -> None:
    expected = document("fraud-mini.json")
    manifest = canonical(EXAMPLES["oci-manifest"])
    assert bundle.sha256_digest(manifest) == expected["digest"]
    assert (
        bundle.sha256_digest(canonical(EXAMPLES["wherry.json"]))
        == (expected["blobs"]["wherry.json"])
    )
    assert EXAMPLES["statement"]["digest"] == expected["digest"]
    assert EXAMPLES["window"]["edges"] == expected["edges_id"]
    root = signature.TrustRoot.from_bytes(canonical(EXAMPLES["trust.json"]))
    found = root.open_bundle_statement(
        compact(EXAMPLES["envelope"]), family="fraud", digest=expected["digest"]
    )
    assert found.to_bytes() == canonical(EXAMPLES["statement"])
    config = EXAMPLES["oci-manifest"]["config"]
    assert config["digest"] == bundle.sha256_digest(canonical(EXAMPLES["config"]))


@pytest.mark.parametrize("text", SNIPPETS)
def test_snippets_run(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(text, "snippet", "exec"), {"example": EXAMPLES.__getitem__})  # noqa: S102 - our own text


def table(page: str, heading: str) -> dict[str, str]:
    """The first two columns of the first table behind a heading."""
    _, _, after = PAGES[page].partition(heading)
    rows = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert rows, f"no table behind {heading!r}"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()]
    return {row[0]: row[1] for row in cells[2:]}


def test_limits_are_those_of_the_code() -> None:
    said = [int(text.replace(",", "")) for text in table("SPEC-bundle.md", "## 8.").values()]
    assert said == [
        bundle.LIMIT_BYTES,
        oci.TOTAL_BYTES,
        bundle.MODEL_LIMIT_BYTES,
        bundle.PART_LIMIT_BYTES,
        oci.LIMIT_BYTES,
        bundle.STATEMENT_LIMIT_BYTES,
        signature.TrustRoot.LIMIT_BYTES,
    ]
    counts = (
        f"At most {bundle._MOST_ENTRIES} entries, {oci.MAX_LAYERS} layers, {golden.MAX_ROWS:,} "
        f"golden rows, {encoder.MAX_STEPS:,} encoder steps, {profile.MAX_BINS:,} bins a feature."
    )
    assert counts in PAGES["SPEC-bundle.md"]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("SPEC-bundle.md", f"at most {MAX_DEPTH} levels deep"),
        ("SPEC-bundle.md", f"at most {MAX_FEATURES:,} features"),
        ("SPEC-bundle.md", f"beyond {LARGEST!r} in size"),
        ("SPEC-bundle.md", f"at most {encoder.MAX_EDGES:,}"),
        ("SPEC-bundle.md", signature.BundleStatement.PAYLOAD_TYPE),
        ("SPEC-mqtt.md", f"at most {messages.LIMIT_BYTES:,} bytes (G02)"),
        ("SPEC-mqtt.md", f"at most {messages._MOST_RANGES:,} of each"),
        ("SPEC-mqtt.md", f"at most {signature.ENVELOPE_LIMIT_BYTES:,} bytes"),
        ("SPEC-mqtt.md", f"its payload at most {assignment.LIMIT_BYTES:,}"),
        ("SPEC-mqtt.md", assignment.PAYLOAD_TYPE),
        ("SPEC-mqtt.md", command.PAYLOAD_TYPE),
        ("SPEC-trust.md", told_time.PAYLOAD_TYPE),
        ("SPEC-trust.md", f"at most {fleet_keys.LIMIT_BYTES:,} bytes"),
        ("SPEC-identity.md", f"at most {identity.LIMIT_BYTES:,} bytes"),
        (
            "SPEC-identity.md",
            "`agent.toml`, `root.json`, `trust.json`, `device.pem` and `fleet-ca.pem`",
        ),
        ("SPEC-mqtt.md", ", ".join(f"`{state}`" for state in UpdateState)),
        ("SPEC-mqtt.md", ", ".join(f"`{trust}`" for trust in SlotTrust)),
        ("SPEC-mqtt.md", " or ".join(", ".join(f"`{o}`" for o in Outcome).rsplit(", ", 1))),
    ],
)
def test_figures_and_words_are_those_of_the_code(page: str, text: str) -> None:
    assert text in PAGES[page].replace("\n", " ")


def test_topics_are_those_of_the_code() -> None:
    said = table("SPEC-mqtt.md", "## 1.")
    directions = {f"`{name}`": "up" for name in UP} | {f"`{name}`": "down" for name in DOWN}
    assert said == directions
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| \d \| yes", PAGES["SPEC-mqtt.md"], re.MULTILINE)
    assert set(rows) == RETAINED


def test_states_after_the_switch_are_those_of_the_code() -> None:
    (said,) = re.findall(r"From `switch` on \((.*?)\)", PAGES["SPEC-mqtt.md"])
    assert {name.strip("` ") for name in said.split(",")} == set(AFTER_SWITCH)


@pytest.mark.parametrize("page", PAGES)
def test_every_code_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"\b([A-Z]\d\d)\b", BLOCK.sub("", PAGES[page])))
    assert named <= set(CODES)


def test_operators_are_where_the_text_says() -> None:
    assert "wherry_contract/operators.py" in PAGES["SPEC-bundle.md"]
    assert set(EXAMPLES["wherry.json"]["runtime"]["operators"]) <= ALLOWED


def test_the_checks_name_every_code_of_a_bundle() -> None:
    codes = {code for row in table("SPEC-bundle.md", "## 3.").values() for code in row.split()}
    assert {code for code in CODES if code[0] == "B"} <= codes
