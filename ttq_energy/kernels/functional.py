"""``ternary_linear`` and ``ternary_conv2d``: packed weights applied to activations."""

from __future__ import annotations

from torch import Tensor

from ttq_energy.errors import InputError
from ttq_energy.kernels import ops
from ttq_energy.kernels.packing import PackedWeight

Pair = int | tuple[int, int] | list[int]


def pair(value: Pair, name: str, least: int) -> tuple[int, int]:
    """Two integers of at least ``least`` from one or two.

    Raises:
        InputError: anything else.
    """
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) and v >= least for v in values):
        raise InputError(f"{name}: expected one or two integers of at least {least}, got {value}")
    return values[0], values[1]


def _check_input(x: Tensor, w: PackedWeight, rank: int, what: str) -> None:
    if not isinstance(w, PackedWeight) or len(w.shape) != rank:
        raise InputError(f"w: expected weights packed by pack_{what}")
    if not x.is_floating_point():
        raise InputError(f"x: expected floating-point activations, got {x.dtype}")


def check_bias(bias: Tensor | None, out: int) -> None:
    """Raise InputError unless the bias is None or float (out,)."""
    if bias is not None and (tuple(bias.shape) != (out,) or not bias.is_floating_point()):
        raise InputError(
            f"bias: expected {out} floating-point numbers, got {bias.dtype} {tuple(bias.shape)}"
        )


def ternary_linear(x: Tensor, w: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """Apply packed ternary weights (out, in) to activations.

    Args:
        x: (..., in); float32 runs on the native kernels, other floating-point types on the
            plain reference, as does an ``x`` that requires grad (the gradient reaches ``x``).
        w: from :func:`pack_linear`.
        bias: (out,), added last.

    Returns:
        (..., out), of x's dtype.

    Raises:
        InputError: shapes or types do not fit.
    """
    _check_input(x, w, 2, "linear")
    out, columns = w.shape
    if x.dim() < 1 or x.shape[-1] != columns:
        raise InputError(f"x: expected shape (..., {columns}), got {tuple(x.shape)}")
    check_bias(bias, out)
    return ops.linear(
        x, w.packed, w.scale_pos, w.scale_neg, bias, None, out, w.activations == "int8", False
    )


def ternary_conv2d(
    x: Tensor,
    w: PackedWeight,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve activations with packed ternary weights (out, in/groups, kh, kw).

    Args:
        x: (n, in, h, w) in any memory format; types and gradients as in ternary_linear.
        w: from :func:`pack_conv2d`.
        bias: (out,), added last.
        stride, padding, dilation, groups: as in torch.nn.functional.conv2d.

    Returns:
        (n, out, oh, ow) of x's dtype; channels_last where x is that and not contiguous too.

    Raises:
        InputError: shapes, types or the geometry do not fit.
    """
    _check_input(x, w, 4, "conv2d")
    out, channels, kernel_height, kernel_width = w.shape
    stride, padding, dilation = (
        pair(stride, "stride", 1),
        pair(padding, "padding", 0),
        pair(dilation, "dilation", 1),
    )
    if groups < 1 or out % groups:
        raise InputError(f"groups: expected a divisor of {out} outputs, got {groups}")
    if x.dim() != 4 or x.shape[1] != channels * groups:
        raise InputError(f"x: expected shape (n, {channels * groups}, h, w), got {tuple(x.shape)}")
    for name, size, kernel, pad, spread in (
        ("height", x.shape[2], kernel_height, padding[0], dilation[0]),
        ("width", x.shape[3], kernel_width, padding[1], dilation[1]),
    ):
        if ops.output_size(size, kernel, 1, pad, spread) < 1:
            raise InputError(
                f"x: {name} {size} with padding {pad} is smaller than the dilated kernel"
                f" ({spread * (kernel - 1) + 1})"
            )
    check_bias(bias, out)
    return ops.conv2d(
        x,
        w.packed,
        w.scale_pos,
        w.scale_neg,
        bias,
        None,
        w.shape,
        stride,
        padding,
        dilation,
        groups,
        w.activations == "int8",
        False,
    )
