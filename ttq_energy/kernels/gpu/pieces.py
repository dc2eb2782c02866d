"""Triton functions that the kernels share: decoding, products, and the end of a tile.

Imported only where Triton is. In Triton's interpreter a product of bfloat16 or float16 tiles is
taken in float32, which holds every such product exactly.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def decode(words, BLOCK: tl.constexpr, DTYPE: tl.constexpr, INT8: tl.constexpr):
    """Signed values and magnitudes of one block of codes: +-2 in DTYPE, or +-64 as int8.

    See ``layout`` for why a shift and a mask are enough.
    """
    if INT8:
        shifted = words << (2 * BLOCK)
        signed = shifted & -64
        magnitude = shifted & 64
    else:
        bits = words << (8 * (1 - BLOCK % 2) + 2 * (BLOCK // 2))
        signed = (bits & -16384).to(DTYPE, bitcast=True)
        magnitude = (bits & 16384).to(DTYPE, bitcast=True)
    return signed, magnitude


@triton.jit
def product(weights, x, sums, INT8: tl.constexpr):
    """sums (rows, columns) plus weights (rows, depth) times x (depth, columns)."""
    if INT8:
        if INTERPRETED:
            return sums + tl.dot(weights.to(tl.int32), x.to(tl.int32), out_dtype=tl.int32)
        return tl.dot(weights, x, sums, out_dtype=tl.int32)
    if INTERPRETED:
        return tl.dot(weights.to(tl.float32), x.to(tl.float32), sums, input_precision="ieee")
    return tl.dot(weights, x, sums)


@triton.jit
def accumulate(
    words,
    x,
    signed_sum,
    magnitude_sum,
    BLOCK: tl.constexpr,
    INT8: tl.constexpr,
    SPLIT_FP32: tl.constexpr,
    SYMMETRIC: tl.constexpr,
):
    """Add one block's products to both sums.

    With SPLIT_FP32 a float32 x is the sum of three bfloat16 numbers of 8 bits each, so that
    tensor cores multiply it without rounding (the weights, +-2, are exact in bfloat16).
    """
    if SPLIT_FP32:
        signed, magnitude = decode(words, BLOCK, tl.bfloat16, False)
        for _ in tl.static_range(3):
            part = x.to(tl.bfloat16)
            x = x - part.to(tl.float32)
            signed_sum = product(signed, part, signed_sum, False)
            if not SYMMETRIC:
                magnitude_sum = product(magnitude, part, magnitude_sum, False)
    else:
        signed, magnitude = decode(words, BLOCK, x.dtype, INT8)
        signed_sum = product(signed, x, signed_sum, INT8)
        if not SYMMETRIC:
            magnitude_sum = product(magnitude, x, magnitude_sum, INT8)
    return signed_sum, magnitude_sum


@triton.jit
def scaled(
    signed_sum,
    magnitude_sum,
    scale_pos,
    scale_neg,
    x_scale,
    INT8: tl.constexpr,
    SYMMETRIC: tl.constexpr,
):
    """The float32 result of both sums; scales are shaped to broadcast.

    For int8 the sums under the +1 and the -1 codes are recovered as exact integers, and the
    arithmetic is the reference's: x_scale * (scale_pos * P - scale_neg * N).
    """
    if INT8:
        signed = signed_sum >> 6
        if SYMMETRIC:
            return x_scale * (scale_pos * signed.to(tl.float32))
        magnitude = magnitude_sum >> 6
        plus = ((magnitude + signed) >> 1).to(tl.float32)
        minus = ((magnitude - signed) >> 1).to(tl.float32)
        return x_scale * (scale_pos * plus - scale_neg * minus)
    y = signed_sum * (0.25 * (scale_pos + scale_neg))
    if not SYMMETRIC:
        y += magnitude_sum * (0.25 * (scale_pos - scale_neg))
    return y


@triton.jit
def add_partials(
    signed_sum,
    magnitude_sum,
    partial_ptr,
    counter_ptr,
    tile,
    part,
    parts,
    SYMMETRIC: tl.constexpr,
):
    """Leave this part's sums in memory; the last part of a tile to arrive adds them all.

    The order of addition is that of the parts, so that results repeat bit for bit. Returns both
    sums and whether this program is the last; it leaves the counter zero for the next call.
    """
    ROWS: tl.constexpr = signed_sum.shape[0]
    COLUMNS: tl.constexpr = signed_sum.shape[1]
    SIZE: tl.constexpr = ROWS * COLUMNS
    SUMS: tl.constexpr = 1 if SYMMETRIC else 2
    inside = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    home = partial_ptr + tile.to(tl.int64) * parts * SUMS * SIZE + inside
    tl.store(home + part * SUMS * SIZE, signed_sum)
    if not SYMMETRIC:
        tl.store(home + (part * SUMS + 1) * SIZE, magnitude_sum)
    tl.debug_barrier()  # every thread's stores come before the release of the counter
    last = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel") == parts - 1
    if last:
        signed_sum = tl.zeros_like(signed_sum)
        magnitude_sum = tl.zeros_like(magnitude_sum)
        for other in range(parts):
            signed_sum += tl.load(home + other * SUMS * SIZE, cache_modifier=".cg")
            if not SYMMETRIC:
                magnitude_sum += tl.load(home + (other * SUMS + 1) * SIZE, cache_modifier=".cg")
        tl.store(counter_ptr + tile, 0)
    return signed_sum, magnitude_sum, last


@triton.jit
def store_output(
    y,
    y_ptr,
    bias_ptr,
    residual_ptr,
    rows,
    columns,
    inside,
    offsets,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    """Add bias and residual to y (rows, columns), apply ReLU, and store it at ``offsets``."""
    if HAS_BIAS:
        y += tl.load(bias_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + offsets, mask=inside & columns, other=0.0).to(tl.float32)
    if RELU:
        y = tl.where(y < 0.0, 0.0, y)  # keeps NaN, as torch does
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=inside & columns)
