"""Clients that nobody here wrote: tritonclient, curl, http.client."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support_agent import make_bundle
from support_serving import ROW, Port, make_served, running_port

MADE = make_bundle(category=True)
NUMBERS = make_bundle("2.0.0")
ROWS = [ROW | {"KIND": "fuel"}, ROW | {"AMOUNT": 290.0, "KIND": "other"}]


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    """tritonclient.http; it brings gevent, which warns of what it patches when it loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tritonclient.http

    return tritonclient.http


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with running_port(tmp_path_factory.mktemp("clients"), make_served(MADE)) as running:
        yield running


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with running_port(tmp_path_factory.mktemp("numbers"), make_served(NUMBERS)) as running:
        yield running


def scores() -> np.ndarray:
    raw = MADE.parts.manifest.input.matrix(ROWS)
    model = make_served(MADE).model
    assert model
    return model.scores(raw)


def test_triton_looks_around(triton: ModuleType, port: Port) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{port.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("fraud")
        assert client.is_model_ready("fraud", "1.0.0")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["name"] == "wherry-agent"
        inputs = client.get_model_metadata("fraud")["inputs"]
        assert [item["name"] for item in inputs] == [*ROW, "KIND"]


@pytest.mark.parametrize("sent_binary", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize(
    "answer_binary", [True, False, None], ids=["binary out", "JSON out", "any"]
)
def test_triton_infers(
    triton: ModuleType, port: Port, *, sent_binary: bool, answer_binary: bool | None
) -> None:
    inputs = []
    for name in [*ROW, "KIND"]:
        text = name == "KIND"
        values = np.array([row[name] for row in ROWS], object if text else np.float64)
        item = triton.InferInput(name, [2], "BYTES" if text else "FP64")
        item.set_data_from_numpy(values, binary_data=sent_binary)
        inputs.append(item)
    names = ("score", "flagged", "score_bin")
    wanted = [triton.InferRequestedOutput(name, binary_data=bool(answer_binary)) for name in names]
    outputs = None if answer_binary is None else wanted
    with triton.InferenceServerClient(f"127.0.0.1:{port.port}") as client:
        found = client.infer("fraud", inputs, outputs=outputs, request_id="pos-7")
    assert found.get_response()["id"] == "pos-7"
    assert found.get_response()["parameters"]["bundle"] == MADE.digest
    assert found.as_numpy("score").tolist() == scores().tolist()
    assert found.as_numpy("flagged").tolist() == (scores() >= 0.5).tolist()
    assert found.as_numpy("score_bin").dtype == np.int64


def test_triton_sends_one_tensor(triton: ModuleType, numbers: Port) -> None:
    item = triton.InferInput("input", [2, 3], "FP32")
    item.set_data_from_numpy(np.array([[12.5, 2, 3], [290, 2, 3]], np.float32))
    with triton.InferenceServerClient(f"127.0.0.1:{numbers.port}") as client:
        found = client.infer("fraud", [item])
    assert found.as_numpy("flagged").tolist() == [False, True]


def test_triton_understands_our_errors(triton: ModuleType, numbers: Port) -> None:
    from tritonclient.utils import InferenceServerException

    item = triton.InferInput("input", [1, 4], "FP32")
    item.set_data_from_numpy(np.zeros((1, 4), np.float32))
    with (
        triton.InferenceServerClient(f"127.0.0.1:{numbers.port}") as client,
        pytest.raises(InferenceServerException, match="C06") as caught,
    ):
        client.infer("fraud", [item])
    assert caught.value.status() == "400"


def test_http_client(port: Port) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port.port, timeout=10)
    for row in ROWS:  # one connection for both
        client.request("POST", "/v2/models/fraud/infer", json.dumps({"rows": [row]}))
        response = client.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["parameters"]["source"] == "model"
    client.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_curl(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "agent.sock"
    listen = f"unix:{path}" if kind == "unix" else "127.0.0.1:0"
    with running_port(tmp_path, make_served(MADE), listen=listen) as port:
        where = "till" if kind == "unix" else port.server.address
        command = ["curl", "-sS", "--fail-with-body", f"http://{where}/v2/models/fraud/infer"]
        command += ["--unix-socket", str(path)] if kind == "unix" else []
        # large enough for curl to ask first whether it may send (Expect: 100-continue)
        body = json.dumps({"rows": ROWS * 500, "id": "x"}).encode()
        done = subprocess.run(
            [*command, "--data-binary", "@-", "-H", "Expect: 100-continue"],
            input=body,
            capture_output=True,
            check=True,
        )
    assert len(json.loads(done.stdout)["outputs"][0]["data"]) == 1000


def test_the_port_loads_no_client() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, wherry_agent.app; print(*sys.modules)"],
        capture_output=True,
        check=True,
        text=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"onnx", "sklearn", "click", "gevent", "tritonclient", "asyncio"}
