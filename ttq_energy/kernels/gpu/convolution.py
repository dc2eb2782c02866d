"""Triton kernel of the two-dimensional convolution as an implicit product: nothing is unfolded."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from ttq_energy.kernels.gpu.pieces import accumulate, finish_tile, load_row_values

# One compiled kernel serves every geometry: a network has dozens, and each tile takes a second or
# two to compile.
SHARED = (
    "pixels",
    "height",
    "width",
    "out_height",
    "out_width",
    "taps",
    "kernel_width",
    "stride_h",
    "stride_w",
    "padding_h",
    "padding_w",
    "dilation_h",
    "dilation_w",
    "chunks",
    "parts",
)


@triton.jit(do_not_specialize=SHARED)
def conv2d_kernel(
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
    pixels,
    height,
    width,
    out_height,
    out_width,
    rows_total,
    rows_of_group,
    pixel_stride,
    group_stride,
    channels_taken,
    channels_known,
    taps,
    kernel_width,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    chunks,
    parts,
    G: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_BATCH: tl.constexpr,
    INT8: tl.constexpr,
    SPLIT_FP32: tl.constexpr,
    PRODUCTS: tl.constexpr,
    ACROSS_TAPS: tl.constexpr,
    WHOLE: tl.constexpr,
    SPLIT_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    """y (output pixels, rows), channels innermost, from x (images, height, width, channels).

    As ``linear_kernel``, with output pixels for the batch. A block of columns belongs to one tap
    of the kernel, so that its place is computed once; ACROSS_TAPS, for few channels, computes the
    tap of every column. WHOLE: the channels of a tap fill its blocks.
    """
    WIDTH: tl.constexpr = 2 * G if INT8 else G
    BLOCKS: tl.constexpr = 4 if INT8 else 8
    SUM: tl.constexpr = tl.int32 if INT8 else tl.float32
    tile = tl.program_id(0)
    group = tl.program_id(1) // parts
    part = tl.program_id(1) % parts
    row_tiles = tl.cdiv(rows_of_group, BLOCK_ROWS)
    inner_rows = (tile % row_tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    items = (tile // row_tiles) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH)
    rows = group * rows_of_group + inner_rows
    row_inside = (inner_rows < rows_of_group)[:, None]
    item_inside = (items < pixels)[None, :]
    lanes = tl.arange(0, WIDTH)

    image = items // (out_height * out_width)
    place = items % (out_height * out_width)
    top = (place // out_width) * stride_h - padding_h
    left = (place % out_width) * stride_w - padding_w
    x_at = x_ptr + group * group_stride
    image_start = image.to(tl.int64) * height * width

    chunk_stride = tl.full((), WIDTH, tl.int64) * rows_total
    words_at = words_ptr + rows[:, None].to(tl.int64) * WIDTH + lanes[None, :]
    positive, flip = load_row_values(values_ptr, rows[:, None], row_inside, PRODUCTS)
    signed_sum = tl.zeros((BLOCK_ROWS, BLOCK_BATCH), SUM)
    magnitude_sum = tl.zeros((BLOCK_ROWS, BLOCK_BATCH), SUM)
    each = tl.cdiv(chunks, parts)
    first = part * each
    end = tl.minimum(first + each, chunks)
    for step in tl.range(first * BLOCKS, end * BLOCKS):
        chunk = step // BLOCKS
        words = tl.load(words_at + chunk * chunk_stride, mask=row_inside, other=0)
        if ACROSS_TAPS:
            column = step * WIDTH + lanes
            if INT8:
                column = step * WIDTH + (lanes % 2) * G + lanes // 2
            tap = (column // channels_known)[:, None]
            channel = (column % channels_known)[:, None]
            known = tap < taps
        else:
            tap = (step * WIDTH) // channels_taken
            channel = ((step * WIDTH) % channels_taken + lanes)[:, None]
            known = tap < taps
            if not WHOLE:
                known = known & (channel < channels_known)
        y_in = top[None, :] + (tap // kernel_width) * dilation_h
        x_in = left[None, :] + (tap % kernel_width) * dilation_w
        known = known & item_inside & (y_in >= 0) & (y_in < height)
        known = known & (x_in >= 0) & (x_in < width)
        pixel = image_start[None, :] + y_in * width + x_in
        x = tl.load(x_at + pixel * pixel_stride + channel, mask=known, other=0)
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
        group * tl.num_programs(0) + tile,
        part,
        parts,
        rows[:, None],
        row_inside,
        items[None, :],
        item_inside,
        image[None, :],
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
