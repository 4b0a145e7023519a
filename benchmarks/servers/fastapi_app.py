"""FastAPI and ONNX Runtime as its documentation has one write it."""

import os

from fastapi import FastAPI
from plain_model import PlainModel, reply
from pydantic import BaseModel

MODEL = PlainModel(os.environ["BENCH_MODEL"])


class Tensor(BaseModel):
    """A tensor of the protocol."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Asked(BaseModel):
    """A request of the protocol."""

    id: str | None = None
    inputs: list[Tensor]


class Output(BaseModel):
    """A tensor of the answer."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Answer(BaseModel):
    """The answer."""

    model_name: str
    outputs: list[Output]


app = FastAPI()


@app.post("/v2/models/fraud/infer")
async def infer(asked: Asked) -> Answer:
    """Answer one request."""
    return Answer(**reply("fraud", MODEL.score(asked.inputs[0].data)))
