"""One NVIDIA GPU through NVML: what it can tell, and how to ask for it.

NVML's reference: https://docs.nvidia.com/deploy/nvml-api/ (device queries, field values).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ttq_energy.meters.host import has_display_device, is_container

NVIDIA = "0x10de"
"""PCI vendor."""
INSTANT, AVERAGE, LEGACY = "power.draw.instant", "power.draw.average", "power.draw"
"""The names that nvidia-smi gives to NVML's power readings."""
READINGS = (INSTANT, AVERAGE, LEGACY)
MODULE_SCOPE = 1
"""NVML_POWER_SCOPE_MODULE: the GPU and the CPU of a superchip together."""
GA100_BOARDS = ("A100", "A800", "A30", "CMP 170HX")
"""Boards with the GA100 chip, whose legacy reading is not averaged over 1 s."""


class NvmlAbsent(Exception):
    """NVML cannot be used here; ``reason`` and ``remedy`` as in SensorStatus."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Gpu:
    """What was found out about one GPU; plain data, so that it can go to another process.

    Attributes:
        index: NVML's.
        name: the board's, such as "NVIDIA A100-PCIE-40GB".
        driver: its version.
        architecture: NVML_DEVICE_ARCH_*; 0 where unknown.
        has_counter: there is an energy counter (Volta and later).
        readings: the power readings that work, best first.
        module_power: the reading of the whole superchip works.
        mig: MIG is on.
    """

    index: int
    name: str
    driver: str
    architecture: int
    has_counter: bool
    readings: tuple[str, ...]
    module_power: bool
    mig: bool

    def meaning(self, nvml: ModuleType, reading: str) -> str:
        """What a power reading shows on this architecture and driver."""
        if reading == INSTANT:
            return "power of the latest sensor sample"
        if reading == AVERAGE:
            return "power averaged over 1 s"
        if self.averages_legacy(nvml):
            return "power averaged over 1 s (Ampere and later except GA100)"
        if self.architecture >= nvml.NVML_DEVICE_ARCH_AMPERE:
            return "power of the latest sensor sample (GA100, or driver branch 530)"
        return "power as this generation's driver filters it; it lags behind the load"

    def averages_legacy(self, nvml: ModuleType) -> bool:
        """Whether ``power.draw`` is a 1 s average: on Ampere and later, except on GA100 (NVML's
        reference, nvmlDeviceGetPowerUsage) and by driver branch 530 (arXiv 2312.02741)."""
        ga100 = any(board in self.name for board in GA100_BOARDS)
        modern = bool(self.architecture >= nvml.NVML_DEVICE_ARCH_AMPERE)
        return modern and not ga100 and not self.driver.startswith("530.")


@contextlib.contextmanager
def session() -> Iterator[ModuleType]:
    """NVML initialised for the time of the block.

    Raises:
        NvmlAbsent: it cannot be.
    """
    nvml = open_nvml()
    try:
        yield nvml
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def open_nvml() -> ModuleType:
    """Load and initialise NVML; each call needs its own ``nvmlShutdown``.

    Raises:
        NvmlAbsent: there is no driver, or it does not answer.
    """
    try:
        import pynvml
    except ImportError:
        raise NvmlAbsent("nvidia-ml-py is not installed", "pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _absent(pynvml, error) from None
    nvml: ModuleType = pynvml
    return nvml


def _absent(nvml: ModuleType, error: Any) -> NvmlAbsent:
    code = getattr(error, "value", None)
    if code == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        if not os.path.exists("/dev/nvidiactl") and not has_display_device(NVIDIA):
            return NvmlAbsent("no NVIDIA GPU and no driver (libnvidia-ml.so.1) on this machine")
        return NvmlAbsent(
            "an NVIDIA GPU is there, but not its driver's library libnvidia-ml.so.1",
            "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ..."
            if is_container()
            else "sudo apt install nvidia-driver",
        )
    if code == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return NvmlAbsent("the NVIDIA driver is not loaded", "sudo modprobe nvidia")
    if code == nvml.NVML_ERROR_NO_PERMISSION:
        return NvmlAbsent(
            "no permission to talk to the NVIDIA driver", "sudo chmod a+rw /dev/nvidia*"
        )
    if code == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return NvmlAbsent("the NVIDIA driver and its library differ in version", "sudo reboot")
    return NvmlAbsent(f"NVML does not start: {error}")


def visible_indices(nvml: ModuleType) -> list[int]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves to this process; all where it is not set.

    Raises:
        NvmlAbsent: it hides every GPU, or there is none.
    """
    count = int(nvml.nvmlDeviceGetCount())
    if count == 0:
        raise NvmlAbsent("the NVIDIA driver knows no GPU")
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(range(count))
    indices: list[int] = []
    for item in (part.strip() for part in chosen.split(",")):
        index = _index_of(nvml, item, count)
        if index is None:
            break  # CUDA ignores what follows the first invalid entry
        if index not in indices:
            indices.append(index)
    if not indices:
        raise NvmlAbsent(
            f"CUDA_VISIBLE_DEVICES={chosen!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES"
        )
    return indices


def _index_of(nvml: ModuleType, item: str, count: int) -> int | None:
    if item.isdigit():
        return int(item) if int(item) < count else None
    if not item.startswith(("GPU-", "MIG-")):
        return None
    for index in range(count):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        with contextlib.suppress(nvml.NVMLError):
            if str(nvml.nvmlDeviceGetUUID(handle)).startswith(item):
                return index
            if item.startswith("MIG-") and item in _mig_uuids(nvml, handle):
                return index
    return None


def _mig_uuids(nvml: ModuleType, handle: Any) -> list[str]:
    uuids = []
    with contextlib.suppress(nvml.NVMLError):
        for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError):
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                uuids.append(str(nvml.nvmlDeviceGetUUID(part)))
    return uuids


