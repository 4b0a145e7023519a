"""The ways to quantize a TFLite net, as a table; ai-edge-quantizer does the work.

Ranges of activations are the least and largest values on the calibration rows: its own
calibrator moves an average from row to row, so that values beyond it saturate, and asks for
a signature. Only layers with weights are quantized, and what passes their integers on:
neither scaling before them, whose columns may differ by many powers of ten, nor the last
activation, whose 256 steps would be all scores that are left.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from wherry_contract.encoder import Tensor
from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install

from .quantize_methods import nothing_to_quantize
from .quantize_workshop import Method
from .tflite_convert import tflite_needs
from .tflite_graph import Layer, carriers_of, layers_of, tidied
from .tflite_scoring import interpreter_kind
from .to_onnx import Converted

Ranges = Mapping[str, Mapping[str, Any]]
# a recipe, a regular expression for layers, their operator: adds to the recipe
Add = Callable[[Any, str, str], None]


def _static(bits: int) -> Add:
    return lambda recipe, layers, kind: recipe.add_static_config(layers, kind, bits, 8)


def _dynamic(*, by_channel: bool) -> Add:
    def add(recipe: Any, layers: str, kind: str) -> None:
        from ai_edge_quantizer.qtyping import QuantGranularity as Grain

        grain = Grain.CHANNELWISE if by_channel else Grain.TENSORWISE
        recipe.add_dynamic_config(layers, kind, 8, grain)

    return add


def _weights(bits: int) -> Add:
    algorithm = {"algorithm_key": "float_casting"} if bits == 16 else {}
    return lambda recipe, layers, kind: recipe.add_weight_only_config(
        layers, kind, bits, **algorithm
    )


_WRITTEN: Final = {"written-float16": "float16", "written-int8": "int8"}

METHODS: Final[Mapping[str, Method]] = {
    "int8": Method("static int8", _static(8), refine=True),
    "int16": Method("static int16 activations, int8 weights", _static(16), refine=True),
    "dynamic": Method(
        "dynamic int8, one scale for each layer", _dynamic(by_channel=False), refine=True
    ),
    "dynamic-channel": Method(
        "dynamic int8, a scale for each output", _dynamic(by_channel=True), refine=True
    ),
    "float16": Method("float16 weights", _weights(16), portable=True),
    "weights-int8": Method("int8 weights", _weights(8), refine=True, portable=True),
    "weights-int4": Method("int4 weights", _weights(4), refine=True),
    "written-float16": Method("float16 weights, as [target] weights", str, portable=True),
    "written-int8": Method("int8 weights, as [target] weights", str, portable=True),
}
_CALIBRATED: Final = frozenset({"int8", "int16"})


class TfliteWorkshop:
    """Quantizes a TFLite net; see `quantize_workshop.Workshop`.

    Args:
        converted: the float model.
        rows: float32, shape (rows, features), for the ranges of activations.
        written: makes the file again from its source, with weights kept as named; None if
            there is no source.

    Raises:
        ConvertError: K02, no layer is worth it, or tensors share a name; K04, it cannot be read.
    """

    methods = METHODS

    def __init__(
        self, converted: Converted, rows: Tensor, written: Callable[[str], Converted] | None
    ) -> None:
        self._float, self._rows, self._written = converted, rows, written
        self._layers = layers_of(converted.model)
        if not self._layers:
            raise nothing_to_quantize()
        self.layers = [layer.name for layer in self._layers]
        self.here = interpreter_kind()[0]
        self._ranges: Ranges | None = None

    def make(self, name: str, floats: Collection[str]) -> Converted:
        """A candidate.

        Args:
            name: of the method.
            floats: layers that stay in float.

        Raises:
            ConvertError: K02 it cannot be made or a layer was left out, K06 the quantizer is
                missing.
        """
        if name in _WRITTEN:
            return self._write(_WRITTEN[name])
        chosen = [layer for layer in self._layers if layer.name not in floats]
        if name in _CALIBRATED:
            self._ranges = self._ranges or ranges_of(self._float.model, self._rows)
            chosen += carriers_of(self._float.model, chosen)
        model = tidied(_quantized(self._float.model, name, chosen, self._ranges))
        left = {layer.name for layer in layers_of(model)} - set(floats)
        if left:
            detail = f"{METHODS[name].words}: {len(left)} layers stayed in float, first {min(left)}"
            raise ConvertError("K02", detail, cure="use another method")
        return replace(self._float, model=model, needs=self._needs(model))

    def _needs(self, model: bytes) -> Any:
        # a claim that the float file does not make is not made here either
        found = tflite_needs(model)
        return replace(found, version=self._float.needs.version, also=self._float.needs.also)

    def _write(self, weights: str) -> Converted:
        if self._written is None:
            raise ConvertError("K02", "there is no source model here to write it from")
        return self._written(weights)


def _quantized(model: bytes, name: str, layers: Collection[Layer], ranges: Ranges | None) -> bytes:
    try:
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer.recipe_manager import RecipeManager
    except ImportError as error:
        cure = how_to_install("tflite-quant")
        raise ConvertError("K06", cure, cure=cure) from error
    recipe = RecipeManager()
    for kind in sorted({layer.kind for layer in layers}):
        names = [re.escape(layer.name) for layer in layers if layer.kind == kind]
        METHODS[name].make(recipe, f"^({'|'.join(names)});?$", kind)
    calibrated = {key: dict(value) for key, value in ranges.items()} if ranges else None
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tool = quantizer.Quantizer(bytearray(model), recipe.get_quantization_recipe())
            made = tool.quantize(calibrated if name in _CALIBRATED else None)
    except Exception as error:  # the quantizer fails in any way that its passes can
        detail = f"ai-edge-quantizer cannot quantize it: {type(error).__name__}: {error}"
        raise ConvertError("K02", " ".join(detail.split())[:300]) from error
    return bytes(made.quantized_model)


def ranges_of(model: bytes, rows: Tensor) -> Ranges:
    """The least and largest value of each tensor that the graph computes.

    Args:
        model: a float TFLite file.
        rows: float32, shape (rows, features).

    Returns:
        ``min`` and ``max`` by name of the tensor, as ai-edge-quantizer takes them.

    Raises:
        ConvertError: K02 a value is not finite, K04 it cannot be run.
    """
    runner = _opened(model)
    entry = runner.get_input_details()[0]
    computed = list(_computed(runner, entry["index"]))
    ends = {item["index"]: (np.inf, -np.inf) for item in computed}
    for row in rows:
        runner.set_tensor(entry["index"], row.reshape(entry["shape"]))
        runner.invoke()
        for place, (low, high) in ends.items():
            values = runner.get_tensor(place)
            ends[place] = (min(low, float(values.min())), max(high, float(values.max())))
    found = {}
    for item in computed:
        one = (1,) * len(item["shape"])
        low, high = ends[item["index"]]
        if not np.isfinite([low, high]).all():
            raise ConvertError("K02", f"{item['name']} is not finite on the calibration rows")
        found[item["name"]] = {
            "min": np.full(one, low, np.float32),
            "max": np.full(one, high, np.float32),
        }
    return found


def _opened(model: bytes) -> Any:
    _, module = interpreter_kind()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping all tensors takes memory
        try:
            made = module.Interpreter(
                model_content=model,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=(
                    module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                ),
            )
            made.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ConvertError("K04", " ".join(str(error).split())[:300]) from error
    return made


def _computed(runner: Any, entry: int) -> Iterator[Any]:
    """Details of the tensors that hold float32 and are no constants."""
    operators = runner._get_ops_details()  # noqa: SLF001 - nothing public tells constants
    made = {int(place) for item in operators for place in item["outputs"]} | {entry}
    for item in runner.get_tensor_details():
        if item["index"] in made and item["dtype"] is np.float32 and np.all(item["shape"]):
            yield item
