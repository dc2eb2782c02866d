"""The published rules, on weights viewed as (blocks, elements): each block has its own scales.

Each rule gives what the forward pass needs; :func:`latent_gradient` and :func:`scale_gradients`
give what the backward pass needs. A weight's code is +1, -1 or 0 and its value Wp, -Wn or 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttq_energy.quantization.configs import BWN, TTQ, TWN, AbsMean, Config, DoReFa

TWN_THRESHOLD = 0.7
"""Li, Zhang, Liu, arXiv 1605.04711, section 2.2: 0.7 mean|w| for normal and uniform weights."""
ABSMEAN_SMALLEST = 1e-5
"""The authors' "Training Tips, Code and FAQ" to BitNet b1.58: ``abs().mean().clamp(min=1e-5)``."""

AT_ONCE_ELEMENTS = 1 << 18
"""Weights compared at a time where they are only counted: the results stay in cache."""


class Ternary(NamedTuple):
    """Quantized blocks.

    Attributes:
        positive, negative: bool (blocks, elements).
        w_pos, w_neg: (blocks, 1), 0 or more.
    """

    positive: Tensor
    negative: Tensor
    w_pos: Tensor
    w_neg: Tensor

    def values(self) -> Tensor:
        """The effective weights, (blocks, elements)."""
        zero = torch.zeros((), dtype=self.w_pos.dtype, device=self.w_pos.device)
        return torch.where(self.positive, self.w_pos, torch.where(self.negative, -self.w_neg, zero))

    def codes(self) -> Tensor:
        """int8 (blocks, elements) in {-1, 0, 1}."""
        return self.positive.to(torch.int8) - self.negative.to(torch.int8)


def is_ternary(config: Config) -> bool:
    """Whether the weights take at most the three values {-Wn, 0, +Wp}."""
    return not isinstance(config, DoReFa) or config.bits == 1


def scales_equal(config: Config) -> bool:
    """Whether Wp and Wn are one number by the rule itself."""
    return config.symmetric if isinstance(config, TTQ) else True


def block_count(config: Config, rows: int, parts: int) -> int:
    """How many pairs of scales a weight with ``rows`` outputs has.

    Args:
        config: the quantizer.
        rows: size of the weight's first dimension.
        parts: layers stacked along it, each quantized by itself (3 for attention's q, k, v).
    """
    return rows if getattr(config, "per", "layer") == "channel" else parts


def ternarize(config: Config, w: Tensor, w_pos: Tensor | None, w_neg: Tensor | None) -> Ternary:
    """Quantize (blocks, elements) by the rule of ``config``.

    Args:
        config: any configuration with ternary or binary weights.
        w: latent weights.
        w_pos, w_neg: TTQ's scales (blocks, 1); the other rules find theirs from ``w``.
    """
    if isinstance(config, TTQ):
        assert w_pos is not None
        assert w_neg is not None
        return Ternary(*_split(w, ttq_threshold(config, w)), w_pos.abs(), w_neg.abs())
    if isinstance(config, TWN):
        positive, negative = _split(w, _zero_bound(config, w))
        scale = mean_magnitude(w, positive | negative)
        return Ternary(positive, negative, scale, scale)
    if isinstance(config, AbsMean):
        scale = _zero_bound(config, w)
        rounded = (w / scale).round()
        return Ternary(rounded > 0, rounded < 0, scale, scale)
    scale = w.abs().mean(1, keepdim=True)
    return Ternary(w >= 0, w < 0, scale, scale)


def ttq_threshold(config: TTQ, w: Tensor) -> Tensor:
    """The threshold of each block, (blocks, 1); weights of at most that magnitude become 0."""
    if config.sparsity is None:
        # max|w| without a copy of the weights' magnitudes; aminmax takes ten times as long.
        largest, smallest = w.amax(1, keepdim=True), w.amin(1, keepdim=True)
        return config.threshold * torch.maximum(largest, -smallest)
    zeros = round(config.sparsity * w.shape[1])
    if zeros == 0:
        return torch.zeros_like(w[:, :1])
    return w.abs().kthvalue(zeros, 1, keepdim=True).values


