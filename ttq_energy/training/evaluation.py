"""Loss and accuracy of classifiers and language models."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttq_energy.training.distributed import Processes

if TYPE_CHECKING:
    from ttq_energy.datasets import Data


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, an object with ``logits``, or a tuple's first."""
    if isinstance(output, Tensor):
        return output
    found: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return found


def loss_of(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats: of examples (N, C), or of tokens (N, T, V) with y (N, T)."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(flat, y.reshape(-1), label_smoothing=label_smoothing)


def evaluate(
    model: nn.Module,
    data: Data,
    batch_size: int = 256,
    *,
    precision: str = "fp32",
    processes: Processes | None = None,
) -> tuple[int, int]:
    """Count what a model gets right on the test set.

    Args:
        model: its mode is put back afterwards.
        data: classification counts examples, a language model tokens.
        batch_size: examples at once.
        precision: "fp32", or "bf16" for autocast.
        processes: share the test set among them; None for one process.

    Returns:
        ``(correct, total)``, over all processes.
    """
    group = processes or Processes()
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    training = model.training
    correct = torch.zeros((), dtype=torch.int64, device=device)
    total = 0
    model.eval()
    try:
        with torch.no_grad(), autocast(device, precision):
            for x, y in data.test_loader(batch_size, group.rank, group.size):
                y = y.to(device, non_blocking=True)
                predicted = logits_of(model(x.to(device, non_blocking=True))).argmax(-1)
                correct += (predicted == y).sum()
                total += y.numel()
    finally:
        model.train(training)
    sums = group.total(float(correct), float(total), device=device)
    return int(sums[0]), int(sums[1])


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where asked for."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
