"""Models that are already in memory: what ``profile`` makes of them before it writes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError
from ttq_energy.quantization.layers import refuse_uninitialized
from ttq_energy.records import check_record
from ttq_energy.study import MeasurementSpec, ModelSpec, Study, VariantSpec
from ttq_energy.variants import BASELINE

if TYPE_CHECKING:
    import torch

MEASURED_ON = ("cpu", "cuda")
"""Kinds of devices on which a call's end can be told."""


def study_of_modules(
    modules: Mapping[str, torch.nn.Module],
    inputs: Any,
    targets: Sequence[str],
    measurement: MeasurementSpec | None,
) -> Study:
    """The study that profiling these modules amounts to; arguments as of ``profile``.

    Raises:
        InputError: an argument is of another kind, or cannot be measured.
    """
    _check_modules(modules)
    _check_inputs(inputs)
    if isinstance(targets, str):
        raise InputError(f"targets: expected a list of names, got the text '{targets}'")
    if measurement is not None and not isinstance(measurement, MeasurementSpec):
        raise InputError(f"measurement: expected a MeasurementSpec, got {measurement!r}")
    spec = replace(measurement or MeasurementSpec(), batch_sizes=(len(inputs),))
    check_record(spec)
    return Study(
        name="modules",
        models=(ModelSpec("model"),),
        variants=tuple(VariantSpec(name) for name in modules),
        measurement=spec,
        targets=tuple(targets),
    )


def baseline_of(modules: Mapping[str, torch.nn.Module]) -> str:
    """What the others are compared with: "fp32", or the first."""
    return BASELINE if BASELINE in modules else next(iter(modules))


def _check_modules(modules: Mapping[str, torch.nn.Module]) -> None:
    if not modules:
        raise InputError("profile: expected at least one module")
    for name, module in modules.items():
        _check_module(name, module)


def _check_module(name: Any, module: Any) -> None:
    import torch

    if not isinstance(name, str):
        raise InputError(f"profile: expected variant names as text, got {name!r}")
    if not isinstance(module, torch.nn.Module):
        kind = f"the class {module.__name__}" if isinstance(module, type) else repr(module)
        raise InputError(f"profile: '{name}': expected a torch module, got {kind[:60]}")
    refuse_uninitialized(module, f"profile: '{name}'")


def _check_inputs(inputs: Any) -> None:
    import torch

    if not isinstance(inputs, torch.Tensor):
        kind = "nothing" if inputs is None else type(inputs).__name__
        raise InputError(f"profile: 'inputs' must be a batch, a tensor, got {kind}")
    if inputs.ndim < 1 or len(inputs) == 0:
        raise InputError("profile: 'inputs' must be a batch of at least one example")
    if inputs.device.type not in MEASURED_ON:
        raise InputError(
            f"profile: 'inputs': on the device '{inputs.device}' nothing can be measured; expected "
            f"{' or '.join(MEASURED_ON)}"
        )
