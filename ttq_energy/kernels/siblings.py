"""Linear layers called together: several on one input, or one with a residual addition behind it.

Models call these in place of the layers themselves. Packed layers then run in one native call,
which prepares their input once; layers of any other kind, and those that something watches by
forward hooks, run one by one as if called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ttq_energy.kernels import ops
from ttq_energy.kernels.modules import TernaryLinear
from ttq_energy.kernels.watching import unobserved


def packed(layer: nn.Module) -> TypeGuard[TernaryLinear]:
    """Whether native code may stand in for calling the layer."""
    if type(layer) is not TernaryLinear or not unobserved(layer):
        return False
    scale = layer._buffers["scale_pos"]
    return type(scale) is Tensor and scale.is_cpu and scale.dtype == torch.float32


def run(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """The layers' outputs on the same input (..., in).

    Packed layers of one kind of activations go through one native call.
    """
    first = layers[0]
    if type(first) is not TernaryLinear or not ops.is_plain(x):
        return [layer(x) for layer in layers]
    matrices = []
    for layer in layers:
        if (
            not packed(layer)
            or layer.activations != first.activations
            or layer.in_features != x.shape[-1]
        ):
            return [each(x) for each in layers]
        tensors = layer._buffers
        matrices.append(
            ops.Matrix(
                tensors["packed"],  # type: ignore[arg-type]
                tensors["scale_pos"],  # type: ignore[arg-type]
                tensors["scale_neg"],  # type: ignore[arg-type]
                tensors["bias"],
                layer.out_features,
                layer.relu,
            )
        )
    return ops.linear_many(x, matrices, first.activations == "int8")


def plus(layer: nn.Module, x: Tensor, residual: Tensor | None) -> Tensor:
    """``residual + layer(x)``, or ``layer(x)`` where there is none; packed layers add natively."""
    if residual is None:
        y: Tensor = layer(x)
        return y
    if packed(layer) and not layer.relu and ops.is_plain(x) and ops.is_plain(residual):
        return layer.forward(x, residual)
    total: Tensor = residual + layer(x)
    return total
