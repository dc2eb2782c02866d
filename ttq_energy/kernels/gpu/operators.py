"""The CUDA side of ``ttq_energy::linear`` and ``ttq_energy::conv2d``.

Packed modules carry the bytes of the CPU kernels. The first call on a GPU lays them out for the
GPU kernels and keeps that beside them, until the bytes go or change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ttq_energy.kernels import reference
from ttq_energy.kernels.gpu.layout import LARGEST_INT8_COLUMNS, DeviceWeight, from_codes
from ttq_energy.kernels.packing import unpack_codes

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels take; float64 runs on the plain reference."""


@dataclass
class _Resident:
    """Weights on a GPU, and the state of the tensors that they were laid out from."""

    source: tuple[Any, ...]
    weight: DeviceWeight


_RESIDENT: WeakIdKeyDictionary = WeakIdKeyDictionary()


def register(library: torch.library.Library) -> None:
    """Give both operators their CUDA implementations."""
    library.impl("linear", linear, "CUDA")  # type: ignore[no-untyped-call]
    library.impl("conv2d", conv2d, "CUDA")  # type: ignore[no-untyped-call]


def resident(
    packed: Tensor, scale_pos: Tensor, scale_neg: Tensor, shape: tuple[int, ...], int8: bool
) -> DeviceWeight:
    """The GPU layout of packed bytes, made at the first call and whenever they have changed."""
    source = (*map(_state, (packed, scale_pos, scale_neg)), shape, int8)
    held = _held(packed)
    if held is None or held.source != source:
        codes = unpack_codes(packed, shape)
        activations = "int8" if int8 else "fp32"
        held = _Resident(source, from_codes(codes, scale_pos, scale_neg, activations))
        _RESIDENT[packed] = held
    return held.weight


def _held(packed: Tensor) -> _Resident | None:
    held: _Resident | None = _RESIDENT.get(packed)  # type: ignore[no-untyped-call]
    return held


def _state(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


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
    """``ttq_energy::linear`` on CUDA tensors."""
    shape = (out_features, x.shape[-1])
    if x.dtype not in DTYPES or (int8 and shape[1] > LARGEST_INT8_COLUMNS):
        flat = None if residual is None else residual.reshape(-1, out_features)
        y = reference.linear(
            x.reshape(-1, shape[1]),
            unpack_codes(packed, shape),
            scale_pos,
            scale_neg,
            bias,
            flat,
            int8=int8,
            relu=relu,
        )
        return y.view(*x.shape[:-1], out_features)
    from ttq_energy.kernels.gpu import functional

    weight = resident(packed, scale_pos, scale_neg, shape, int8)
    return functional.linear(x, weight, bias, residual, relu=relu)


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
    """``ttq_energy::conv2d`` on CUDA tensors; the result lies channels-last."""
    whole = tuple(shape)
    inputs = whole[1] * whole[2] * whole[3]
    if x.dtype not in DTYPES or (int8 and 2 * inputs > LARGEST_INT8_COLUMNS):
        y = reference.conv2d(
            x,
            unpack_codes(packed, whole),
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
        )
        return y.contiguous(memory_format=torch.channels_last)
    from ttq_energy.kernels.gpu import functional

    weight = resident(packed, scale_pos, scale_neg, whole, int8)
    return functional.conv2d(
        x,
        weight,
        bias,
        residual,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        relu=relu,
    )


def takes(x: Tensor) -> bool:
    """Whether the GPU's kernels run on ``x``: a CUDA tensor of their types, without a gradient."""
    return x.is_cuda and x.dtype in DTYPES and not (x.requires_grad and torch.is_grad_enabled())


def packed_lstm_step(
    gates: Tensor,
    h: Tensor,
    c: Tensor,
    packed: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None,
    int8: bool,
) -> tuple[Tensor, Tensor]:
    """:func:`functional.lstm_step` on a packed module's tensors."""
    from ttq_energy.kernels.gpu import functional

    shape = (gates.shape[-1], h.shape[-1])
    weight = resident(packed, scale_pos, scale_neg, shape, int8)
    return functional.lstm_step(gates, h, c, weight, bias)


def ran(packed: Tensor) -> str:
    """The path that last ran on these packed bytes, or "" where none has run on a GPU."""
    held = _held(packed)
    paths = list(held.weight.ran.values()) if held is not None else []
    return paths[-1] if paths else ""


def describe(module: nn.Module) -> str:
    """Name what ran for the packed layers of a module, most used first.

    For example "triton 2-bit tensor-core bfloat16, split-K 8 x22 + triton decode to bfloat16, then
    cuDNN/cuBLAS x1"; layers that have not run yet are told as such.
    """
    names = Counter(
        ran(packed) or "triton 2-bit, not run yet"
        for part in module.modules()
        if isinstance(packed := getattr(part, "packed", None), Tensor)
    )
    return " + ".join(f"{name} x{count}" for name, count in names.most_common())
