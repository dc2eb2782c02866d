"""Running the kernels: buffers, grids and arguments of each path."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ttq_energy.kernels.gpu import activations, convolution, matmul, recurrence
from ttq_energy.kernels.gpu.layout import BLOCKS, DeviceWeight
from ttq_energy.kernels.gpu.paths import Path

QUANTIZE_BLOCK = 1024
_COMPILING_ONLY: ContextVar[bool] = ContextVar("ttq_energy_gpu_compiling_only", default=False)


@contextlib.contextmanager
def compiling_only() -> Iterator[None]:
    """Within the block kernels are compiled for their arguments and not run."""
    token = _COMPILING_ONLY.set(True)
    try:
        yield
    finally:
        _COMPILING_ONLY.reset(token)


def _start(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    if _COMPILING_ONLY.get():
        kernel.warmup(*arguments, grid=grid, **options)
    else:
        kernel[grid](*arguments, **options)


@dataclass(frozen=True)
class Ending:
    """What is done to an output before it is stored: + bias, + residual, ReLU.

    Attributes:
        bias: (rows,) or None.
        residual: laid out as the output, or None.
        relu: whether negative outputs become 0.
    """

    bias: Tensor | None = None
    residual: Tensor | None = None
    relu: bool = False

    def flags(self) -> dict[str, bool]:
        return {
            "HAS_BIAS": self.bias is not None,
            "HAS_RESIDUAL": self.residual is not None,
            "RELU": self.relu,
        }

    def applied(self, y: Tensor) -> Tensor:
        """The same by torch, for a library's product that has the bias already."""
        if self.residual is not None:
            y = y + self.residual
        return torch.relu(y) if self.relu else y


