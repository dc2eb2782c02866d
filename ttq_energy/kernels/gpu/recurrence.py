"""Triton kernel of one LSTM step: the hidden product, the gates and the new states in one."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from ttq_energy.kernels.gpu.activations import cell
from ttq_energy.kernels.gpu.pieces import accumulate, scaled


@triton.jit(do_not_specialize=("batch", "chunks"))
def lstm_step_kernel(
    h_ptr,
    words_ptr,
    scale_pos_ptr,
    scale_neg_ptr,
    bias_ptr,
    gates_ptr,
    c_ptr,
    h_out_ptr,
    c_out_ptr,
    batch,
    hidden,
    h_stride,
    gates_stride,
    chunks,
    G: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    BLOCK_BATCH: tl.constexpr,
    SPLIT_FP32: tl.constexpr,
    PRODUCTS: tl.constexpr,
    WHOLE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """h' and c' (batch, hidden) of torch.nn.LSTM from h, c and the input's gates (batch, 4 hidden).

    A tile holds the four gates of each of its units side by side, so that no gate leaves the
    program: row 4u + k of the tile is row k * hidden + u of the matrix (gates i, f, g, o).
    """
    ROWS: tl.constexpr = 4 * BLOCK_UNITS
    inner = tl.arange(0, ROWS)
    units_of_rows = tl.program_id(0) * BLOCK_UNITS + inner // 4
    rows = ((inner % 4) * hidden + units_of_rows)[:, None]
    row_inside = (units_of_rows < hidden)[:, None]
    items = (tl.program_id(1) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH))[None, :]
    item_inside = items < batch
    lanes = tl.arange(0, G)
    chunk_stride = tl.full((), 4 * G, tl.int64) * hidden
    words_at = words_ptr + rows.to(tl.int64) * G + lanes[None, :]
    h_at = h_ptr + items.to(tl.int64) * h_stride + lanes[:, None]
    signed_sum = tl.zeros((ROWS, BLOCK_BATCH), tl.float32)
    magnitude_sum = tl.zeros((ROWS, BLOCK_BATCH), tl.float32)
    for chunk in tl.range(0, chunks):
        words = tl.load(words_at + chunk * chunk_stride, mask=row_inside, other=0)
        for block in tl.static_range(8):
            column = (chunk * 8 + block) * G
            known = item_inside
            if not WHOLE:
                known = item_inside & (column + lanes < hidden)[:, None]
            h = tl.load(h_at + column, mask=known, other=0.0)
            signed_sum, magnitude_sum = accumulate(
                words,
                block,
                h,
                signed_sum,
                magnitude_sum,
                0,
                0,
                False,
                SPLIT_FP32,
                PRODUCTS,
            )
    scale_pos = tl.load(scale_pos_ptr + rows, mask=row_inside, other=0.0)
    scale_neg = tl.load(scale_neg_ptr + rows, mask=row_inside, other=0.0)
    gates = scaled(signed_sum, magnitude_sum, scale_pos, scale_neg, 1.0, False, PRODUCTS)
    if HAS_BIAS:
        gates += tl.load(bias_ptr + rows, mask=row_inside, other=0.0).to(tl.float32)
    from_input = gates_ptr + items.to(tl.int64) * gates_stride + rows
    gates += tl.load(from_input, mask=row_inside & item_inside, other=0.0).to(tl.float32)
    pairs = tl.permute(tl.reshape(gates, (BLOCK_UNITS, 2, 2, BLOCK_BATCH)), (0, 3, 1, 2))
    even, odd = tl.split(pairs)  # gates i, g and gates f, o
    gate_i, gate_g = tl.split(even)
    gate_f, gate_o = tl.split(odd)
    units = (tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS))[:, None]
    inside = (units < hidden) & item_inside
    at = items.to(tl.int64) * hidden + units
    c = tl.load(c_ptr + at, mask=inside, other=0.0).to(tl.float32)
    h_new, c_new = cell(gate_i, gate_f, gate_g, gate_o, c)
    tl.store(h_out_ptr + at, h_new.to(h_out_ptr.dtype.element_ty), mask=inside)
    tl.store(c_out_ptr + at, c_new.to(c_out_ptr.dtype.element_ty), mask=inside)