def describe(nvml: ModuleType, index: int) -> Gpu:
    """Find out what one GPU can tell.

    Raises:
        NvmlAbsent: it does not answer.
    """
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = str(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError as error:
        raise NvmlAbsent(f"GPU {index}: {error}") from None
    readings = tuple(r for r in READINGS if _works(nvml, lambda r=r: read_power(nvml, handle, r)))
    return Gpu(
        index=index,
        name=name,
        driver=str(_or(nvml, lambda: nvml.nvmlSystemGetDriverVersion(), "")),
        architecture=int(_or(nvml, lambda: nvml.nvmlDeviceGetArchitecture(handle), 0)),
        has_counter=_works(nvml, lambda: read_energy_mj(nvml, handle)),
        readings=readings,
        module_power=_works(nvml, lambda: read_module_power(nvml, handle)),
        mig=bool(_or(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0], 0)),
    )


def read_energy_mj(nvml: ModuleType, handle: Any) -> int:
    """The energy counter, mJ since the driver was loaded."""
    return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def read_power(nvml: ModuleType, handle: Any, reading: str) -> float:
    """One power reading, W.

    Raises:
        NVMLError: it is not supported, or failed.
    """
    if reading == LEGACY:
        return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1000.0
    field = nvml.NVML_FI_DEV_POWER_INSTANT if reading == INSTANT else nvml.NVML_FI_DEV_POWER_AVERAGE
    return field_value(nvml, handle, field) / 1000.0


def read_module_power(nvml: ModuleType, handle: Any) -> float:
    """Power of the whole superchip that the GPU is a part of, W."""
    return field_value(nvml, handle, (nvml.NVML_FI_DEV_POWER_INSTANT, MODULE_SCOPE)) / 1000.0


def field_value(nvml: ModuleType, handle: Any, field: int | tuple[int, int]) -> float:
    """One field's value.

    Raises:
        NVMLError: the call or the field failed.
    """
    value = nvml.nvmlDeviceGetFieldValues(handle, [field])[0]
    return _value(nvml, value)


def _value(nvml: ModuleType, value: Any) -> float:
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    kinds = {
        nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    }
    return float(getattr(value.value, kinds.get(value.valueType, "uiVal")))


def _works(nvml: ModuleType, call: Any) -> bool:
    try:
        call()
    except nvml.NVMLError:
        return False
    return True


def _or(nvml: ModuleType, call: Any, otherwise: Any) -> Any:
    try:
        return call()
    except nvml.NVMLError:
        return otherwise


def conditions(nvml: ModuleType, handle: Any, prefix: str) -> dict[str, float | str | bool]:
    """Clocks, temperature, limits, cumulative throttling and other processes of one GPU.

    Args:
        nvml: the module.
        handle: the device.
        prefix: put before every key, such as "gpu-0-".
    """
    found: dict[str, float | str | bool] = {}

    def note(key: str, call: Any) -> None:
        with contextlib.suppress(nvml.NVMLError):
            found[prefix + key] = call()

    note("sm_clock_mhz", lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)))
    note(
        "memory_clock_mhz", lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))
    )
    note(
        "temperature_c",
        lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
    )
    note("power_limit_w", lambda: float(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000.0)
    note("utilization", lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100.0)
    note("other_processes", lambda: _other_processes(nvml, handle))
    found.update(_throttling(nvml, handle, prefix))
    return found


def _other_processes(nvml: ModuleType, handle: Any) -> float:
    own = _own_pids()
    processes = [
        *nvml.nvmlDeviceGetComputeRunningProcesses(handle),
        *nvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
    ]
    return float(len({p.pid for p in processes} - own))


def _own_pids() -> set[int]:
    """This process and those it started; in a container also under the host's numbers."""
    own = {os.getpid()}
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("NSpid:"):
                own.update(int(number) for number in line.split()[1:])
    with contextlib.suppress(Exception):
        import psutil

        own.update(child.pid for child in psutil.Process().children(recursive=True))
    return own


def _throttling(nvml: ModuleType, handle: Any, prefix: str) -> dict[str, float | str | bool]:
    """Seconds for which the clocks were held back since the driver was loaded, by reason.

    From nvmlDeviceGetViolationStatus (ns); newer reasons from their field values (ns).
    """
    policies = {
        "power": nvml.NVML_PERF_POLICY_POWER,
        "thermal": nvml.NVML_PERF_POLICY_THERMAL,
        "sync_boost": nvml.NVML_PERF_POLICY_SYNC_BOOST,
        "board_limit": nvml.NVML_PERF_POLICY_BOARD_LIMIT,
        "reliability": nvml.NVML_PERF_POLICY_RELIABILITY,
    }
    fields = {
        "sw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
        "hw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
        "hw_power_brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
    }
    found: dict[str, float | str | bool] = {}
    for reason, policy in policies.items():
        with contextlib.suppress(nvml.NVMLError):
            status = nvml.nvmlDeviceGetViolationStatus(handle, policy)
            found[f"{prefix}throttle_{reason}_s"] = status.violationTime * 1e-9
    for reason, name in fields.items():
        field = getattr(nvml, name, None)
        if field is not None:
            with contextlib.suppress(nvml.NVMLError):
                found[f"{prefix}throttle_{reason}_s"] = field_value(nvml, handle, field) * 1e-9
    return found


def check_indices(indices: Sequence[int], count: int) -> str:
    """What is wrong with GPU indices that a user gave; empty where nothing is."""
    for index in indices:
        if not 0 <= index < count:
            return f"no GPU {index}; there are {count}, numbered from 0"
    return ""
