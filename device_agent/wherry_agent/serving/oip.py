"""The Open Inference Protocol v2 (KServe, Triton): paths, metadata, answers, errors. Pure.

Requests are read in `oip_request`. Specification:
github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_agent import __version__
from wherry_contract.errors import ServingError, WherryError
from wherry_contract.manifest import Manifest

from .inference import Answer, Answers
from .oip_request import CLASS_OUTPUTS, DTYPES, OUTPUTS, TENSOR, Asked

STATUS: Final[Mapping[str, int]] = {
    "S01": 400,
    "S02": 400,
    "S03": 413,
    "S04": 404,
    "S05": 503,
    "S06": 408,
    "S07": 503,
    "S08": 405,
}
# runtime.kind -> as the protocol names platforms, project_format
_PLATFORMS: Final = {"onnxruntime": "onnxruntime_onnx", "tflite": "tflite_tflite"}
_text: Final = json.encoder.encode_basestring_ascii  # a string's JSON
_MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")
_FIXED: Final[Mapping[str, str]] = {
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
    "/wherry/v1/hold": "hold",  # ours, and not the protocol's
}


@dataclass(frozen=True)
class Page:
    """What a path names.

    Attributes:
        kind: ``server``, ``live``, ``ready``, ``model``, ``model-ready``, ``infer`` or
            ``hold``.
        model: the model's name, where the path has one.
        version: likewise; "" for whatever is served.
    """

    kind: str
    model: str = ""
    version: str = ""


def find_page(method: str, path: str) -> Page:
    """Read a path.

    Raises:
        ServingError: S04 there is no such page, S08 it is not asked for like this.
    """
    path = path.rstrip("/")
    if path in _FIXED:
        page = Page(_FIXED[path])
    else:
        match = _MODEL_PATH.fullmatch(path)
        if not match:
            raise ServingError("S04", path[:100])
        kind = {None: "model", "ready": "model-ready", "infer": "infer"}[match[3]]
        page = Page(kind, match[1], match[2] or "")
    allowed = allowed_methods(page)
    if method not in allowed:
        raise ServingError("S08", f"{method[:20]}; allowed are {', '.join(allowed)}")
    return page


def allowed_methods(page: Page) -> tuple[str, ...]:
    """Methods that a page answers."""
    return ("POST",) if page.kind in ("infer", "hold") else ("GET", "HEAD")


def outputs_of(manifest: Manifest) -> Mapping[str, str]:
    """Names and datatypes of what a model answers."""
    return CLASS_OUTPUTS if manifest.output.classes else OUTPUTS


def write_answer(
    asked: Asked, request_id: str, answers: Answers, manifest: Manifest, bundle: str
) -> tuple[bytes, int]:
    """The body of an answer, and how much of it is JSON (-1: all of it).

    Args:
        asked: the request.
        request_id: its id, or one of ours.
        answers: for `asked.rows` rows.
        manifest: of the bundle that answered.
        bundle: its digest.
    """
    found: dict[str, NDArray[Any]] = {
        "score": answers.scores,
        "flagged": answers.flagged,
        "score_bin": answers.bins,
    }
    if answers.classes is not None and answers.decisions is not None:
        # the last name, "", is that of no class
        names = np.array([*manifest.output.classes, ""], object)
        found |= {"label": names[answers.decisions], "scores": answers.classes}
    kinds, outputs, tail = outputs_of(manifest), [], []
    for item in asked.wanted:
        output: dict[str, Any] = {
            "name": item.name,
            "datatype": kinds[item.name],
            "shape": list(found[item.name].shape),
        }
        if item.binary:
            raw = _raw(found[item.name], kinds[item.name])
            output["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            output["data"] = found[item.name].tolist()
        outputs.append(output)
    head = _json(
        {
            "model_name": manifest.name,
            "model_version": manifest.version,
            "id": request_id,
            "parameters": {"bundle": answers.previous or bundle, "source": answers.source},
            "outputs": outputs,
        }
    )
    return (head + b"".join(tail), len(head)) if tail else (head, -1)


def write_one(request_id: str, answer: Answer, manifest: Manifest) -> bytes:
    """The body of the answer to one row, all outputs in JSON: as `write_answer` has it."""
    flagged = "true" if answer.flagged else "false"
    return (
        f'{{"model_name":{_text(manifest.name)},"model_version":{_text(manifest.version)}'
        f',"id":{_text(request_id)}'
        f',"parameters":{{"bundle":{_text(answer.bundle)},"source":{_text(answer.source)}}}'
        f',"outputs":[{{"name":"score","datatype":"FP64","shape":[1],"data":[{answer.score!r}]}}'
        f',{{"name":"flagged","datatype":"BOOL","shape":[1],"data":[{flagged}]}}'
        f',{{"name":"score_bin","datatype":"INT64","shape":[1],"data":[{answer.score_bin}]}}]}}'
    ).encode()


def _raw(values: NDArray[Any], datatype: str) -> bytes:
    if datatype != "BYTES":
        return values.astype(DTYPES[datatype]).tobytes()
    texts = [text.encode() for text in values.tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def write_server(models: Sequence[str]) -> bytes:
    """Server metadata; `models` is an addition of ours."""
    return _json(
        {
            "name": "wherry-agent",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
            "models": list(models),
        }
    )


def write_model(manifest: Manifest, bundle: str) -> bytes:
    """Model metadata: tensors, and the input contract under `parameters`."""
    contract, classes = manifest.input, manifest.output.classes
    numbers = all(feature.dtype == "number" for feature in contract.features)
    inputs = [
        {
            "name": feature.name,
            "datatype": "FP64" if feature.dtype == "number" else "BYTES",
            "shape": [-1],
        }
        for feature in contract.features
    ]
    if numbers:
        inputs = [{"name": TENSOR, "datatype": "FP64", "shape": [-1, len(contract.features)]}]
    return _json(
        {
            "name": manifest.name,
            "versions": [manifest.version],
            "platform": _PLATFORMS[manifest.runtime.kind],
            "inputs": inputs,
            "outputs": [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": [-1, len(classes)] if name == "scores" else [-1],
                }
                for name, datatype in outputs_of(manifest).items()
            ],
            "parameters": {
                "bundle": bundle,
                "threshold": manifest.output.threshold,
                "positive": manifest.output.positive,
                **({"classes": list(classes)} if classes else {}),
                "features": [feature.to_dict() for feature in contract.features],
            },
        }
    )


def write_health(name: str, *, well: bool) -> tuple[int, bytes]:
    """Status and body of a health page; the protocol wants 4xx for no."""
    return 200 if well else 400, _json({name: well})


def write_error(error: WherryError) -> tuple[int, bytes]:
    """Status and body of an error, in the protocol's form, with code and cure beside it."""
    text = f"{error}. Next: {error.cure}"
    body = _json({"error": text, "code": error.code, "cure": error.cure})
    return STATUS.get(error.code, 400), body
