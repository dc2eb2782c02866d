"""The loop nests of torch's products, from their operands' shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ttq_energy.energy_model import op_kinds
from ttq_energy.energy_model.geometry import Geometry, matrix_product


@dataclass(frozen=True)
class Product:
    """A matrix product: what streams (``x``), what stands still (``w``), what is added."""

    geometry: Geometry
    x: Tensor
    w: Tensor
    bias: Any


def matrix(
    name: str, args: tuple[Any, ...], output: Tensor, is_parameter: Callable[[Tensor], bool]
) -> Product:
    """Any operator of ``op_kinds.MATRIX_PRODUCTS``.

    Args:
        name: of the operator, without namespace.
        args, output: of the call.
        is_parameter: whether a tensor is one, or made of parameters alone.
    """
    first = 1 if name in op_kinds.ADDING_PRODUCTS else 0
    a, b = args[first], args[first + 1]
    groups = 1
    if name == "linear":
        rows, inner, columns = a.numel() // a.shape[-1], a.shape[-1], output.shape[-1]
    elif name in ("bmm", "baddbmm", "addbmm"):
        groups, rows, inner = a.shape
        columns = b.shape[2]
        if b.stride(0) == 0 and is_parameter(b):
            # A linear layer on inputs of an odd layout: one matrix for all, not one for each.
            groups, rows = 1, groups * rows
    elif name in ("mv", "addmv"):
        rows, inner, columns = a.shape[0], a.shape[1], 1
    elif name in ("dot", "vdot"):
        rows, inner, columns = 1, a.shape[0], 1
    else:
        rows, inner, columns = a.shape[0], a.shape[1], b.shape[1]
    if is_parameter(a) and not is_parameter(b):
        # The parameter stands on the left: (A x)^T = x^T A^T.
        a, b, rows, columns = b, a, columns, rows
    bias = args[0] if first else (args[2] if name == "linear" and len(args) > 2 else None)
    return Product(matrix_product(rows, inner, columns, groups), a, b, bias)


def grouped(x: Tensor, w: Tensor, ends: Tensor | None) -> tuple[Geometry, int]:
    """A product of groups of rows, each with a matrix of its own: a mixture of experts.

    Args:
        x: (rows, inner) sorted by group, or (groups, rows, inner), all of one size.
        w: (groups, inner, columns).
        ends: the row after each group's last one; None where all have as many.

    Returns:
        The loop nest over the groups that have rows, each with their mean number of rows rounded
        up, and the multiply-accumulates really done. A group without rows is neither computed nor
        read.
    """
    if ends is None:
        same = matrix_product(x.shape[-2], x.shape[-1], w.shape[-1], w.shape[0])
        return same, same.macs
    if x.dim() == 3:
        return grouped(w.mT, x.mT, ends)
    if w.dim() == 2:
        # Sums by group, as in a weight's gradient: no matrix is any group's own.
        one = matrix_product(x.shape[0], x.shape[1], w.shape[1])
        return one, one.macs
    rows, inner, columns = x.shape[0], x.shape[1], w.shape[-1]
    at = [0, *ends.tolist()] if ends.device.type != "meta" else [0, rows]
    sizes = [end - start for start, end in itertools.pairwise(at) if end > start]
    used = len(sizes) or 1
    mean = matrix_product(-(-sum(sizes) // used) or 1, inner, columns, used)
    return mean, sum(sizes) * inner * columns


def convolution(
    x: Any, w: Any, y: Any, stride: list[int], dilation: list[int], groups: int, transposed: bool
) -> Geometry:
    """The loop nest of a convolution of any rank, from shapes of input, weight and output.

    A transposed one is the matrix product before its results are spread and added. A
    three-dimensional one folds depth into height.
    """
    rank = len(w) - 2
    if len(x) == rank + 1:
        x, y = (1, *x), (1, *y)
    space_in, space_out, kernel = x[2:], y[2:], w[2:]
    stride = (stride * rank)[:rank] if len(stride) == 1 else stride
    dilation = (dilation * rank)[:rank] if len(dilation) == 1 else dilation
    taps = 1
    for size in kernel:
        taps *= size
    if transposed:
        positions = x[0]
        for size in space_in:
            positions *= size
        return matrix_product(positions, x[1] // groups, w[1] * taps, groups)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = slice(0, rank - 1), rank - 1
    return Geometry(
        batch=x[0],
        groups=groups,
        in_channels=x[1] // groups,
        out_channels=w[0] // groups,
        kernel_h=_product_of(kernel[height]),
        kernel_w=kernel[width],
        reach_h=_product_of(reach[height]),
        reach_w=reach[width],
        stride_h=_product_of(stride[height]),
        stride_w=stride[width],
        in_h=_product_of(space_in[height]),
        in_w=space_in[width],
        out_h=_product_of(space_out[height]),
        out_w=space_out[width],
    )


def _product_of(sizes: Any) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result
