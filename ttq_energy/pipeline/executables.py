"""The code that runs each variant: dense torch kernels or packed ternary ones, named as such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttq_energy import kernels
from ttq_energy.kernels import dense, gpu
from ttq_energy.pipeline.networks import PACKED
from ttq_energy.variants import Variant

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Executable:
    """A variant ready to be timed.

    Attributes:
        variant: its name.
        module: takes the example batch; in evaluation mode.
        kernel: what runs, for the report.
    """

    variant: str
    module: torch.nn.Module
    kernel: str


def executable(
    variant: Variant,
    network: torch.nn.Module,
    example: torch.Tensor,
    device: str,
    calibration: torch.Tensor | None = None,
) -> Executable:
    """Make the fastest exact form of a variant for this device.

    Args:
        variant: how it is to be executed.
        network: as ``Networks.runnable`` gives it; not changed.
        example: an input batch of the size to be measured.
        device: where it runs.
        calibration: a larger batch whose ranges set int8's static scales; ``example`` if None.

    Raises:
        RuntimeError: no form of it runs on the GPU.
    """
    example = example.to(device)
    on_gpu = device.startswith("cuda")
    if variant.execution.startswith(PACKED):
        if on_gpu and gpu.usable():
            activations = variant.execution.removeprefix(PACKED)
            return Executable(variant.name, *gpu.packed_form(network, example, activations))
        return Executable(variant.name, network, kernels.describe(network))
    if on_gpu:
        form = gpu.baseline(network, example, variant.execution, compiled=False)
        return Executable(variant.name, *form)
    if variant.execution == "int8":
        seen = None if calibration is None else calibration.to(device)
        module, kernel = dense.int8(network, example, seen)
    elif variant.execution == "bf16":
        module, kernel = dense.bf16(network, example)
    else:
        module, kernel = dense.best_fp32(network, example)
    return Executable(variant.name, module, kernel)
