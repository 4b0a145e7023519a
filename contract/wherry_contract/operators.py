"""Operators that a bundle's graph may use: arithmetic on tensors, nothing that can do more.

Control flow, state, sequences, optionals, random numbers, strings-as-programs and every domain
but the two standard ones are absent on purpose. The host checks the graph against this
list; the device checks the signed list in the manifest, since it does not parse graphs.
Operators of the default domain stand by name, others as ``domain:name``; those of TFLite are
its builtin ones, by the names of its schema. A custom operator is on no list.
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

_TFLITE = """
ABS ADD ADD_N ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CEIL CONCATENATION
CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV ELU EQUAL EXP EXPAND_DIMS FILL
FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GELU GREATER GREATER_EQUAL HARD_SWISH
L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR
LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK
PAD PADV2 POW PRELU QUANTIZE RANGE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU
RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND
RSQRT SELECT SELECT_V2 SHAPE SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE TRANSPOSE_CONV
UNPACK ZEROS_LIKE
"""

ALLOWED: Final = frozenset(_DEFAULT.split()) | {f"ai.onnx.ml:{name}" for name in _ML.split()}

ALLOWED_TFLITE: Final = frozenset(_TFLITE.split())


def forbidden(operators: Iterable[str], kind: str = "onnxruntime") -> list[str]:
    """The operators that are not on the list of that kind of model, sorted."""
    return sorted(set(operators) - (ALLOWED_TFLITE if kind == "tflite" else ALLOWED))
