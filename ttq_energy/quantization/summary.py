"""What quantization did to each layer, of prepared and of packed models alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttq_energy.kernels.modules import TernaryModule
from ttq_energy.quantization.attention import TernaryMultiheadAttention
from ttq_energy.quantization.layers import ROOT, can_pack, quantized_layers, unwrapped


@dataclass(frozen=True)
class LayerSummary:
    """One quantized weight.

    Attributes:
        layer: the module's path, with the weight's name where the module has several.
        elements: weights.
        zero_fraction: of them, 0 to 1.
        w_pos, w_neg: mean of the layer's Wp and Wn; NaN where the weights are not ternary.
        zeros_per_output: zeros in each row of the weight, int64 (out,).
    """

    layer: str
    elements: int
    zero_fraction: float
    w_pos: float
    w_neg: float
    zeros_per_output: Tensor

    @property
    def ratio(self) -> float:
        """Wp / Wn: all that matters of the two where batch normalization follows."""
        return self.w_pos / self.w_neg if self.w_neg else float("inf")


def layer_summary(model: nn.Module) -> list[LayerSummary]:
    """One entry a quantized weight, in order of registration; empty where none is quantized.

    Args:
        model: after ``prepare_``, or after ``convert``.
    """
    model = unwrapped(model)
    prepared = []
    for name, weight in quantized_layers(model).items():
        if can_pack(weight):
            prepared.append(_summary(name, weight.codes(), *weight.scales()))
        else:
            nan = torch.tensor(float("nan"))
            prepared.append(_summary(name, weight.effective(), nan, nan))
    return prepared or [
        _summary(name, module.codes(), module.w_pos, module.w_neg)
        for name, module in packed_layers(model)
    ]


def packed_layers(model: nn.Module) -> Iterator[tuple[str, TernaryModule]]:
    """The packed weights of a converted model, under the layer names that they had before."""
    renamed: dict[str, str] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if hasattr(module, "ternary_weights"):
            inner = {id(m): name for name, m in module.ternary_weights.items()}
            for own, child in module.named_modules():
                if id(child) in inner:
                    renamed[f"{prefix}{own}"] = f"{prefix}{inner[id(child)]}"
        elif isinstance(module, TernaryMultiheadAttention):
            for name in ("in_proj", "q_proj", "k_proj", "v_proj"):
                renamed[f"{prefix}{name}"] = f"{prefix}{name}_weight"
        if isinstance(module, TernaryModule):
            yield renamed.get(path, path or ROOT), module


def _summary(layer: str, values: Tensor, w_pos: Tensor, w_neg: Tensor) -> LayerSummary:
    zeros = (values == 0).flatten(1).sum(1)
    return LayerSummary(
        layer,
        values.numel(),
        float(zeros.sum()) / values.numel(),
        float(w_pos.mean()),
        float(w_neg.mean()),
        zeros,
    )
