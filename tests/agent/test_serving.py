"""Rows that come in over the Open Inference Protocol, good and bad, and what is said to them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_agent import make_bundle
from support_serving import ROW, SESSION, Port, ask, infer, make_served, post, running_port

from wherry_agent.serving.oip import find_page
from wherry_agent.serving.oip_request import read_infer
from wherry_contract.errors import InputError, ServingError, WherryError

MADE = make_bundle()
KINDS = make_bundle("2.0.0", category=True, name="kinds")
RULE = make_bundle("3.0.0", flaw="nan")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with running_port(tmp_path_factory.mktemp("port"), make_served(MADE)) as running:
        yield running


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with running_port(tmp_path_factory.mktemp("kinds"), make_served(KINDS)) as running:
        yield running


def tensor(name: str, shape: list[int], data: Any, datatype: str = "FP64") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def outputs(answer: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item["data"] for item in answer["outputs"]}


def expected(*rows: dict[str, Any]) -> list[float]:
    raw = MADE.parts.manifest.input.matrix(list(rows))
    return make_served(MADE).model.scores(raw).tolist()  # type: ignore[union-attr]


# --- what a client may send -------------------------------------------------------------

GOOD: dict[str, dict[str, Any]] = {
    "named rows": {"rows": [ROW]},
    "one tensor": {"inputs": [tensor("input", [1, 3], [12.5, 2, 3])]},
    "one tensor, nested": {"inputs": [tensor("input", [1, 3], [[12.5, 2, 3]])]},
    "single precision": {"inputs": [tensor("input", [1, 3], [12.5, 2, 3], "FP32")]},
    "a tensor a feature": {"inputs": [tensor(name, [1], [value]) for name, value in ROW.items()]},
    "columns of one": {"inputs": [tensor(name, [1, 1], [[value]]) for name, value in ROW.items()]},
    "whole numbers": {"inputs": [tensor("input", [1, 3], [12.5, 2, 3], "INT64")]},
}


@pytest.mark.parametrize("document", GOOD.values(), ids=GOOD.keys())
def test_every_form_gives_the_same_answer(port: Port, document: dict[str, Any]) -> None:
    status, answer = ask(port, infer(document | {"id": "p-1"}))
    assert status == 200
    assert answer["id"] == "p-1"
    assert answer["model_name"] == "fraud"
    assert answer["model_version"] == "1.0.0"
    assert answer["parameters"] == {"bundle": MADE.digest, "source": "model"}
    found = outputs(answer)
    assert found["score"] == expected(ROW)
    assert found["flagged"] == [False]
    assert found["score_bin"] == [
        int(np.floor(4 * math.log(s / (1 - s)) + 32)) for s in found["score"]
    ]


def test_a_gap_is_null_or_absent_where_the_contract_allows_it(port: Port) -> None:
    absent = {"AMOUNT": 12.5, "RISK": 3}
    answers = [
        ask(port, infer(document))[1]
        for document in (
            {"rows": [absent]},
            {"rows": [absent | {"NIGHTS": None}]},
            {"inputs": [tensor("input", [1, 3], [12.5, None, 3])]},
            {"inputs": [tensor("AMOUNT", [1], [12.5]), tensor("RISK", [1], [3])]},
        )
    ]
    assert [outputs(answer)["score"] for answer in answers] == [expected(absent)] * 4


def test_categories_come_by_name(kinds: Port) -> None:
    row = ROW | {"KIND": "fuel"}
    columns = [tensor(name, [1], [value]) for name, value in ROW.items()]
    columns.append(tensor("KIND", [1], ["fuel"], "BYTES"))
    named = ask(kinds, infer({"rows": [row]}, model="kinds"))
    by_column = ask(kinds, infer({"inputs": columns}, model="kinds"))
    assert named[0] == by_column[0] == 200
    assert outputs(named[1]) == outputs(by_column[1])
    other = ask(kinds, infer({"rows": [row | {"KIND": "other"}]}, model="kinds"))
    assert outputs(other[1])["score"] != outputs(named[1])["score"]


def test_an_id_is_given_where_none_came(port: Port) -> None:
    first, second = (ask(port, infer({"rows": [ROW]}))[1]["id"] for _ in range(2))
    assert first != second
    assert first.startswith(SESSION)


def test_the_moment_of_the_payment_is_the_windows_moment(tmp_path: Path) -> None:
    with running_port(tmp_path, make_served(MADE)) as running:
        for day in ("22", "23"):
            at = {"at": f"2018-07-{day}T10:00:00Z"}
            assert ask(running, infer({"rows": [ROW], "parameters": at}))[0] == 200
        running.scorer.stop()
    (tally,) = running.tallies
    assert tally.rows == 2
    assert tally.closed - tally.opened == 86_400
    assert tally.opened == 1_532_253_600


def test_names_that_the_application_declared_are_passed_over(tmp_path: Path) -> None:
    row = ROW | {"SHOE_SIZE": 43}
    with running_port(tmp_path / "declared", make_served(MADE), features=tuple(row)) as running:
        assert ask(running, infer({"rows": [row]}))[0] == 200
        columns = [tensor(name, [1], [value]) for name, value in row.items()]
        assert ask(running, infer({"inputs": columns}))[0] == 200
    with running_port(tmp_path / "undeclared", make_served(MADE)) as running:
        assert ask(running, infer({"rows": [row]}))[1]["code"] == "C01"


def test_asked_outputs_come_in_their_order(port: Port) -> None:
    wanted = [{"name": "flagged"}, {"name": "score"}]
    _, answer = ask(port, infer({"rows": [ROW], "outputs": wanted}))
    assert [item["name"] for item in answer["outputs"]] == ["flagged", "score"]


def test_the_rule_answers_where_the_model_cannot(tmp_path: Path) -> None:
    with running_port(tmp_path, make_served(RULE)) as running:
        status, answer = ask(running, infer({"rows": [ROW | {"AMOUNT": 1500.0}]}))
        assert status == 200
        assert answer["parameters"]["source"] == "rule"
        assert outputs(answer)["flagged"] == [True]
        running.scorer.stop()
    assert running.tallies[0].fallback == 1


# --- what is refused --------------------------------------------------------------------

_WIDE = {"inputs": [tensor("input", [1, 4], [1, 2, 3, 4])]}
REFUSED: dict[str, tuple[Any, int, str, int]] = {
    # document or bytes, status, code, rows counted
    "too wide": (_WIDE, 400, "C06", 1),
    "too narrow": ({"inputs": [tensor("input", [1, 2], [1, 2])]}, 400, "C06", 1),
    "one dimension": ({"inputs": [tensor("input", [3], [1, 2, 3])]}, 400, "C06", 1),
    "three dimensions": ({"inputs": [tensor("input", [1, 1, 3], [1, 2, 3])]}, 400, "S02", 1),
    "shape and data differ": ({"inputs": [tensor("input", [2, 3], [1, 2, 3])]}, 400, "C06", 1),
    "a huge shape": ({"inputs": [tensor("input", [1024, 2**31 - 1], [1])]}, 400, "C06", 1),
    "more than a shape holds": (
        {"inputs": [tensor("input", [2**31, 3], [1, 2, 3])]},
        400,
        "S02",
        1,
    ),
    "a negative shape": ({"inputs": [tensor("input", [-1, 3], [1, 2, 3])]}, 400, "S02", 1),
    "ragged": ({"inputs": [tensor("input", [2, 3], [[1, 2, 3], [4, 5]])]}, 400, "C06", 1),
    "strings for numbers": ({"inputs": [tensor("input", [1, 3], ["1", "2", "3"])]}, 400, "C03", 1),
    "BYTES for numbers": (
        {"inputs": [tensor("input", [1, 3], ["a", "b", "c"], "BYTES")]},
        400,
        "C03",
        1,
    ),
    "a string by name": ({"rows": [ROW | {"AMOUNT": "12.50"}]}, 400, "C03", 1),
    "a list by name": ({"rows": [ROW | {"AMOUNT": [12.5]}]}, 400, "C03", 1),
    "NaN": (b'{"rows":[{"AMOUNT":NaN,"RISK":3}]}', 400, "C04", 1),
    "Infinity": (b'{"rows":[{"AMOUNT":Infinity,"RISK":3}]}', 400, "C04", 1),
    "minus Infinity": (b'{"rows":[{"AMOUNT":-Infinity,"RISK":3}]}', 400, "C04", 1),
    "1e999": (b'{"rows":[{"AMOUNT":1e999,"RISK":3}]}', 400, "C04", 1),
    "1e999 in a tensor": (
        b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":[1e999,1,1]}]}',
        400,
        "C04",
        1,
    ),
    "400 digits": (b'{"rows":[{"AMOUNT":' + b"9" * 400 + b',"RISK":3}]}', 400, "C04", 1),
    "400 digits in a tensor": (
        b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":['
        + b"9" * 400
        + b",1,1]}]}",
        400,
        "C04",
        1,
    ),
    "over float32": ({"rows": [ROW | {"AMOUNT": 1e39}]}, 400, "C04", 1),
    "no rows": ({"rows": []}, 400, "C06", 1),
    "an empty tensor": ({"inputs": [tensor("input", [0, 3], [])]}, 400, "C06", 1),
    "a missing feature": ({"rows": [ROW, {"AMOUNT": 12.5}]}, 400, "C02", 2),
    "a missing tensor": ({"inputs": [tensor("AMOUNT", [2], [1, 2])]}, 400, "C02", 2),
    "a foreign feature": ({"rows": [ROW | {"SHOE_SIZE": 43}]}, 400, "C01", 1),
    "a feature twice": (b'{"rows":[{"AMOUNT":1,"AMOUNT":2,"RISK":3}]}', 400, "S02", 1),
    "a tensor twice": ({"inputs": [tensor("AMOUNT", [1], [1])] * 2}, 400, "S02", 1),
    "columns of two lengths": (
        {"inputs": [tensor("AMOUNT", [2], [1, 2]), tensor("RISK", [1], [3])]},
        400,
        "C06",
        1,
    ),
    "a huge batch": ({"rows": [{"AMOUNT": 1, "RISK": 1}] * 1025}, 413, "S03", 1),
    "a huge tensor": ({"inputs": [tensor("input", [1025, 3], [1] * 3075)]}, 413, "S03", 1),
    "no inputs": ({}, 400, "S02", 1),
    "inputs are no list": ({"inputs": {"AMOUNT": 1}}, 400, "S02", 1),
    "rows are no objects": ({"rows": [[12.5, 2, 3]]}, 400, "S02", 1),
    "rows and inputs": ({"rows": [ROW], "inputs": []}, 400, "S02", 1),
    "an unknown datatype": (
        {"inputs": [tensor("input", [1, 3], [1, 2, 3], "BF16")]},
        400,
        "S02",
        1,
    ),
    "a datatype of no type": ({"inputs": [tensor("input", [1, 3], [1, 2, 3], [])]}, 400, "S02", 1),  # type: ignore[arg-type]
    "no data": (
        {"inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP64"}]},
        400,
        "S02",
        1,
    ),
    "no name": (
        {"inputs": [{"shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]},
        400,
        "S02",
        1,
    ),
    "garbage": (b"\x00\xff\xfe garbage", 400, "S02", 1),
    "half a document": (b'{"rows":[{"AMOUNT":1', 400, "S02", 1),
    "a list": (b"[1,2,3]", 400, "S02", 1),
    "a number": (b"7", 400, "S02", 1),
    "nothing": (b"", 400, "S02", 1),
    "deep nesting": (b'{"rows":' + b"[" * 100_000, 400, "S02", 1),
    "another encoding": ('{"rows":[{"AMOUNT":1,"RISK":1,"ü":1}]}'.encode("utf-16"), 400, "C01", 1),
    "an odd id": ({"rows": [ROW], "id": 7}, 400, "S02", 1),
    "a long id": ({"rows": [ROW], "id": "x" * 257}, 400, "S02", 1),
    "odd parameters": ({"rows": [ROW], "parameters": []}, 400, "S02", 1),
    "an odd moment": ({"rows": [ROW], "parameters": {"at": "yesterday"}}, 400, "S02", 1),
    "a moment of no type": ({"rows": [ROW], "parameters": {"at": 1532253600}}, 400, "S02", 1),
    "an unknown output": ({"rows": [ROW], "outputs": [{"name": "label"}]}, 400, "S02", 1),
    "an output twice": ({"rows": [ROW], "outputs": [{"name": "score"}] * 2}, 400, "S02", 1),
    "classification": (
        {"rows": [ROW], "outputs": [{"name": "score", "parameters": {"classification": 2}}]},
        400,
        "S02",
        1,
    ),
}


@pytest.mark.parametrize(("sent", "status", "code", "rows"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(tmp_path: Path, sent: Any, status: int, code: str, rows: int) -> None:
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    with running_port(tmp_path, make_served(MADE)) as running:
        found, answer = ask(running, post("/v2/models/fraud/infer", body))
        assert (found, answer["code"]) == (status, code)
        assert answer["error"].startswith(f"{code}: ")
        assert answer["cure"] in answer["error"]
        # the refusal is counted, and the port goes on
        assert running.errors() == {code: rows}
        assert ask(running, infer({"rows": [ROW]}))[0] == 200


def test_an_error_never_repeats_a_raw_value(port: Port) -> None:
    secret = "4929-1234-5678-9012"
    for row in (ROW | {"AMOUNT": secret}, ROW | {"AMOUNT": {"card": secret}}):
        _, answer = ask(port, infer({"rows": [row]}))
        assert secret not in json.dumps(answer)


# --- binary tensors ---------------------------------------------------------------------


def binary(head: dict[str, Any], tail: bytes, length: int | str | None = None) -> bytes:
    text = json.dumps(head).encode()
    size = len(text) if length is None else length
    path = "/v2/models/fraud/infer"
    return post(path, text + tail, f"Inference-Header-Content-Length: {size}")


def raw_input(size: int, shape: list[int], datatype: str = "FP64") -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": "input", "shape": shape, "datatype": datatype, "parameters": parameters}


@pytest.mark.parametrize(
    ("datatype", "form"),
    [("FP64", "<3d"), ("FP32", "<3f"), ("INT64", "<3q"), ("UINT8", "<3B"), ("FP16", "<3e")],
)
def test_binary_tensors(port: Port, datatype: str, form: str) -> None:
    tail = struct.pack(form, 12, 2, 3)
    head = {"inputs": [raw_input(len(tail), [1, 3], datatype)]}
    status, answer = ask(port, binary(head, tail))
    assert status == 200
    assert outputs(answer)["score"] == expected(ROW | {"AMOUNT": 12})


_NUMBERS = struct.pack("<3d", 12.5, 2, 3)
BINARY_REFUSED: dict[str, tuple[bytes, str]] = {
    "a size over the body": (binary({"inputs": [raw_input(32, [1, 3])]}, _NUMBERS), "S02"),
    "a size under the shape": (binary({"inputs": [raw_input(16, [1, 3])]}, _NUMBERS[:16]), "S02"),
    "bytes left over": (binary({"inputs": [raw_input(24, [1, 3])]}, _NUMBERS + b"\0"), "S02"),
    "a negative size": (binary({"inputs": [raw_input(-8, [1, 3])]}, _NUMBERS), "S02"),
    "infinite": (
        binary({"inputs": [raw_input(24, [1, 3])]}, struct.pack("<3d", math.inf, 2, 3)),
        "C04",
    ),
    "a gap that is not allowed": (
        binary({"inputs": [raw_input(24, [1, 3])]}, struct.pack("<3d", math.nan, 2, 3)),
        "C02",
    ),
    "data beside": (
        binary({"inputs": [raw_input(24, [1, 3]) | {"data": [1, 2, 3]}]}, _NUMBERS),
        "S02",
    ),
    "a head over the body": (binary({"inputs": []}, b"", 1000), "S02"),
    "a head of no number": (binary({"inputs": []}, b"", "-1"), "S02"),
    "rows with a tail": (binary({"rows": [ROW]}, b"\0"), "S02"),
    "a string cut off": (
        binary({"inputs": [raw_input(6, [1], "BYTES") | {"name": "AMOUNT"}]}, b"\xff\0\0\0ab"),
        "S02",
    ),
    "strings of another count": (
        binary({"inputs": [raw_input(4, [2], "BYTES") | {"name": "AMOUNT"}]}, b"\0\0\0\0"),
        "C06",
    ),
}


@pytest.mark.parametrize(("request_", "code"), BINARY_REFUSED.values(), ids=BINARY_REFUSED.keys())
def test_binary_refused(port: Port, request_: bytes, code: str) -> None:
    status, answer = ask(port, request_)
    assert (status, answer["code"]) == (400, code)


@given(st.binary(max_size=400), st.integers(-2, 500))
def test_any_bytes_are_read_or_refused(body: bytes, length: int) -> None:
    try:
        asked = read_infer(body, length, most_rows=16)
        asked.matrix(MADE.parts.manifest.input, frozenset())
    except (InputError, ServingError):
        pass


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "rows",
                    "inputs",
                    "name",
                    "shape",
                    "datatype",
                    "data",
                    "parameters",
                    "outputs",
                    "AMOUNT",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["rows", "inputs", "outputs", "parameters", "id"]), _JSON))
def test_any_document_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        asked = read_infer(json.dumps(document).encode(), -1, most_rows=16)
        raw = asked.matrix(MADE.parts.manifest.input, frozenset())
        assert raw.shape == (asked.rows, 3)
    except (InputError, ServingError):
        pass


# --- pages ------------------------------------------------------------------------------


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: till\r\n\r\n".encode()


PAGES: dict[str, tuple[bytes, int, str]] = {
    "server": (get("/v2"), 200, ""),
    "server with a slash": (get("/v2/"), 200, ""),
    "live": (get("/v2/health/live"), 200, ""),
    "ready": (get("/v2/health/ready?verbose=1"), 200, ""),
    "model": (get("/v2/models/fraud"), 200, ""),
    "version": (get("/v2/models/fraud/versions/1.0.0"), 200, ""),
    "ready model": (get("/v2/models/fraud/ready"), 200, ""),
    "ready version": (get("/v2/models/fraud/versions/1.0.0/ready"), 200, ""),
    "an escaped name": (get("/v2/models/%66raud"), 200, ""),
    "an unknown model": (get("/v2/models/other"), 404, "S04"),
    "an unknown version": (get("/v2/models/fraud/versions/9"), 404, "S04"),
    "an unknown model asked": (infer({"rows": [ROW]}, model="other"), 404, "S04"),
    "an unknown page": (get("/v3"), 404, "S04"),
    "the root": (get("/"), 404, "S04"),
    "a path that climbs": (get("/v2/models/../../etc/passwd"), 404, "S04"),
    "an infer that is got": (get("/v2/models/fraud/infer"), 405, "S08"),
    "a posted page": (post("/v2", b""), 405, "S08"),
    "deleted": (get("/v2/models/fraud", "DELETE"), 405, "S08"),
}


@pytest.mark.parametrize(("request_", "status", "code"), PAGES.values(), ids=PAGES.keys())
def test_pages(port: Port, request_: bytes, status: int, code: str) -> None:
    found, answer = ask(port, request_)
    assert (found, answer.get("code", "")) == (status, code)


def test_metadata_says_what_to_send(port: Port, kinds: Port) -> None:
    _, server = ask(port, get("/v2"))
    assert server["models"] == ["fraud"]
    assert server["extensions"] == ["binary_tensor_data"]
    _, model = ask(port, get("/v2/models/fraud"))
    assert model["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 3]}]
    assert [item["name"] for item in model["parameters"]["features"]] == list(ROW)
    _, other = ask(kinds, get("/v2/models/kinds"))
    assert other["inputs"][-1] == {"name": "KIND", "datatype": "BYTES", "shape": [-1]}


def test_without_a_model_the_port_lives_and_is_not_ready(tmp_path: Path) -> None:
    with running_port(tmp_path, None) as running:
        assert ask(running, get("/v2/health/live"))[0] == 200
        assert ask(running, get("/v2/health/ready")) == (400, {"ready": False})
        status, answer = ask(running, infer({"rows": [ROW]}))
        assert (status, answer["code"]) == (503, "S05")


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "", "\x00"])
@given(path=st.text(alphabet="/v2modelsxyz.%", max_size=40))
def test_any_path_is_a_page_or_refused(method: str, path: str) -> None:
    try:
        kind = find_page(method, path).kind
    except WherryError as error:
        kind = error.code
    assert kind in {"server", "live", "ready", "model", "model-ready", "infer", "S04", "S08"}
