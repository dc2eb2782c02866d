"""Optimizer and learning rate as a study asks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ttq_energy.errors import unknown_name
from ttq_energy.quantization.quantizer import Quantizer
from ttq_energy.study import TrainingSpec

RATE_FACTOR = "rate_factor"
"""Of an optimizer's parameter group: multiplies the learning rate."""


def effective_spec(spec: TrainingSpec, fine_tune: bool) -> TrainingSpec:
    """The settings in force: for fine-tuning those of ``fine_tune`` stand above the others."""
    if not fine_tune:
        return spec
    own = {name: value for name, value in vars(spec.fine_tune).items() if value is not None}
    return replace(spec, **own)


def make_optimizer(model: nn.Module, spec: TrainingSpec) -> torch.optim.Optimizer:
    """The optimizer over a model's trainable parameters.

    Weight decay acts on weights (two dimensions or more): neither on biases and normalization nor,
    unless ``scale_weight_decay``, on learned scales. ``parameter_groups`` change it, and the rate,
    of the layers that they name.

    Raises:
        InputError: a parameter group names no layer of the model.
    """
    groups = _groups(model, spec)
    rate = spec.learning_rate
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=rate, momentum=spec.momentum, nesterov=spec.nesterov and spec.momentum > 0
        )
    kind = torch.optim.Adam if spec.optimizer == "adam" else torch.optim.AdamW
    options = {} if spec.epsilon is None else {"eps": spec.epsilon}
    return kind(groups, lr=rate, **options)  # type: ignore[arg-type]


def _groups(model: nn.Module, spec: TrainingSpec) -> list[dict[str, Any]]:
    """torch's parameter groups: one for each decay and rate that occurs."""
    scales = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Quantizer)
        for parameter in module.parameters()
    }
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = {name: _layer_of(name) for name, _ in named}
    for own in spec.parameter_groups:
        if not any(fnmatchcase(layer, own.layers) for layer in layers.values()):
            raise unknown_name("layers", own.layers, layers.values(), "training.parameter_groups")
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        decay, factor = spec.weight_decay, 1.0
        for own in spec.parameter_groups:
            if fnmatchcase(layers[name], own.layers):
                decay = decay if own.weight_decay is None else own.weight_decay
                factor = own.learning_rate_factor
                break
        is_scale = id(parameter) in scales
        decays = spec.scale_weight_decay if is_scale else parameter.ndim >= 2
        found.setdefault((decay if decays else 0.0, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, RATE_FACTOR: factor}
        for (decay, factor), parameters in found.items()
    ]


def _layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to, also where a parametrization holds it."""
    path, _, _ = parameter.partition(".parametrizations.")
    return path if path != parameter else parameter.rpartition(".")[0]


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
    """Give every group of an optimizer the learning rate, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[RATE_FACTOR]
