"""The torch operators ``ttq_energy::linear`` and ``ttq_energy::conv2d`` and their Python faces.

The operators have native CPU implementations, the plain reference elsewhere, and fake versions
for torch.compile and torch.export. Under autograd (an input that requires grad) the plain
reference runs, which is differentiable with respect to the activations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttq_energy.errors import InputError
from ttq_energy.kernels import isa, reference
from ttq_energy.kernels.packing import PackedWeight, unpack_codes

_LIBRARY = torch.library.Library("ttq_energy", "DEF")
_LIBRARY.define(
    "linear(Tensor x, Tensor packed, Tensor scale_pos, Tensor scale_neg, Tensor? bias,"
    " Tensor? residual, int out_features, bool int8, bool relu) -> Tensor"
)
_LIBRARY.define(
    "conv2d(Tensor x, Tensor packed, Tensor scale_pos, Tensor scale_neg, Tensor? bias,"
    " Tensor? residual, int[] shape, int[] stride, int[] padding, int[] dilation, int groups,"
    " bool int8, bool relu) -> Tensor"
)


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Length of a convolution's output along one dimension."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _reference_linear(
    x: Tensor,
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out_features: int,
    int8: bool,
    relu: bool,
) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    codes = unpack_codes(packed, (out_features, x.shape[-1]))
    flat = None if residual is None else residual.reshape(-1, out_features)
    y = reference.linear(rows, codes, scale_pos, scale_neg, bias, flat, int8=int8, relu=relu)
    return y.view(*x.shape[:-1], out_features)


def _reference_conv2d(
    x: Tensor,
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    int8: bool,
    relu: bool,
) -> Tensor:
    return reference.conv2d(
        x,
        unpack_codes(packed, tuple(shape)),
        scale_pos,
        scale_neg,
        bias,
        residual,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        int8=int8,
        relu=relu,
    ).contiguous()


def _fake_linear(
    x: Tensor,
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out_features: int,
    int8: bool,
    relu: bool,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


def _fake_conv2d(
    x: Tensor,
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    int8: bool,
    relu: bool,
) -> Tensor:
    height, width = (
        output_size(x.shape[2 + i], shape[2 + i], stride[i], padding[i], dilation[i])
        for i in (0, 1)
    )
    return x.new_empty(x.shape[0], shape[0], height, width)


_LIBRARY.impl("linear", _reference_linear, "CompositeExplicitAutograd")
_LIBRARY.impl("conv2d", _reference_conv2d, "CompositeExplicitAutograd")
torch.library.register_fake("ttq_energy::linear", _fake_linear, lib=_LIBRARY)
torch.library.register_fake("ttq_energy::conv2d", _fake_conv2d, lib=_LIBRARY)

linear_operator = torch.ops.ttq_energy.linear.default
conv2d_operator = torch.ops.ttq_energy.conv2d.default


def _runs_natively(x: Tensor) -> bool:
    return x.dtype == torch.float32 and not (x.requires_grad and torch.is_grad_enabled())


def linear(
    x: Tensor,
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out_features: int,
    int8: bool,
    relu: bool,
) -> Tensor:
    """(scale_pos P - scale_neg N) + bias + residual, ReLU: native where x allows."""
    run = linear_operator if _runs_natively(x) else _reference_linear
    return run(x, packed, scale_pos, scale_neg, bias, residual, out_features, int8, relu)


def conv2d(
    x: Tensor,
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    int8: bool,
    relu: bool,
) -> Tensor:
    """As :func:`linear`, for a convolution of weight ``shape`` (out, in/groups, kh, kw)."""
    run = conv2d_operator if _runs_natively(x) else _reference_conv2d
    return run(
        x,
        packed,
        scale_pos,
        scale_neg,
        bias,
        residual,
        shape,
        stride,
        padding,
        dilation,
        groups,
        int8,
        relu,
    )


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The pointwise part of an LSTM step: gates (batch, 4 hidden) in torch's order i, f, g, o."""
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(inputs: Tensor, hidden: Tensor, h: Tensor) -> Tensor:
    """The pointwise part of a GRU step: both products (batch, 3 hidden) in torch's order r, z, n."""
    input_r, input_z, input_n = inputs.chunk(3, -1)
    hidden_r, hidden_z, hidden_n = hidden.chunk(3, -1)
    n = torch.tanh(input_n + (input_r + hidden_r).sigmoid() * hidden_n)
    return n + (input_z + hidden_z).sigmoid() * (h - n)
