"""How torch's operators are classed, and what each of them costs in operations an element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Operations for each output element: (multiplies, adds); comparisons count as adds."""

    op: str
    multiplies: float
    adds: float


_ACTIVATIONS = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardshrink",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_sigmoid_forward",
    "_log_softmax",
    "mish",
    "prelu",
    "_prelu_kernel",
    "relu",
    "relu6",
    "rrelu_with_noise",
    "selu",
    "sigmoid",
    "silu",
    "_softmax",
    "softplus",
    "softshrink",
    "tanh",
    "threshold",
    "_safe_softmax",
    "log_softmax",
    "softmax",
]
_MULTIPLYING = [
    "mul",
    "div",
    "addcmul",
    "addcdiv",
    "pow",
    "square",
    "lerp",
    "rsqrt",
    "reciprocal",
    "true_divide",
]
_ADDING = [
    "add",
    "sub",
    "rsub",
    "neg",
    "abs",
    "sign",
    "maximum",
    "minimum",
    "clamp",
    "clamp_min",
    "clamp_max",
    "where",
    "masked_fill",
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "cumsum",
    "cumprod",
    "exp",
    "exp2",
    "log",
    "log2",
    "log1p",
    "expm1",
    "sqrt",
    "sin",
    "cos",
    "round",
    "floor",
    "ceil",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "bitwise_and",
    "bitwise_or",
    "logical_and",
    "logical_or",
    "logical_not",
    "var",
    "std",
    "var_mean",
    "norm",
    "linalg_vector_norm",
    "erf",
    "prod",
    "logsumexp",
    "remainder",
    "fmod",
    "isnan",
    "dist",
    "cdist",
    "topk",
    "sort",
    "argmax",
    "argmin",
    "_foreach_add",
]
_POOLS = [
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool2d",
    "avg_pool3d",
    "avg_pool1d",
    "adaptive_avg_pool1d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "fractional_max_pool2d",
    "mkldnn_max_pool2d",
    "max_pool1d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_linear1d",
    "upsample_trilinear3d",
]

COSTS: Mapping[str, Cost] = {
    **{name: Cost("activation", 0, 1) for name in _ACTIVATIONS},
    **{name: Cost("elementwise", 1, 0) for name in _MULTIPLYING},
    **{name: Cost("elementwise", 0, 1) for name in _ADDING},
    **{name: Cost("pool", 0, 1) for name in _POOLS},
    # In evaluation a batch norm is one multiply and one add with folded constants; the others
    # also find mean and variance: sum, centre, square, sum, scale, gain, offset.
    **{
        name: Cost("norm", 1, 1)
        for name in (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_no_update",
            "cudnn_batch_norm",
            "batch_norm",
        )
    },
    **{
        name: Cost("norm", 3, 4)
        for name in ("native_layer_norm", "native_group_norm", "layer_norm", "group_norm")
    },
    "_fused_rms_norm": Cost("norm", 3, 1),
    "rms_norm": Cost("norm", 3, 1),
    "embedding": Cost("embedding", 0, 0),
    "_embedding_bag_forward_only": Cost("embedding", 0, 1),
    "_embedding_bag": Cost("embedding", 0, 1),
}
"""Operators that are not multiply-accumulates, by name without namespace."""

REDUCING = frozenset(
    (*_POOLS, "sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "norm")
)
"""Operators that read more than they write: their operations are counted on the input."""

MOVING_PARAMETERS = frozenset(
    ("cat", "stack", "index", "index_select", "gather", "repeat", "constant_pad_nd")
)
"""Operators that copy values; a parameter among their inputs is looked up, not computed with."""

ATTENTION = frozenset(
    {
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "scaled_dot_product_attention",
    }
)
CONVOLUTIONS = frozenset(
    {
        "convolution",
        "_convolution",
        "cudnn_convolution",
        "mkldnn_convolution",
        "convolution_overrideable",
        "_slow_conv2d_forward",
        "_conv_depthwise2d",
    }
)
MATRIX_PRODUCTS = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "linear"}
    | {"_addmm_activation", "_scaled_mm", "_int_mm"}
)
ADDING_PRODUCTS = frozenset({"addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation"})
"""Of those, the ones whose first argument is added to the product."""
