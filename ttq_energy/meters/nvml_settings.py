"""Settings of NVIDIA GPUs that make a comparison unsound, or that a reader must know; only read.

NVML's reference: https://docs.nvidia.com/deploy/nvml-api/ (device queries).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ttq_energy.meters.nvml_device import NvmlAbsent, session, visible_indices

CLOCKS = {"NVML_CLOCK_SM": "SM", "NVML_CLOCK_MEM": "memory"}


def gpu_settings(indices: Sequence[int] | None = None) -> list[str]:
    """One sentence for each setting of a GPU that is not its default or spoils a comparison.

    Clocks locked by ``nvidia-smi --lock-gpu-clocks`` cannot be read through NVML; a clock that
    moves during a block is seen by the protocol, which leaves the block out.

    Args:
        indices: NVML's numbers; None takes those that CUDA_VISIBLE_DEVICES leaves.

    Returns:
        Sentences such as "GPU 0 (NVIDIA H100 80GB HBM3): persistence mode is off: ..."; none where
        there is no NVML.
    """
    try:
        with session() as nvml:
            chosen = visible_indices(nvml) if indices is None else indices
            return [
                f"GPU {index} ({nvml.nvmlDeviceGetName(handle)}): {sentence}"
                for index in chosen
                for handle in [nvml.nvmlDeviceGetHandleByIndex(index)]
                for sentence in settings_of(nvml, handle)
            ]
    except NvmlAbsent:
        return []
    except Exception as error:
        if type(error).__name__.startswith("NVMLError"):
            return [f"the GPU's settings cannot be read: {error}"]
        raise


def settings_of(nvml: ModuleType, handle: Any) -> list[str]:
    """The sentences of one GPU; what it does not tell is passed over."""

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments)
        except (nvml.NVMLError, AttributeError):
            return None

    found = []
    if ask("nvmlDeviceGetPersistenceMode") == 0:
        found.append(
            "persistence mode is off: the driver may unload between runs, which resets clocks, "
            "settings and the energy counter"
        )
    limit, default = (
        ask("nvmlDeviceGetEnforcedPowerLimit"),
        ask("nvmlDeviceGetPowerManagementDefaultLimit"),
    )
    if limit and default and limit != default:
        found.append(
            f"the power limit is {limit / 1000:g} W, not the board's {default / 1000:g} W: ratios "
            "hold for this limit alone"
        )
    for constant, name in CLOCKS.items():
        clock = getattr(nvml, constant, None)
        application, usual = (
            ask("nvmlDeviceGetApplicationsClock", clock),
            ask("nvmlDeviceGetDefaultApplicationsClock", clock),
        )
        if application and usual and application != usual:
            found.append(
                f"the {name} application clock is {application} MHz, not the default {usual} MHz"
            )
    ecc = ask("nvmlDeviceGetEccMode")
    if ecc is not None and ecc[0] == 0:
        found.append("ECC is off: bandwidth and energy differ from those of the default")
    if ecc is not None and ecc[0] != ecc[1]:
        found.append("ECC changes at the next reboot: figures before and after do not compare")
    mig = ask("nvmlDeviceGetMigMode")
    if mig is not None and mig[0] == 1:
        found.append("MIG is on: the energy is that of the whole board, all instances together")
    if ask("nvmlDeviceGetVirtualizationMode") in (
        getattr(nvml, "NVML_GPU_VIRTUALIZATION_MODE_VGPU", 2),
        getattr(nvml, "NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU", 3),
    ):
        found.append("the GPU is shared as virtual GPUs: the energy is that of all of them")
    return found
