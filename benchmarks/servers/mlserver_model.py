"""MLServer with a runtime of one's own around ONNX Runtime."""

import os

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from plain_model import PlainModel


class OnnxModel(MLModel):
    """Loads the model and answers."""

    async def load(self) -> bool:
        """Load it."""
        self._plain = PlainModel(os.environ["BENCH_MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        row = NumpyCodec.decode_input(payload.inputs[0])
        score = self._plain.score(row.reshape(-1).tolist())
        output = NumpyCodec.encode_output("score", np.array([score]))
        return InferenceResponse(model_name=self.name, outputs=[output])