def zeros_by_row(config: Config, w: Tensor, rows: int) -> Tensor:
    """How many weights of each row :func:`ternarize` makes 0, without making the ternary weights.

    Args:
        config: any configuration with ternary or binary weights.
        w: latent weights (blocks, elements).
        rows: into which all blocks together divide, a whole number of them to a block.

    Returns:
        int64 (rows,), on the CPU.
    """
    blocks = w.shape[0]
    by_row = w.reshape(rows, -1)
    zeros = torch.zeros(rows, dtype=torch.int64, device="cpu")
    if not isinstance(config, TTQ | TWN | AbsMean) or w.is_meta or not w.numel():
        return zeros
    bound = _zero_bound(config, w).repeat_interleave(rows // blocks, 0)
    step = max(1, AT_ONCE_ELEMENTS // by_row.shape[1])
    for start in range(0, rows, step):
        part, limit = by_row[start : start + step], bound[start : start + step]
        if isinstance(config, AbsMean):
            nonzero = (part / limit).round() != 0
        else:
            positive, negative = _split(part, limit)
            nonzero = positive.logical_or_(negative)
        # numpy counts true bytes at under 1 ns each, torch's sum at several.
        counted = np.count_nonzero(nonzero.cpu().numpy(), axis=1)
        zeros[start : start + step] = by_row.shape[1] - torch.from_numpy(np.asarray(counted))
    return zeros


def _zero_bound(config: TTQ | TWN | AbsMean, w: Tensor) -> Tensor:
    """What decides in each block which weights become 0, (blocks, 1): threshold or scale."""
    if isinstance(config, TTQ):
        return ttq_threshold(config, w)
    mean = w.abs().mean(1, keepdim=True)
    return TWN_THRESHOLD * mean if isinstance(config, TWN) else mean.clamp(min=ABSMEAN_SMALLEST)


def mean_magnitude(w: Tensor, where: Tensor) -> Tensor:
    """Mean |w| over ``where`` in each block, (blocks, 1); 0 where there is none."""
    count = where.sum(1, keepdim=True)
    return w.abs().mul_(where).sum(1, keepdim=True) / count.clamp(min=1)


def initial_scales(config: TTQ, w: Tensor) -> tuple[Tensor, Tensor]:
    """Wp and Wn at the start of training, each (blocks,)."""
    if config.initial_scales == "one":
        one = torch.ones(w.shape[0], dtype=w.dtype, device=w.device)
        return one, one.clone()
    positive, negative = _split(w, ttq_threshold(config, w))
    if config.symmetric:
        both = mean_magnitude(w, positive | negative).flatten()
        return both, both.clone()
    return mean_magnitude(w, positive).flatten(), mean_magnitude(w, negative).flatten()


def latent_gradient(config: Config, w: Tensor, ternary: Ternary, gradient: Tensor) -> Tensor:
    """The gradient that the latent weights receive for that at the quantized ones."""
    if isinstance(config, TTQ):
        positive, negative, w_pos, w_neg = ternary
        one = torch.ones((), dtype=w.dtype, device=w.device)
        return gradient * torch.where(positive, w_pos, torch.where(negative, w_neg, one))
    if isinstance(config, BWN):
        return gradient * (1.0 / w.shape[1] + ternary.w_pos * (w.abs() <= 1.0))
    return gradient


def scale_gradients(ternary: Ternary, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """dL/dWp and dL/dWn, each (blocks, 1): w = -Wn on the negative side, hence the minus."""
    return (
        (gradient * ternary.positive).sum(1, keepdim=True),
        -(gradient * ternary.negative).sum(1, keepdim=True),
    )


def fake_quantize(config: DoReFa, w: Tensor) -> Tensor:
    """DoReFa's k-bit weights with plain autograd, straight through the rounding alone."""
    squashed = w.tanh()
    largest = squashed.abs().amax().clamp(min=torch.finfo(w.dtype).tiny)
    unit = squashed / (2 * largest) + 0.5
    steps = 2**config.bits - 1
    rounded = (unit * steps).round() / steps
    quantized: Tensor = 2 * (unit + (rounded - unit).detach()) - 1
    return quantized


def _split(w: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    return w > threshold, w < -threshold
