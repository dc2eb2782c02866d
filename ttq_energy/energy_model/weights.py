"""What a layer's weights really are: width, zeros in each output, scales."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ttq_energy.quantization.configs import Config

SCALE_BITS = 32
TERNARY_STORED_BITS = 2
ROWS_AT_ONCE_ELEMENTS = 1 << 18
"""Weights compared with zero at a time: the results stay in cache."""


@dataclass(frozen=True)
class WeightInfo:
    """Weights of one layer.

    Attributes:
        elements: of the weight tensor.
        zeros_per_output: zeros in each row of it.
        kind: "dense", "ternary", "binary" (+a, -a alone) or "none" (the second operand is not a
            parameter).
        bits: stored bits of one weight, scales not included.
        scale_values: stored scales (Wp and Wn, each once a layer or once an output).
        scale_multiplies: multiplications an output needs for its scales: 2 for Wp and Wn, 1 where
            they are equal, 0 for dense weights.
        parameters: elements with bias and scales, as the model holds them.
    """

    elements: int
    zeros_per_output: NDArray[np.int64]
    kind: str
    bits: float
    scale_values: int = 0
    scale_multiplies: int = 0
    parameters: int = 0

    @property
    def zero_fraction(self) -> float:
        return float(self.zeros_per_output.sum()) / self.elements if self.elements else 0.0

    @property
    def stored_bytes(self) -> float:
        return (self.elements * self.bits + self.scale_values * SCALE_BITS) / 8


NO_WEIGHT = WeightInfo(0, np.zeros(0, dtype=np.int64), "none", 0.0)


def dense(weight: Tensor, bits: float | None = None, parameters: int | None = None) -> WeightInfo:
    """Of a float or integer weight tensor; its real zeros are counted.

    Args:
        weight: (out, ...), any dtype; a tensor on the meta device counts as having no zeros.
        bits: stored width; the dtype's where None.
        parameters: with bias; the weight's elements where None.
    """
    return WeightInfo(
        weight.numel(),
        _zeros_per_output(weight),
        "dense",
        weight.element_size() * 8 if bits is None else bits,
        parameters=weight.numel() if parameters is None else parameters,
    )


def combined(first: WeightInfo, second: WeightInfo) -> WeightInfo:
    """Two parameters that one layer uses, as one: a gain and an offset."""
    if not first.elements or not second.elements:
        return second if not first.elements else first
    elements = first.elements + second.elements
    return replace(
        first,
        elements=elements,
        zeros_per_output=np.concatenate([first.zeros_per_output, second.zeros_per_output]),
        bits=(first.elements * first.bits + second.elements * second.bits) / elements,
        parameters=first.parameters + second.parameters,
    )


def ternary(codes: Tensor, w_pos: Any, w_neg: Any, parameters: int | None = None) -> WeightInfo:
    """Of ternary codes and their scales; binary where no code is zero and the scales are equal.

    Args:
        codes: int8 (out, ...) in {-1, 0, 1}.
        w_pos, w_neg: tensors of one value, or of one an output.
        parameters: with bias; codes and scales where None.
    """
    import torch

    equal = bool(torch.equal(torch.as_tensor(w_pos).cpu(), torch.as_tensor(w_neg).cpu()))
    scales = torch.as_tensor(w_pos).numel()
    info = _ternary_info(codes.numel(), _zeros_per_output(codes), scales, equal)
    values = info.scale_values
    return replace(info, parameters=codes.numel() + values if parameters is None else parameters)


def as_ternary(
    config: Config, weight: Tensor, parts: int = 1, equal: bool | None = None
) -> WeightInfo:
    """Of a latent weight as ``config`` quantizes it; the quantized weight itself is not made.

    Args:
        config: of a quantizer with ternary or binary weights.
        weight: latent (out, ...).
        parts: layers stacked along its first dimension.
        equal: whether Wp and Wn are; None where the rule makes them so.
    """
    from ttq_energy.quantization import rules

    outputs = weight.shape[0]
    blocks = rules.block_count(config, outputs, parts)
    zeros = rules.zeros_by_row(config, weight.detach().reshape(blocks, -1), outputs)
    # Packed layers with more than one pair of scales hold one for each output.
    scales = 1 if blocks == 1 else outputs
    if equal is None:
        equal = rules.scales_equal(config)
    return _ternary_info(weight.numel(), zeros.numpy(), scales, equal)


def _ternary_info(elements: int, zeros: NDArray[np.int64], scales: int, equal: bool) -> WeightInfo:
    binary = equal and not zeros.any()
    return WeightInfo(
        elements,
        zeros,
        "binary" if binary else "ternary",
        1.0 if binary else float(TERNARY_STORED_BITS),
        scales * (1 if equal else 2),
        1 if equal else 2,
        elements,
    )


def zeros_in(tensor: Tensor) -> int:
    """Zeros of a tensor of any shape, in any layout of its memory."""
    return sum(
        int(np.count_nonzero((part == 0).cpu().numpy())) for part in _in_pieces(tensor.detach())
    )


def _in_pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Parts that stay in cache where the tensor is one block of memory."""
    if not tensor.is_contiguous():
        return (tensor,)
    import torch

    pieces: tuple[Tensor, ...] = torch.split(tensor.view(-1), ROWS_AT_ONCE_ELEMENTS)
    return pieces


def _zeros_per_output(weight: Tensor) -> NDArray[np.int64]:
    if weight.device.type == "meta" or weight.numel() == 0:
        return np.zeros(weight.shape[0] if weight.dim() else 1, dtype=np.int64)
    rows = weight.detach().reshape(weight.shape[0] if weight.dim() > 1 else 1, -1)
    step = max(1, ROWS_AT_ONCE_ELEMENTS // rows.shape[1])
    starts = range(0, rows.shape[0], step)
    return np.concatenate([_zeros_by_row(rows[start : start + step]) for start in starts])


def _zeros_by_row(rows: Tensor) -> NDArray[np.int64]:
    # torch.count_nonzero takes 17 ns a float; a comparison and numpy's count of bytes, under 1 ns.
    zero = (rows == 0).cpu().numpy()
    if not np.count_nonzero(zero):
        return np.zeros(len(zero), dtype=np.int64)
    counted: NDArray[np.int64] = np.count_nonzero(zero, axis=1).astype(np.int64)
    return counted
