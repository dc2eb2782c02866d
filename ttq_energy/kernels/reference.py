"""The plain reference of every ternary operator, in torch only.

It defines what the native kernels compute, bit for bit for int8 activations, and serves devices
and dtypes that have no native kernel. Its speed says nothing about ternary execution: it
multiplies by decoded weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL_ROWS = 64
GROUP = 4
SMALLEST_ROW_MAXIMUM = 2.0**-120


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``value``."""
    return -(-value // multiple) * multiple


def packed_bytes(rows: int, columns: int) -> int:
    """Bytes of a packed matrix of (rows, columns) ternary codes."""
    return rows * (round_up(columns, GROUP) // GROUP)


def pack_matrix(codes: Tensor) -> Tensor:
    """Pack codes (rows, columns) into the kernels' bytes.

    Four codes along the columns make one byte: bit t says that code t is +1, bit 4 + t that it is
    -1. Bytes lie in panels of 64 rows (the last panel holds what remains), in each panel
    column-group by column-group, so that one load gives one byte for each of many rows.
    """
    rows, columns = codes.shape
    padded = F.pad(codes, (0, round_up(columns, GROUP) - columns)).view(rows, -1, GROUP)
    bits = torch.tensor([1, 2, 4, 8], dtype=torch.uint8, device=codes.device)
    plus = ((padded > 0).to(torch.uint8) * bits).sum(-1, dtype=torch.uint8)
    minus = ((padded < 0).to(torch.uint8) * bits).sum(-1, dtype=torch.uint8)
    bytes_ = plus + minus * 16
    full = rows // PANEL_ROWS * PANEL_ROWS
    panels = bytes_[:full].view(full // PANEL_ROWS, PANEL_ROWS, bytes_.shape[1]).transpose(1, 2)
    return torch.cat([panels.flatten(), bytes_[full:].t().flatten()])


def unpack_matrix(packed: Tensor, rows: int, columns: int) -> Tensor:
    """The int8 codes (rows, columns) that ``pack_matrix`` packed."""
    depth = round_up(columns, GROUP) // GROUP
    full = rows // PANEL_ROWS
    split = full * PANEL_ROWS * depth
    panels = packed[:split].view(full, depth, PANEL_ROWS).transpose(1, 2)
    rest = packed[split:].view(depth, rows - full * PANEL_ROWS).t()
    bytes_ = torch.cat([panels.reshape(full * PANEL_ROWS, depth), rest])
    shifts = torch.arange(GROUP, device=packed.device, dtype=torch.uint8)
    plus = (bytes_.unsqueeze(-1) >> shifts) & 1
    minus = (bytes_.unsqueeze(-1) >> (shifts + 4)) & 1
    return (plus.to(torch.int8) - minus.to(torch.int8)).flatten(1)[:, :columns].contiguous()


def shares_tables(channels: int) -> bool:
    """Whether a convolution's columns are grouped by channel (taps then share lookup tables).

    Otherwise, where padding channels to fours would waste more than 5 %, groups of four run
    across channels and taps.
    """
    return round_up(channels, GROUP) <= 1.05 * channels


def conv_to_matrix(codes: Tensor) -> Tensor:
    """Order convolution codes (out, in/groups, kh, kw) as a matrix (out, columns)."""
    channels = codes.shape[1]
    rows = codes.flatten(2)
    if not shares_tables(channels):
        return rows.flatten(1)
    padded = F.pad(rows, (0, 0, 0, round_up(channels, GROUP) - channels))
    grouped = padded.view(len(padded), padded.shape[1] // GROUP, GROUP, padded.shape[2])
    return grouped.transpose(2, 3).flatten(1)


def matrix_to_conv(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Invert ``conv_to_matrix``: codes of ``shape`` (out, in/groups, kh, kw)."""
    _, channels, height, width = shape
    if shares_tables(channels):
        grouped = matrix.view(len(matrix), -1, height * width, GROUP).transpose(2, 3)
        matrix = grouped.flatten(1, 2)[:, :channels].flatten(1)
    return matrix.reshape(tuple(shape)).contiguous()


def conv_columns(channels: int, taps: int) -> int:
    """Columns of a convolution's packed matrix, padding channels included."""
    return (round_up(channels, GROUP) if shares_tables(channels) else channels) * taps


def effective_weight(codes: Tensor, w_pos: Tensor, w_neg: Tensor) -> Tensor:
    """Float32 weights: w_pos where the code is +1, -w_neg where it is -1, else 0."""
    w_pos, w_neg = (
        scale.view(-1, *(1,) * (codes.dim() - 1)) if scale.dim() else scale
        for scale in (w_pos.float(), w_neg.float())
    )
    zero = torch.zeros((), device=codes.device)
    return torch.where(codes > 0, w_pos, torch.where(codes < 0, -w_neg, zero))


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize float32 rows (rows, columns) to integers in [-127, 127].

    For each row, a = max|x|; the scale is a / 127 and the integer is x * (127 / a) rounded to the
    nearest, ties to even, each operation in float32. A row with a < 2^-120 gives zeros with
    scale 0; a row with a NaN or an infinity gives zeros with scale NaN.

    Returns:
        The integers as float64 (rows, columns) and the scales as float32 (rows, 1).
    """
    if x.shape[1] == 0:
        return x.double(), x.new_zeros(x.shape[0], 1)
    largest = x.abs().amax(1, keepdim=True)
    finite = largest.isfinite()
    usable = finite & (largest >= SMALLEST_ROW_MAXIMUM)
    safe = torch.where(usable, largest, 1.0)
    # Not 127.0 / safe: torch takes a number over a tensor as the number times a rounded reciprocal.
    multiplier = torch.full_like(safe, 127.0) / safe
    integers = torch.where(usable, torch.round(x * multiplier), 0.0)
    scale = torch.where(usable, safe / 127.0, 0.0)
    return integers.double(), torch.where(finite, scale, float("nan"))


def finish(y: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """Add the bias (channels are dimension 1) and the residual, then apply ReLU."""
    if bias is not None:
        y = y + bias.view(1, -1, *(1,) * (y.dim() - 2))
    if residual is not None:
        y = y + residual
    return torch.relu(y) if relu else y


def linear(
    x: Tensor,
    codes: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    int8: bool = False,
    relu: bool = False,
) -> Tensor:
    """x (rows, in) times ternary codes (out, in): (rows, out).

    With ``int8`` the rows are quantized by :func:`quantize_rows`; P and N, the sums of the
    integers under the +1 and the -1 codes, are exact, and the result is
    scale * (scale_pos * float32(P) - scale_neg * float32(N)) + bias, each operation in float32.
    """
    if not int8:
        weight = effective_weight(codes, scale_pos, scale_neg)
        return finish(F.linear(x, weight.to(x.dtype)), bias, residual, relu)
    integers, scale = quantize_rows(x.float())
    plus = F.linear(integers, (codes > 0).double()).float()
    minus = F.linear(integers, (codes < 0).double()).float()
    return finish(scale * (scale_pos * plus - scale_neg * minus), bias, residual, relu)


def conv2d(
    x: Tensor,
    codes: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    int8: bool = False,
    relu: bool = False,
) -> Tensor:
    """x (n, in, h, w) convolved with ternary codes (out, in/groups, kh, kw).

    With ``int8`` each image is one row of :func:`quantize_rows`; then as in :func:`linear`.
    """
    geometry = (None, list(stride), list(padding), list(dilation), groups)
    if not int8:
        weight = effective_weight(codes, scale_pos, scale_neg)
        return finish(F.conv2d(x, weight.to(x.dtype), *geometry), bias, residual, relu)
    integers, scale = quantize_rows(x.float().flatten(1))
    integers = integers.view(x.shape)
    plus = F.conv2d(integers, (codes > 0).double(), *geometry).float()
    minus = F.conv2d(integers, (codes < 0).double(), *geometry).float()
    pos, neg = scale_pos.view(1, -1, 1, 1), scale_neg.view(1, -1, 1, 1)
    return finish(scale.view(-1, 1, 1, 1) * (pos * plus - neg * minus), bias, residual, relu)
