"""How torch's operators are classed, and what each of them costs in operations an element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


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
    "histc",
    "col2im",
    "index_add",
    "scatter_add",
    "index_reduce",
    "scatter_reduce",
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
    {"sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "norm"}
    | {"histc", "col2im", *_POOLS}
)
"""Operators that read more than they write: their operations are counted on the input."""

SCATTERING = frozenset(("index_add", "scatter_add", "index_reduce", "scatter_reduce"))
"""Operators that add their last operand into places of the first: one addition for each of it."""

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
GROUPED_PRODUCTS = frozenset({"_grouped_mm", "grouped_mm", "grouped_mm_fallback"})
"""One matrix for each group of rows, torch's own and the one of transformers."""
ADDING_PRODUCTS = frozenset({"addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation"})
"""Of those, the ones whose first argument is added to the product."""

_MOVING_NAMES = """
    _local_scalar_dense _pack_padded_sequence _pad_packed_sequence _reshape_alias _reshape_copy
    _resize_output _to_copy _unsafe_index _unsafe_index_put _unsafe_view affine_grid_generator
    arange bernoulli cat channel_shuffle clone complex concat constant_pad_nd copy copy_ contiguous
    diag_embed diagonal_scatter dropout empty empty_like empty_permuted empty_strided eye
    exponential feature_dropout fill flip full full_like gather im2col index index_copy index_fill
    index_put index_select item lift lift_fresh lift_fresh_copy linspace logspace masked_scatter
    masked_select multinomial native_channel_shuffle native_dropout new_empty new_empty_strided
    new_full new_ones new_zeros nonzero normal one_hot ones ones_like pixel_shuffle pixel_unshuffle
    put rand rand_like randint randn randn_like random randperm reflection_pad1d reflection_pad2d
    reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
    resize roll rot90 scalar_tensor scatter select_scatter set slice_scatter split_with_sizes stack
    take take_along_dim to tril triu unfold uniform unsafe_chunk unsafe_split
    unsafe_split_with_sizes upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d vstack zero zeros
    zeros_like
"""
_MOVES = frozenset(_MOVING_NAMES.split())
"""Operators that move, make or cast values and compute none, views aside."""


def cost_of(func: Any, base: str) -> Cost | None:
    """What an element of an operator's result costs; None where it costs nothing or is unknown.

    torch marks the operators that work element by element; those without a line of their own
    count one operation.

    Args:
        func: the operator's overload.
        base: its name, without namespace and trailing underscore.
    """
    known = COSTS.get(base)
    if known is not None or _moves(func, base):
        return known
    return Cost("elementwise", 0, 1) if torch.Tag.pointwise in func.tags else None


def is_unknown(func: Any, base: str) -> bool:
    """Whether an operator without a cost may compute something all the same."""
    return COSTS.get(base) is None and not _moves(func, base)


def _moves(func: Any, base: str) -> bool:
    name = base.removesuffix("_copy")
    return func.is_view or base.rstrip("_") in _MOVES or name in _MOVES or func.namespace == "prim"
