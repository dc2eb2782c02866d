"""Triton kernels around the products: quantizing activations, decoding weights, the LSTM cell."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

SMALLEST_MAXIMUM = tl.constexpr(2.0**-120)
"""As ``reference.SMALLEST_ROW_MAXIMUM``: a smaller row is zeros with scale 0."""
ROUNDER = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a float32 of up to 2^22 and taken away, it rounds to nearest even."""


@triton.jit
def quantized(x, largest, finite):
    """Integers of x for the largest magnitude of its row, as ``reference.quantize_rows``.

    Kernels that use it are compiled without fused multiply-add, which would round differently.
    """
    usable = finite & (largest >= SMALLEST_MAXIMUM)
    safe = tl.where(usable, largest, 1.0)
    factor = tl.math.div_rn(tl.full(safe.shape, 127.0, tl.float32), safe)
    integers = (x * factor + ROUNDER) - ROUNDER
    return tl.where(usable, integers, 0.0).to(tl.int8)


@triton.jit
def row_scale(largest, finite):
    """The scale of a row: largest / 127, 0 for a tiny row, NaN for one that is not finite."""
    usable = finite & (largest >= SMALLEST_MAXIMUM)
    safe = tl.where(usable, largest, 127.0)
    scale = tl.math.div_rn(safe, tl.full(safe.shape, 127.0, tl.float32))
    return tl.where(finite, tl.where(usable, scale, 0.0), float("nan"))


@triton.jit
def quantize_rows_kernel(
    x_ptr,
    y_ptr,
    scale_ptr,
    columns,
    padded_columns,
    x_stride,
    G: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row to int8, in the order of ``layout.interleaved``, zeros behind its end.

    BLOCK is a multiple of 2G.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    x_at = x_ptr + row * x_stride
    largest = tl.zeros((BLOCK,), tl.float32)
    odd = tl.zeros((BLOCK,), tl.int32)
    for start in tl.range(0, columns, BLOCK):
        x = tl.load(x_at + start + lanes, mask=start + lanes < columns, other=0.0)
        size = tl.abs(x.to(tl.float32))
        odd = odd | (size < float("inf")).to(tl.int32) - 1  # -1 for a NaN or an infinity
        largest = tl.maximum(largest, size)
    finite = tl.max((odd != 0).to(tl.int32), axis=0) == 0
    maximum = tl.max(largest, axis=0)
    one = tl.full((1,), 0, tl.int32)
    tl.store(scale_ptr + row + one, row_scale(maximum + one, finite & (one == 0)))
    source = (lanes // (2 * G)) * (2 * G) + (lanes % 2) * G + (lanes % (2 * G)) // 2
    for start in tl.range(0, padded_columns, BLOCK):
        x = tl.load(x_at + start + source, mask=start + source < columns, other=0.0)
        y = quantized(x.to(tl.float32), maximum + tl.zeros((BLOCK,), tl.float32), finite)
        tl.store(
            y_ptr + row * padded_columns + start + lanes, y, mask=start + lanes < padded_columns
        )


@triton.jit
def quantize_images_kernel(
    x_ptr,
    largest_ptr,
    y_ptr,
    scale_ptr,
    pixels,
    pixels_of_image,
    groups,
    known,
    taken,
    G: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Pixels (pixels, groups, known) to int8 (pixels, groups, taken), one scale an image.

    Channels behind ``known`` are zeros; INTERLEAVED puts them in ``layout.interleaved``'s order.
    """
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    group = tl.program_id(1)
    image = pixel // pixels_of_image
    inside = pixel < pixels
    largest = tl.load(largest_ptr + image, mask=inside, other=0.0)
    finite = largest < float("inf")
    first = (pixel % pixels_of_image == 0) & inside & (group == 0)
    tl.store(scale_ptr + image, row_scale(largest, finite), mask=first)
    lanes = tl.arange(0, BLOCK_CHANNELS)
    for start in tl.range(0, taken, BLOCK_CHANNELS):
        place = start + lanes
        channel = place
        if INTERLEAVED:
            channel = (place // (2 * G)) * (2 * G) + (place % 2) * G + (place % (2 * G)) // 2
        x = tl.load(
            x_ptr + (pixel[:, None] * groups + group) * known + channel[None, :],
            mask=inside[:, None] & (channel < known)[None, :],
            other=0.0,
        )
        y = quantized(x.to(tl.float32), largest[:, None], finite[:, None])
        tl.store(
            y_ptr + (pixel[:, None] * groups + group) * taken + place[None, :],
            y,
            mask=inside[:, None] & (place < taken)[None, :],
        )


@triton.jit
def dense_kernel(
    words_ptr,
    scale_pos_ptr,
    scale_neg_ptr,
    y_ptr,
    rows_total,
    columns_total,
    channels_taken,
    channels_known,
    y_stride,
    G: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Dense weights (rows, taps * channels_known) in y's dtype, for a library's product."""
    chunk = tl.program_id(0)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    lanes = tl.arange(0, G)[None, :]
    inside = rows < rows_total
    pos = tl.load(scale_pos_ptr + rows, mask=inside, other=0.0)
    neg = tl.load(scale_neg_ptr + rows, mask=inside, other=0.0)
    words = tl.load(
        words_ptr + (chunk.to(tl.int64) * rows_total + rows) * G + lanes, mask=inside, other=0
    ).to(tl.int32)
    for block in tl.static_range(8):
        column = (chunk * 8 + block) * G + lanes
        bits = words << (16 + 8 * (1 - block % 2) + 2 * (block // 2))
        value = tl.where(bits < 0, -neg, pos)
        value = tl.where((bits & 0x40000000) != 0, value, 0.0)
        tap, channel = column // channels_taken, column % channels_taken
        tl.store(
            y_ptr + rows * y_stride + tap * channels_known + channel,
            value.to(y_ptr.dtype.element_ty),
            mask=inside & (column < columns_total) & (channel < channels_known),
        )


@triton.jit
def hyperbolic_tangent(x):
    """tanh in float32: a polynomial of odd powers near 0, where 1 - 2 / (e^2x + 1) cancels."""
    square = x * x
    near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0))))
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.1, near, tl.where(x < 0.0, -far, far))


@triton.jit
def cell(gate_i, gate_f, gate_g, gate_o, c):
    """The LSTM's next hidden and cell state from its gates before their activations."""
    c = tl.sigmoid(gate_f) * c + tl.sigmoid(gate_i) * hyperbolic_tangent(gate_g)
    return tl.sigmoid(gate_o) * hyperbolic_tangent(c), c


@triton.jit
def cell_kernel(gates_ptr, c_ptr, h_out_ptr, c_out_ptr, total, hidden, BLOCK: tl.constexpr):
    """States (batch, hidden) from gates (batch, 4 hidden), in torch's order i, f, g, o."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    gates = gates_ptr + (at // hidden) * 4 * hidden + at % hidden
    i = tl.load(gates, mask=inside, other=0.0).to(tl.float32)
    f = tl.load(gates + hidden, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gates + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
    o = tl.load(gates + 3 * hidden, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(c_ptr + at, mask=inside, other=0.0).to(tl.float32)
    h, c = cell(i, f, g, o, c)
    tl.store(h_out_ptr + at, h.to(h_out_ptr.dtype.element_ty), mask=inside)
    tl.store(c_out_ptr + at, c.to(c_out_ptr.dtype.element_ty), mask=inside)
