"""Ternary weights as the GPU kernels read them.

A code takes two bits, the sign above the magnitude: +1 is 01, -1 is 11, 0 is 00. Shifted to the
top of a 16-bit word and masked, such a pair *is* the bfloat16 or float16 number +2, -2 or 0; at
the top of a byte it is the integer +64, -64 or 0. Decoding is a shift and a mask, nothing else, and
it is exact. With the sign masked away the same bits give the magnitude 2 or 64, so that the sums
T of t * x and S of |t| * x give y = T * (Wp + Wn) / 2 + S * (Wp - Wn) / 2 with the scales in
float32.

The matrix (rows, columns) is cut along its columns into chunks of 8 * G, and a chunk into 8 blocks
of G: bytes lie as (chunks, rows, G, 2), so that a tile of rows is one contiguous piece of memory.
Byte b of word i holds, at bits 7 - 2q and 6 - 2q, the code of column 2qG + bG + i of the chunk
(q = 0..3). Read as 16-bit words, block j = 2q + b comes from a shift by 8 (1 - b) + 2q; read as
bytes, blocks 2q and 2q + 1 come interleaved from a shift by 2q (see :func:`interleaved`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ttq_energy.errors import InputError
from ttq_energy.kernels.packing import PackedWeight, pack_conv2d, pack_linear

GROUPS = (64, 32, 16)
"""Widths of a block of columns, the preferred first; 16 is what one tensor-core step takes."""
BLOCKS = 8
LARGEST_INT8_COLUMNS = 1 << 18
"""With int8 activations a sum reaches 127 * 64 a column: more columns would overflow int32."""


@dataclass(eq=False)
class DeviceWeight:
    """Ternary weights laid out for the GPU kernels.

    Attributes:
        words: int16 (chunks, rows, G), laid out as the module says.
        scale_pos, scale_neg: float32 (rows,), the values of +1 and (negated) of -1.
        shape: of the codes: (out, in) or (out, in/groups, kh, kw).
        activations: "fp32" (the activations' own dtype) or "int8".
        group: G.
        channels: channels a tap takes in the columns of a convolution, padded to whole blocks;
            equal to in/groups, unpadded, where blocks run across taps.
        symmetric: Wp equals Wn in every row, so that the second sum is not needed.
        ran: the path that ran for each shape, the latest last, for the report.
    """

    words: Tensor
    scale_pos: Tensor
    scale_neg: Tensor
    shape: tuple[int, ...]
    activations: str
    group: int
    channels: int
    symmetric: bool
    ran: dict[str, str] = field(default_factory=dict)
    _counters: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    _values: dict[torch.dtype, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def chunks(self) -> int:
        return self.words.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the matrix, without the padding of the last chunk."""
        if len(self.shape) == 2:
            return self.shape[1]
        return self.channels * self.shape[2] * self.shape[3]

    @property
    def across_taps(self) -> bool:
        """Whether blocks of columns run across the taps of a convolution (few channels)."""
        return len(self.shape) == 4 and self.channels % self.group != 0

    @property
    def weight_bytes(self) -> int:
        """Bytes that lie in the GPU's memory for the weights: codes with padding, and scales."""
        return 2 * self.words.numel() + 4 * (self.scale_pos.numel() + self.scale_neg.numel())

    @property
    def device(self) -> torch.device:
        return self.words.device

    def counters(self, tiles: int, stream: int) -> Tensor:
        """Zeroed int32 counters for split-K on one stream; the kernels leave them zero.

        Smaller ones stay when more are asked for: a captured graph may hold their address.
        """
        key = stream, max(1024, 1 << (tiles - 1).bit_length())
        if key not in self._counters:
            self._counters[key] = torch.zeros(key[1], dtype=torch.int32, device=self.device)
        return self._counters[key]

    def row_values(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Each row's two values in a 16-bit float type, and the factor that they lack.

        The larger of the two is 1 and exact; the other is rounded once, relative to it.

        Returns:
            int32 (rows,): the bits of +1's value, and above them those bits xor -1's; and the
            float32 factors (rows,).
        """
        if dtype not in self._values:
            factor = torch.maximum(self.scale_pos.abs(), self.scale_neg.abs())
            safe = torch.where(factor > 0, factor, 1.0)
            positive, negative = (
                (scale / safe).to(dtype).view(torch.int16).to(torch.int32) & 0xFFFF
                for scale in (self.scale_pos, -self.scale_neg)
            )
            self._values[dtype] = (positive | ((positive ^ negative) << 16), factor)
        return self._values[dtype]

    def codes(self) -> Tensor:
        """The int8 codes in {-1, 0, 1}, of ``shape``."""
        matrix = unpack_words(self.words, self.columns)
        if len(self.shape) == 2:
            return matrix
        out, channels, height, width = self.shape
        taps = matrix.view(out, height * width, self.channels)[:, :, :channels]
        return taps.transpose(1, 2).reshape(self.shape)

    def effective_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense weights that the codes and scales stand for."""
        codes = self.codes().flatten(1)
        pos, neg = self.scale_pos[:, None], -self.scale_neg[:, None]
        zero = torch.zeros((), device=codes.device)
        dense = torch.where(codes > 0, pos, torch.where(codes < 0, neg, zero))
        return dense.to(dtype).view(self.shape)


def padded(columns: int, group: int) -> int:
    """Columns after padding to whole chunks."""
    return -(-columns // (BLOCKS * group)) * BLOCKS * group


def choose_group(columns: int) -> int:
    """The block width that pads the fewest columns; the widest of equals."""
    return min(GROUPS, key=lambda group: (padded(columns, group), -group))


def pack_words(codes: Tensor, group: int) -> Tensor:
    """int16 words (chunks, rows, G) of int8 codes (rows, columns)."""
    rows, columns = codes.shape
    codes = F.pad(codes, (0, padded(columns, group) - columns)).view(rows, -1, 4, 2, group)
    bits = codes.abs() | ((codes < 0).to(torch.int8) << 1)  # sign above magnitude
    shifts = torch.tensor([6, 4, 2, 0], dtype=torch.uint8, device=codes.device)
    bytes_ = (bits.to(torch.uint8) << shifts.view(1, 1, 4, 1, 1)).sum(2, dtype=torch.uint8)
    return bytes_.permute(1, 0, 3, 2).contiguous().view(torch.int16).squeeze(-1)


def unpack_words(words: Tensor, columns: int) -> Tensor:
    """The int8 codes (rows, columns) that :func:`pack_words` packed."""
    chunks, rows, group = words.shape
    bytes_ = words.contiguous().view(torch.uint8).view(chunks, rows, 1, group, 2)
    shifts = torch.tensor([6, 4, 2, 0], dtype=torch.uint8, device=words.device)
    bits = (bytes_ >> shifts.view(1, 1, 4, 1, 1)) & 3
    codes = (bits & 1).to(torch.int8) * (1 - (bits & 2).to(torch.int8))
    matrix = codes.permute(1, 0, 2, 4, 3).reshape(rows, -1)
    return matrix[:, :columns].contiguous()


def interleaved(columns: int, group: int) -> Tensor:
    """Which column stands at each position when blocks are read as bytes.

    Returns:
        int64 (columns,): position 2i + b of each run of 2G holds column bG + i of it.
    """
    order = torch.arange(2 * group).view(2, group).t().flatten()
    return (torch.arange(0, columns, 2 * group)[:, None] + order).flatten()


def repack(weight: PackedWeight, device: torch.device | str | None = None) -> DeviceWeight:
    """Lay packed weights out for the GPU.

    Args:
        weight: what ``kernels.pack_linear`` or ``kernels.pack_conv2d`` returned.
        device: where the result lies; None takes that of ``weight``.

    Raises:
        InputError: "int8" activations and more columns than int32 sums can hold.
    """
    return from_codes(
        weight.codes(), weight.scale_pos, weight.scale_neg, weight.activations, device
    )


def from_codes(
    codes: Tensor,
    scale_pos: Tensor,
    scale_neg: Tensor,
    activations: str,
    device: torch.device | str | None = None,
) -> DeviceWeight:
    """Lay checked codes and row scales out for the GPU; see :func:`repack`."""
    codes = codes.to(device) if device is not None else codes
    int8 = activations == "int8"
    matrix, channels, group = codes, codes.shape[1], 0
    if codes.dim() == 4:
        matrix, channels, group = _conv_matrix(codes, int8)
    group = group or choose_group(matrix.shape[1])
    if int8 and padded(matrix.shape[1], group) > LARGEST_INT8_COLUMNS:
        raise InputError(
            f"codes: with int8 activations the GPU kernels take at most {LARGEST_INT8_COLUMNS}"
            f" inputs to an output, got {matrix.shape[1]}"
        )
    pos = scale_pos.to(codes.device, torch.float32).contiguous()
    neg = scale_neg.to(codes.device, torch.float32).contiguous()
    return DeviceWeight(
        pack_words(matrix, group),
        pos,
        neg,
        tuple(codes.shape),
        activations,
        group,
        channels,
        bool(torch.equal(pos, neg)),
    )


def _conv_matrix(codes: Tensor, int8: bool) -> tuple[Tensor, int, int]:
    """Columns tap by tap, channels innermost; (matrix, channels of a tap, G).

    Bytes are read two blocks at a time, so that int8 needs channels in whole pairs of blocks.
    """
    channels = codes.shape[1]
    by_tap = codes.flatten(2).transpose(1, 2)
    if channels < GROUPS[-1]:
        return by_tap.flatten(1), channels, GROUPS[-1]

    def taken(group: int) -> int:
        step = 2 * group if int8 else group
        return -(-channels // step) * step

    group = min(GROUPS, key=lambda g: (padded(taken(g) * by_tap.shape[1], g), -g))
    width = taken(group)
    return F.pad(by_tap, (0, width - channels)).flatten(1), width, group


def pack_linear_gpu(
    codes: Tensor,
    w_pos: float | Tensor,
    w_neg: float | Tensor,
    activations: str = "fp32",
    device: torch.device | str = "cuda",
) -> DeviceWeight:
    """Pack a linear layer's codes for the GPU; arguments and errors as ``kernels.pack_linear``."""
    return repack(pack_linear(codes, w_pos, w_neg, activations), device)


def pack_conv2d_gpu(
    codes: Tensor,
    w_pos: float | Tensor,
    w_neg: float | Tensor,
    activations: str = "fp32",
    device: torch.device | str = "cuda",
) -> DeviceWeight:
    """Pack a convolution's codes for the GPU; arguments and errors as ``kernels.pack_conv2d``."""
    return repack(pack_conv2d(codes, w_pos, w_neg, activations), device)
