"""Optimizer and learning rate as a study asks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from ttq_energy.quantization.quantizer import Quantizer
from ttq_energy.study import TrainingSpec


def effective_spec(spec: TrainingSpec, fine_tune: bool) -> TrainingSpec:
    """The settings in force: for fine-tuning those of ``fine_tune`` stand above the others."""
    if not fine_tune:
        return spec
    own = {name: value for name, value in vars(spec.fine_tune).items() if value is not None}
    return replace(spec, **own)


def make_optimizer(model: nn.Module, spec: TrainingSpec) -> torch.optim.Optimizer:
    """The optimizer over a model's trainable parameters.

    Weight decay acts on weights (two dimensions or more): neither on biases and normalization nor,
    unless ``scale_weight_decay``, on learned scales.
    """
    scales = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Quantizer)
        for parameter in module.parameters()
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        is_scale = id(parameter) in scales
        decays = spec.scale_weight_decay if is_scale else parameter.ndim >= 2
        (decayed if decays else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = spec.learning_rate
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=rate, momentum=spec.momentum, nesterov=spec.nesterov and spec.momentum > 0
        )
    kind = torch.optim.Adam if spec.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate)


@dataclass(frozen=True)
class Schedule:
    """The learning rate over time, a function of the position alone.

    Attributes:
        spec: names the schedule; see :class:`ttq_energy.study.TrainingSpec`.
        steps: optimizer steps in an epoch.
    """

    spec: TrainingSpec
    steps: int

    def rate(self, epoch: int, step: int) -> float:
        """The rate of one optimizer step.

        "cosine" and "linear" fall to 0 over all epochs, step by step; "step" multiplies by gamma
        once as many epochs are complete as each milestone says. A warmup rises linearly to
        the rate.

        Args:
            epoch: epochs complete.
            step: steps complete in this epoch.
        """
        spec = self.spec
        done = epoch + step / self.steps
        rate = spec.learning_rate * self._factor(epoch, done)
        if done < spec.warmup_epochs:
            rate *= (done + 1 / self.steps) / (spec.warmup_epochs + 1 / self.steps)
        return rate

    def _factor(self, epoch: int, done: float) -> float:
        spec = self.spec
        if spec.schedule == "step":
            return float(spec.gamma ** sum(epoch >= milestone for milestone in spec.milestones))
        fraction = done / max(spec.epochs, 1)
        if spec.schedule == "cosine":
            return (1 + math.cos(math.pi * fraction)) / 2
        return 1 - fraction if spec.schedule == "linear" else 1.0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of an optimizer the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
