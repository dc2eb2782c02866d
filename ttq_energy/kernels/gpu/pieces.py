"""Triton functions that the kernels share: decoding, products, and the end of a tile.

Imported only where Triton is. In Triton's interpreter a product of bfloat16 or float16 tiles is
taken in float32, which holds every such product exactly.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def shifted(words, amount, INT8: tl.constexpr):
    """Words, or bytes for INT8, with a block's codes at their top; lower bits are anything.

    One instruction shifts two words or four bytes: what crosses from one to the next stays below
    the two bits that are wanted.
    """
    if INTERPRETED:
        result = words << amount.to(words.dtype)
    elif INT8:
        result = tl.inline_asm_elementwise(
            "shl.b32 $0, $1, $2;", "=r,r,r,r,r,r", [words, amount], tl.int8, True, pack=4
        )
    else:
        result = tl.inline_asm_elementwise(
            "shl.b32 $0, $1, $2;", "=r,r,r,r", [words, amount], tl.int16, True, pack=2
        )
    return result


@triton.jit
def signed_values(bits, DTYPE: tl.constexpr, INT8: tl.constexpr):
    """+-2 and 0 in DTYPE, or +-64 and 0 as int8, of shifted words."""
    if INTERPRETED:
        result = bits & (-64 if INT8 else -16384)
    elif INT8:
        result = tl.inline_asm_elementwise(
            "and.b32 $0, $1, 0xC0C0C0C0;", "=r,r", [bits], tl.int8, True, pack=4
        )
    else:
        result = tl.inline_asm_elementwise(
            "and.b32 $0, $1, 0xC000C000;", "=r,r", [bits], tl.int16, True, pack=2
        )
    return result if INT8 else result.to(DTYPE, bitcast=True)


@triton.jit
def magnitudes(bits, DTYPE: tl.constexpr, INT8: tl.constexpr):
    """2 and 0 in DTYPE, or 64 and 0 as int8, of shifted words."""
    if INTERPRETED:
        result = bits & (64 if INT8 else 16384)
    elif INT8:
        result = tl.inline_asm_elementwise(
            "and.b32 $0, $1, 0x40404040;", "=r,r", [bits], tl.int8, True, pack=4
        )
    else:
        result = tl.inline_asm_elementwise(
            "and.b32 $0, $1, 0x40004000;", "=r,r", [bits], tl.int16, True, pack=2
        )
    return result if INT8 else result.to(DTYPE, bitcast=True)


@triton.jit
def row_values(bits, positive, flip, DTYPE: tl.constexpr):
    """Each row's own two values in DTYPE, and 0, of shifted words.

    Args:
        positive: int32, broadcast to the words: the 16 bits of the value of +1.
        flip: int32: those bits xor the bits of the value of -1.
    """
    if INTERPRETED:
        signs = (bits >> 15) & 1
        taken = (bits >> 14) & 1
        result = (taken * positive.to(tl.int16)) ^ (signs * flip.to(tl.int16))
    else:
        result = tl.inline_asm_elementwise(
            """
            {
                .reg .b32 taken, signs;
                shr.u32 taken, $1, 14;
                shr.u32 signs, $1, 15;
                and.b32 taken, taken, 0x00010001;
                and.b32 signs, signs, 0x00010001;
                mul.lo.u32 taken, taken, $2;
                mul.lo.u32 signs, signs, $4;
                xor.b32 $0, taken, signs;
            }
            """,
            "=r,r,r,r,r,r",
            [bits, positive, flip],
            tl.int16,
            True,
            pack=2,
        )
    return result.to(DTYPE, bitcast=True)


@triton.jit
def product(weights, x, sums, INT8: tl.constexpr):
    """sums (rows, columns) plus weights (rows, depth) times x (depth, columns)."""
    if INT8:
        result = tl.dot(weights, x, sums, out_dtype=tl.int32)
    elif INTERPRETED:
        result = tl.dot(weights.to(tl.float32), x.to(tl.float32), sums, input_precision="ieee")
    else:
        result = tl.dot(weights, x, sums)
    return result


@triton.jit
def accumulate(
    words,
    block,
    x,
    signed_sum,
    magnitude_sum,
    positive,
    flip,
    INT8: tl.constexpr,
    SPLIT_FP32: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """Add the products of one block of codes (see ``layout``) and its x to the sums.

    PRODUCTS says what is multiplied:
        "signed": the signed values alone, for equal scales.
        "both": signed values and magnitudes, for any scales, without rounding.
        "rounded": each row's own two values, rounded to x's dtype; one product for any scales.

    With SPLIT_FP32 a float32 x is the sum of three bfloat16 numbers of 8 bits each, so that
    tensor cores multiply it without rounding (the weights, +-2, are exact in bfloat16).
    """
    if INT8:
        amount = tl.full((), 2, tl.int32) * block
    else:
        amount = tl.full((), 8, tl.int32) * (1 - block % 2) + 2 * (block // 2)
    bits = shifted(words, amount, INT8)
    if SPLIT_FP32:
        signed = signed_values(bits, tl.bfloat16, False)
        magnitude = magnitudes(bits, tl.bfloat16, False)
        for _ in tl.static_range(3):
            part = x.to(tl.bfloat16)
            x = x - part.to(tl.float32)
            signed_sum = product(signed, part, signed_sum, False)
            if PRODUCTS == "both":
                magnitude_sum = product(magnitude, part, magnitude_sum, False)
    elif PRODUCTS == "rounded":
        values = row_values(bits, positive, flip, x.dtype)
        signed_sum = product(values, x, signed_sum, False)
    else:
        signed_sum = product(signed_values(bits, x.dtype, INT8), x, signed_sum, INT8)
        if PRODUCTS == "both":
            magnitude_sum = product(magnitudes(bits, x.dtype, INT8), x, magnitude_sum, INT8)
    return signed_sum, magnitude_sum


@triton.jit
def load_row_values(values_ptr, rows, inside, PRODUCTS: tl.constexpr):
    """``positive`` and ``flip`` of :func:`row_values` (rows, 1), where they are needed."""
    if PRODUCTS == "rounded":
        values = tl.load(values_ptr + rows, mask=inside, other=0)
        positive = values & 0xFFFF
        flip = (values >> 16) & 0xFFFF
    else:
        positive = 0
        flip = 0
    return positive, flip


@triton.jit
def scaled(
    signed_sum,
    magnitude_sum,
    scale_pos,
    scale_neg,
    x_scale,
    INT8: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """The float32 result of the sums; scales are shaped to broadcast.

    For int8 the sums under the +1 and the -1 codes are recovered as exact integers, and the
    arithmetic is the reference's: x_scale * (scale_pos * P - scale_neg * N). For "rounded",
    scale_pos is the one factor of a row.
    """
    if INT8:
        signed = signed_sum >> 6
        if PRODUCTS == "both":
            magnitude = magnitude_sum >> 6
            plus = ((magnitude + signed) >> 1).to(tl.float32)
            minus = ((magnitude - signed) >> 1).to(tl.float32)
            y = x_scale * (scale_pos * plus - scale_neg * minus)
        else:
            y = x_scale * (scale_pos * signed.to(tl.float32))
    elif PRODUCTS == "both":
        y = signed_sum * (0.25 * (scale_pos + scale_neg))
        y += magnitude_sum * (0.25 * (scale_pos - scale_neg))
    elif PRODUCTS == "rounded":
        y = signed_sum * scale_pos
    else:
        y = signed_sum * (0.5 * scale_pos)
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
    PRODUCTS: tl.constexpr,
):
    """Leave this part's sums in memory; the last part of a tile to arrive adds them all.

    The order of addition is that of the parts, so that results repeat bit for bit. Returns both
    sums and whether this program is the last; it leaves the counter zero for the next call.
    """
    ROWS: tl.constexpr = signed_sum.shape[0]
    COLUMNS: tl.constexpr = signed_sum.shape[1]
    SIZE: tl.constexpr = ROWS * COLUMNS
    SUMS: tl.constexpr = 2 if PRODUCTS == "both" else 1
    inside = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    home = partial_ptr + tile.to(tl.int64) * parts * SUMS * SIZE + inside
    tl.store(home + part * SUMS * SIZE, signed_sum)
    if PRODUCTS == "both":
        tl.store(home + (part * SUMS + 1) * SIZE, magnitude_sum)
    tl.debug_barrier()  # every thread's stores come before the release of the counter
    last = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel") == parts - 1
    if last:
        signed_sum = tl.zeros_like(signed_sum)
        magnitude_sum = tl.zeros_like(magnitude_sum)
        for other in range(parts):
            signed_sum += tl.load(home + other * SUMS * SIZE, cache_modifier=".cg")
            if PRODUCTS == "both":
                magnitude_sum += tl.load(home + (other * SUMS + 1) * SIZE, cache_modifier=".cg")
        tl.store(counter_ptr + tile, 0)
    return signed_sum, magnitude_sum, last


@triton.jit
def finish_tile(
    signed_sum,
    magnitude_sum,
    tile,
    part,
    parts,
    rows,
    row_inside,
    items,
    item_inside,
    scale_items,
    rows_total,
    x_scale_ptr,
    scale_pos_ptr,
    scale_neg_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    INT8: tl.constexpr,
    PRODUCTS: tl.constexpr,
    SPLIT_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    """Join the parts of a tile, scale its sums, add bias and residual, apply ReLU, and store it.

    Args:
        rows, row_inside: (rows, 1), of the weights and of y's last dimension.
        items, item_inside: (1, batch), y's other dimension.
        scale_items: (1, batch), where each item's scale of quantized activations lies.
        The others as in the kernels, which end with this.
    """
    ready = True
    if SPLIT_K:
        signed_sum, magnitude_sum, ready = add_partials(
            signed_sum, magnitude_sum, partial_ptr, counter_ptr, tile, part, parts, PRODUCTS
        )
    if ready:
        scale_pos = tl.load(scale_pos_ptr + rows, mask=row_inside, other=0.0)
        scale_neg = tl.load(scale_neg_ptr + rows, mask=row_inside, other=0.0)
        x_scale = 1.0
        if INT8:
            x_scale = tl.load(x_scale_ptr + scale_items, mask=item_inside, other=0.0)
        y = scaled(signed_sum, magnitude_sum, scale_pos, scale_neg, x_scale, INT8, PRODUCTS)
        offsets = items.to(tl.int64) * rows_total + rows
        inside = row_inside & item_inside
        if HAS_BIAS:
            y += tl.load(bias_ptr + rows, mask=row_inside, other=0.0).to(tl.float32)
        if HAS_RESIDUAL:
            y += tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            y = tl.where(y < 0.0, 0.0, y)  # keeps NaN, as torch does
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=inside)
