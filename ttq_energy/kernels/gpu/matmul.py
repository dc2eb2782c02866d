"""Triton kernels of the linear layer: tiles on tensor cores, and one vector on plain lanes."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from ttq_energy.kernels.gpu.pieces import accumulate, finish_tile, load_row_values

# Their values decide no instruction that matters: one compiled kernel serves them all.
SHARED = ("batch", "chunks", "parts")


@triton.jit(do_not_specialize=SHARED)
def linear_kernel(
    x_ptr,
    x_scale_ptr,
    words_ptr,
    values_ptr,
    scale_pos_ptr,
    scale_neg_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    batch,
    rows_total,
    columns_total,
    x_stride,
    chunks,
    parts,
    G: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_BATCH: tl.constexpr,
    INT8: tl.constexpr,
    SPLIT_FP32: tl.constexpr,
    PRODUCTS: tl.constexpr,
    UNROLLED: tl.constexpr,
    WHOLE: tl.constexpr,
    SPLIT_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    """y (batch, rows) = x (batch, columns) times the ternary matrix, transposed.

    The tile is (rows, batch), with the weights as the left operand: decoded in registers, they
    go into the tensor cores without a detour through shared memory, and a batch of a few takes
    the narrow side. ``words_ptr`` points at 16-bit words, or for INT8 at bytes; x is then int8 in
    the order of ``layout.interleaved``. WHOLE: columns fill the last chunk. UNROLLED: each word is
    loaded once and all its codes are used, for the few items that memory's speed decides; else a
    word is loaded again (from a cache) for each block of columns, as a product of large tiles
    needs to keep its buffers small.
    """
    WIDTH: tl.constexpr = 2 * G if INT8 else G
    BLOCKS: tl.constexpr = 4 if INT8 else 8
    SUM: tl.constexpr = tl.int32 if INT8 else tl.float32
    tile = tl.program_id(0)
    part = tl.program_id(1)
    row_tiles = tl.cdiv(rows_total, BLOCK_ROWS)
    rows = (tile % row_tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    items = (tile // row_tiles) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH)
    lanes = tl.arange(0, WIDTH)
    row_inside = (rows < rows_total)[:, None]
    item_inside = (items < batch)[None, :]
    chunk_stride = tl.full((), WIDTH, tl.int64) * rows_total
    words_at = words_ptr + rows[:, None].to(tl.int64) * WIDTH + lanes[None, :]
    x_at = x_ptr + items[None, :].to(tl.int64) * x_stride + lanes[:, None]
    signed_sum = tl.zeros((BLOCK_ROWS, BLOCK_BATCH), SUM)
    magnitude_sum = tl.zeros((BLOCK_ROWS, BLOCK_BATCH), SUM)
    positive, flip = load_row_values(values_ptr, rows[:, None], row_inside, PRODUCTS)
    each = tl.cdiv(chunks, parts)
    first = part * each
    end = tl.minimum(first + each, chunks)
    if UNROLLED:
        for chunk in tl.range(first, end):
            words = tl.load(words_at + chunk * chunk_stride, mask=row_inside, other=0)
            for block in tl.static_range(BLOCKS):
                column = (chunk * BLOCKS + block) * WIDTH
                known = item_inside
                if not WHOLE:
                    known = item_inside & (column + lanes < columns_total)[:, None]
                x = tl.load(x_at + column, mask=known, other=0)
                signed_sum, magnitude_sum = accumulate(
                    words,
                    block,
                    x,
                    signed_sum,
                    magnitude_sum,
                    positive,
                    flip,
                    INT8,
                    SPLIT_FP32,
                    PRODUCTS,
                )
    else:
        for step in tl.range(first * BLOCKS, end * BLOCKS):
            chunk = step // BLOCKS
            words = tl.load(words_at + chunk * chunk_stride, mask=row_inside, other=0)
            known = item_inside
            if not WHOLE:
                known = item_inside & (step * WIDTH + lanes < columns_total)[:, None]
            x = tl.load(x_at + step * WIDTH, mask=known, other=0)
            signed_sum, magnitude_sum = accumulate(
                words,
                step % BLOCKS,
                x,
                signed_sum,
                magnitude_sum,
                positive,
                flip,
                INT8,
                SPLIT_FP32,
                PRODUCTS,
            )
    finish_tile(
        signed_sum,
        magnitude_sum,
        tile,
        part,
        parts,
        rows[:, None],
        row_inside,
        items[None, :],
        item_inside,
        items[None, :],
        rows_total,
        x_scale_ptr,
        scale_pos_ptr,
        scale_neg_ptr,
        bias_ptr,
        residual_ptr,
        y_ptr,
        partial_ptr,
        counter_ptr,
        INT8,
        PRODUCTS,
        SPLIT_K,
        HAS_BIAS,
        HAS_RESIDUAL,
        RELU,
    )


@triton.jit(do_not_specialize=("chunks", "parts"))
def vector_kernel(
    x_ptr,
    words_ptr,
    scale_pos_ptr,
    scale_neg_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    rows_total,
    columns_total,
    chunks,
    parts,
    G: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    PRODUCTS: tl.constexpr,
    WHOLE: tl.constexpr,
    SPLIT_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    """y (rows,) = the ternary matrix times one x (columns,), in float32 on plain lanes.

    Codes at the top of a 32-bit word are the float32 numbers +-2 and 0, as they are in 16 bits.
    """
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    part = tl.program_id(1)
    lanes = tl.arange(0, G)
    row_inside = rows < rows_total
    chunk_stride = tl.full((), G, tl.int64) * rows_total
    words_at = words_ptr + rows[:, None].to(tl.int64) * G + lanes[None, :]
    signed_sum = tl.zeros((BLOCK_ROWS, G), tl.float32)
    magnitude_sum = tl.zeros((BLOCK_ROWS, G), tl.float32)
    each = tl.cdiv(chunks, parts)
    first = part * each
    for chunk in tl.range(first, tl.minimum(first + each, chunks)):
        words = tl.load(words_at + chunk * chunk_stride, mask=row_inside[:, None], other=0).to(
            tl.int32
        )
        for block in tl.static_range(8):
            column = (chunk * 8 + block) * G + lanes
            if WHOLE:
                x = tl.load(x_ptr + column).to(tl.float32)
            else:
                x = tl.load(x_ptr + column, mask=column < columns_total, other=0.0).to(tl.float32)
            bits = words << (16 + 8 * (1 - block % 2) + 2 * (block // 2))
            signed_sum += (bits & -1073741824).to(tl.float32, bitcast=True) * x[None, :]
            if PRODUCTS == "both":
                magnitude_sum += (bits & 1073741824).to(tl.float32, bitcast=True) * x[None, :]
    item = tl.zeros((1, 1), tl.int32)
    finish_tile(
        tl.sum(signed_sum, axis=1, keep_dims=True),
        tl.sum(magnitude_sum, axis=1, keep_dims=True),
        tl.program_id(0),
        part,
        parts,
        rows[:, None],
        row_inside[:, None],
        item,
        item < 1,
        item,
        rows_total,
        scale_pos_ptr,  # no quantized activations
        scale_pos_ptr,
        scale_neg_ptr,
        bias_ptr,
        residual_ptr,
        y_ptr,
        partial_ptr,
        counter_ptr,
        False,
        PRODUCTS,
        SPLIT_K,
        HAS_BIAS,
        HAS_RESIDUAL,
        RELU,
    )
