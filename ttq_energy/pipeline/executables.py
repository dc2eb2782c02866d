"""The code that runs each variant: dense torch kernels or packed ternary ones, named as such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttq_energy import kernels
from ttq_energy.kernels import dense, gpu
from ttq_energy.quantization import convert
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
    model: torch.nn.Module,
    example: torch.Tensor,
    device: str,
    calibration: torch.Tensor | None = None,
) -> Executable:
    """Make the fastest exact form of a variant for this device.

    Args:
        variant: how it is to be executed.
        model: the trained network (with quantizers in place); not changed.
        example: an input batch of the size to be measured.
        device: where it runs.
        calibration: a larger batch whose ranges set int8's static scales; ``example`` if None.

    Raises:
        InputError: the variant's weights cannot run on packed kernels (not ternary).
    """
    if variant.execution.startswith("packed-"):
        activations = variant.execution.removeprefix("packed-")
        if device.startswith("cuda") and gpu.usable():
            return _on_gpu(variant, model, example, device, activations)
        packed = convert(model, activations=activations, example_input=example).to(device).eval()
        return Executable(variant.name, packed, kernels.describe(packed))
    model, example = model.to(device), example.to(device)
    if device.startswith("cuda"):
        return Executable(
            variant.name, *gpu.baseline(model, example, variant.execution, compiled=False)
        )
    if variant.execution == "int8":
        seen = None if calibration is None else calibration.to(device)
        module, kernel = dense.int8(model, example, seen)
    elif variant.execution == "bf16":
        module, kernel = dense.bf16(model, example)
    else:
        module, kernel = dense.best_fp32(model, example)
    return Executable(variant.name, module, kernel)


def _on_gpu(
    variant: Variant,
    model: torch.nn.Module,
    example: torch.Tensor,
    device: str,
    activations: str,
) -> Executable:
    """The packed network as it is or as a CUDA graph; half types are cast around float packing."""
    packing = "int8" if activations == "int8" else "fp32"
    packed = convert(model, activations=packing, example_input=example).to(device).eval()
    return Executable(variant.name, *gpu.packed_form(packed, example.to(device), activations))
