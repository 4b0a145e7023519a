"""Operators that a bundle's graph may use: arithmetic on tensors, nothing that can do more.

Control flow, sequences, optionals, random numbers, strings-as-programs and every domain
but the two standard ones are absent on purpose. The host checks the graph against this
list; the device checks the signed list in the manifest, since it does not parse graphs.
Operators of the default domain stand by name, others as ``domain:name``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_DEFAULT = """
Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip
Concat Constant ConstantOfShape Conv ConvInteger Cos CumSum DepthToSpace DequantizeLinear
Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
GRU HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization
LeakyRelu Less LessOrEqual Log LogSoftmax LSTM MatMul MatMulInteger Max MaxPool Mean Min
Mish Mod Mul Neg Not OneHot Or Pad Pow PRelu QLinearConv QLinearMatMul QuantizeLinear
Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RNN Round ScatterElements
ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToDepth
Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Where Xor
"""
_ML = """
ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder
LinearClassifier LinearRegressor Normalizer OneHotEncoder Scaler SVMClassifier SVMRegressor
TreeEnsembleClassifier TreeEnsembleRegressor
"""

ALLOWED: Final = frozenset(_DEFAULT.split()) | {f"ai.onnx.ml:{name}" for name in _ML.split()}


def forbidden(operators: Iterable[str]) -> list[str]:
    """The operators that are not on the list, sorted."""
    return sorted(set(operators) - ALLOWED)