@dataclass(frozen=True)
class Geometry:
    """Of a convolution: each pair is (height, width)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_size(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output for an input's and a kernel's."""
        height, width = (
            (size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        )
        return height, width


def quantize_rows(x: Tensor, weight: DeviceWeight) -> tuple[Tensor, Tensor]:
    """x (batch, columns) as int8 in the kernels' order, padded to whole chunks; scales (batch,)."""
    batch, columns = x.shape
    width = weight.chunks * BLOCKS * weight.group
    y = torch.empty(batch, width, dtype=torch.int8, device=x.device)
    scale = torch.empty(batch, dtype=torch.float32, device=x.device)
    _start(
        activations.quantize_rows_kernel,
        (batch,),
        x,
        y,
        scale,
        columns,
        width,
        x.stride(0),
        G=weight.group,
        BLOCK=QUANTIZE_BLOCK,
        num_warps=8,
        enable_fp_fusion=False,
    )
    return y, scale


def quantize_images(x: Tensor, weight: DeviceWeight, groups: int) -> tuple[Tensor, Tensor]:
    """x (images, h, w, channels) as int8 (images, h, w, groups, taken); scales (images,)."""
    images, height, width, channels = x.shape
    known, taken = channels // groups, weight.channels
    low, high = x.view(images, -1).aminmax(dim=1)
    largest = torch.maximum(-low, high).float()
    y = torch.empty(images, height, width, groups, taken, dtype=torch.int8, device=x.device)
    scale = torch.empty(images, dtype=torch.float32, device=x.device)
    block_channels = min(64, triton.next_power_of_2(taken))
    block_pixels = max(1, 4096 // block_channels)
    pixels = images * height * width
    _start(
        activations.quantize_images_kernel,
        (triton.cdiv(pixels, block_pixels), groups),
        x,
        largest,
        y,
        scale,
        pixels,
        height * width,
        groups,
        known,
        taken,
        G=weight.group,
        INTERLEAVED=not weight.across_taps,
        BLOCK_PIXELS=block_pixels,
        BLOCK_CHANNELS=block_channels,
        enable_fp_fusion=False,
    )
    return y, scale


def dense_weight(weight: DeviceWeight, dtype: torch.dtype) -> Tensor:
    """Decode to dense weights of the codes' shape; a convolution's lie channels-last."""
    rows = weight.rows
    taps = 1 if len(weight.shape) == 2 else weight.shape[2] * weight.shape[3]
    known = weight.shape[1]
    taken = known if len(weight.shape) == 2 else weight.channels
    y = torch.empty(rows, taps * known, dtype=dtype, device=weight.device)
    block_rows = 64
    _start(
        activations.dense_kernel,
        (weight.chunks, triton.cdiv(rows, block_rows)),
        weight.words,
        weight.scale_pos,
        weight.scale_neg,
        y,
        rows,
        taps * taken,
        taken,
        known,
        taps * known,
        G=weight.group,
        BLOCK_ROWS=block_rows,
    )
    if len(weight.shape) == 2:
        return y
    return y.view(rows, weight.shape[2], weight.shape[3], known).permute(0, 3, 1, 2)


def linear(
    path: Path, x: Tensor, x_scale: Tensor | None, weight: DeviceWeight, ending: Ending, y: Tensor
) -> Tensor:
    """y (batch, rows) by one path; x is (batch, columns), or int8 of :func:`quantize_rows`."""
    batch, rows = y.shape
    if path.kernel == "dense":
        bias = None if ending.bias is None else ending.bias.to(x.dtype)
        return ending.applied(F.linear(x, dense_weight(weight, x.dtype), bias))
    common = _common(path, weight, ending, y)
    whole = weight.columns == weight.chunks * BLOCKS * weight.group
    if path.kernel == "vector":
        tiles = triton.cdiv(rows, path.block_rows)
        partial, counters = _shared(path, weight, tiles, path.block_rows, y)
        _start(
            matmul.vector_kernel,
            (tiles, path.parts),
            x,
            weight.words,
            weight.scale_pos,
            weight.scale_neg,
            _or(ending.bias, y),
            _or(ending.residual, y),
            y,
            partial,
            counters,
            rows,
            weight.columns,
            weight.chunks,
            path.parts,
            WHOLE=whole,
            **common,
        )
        return y
    int8 = x_scale is not None
    tiles = triton.cdiv(rows, path.block_rows) * triton.cdiv(batch, path.block_batch)
    partial, counters = _shared(path, weight, tiles, path.block_rows * path.block_batch, y)
    _start(
        matmul.linear_kernel,
        (tiles, path.parts),
        x,
        _or(x_scale, y),
        weight.words.view(torch.int8) if int8 else weight.words,
        *_scales(path, weight, x.dtype),
        _or(ending.bias, y),
        _or(ending.residual, y),
        y,
        partial,
        counters,
        batch,
        rows,
        weight.columns,
        x.stride(0),
        weight.chunks,
        path.parts,
        BLOCK_BATCH=path.block_batch,
        INT8=int8,
        SPLIT_FP32=x.dtype == torch.float32,
        UNROLLED=path.unrolled,
        WHOLE=whole or int8,
        enable_fp_fusion=not int8,
        **common,
    )
    return y


def conv2d(
    path: Path,
    x: Tensor,
    x_scale: Tensor | None,
    weight: DeviceWeight,
    geometry: Geometry,
    ending: Ending,
    y: Tensor,
) -> Tensor:
    """y (images, oh, ow, rows) from x (images, h, w, channels), or int8 of quantize_images."""
    images, out_height, out_width, rows = y.shape
    height, width = x.shape[1:3]
    kernel_height, kernel_width = weight.shape[2:]
    if path.kernel == "dense":
        bias = None if ending.bias is None else ending.bias.to(x.dtype)
        product = F.conv2d(
            x.permute(0, 3, 1, 2),
            dense_weight(weight, x.dtype),
            bias,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
        )
        product = product.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        return ending.applied(product)
    int8 = x_scale is not None
    pixels = images * out_height * out_width
    of_group = rows // geometry.groups
    tiles = triton.cdiv(of_group, path.block_rows) * triton.cdiv(pixels, path.block_batch)
    partial, counters = _shared(
        path, weight, tiles * geometry.groups, path.block_rows * path.block_batch, y
    )
    known = weight.channels if int8 else weight.shape[1]
    _start(
        convolution.conv2d_kernel,
        (tiles, geometry.groups * path.parts),
        x,
        _or(x_scale, y),
        weight.words.view(torch.int8) if int8 else weight.words,
        *_scales(path, weight, x.dtype),
        _or(ending.bias, y),
        _or(ending.residual, y),
        y,
        partial,
        counters,
        pixels,
        height,
        width,
        out_height,
        out_width,
        rows,
        of_group,
        known * geometry.groups,
        known,
        weight.channels,
        known,
        kernel_height * kernel_width,
        kernel_width,
        *geometry.stride,
        *geometry.padding,
        *geometry.dilation,
        weight.chunks,
        path.parts,
        BLOCK_BATCH=path.block_batch,
        INT8=int8,
        SPLIT_FP32=x.dtype == torch.float32,
        ACROSS_TAPS=weight.across_taps,
        WHOLE=known == weight.channels,
        enable_fp_fusion=not int8,
        **_common(path, weight, ending, y),
    )
    return y


def lstm_step(
    path: Path, h: Tensor, gates: Tensor, c: Tensor, weight: DeviceWeight, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The fused step: h' and c' (batch, hidden)."""
    batch, hidden = c.shape
    h_new, c_new = torch.empty_like(c, dtype=h.dtype), torch.empty_like(c)
    tiles = (triton.cdiv(hidden, path.block_rows), triton.cdiv(batch, path.block_batch))
    _start(
        recurrence.lstm_step_kernel,
        tiles,
        h,
        weight.words,
        weight.scale_pos,
        weight.scale_neg,
        _or(bias, c),
        gates,
        c,
        h_new,
        c_new,
        batch,
        hidden,
        h.stride(0),
        gates.stride(0),
        weight.chunks,
        G=weight.group,
        BLOCK_UNITS=path.block_rows,
        BLOCK_BATCH=path.block_batch,
        SPLIT_FP32=h.dtype == torch.float32,
        PRODUCTS=path.products,
        WHOLE=hidden == weight.chunks * BLOCKS * weight.group,
        HAS_BIAS=bias is not None,
        num_warps=path.warps,
        num_stages=path.stages,
    )
    return h_new, c_new


def lstm_cell(gates: Tensor, c: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """h' in ``dtype`` and c' (batch, hidden) from all gates (batch, 4 hidden)."""
    h_new, c_new = torch.empty_like(c, dtype=dtype), torch.empty_like(c)
    block = 256
    _start(
        activations.cell_kernel,
        (triton.cdiv(c.numel(), block),),
        gates,
        c,
        h_new,
        c_new,
        c.numel(),
        c.shape[1],
        BLOCK=block,
    )
    return h_new, c_new


def _common(path: Path, weight: DeviceWeight, ending: Ending, y: Tensor) -> dict[str, Any]:
    return {
        "G": weight.group,
        "BLOCK_ROWS": path.block_rows,
        "PRODUCTS": path.products,
        "SPLIT_K": path.parts > 1,
        "num_warps": path.warps,
        "num_stages": path.stages,
        **ending.flags(),
    }


def _scales(path: Path, weight: DeviceWeight, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """``values_ptr``, ``scale_pos_ptr`` and ``scale_neg_ptr`` of a path."""
    if path.products == "rounded":
        values, factor = weight.row_values(dtype)
        return values, factor, factor
    return weight.words, weight.scale_pos, weight.scale_neg


def _shared(
    path: Path, weight: DeviceWeight, tiles: int, size: int, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Partial sums (float32 or int32, 4 bytes each) and counters of the parts of a tile."""
    dtype = torch.int32 if weight.activations == "int8" else torch.float32
    if path.parts == 1:
        return y, y
    sums = 2 if path.products == "both" else 1
    partial = torch.empty(tiles * path.parts * sums * size, dtype=dtype, device=y.device)
    stream = torch.cuda.current_stream(y.device).cuda_stream if y.is_cuda else 0
    return partial, weight.counters(tiles, stream)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes a pointer even for what its flags say is absent."""
    return other if tensor is None else tensor
