"""The published rules, on weights viewed as (blocks, elements): each block has its own scales.

Each rule gives what the forward pass needs; :func:`latent_gradient` and :func:`scale_gradients`
give what the backward pass needs. A weight's code is +1, -1 or 0 and its value Wp, -Wn or 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttq_energy.quantization.configs import BWN, TTQ, TWN, AbsMean, Config, DoReFa

TWN_THRESHOLD = 0.7
"""Li, Zhang, Liu, arXiv 1605.04711, section 2.2: 0.7 mean|w| for normal and uniform weights."""
ABSMEAN_SMALLEST = 1e-5
"""The authors' "Training Tips, Code and FAQ" to BitNet b1.58: ``abs().mean().clamp(min=1e-5)``."""


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
        positive, negative = _split(w, TWN_THRESHOLD * w.abs().mean(1, keepdim=True))
        scale = mean_magnitude(w, positive | negative)
        return Ternary(positive, negative, scale, scale)
    if isinstance(config, AbsMean):
        scale = w.abs().mean(1, keepdim=True).clamp(min=ABSMEAN_SMALLEST)
        rounded = (w / scale).round()
        return Ternary(rounded > 0, rounded < 0, scale, scale)
    scale = w.abs().mean(1, keepdim=True)
    return Ternary(w >= 0, w < 0, scale, scale)


def ttq_threshold(config: TTQ, w: Tensor) -> Tensor:
    """The threshold of each block, (blocks, 1); weights of at most that magnitude become 0."""
    magnitude = w.abs()
    if config.sparsity is None:
        return config.threshold * magnitude.amax(1, keepdim=True)
    zeros = round(config.sparsity * w.shape[1])
    if zeros == 0:
        return torch.zeros_like(w[:, :1])
    return magnitude.kthvalue(zeros, 1, keepdim=True).values


def mean_magnitude(w: Tensor, where: Tensor) -> Tensor:
    """Mean |w| over ``where`` in each block, (blocks, 1); 0 where there is none."""
    count = where.sum(1, keepdim=True)
    return (w.abs() * where).sum(1, keepdim=True) / count.clamp(min=1)


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
