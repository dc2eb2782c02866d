"""The torch operators ``ttq_energy::linear`` and ``ttq_energy::conv2d`` and their Python faces.

The operators have native CPU implementations, the plain reference elsewhere, and fake versions
for torch.compile and torch.export. Under autograd (an input that requires grad) the plain
reference runs, which is differentiable with respect to the activations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ttq_energy.kernels import gpu, isa, reference
from ttq_energy.kernels.packing import unpack_codes

_LIBRARY = torch.library.Library("ttq_energy", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "linear(Tensor x, Tensor packed, Tensor scale_pos, Tensor scale_neg, Tensor? bias,"
    " Tensor? residual, int out_features, bool int8, bool relu) -> Tensor"
)
_LIBRARY.define(  # type: ignore[no-untyped-call]
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
    ).contiguous(memory_format=_format_like(x))


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
    on_gpu = x.is_cuda and gpu.usable()
    return torch.empty(
        (x.shape[0], shape[0], height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if on_gpu else _format_like(x),
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()):
        return tensor
    return tensor.float().contiguous()


def _native_linear(
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
    fits = residual is None or residual.shape == (*x.shape[:-1], out_features)
    if x.dtype != torch.float32 or not fits:
        return _reference_linear(
            x, packed, scale_pos, scale_neg, bias, residual, out_features, int8, relu
        )
    columns = x.shape[-1]
    y = torch.empty((*x.shape[:-1], out_features), dtype=torch.float32, device="cpu")
    if y.numel() == 0:
        return y
    source, bias_, residual_ = x.contiguous(), _contiguous(bias), _contiguous(residual)
    finite = isa.native().linear(
        source.data_ptr(),
        source.numel() // columns,
        packed.data_ptr(),
        packed.numel(),
        out_features,
        columns,
        scale_pos.data_ptr(),
        scale_neg.data_ptr(),
        _address(bias_),
        _address(residual_),
        relu,
        int8,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    if not finite:
        return _reference_linear(
            x, packed, scale_pos, scale_neg, bias, residual, out_features, int8, relu
        )
    return y


class _Geometry(NamedTuple):
    """What the native convolution is told, apart from addresses."""

    output: tuple[int, int, int, int]
    empty: bool
    sizes: list[int]
    columns: int
    shared_tables: bool


def is_channels_last(x: Tensor) -> bool:
    """Whether x (n, c, h, w) is channels_last and not also contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _format_like(x: Tensor) -> torch.memory_format:
    """The memory format of a convolution's result, as torch chooses it for its own."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


@functools.lru_cache(maxsize=4096)
def _geometry(
    size: tuple[int, ...],
    strides: tuple[int, ...],
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> _Geometry:
    out, channels, kernel_height, kernel_width = shape
    height = output_size(size[2], kernel_height, stride[0], padding[0], dilation[0])
    width = output_size(size[3], kernel_width, stride[1], padding[1], dilation[1])
    sizes = [*size, *strides, out, kernel_height, kernel_width, *stride, *padding, *dilation]
    return _Geometry(
        (size[0], out, height, width),
        size[0] == 0,
        [*sizes, groups, height, width],
        reference.conv_columns(channels, kernel_height * kernel_width),
        reference.shares_tables(channels),
    )


def _native_conv2d(
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
    geometry = _geometry(
        x.shape,
        x.stride(),
        tuple(shape),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
    )
    channels_last = is_channels_last(x)
    y = torch.empty(
        geometry.output,
        dtype=x.dtype,
        device="cpu",
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    if geometry.empty:
        return y
    if x.dtype == torch.float32 and (residual is None or residual.shape == geometry.output):
        bias_, residual_ = _contiguous(bias), residual
        residual_last = residual is not None and is_channels_last(residual)
        if not residual_last or (residual is not None and residual.dtype != torch.float32):
            residual_, residual_last = _contiguous(residual), False
        finite = isa.native().conv2d(
            x.data_ptr(),
            geometry.sizes,
            packed.data_ptr(),
            packed.numel(),
            geometry.columns,
            scale_pos.data_ptr(),
            scale_neg.data_ptr(),
            _address(bias_),
            _address(residual_),
            residual_last,
            geometry.shared_tables,
            relu,
            int8,
            y.data_ptr(),
            channels_last,
            torch.get_num_threads(),
        )
        if finite:
            return y
    return _reference_conv2d(
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


_LIBRARY.impl("linear", _reference_linear, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_LIBRARY.impl("conv2d", _reference_conv2d, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_LIBRARY.impl("linear", _native_linear, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("conv2d", _native_conv2d, "CPU")  # type: ignore[no-untyped-call]
if gpu.usable():
    gpu.register(_LIBRARY)
torch.library.register_fake("ttq_energy::linear", _fake_linear, lib=_LIBRARY)
torch.library.register_fake("ttq_energy::conv2d", _fake_conv2d, lib=_LIBRARY)

linear_operator = torch.ops.ttq_energy.linear.default
conv2d_operator = torch.ops.ttq_energy.conv2d.default


def _runs_natively(x: Tensor) -> bool:
    taken = x.dtype == torch.float32 or not x.is_cpu  # the GPU's kernels take half types too
    return taken and not (x.requires_grad and torch.is_grad_enabled())


def _needs_dispatcher(x: Tensor) -> bool:
    """Whether anything must see the operator: compiling, tracing, a mode or transform, a device.

    Everywhere else the native code is called straight away: torch's dispatcher costs an operator
    implemented in Python several microseconds, as much as a small layer's arithmetic.
    """
    return (
        type(x) is not Tensor
        or not x.is_cpu
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


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
    run: Callable[..., Tensor] = _reference_linear
    if _runs_natively(x):
        run = linear_operator if _needs_dispatcher(x) else _native_linear
    return run(x, packed, scale_pos, scale_neg, bias, residual, out_features, int8, relu)


class Matrix(NamedTuple):
    """One packed linear layer among several that read the same input."""

    packed: Tensor
    scale_pos: Tensor
    scale_neg: Tensor
    bias: Tensor | None
    out_features: int
    relu: bool = False


def linear_many(x: Tensor, matrices: Sequence[Matrix], int8: bool) -> list[Tensor]:
    """Several linear layers on one input, in one native call where :func:`is_plain` allows.

    The input is quantized, or its tables built, once for all of them.

    Args:
        x: (..., in), the input of all.
        matrices: weights of ``in`` columns each, packed for the same activations.
        int8: whether these are packed for int8 activations.

    Returns:
        One (..., out_features) for each matrix, as :func:`linear` would give it.
    """
    columns = x.shape[-1]
    if not is_plain(x) or x.numel() == 0:
        return [
            linear(
                x, m.packed, m.scale_pos, m.scale_neg, m.bias, None, m.out_features, int8, m.relu
            )
            for m in matrices
        ]
    source = x.contiguous()
    biases = [_contiguous(m.bias) for m in matrices]
    size = x.shape[:-1]
    ys = [torch.empty((*size, m.out_features), dtype=torch.float32, device="cpu") for m in matrices]
    numbers: list[int] = []
    for m, bias, y in zip(matrices, biases, ys, strict=True):
        numbers += (
            m.packed.data_ptr(),
            m.packed.numel(),
            m.out_features,
            m.scale_pos.data_ptr(),
            m.scale_neg.data_ptr(),
            _address(bias),
            m.relu,
            y.data_ptr(),
        )
    finite = isa.native().linear_many(
        source.data_ptr(),
        source.numel() // columns,
        columns,
        numbers,
        int8,
        torch.get_num_threads(),
    )
    if finite:
        return ys
    return [
        _reference_linear(
            x, m.packed, m.scale_pos, m.scale_neg, m.bias, None, m.out_features, int8, m.relu
        )
        for m in matrices
    ]


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
    run: Callable[..., Tensor] = _reference_conv2d
    if _runs_natively(x):
        run = conv2d_operator if _needs_dispatcher(x) else _native_conv2d
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


def is_plain(x: Tensor) -> bool:
    """Whether the native code may be called with this tensor straight away."""
    return not _needs_dispatcher(x) and _runs_natively(x)


def recurrent(
    inputs: Tensor,
    states: list[Tensor],
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    int8: bool,
    backward: bool,
) -> tuple[Tensor, list[Tensor]] | None:
    """A recurrent layer's steps in one native call: an LSTM with two states, a GRU with one.

    Args:
        inputs: float32 (time, batch, gates * hidden), the input products; at least one step.
        states: h, and for an LSTM c, each (batch, hidden).
        packed, scale_pos, scale_neg, bias, int8: the hidden matrix.
        backward: whether to go from the last step to the first.

    Returns:
        Outputs (time, batch, hidden) and the last states; None where a value is not finite or
        too large for the native kernels.
    """
    steps, batch, gates = inputs.shape
    inputs, h = inputs.contiguous(), states[0].contiguous()
    hidden = h.shape[-1]
    c = states[1].clone(memory_format=torch.contiguous_format) if len(states) > 1 else None
    outputs = torch.empty((steps, batch, hidden), dtype=torch.float32, device="cpu")
    finite = isa.native().recurrent(
        packed.data_ptr(),
        packed.numel(),
        gates,
        scale_pos.data_ptr(),
        scale_neg.data_ptr(),
        _address(bias),
        int8,
        steps,
        batch,
        hidden,
        backward,
        inputs.data_ptr(),
        h.data_ptr(),
        _address(c),
        outputs.data_ptr(),
        torch.get_num_threads(),
    )
    if not finite:
        return None
    last = outputs[0 if backward else -1]
    return outputs, [last] if c is None else [last, c]


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The pointwise part of an LSTM step: gates (batch, 4 hidden) in torch's order i, f, g, o."""
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(inputs: Tensor, hidden: Tensor, h: Tensor) -> Tensor:
    """The pointwise part of a GRU step: products (batch, 3 hidden) in torch's order r, z, n."""
    input_r, input_z, input_n = inputs.chunk(3, -1)
    hidden_r, hidden_z, hidden_n = hidden.chunk(3, -1)
    n = torch.tanh(input_n + (input_r + hidden_r).sigmoid() * hidden_n)
    return n + (input_z + hidden_z).sigmoid() * (h - n)
