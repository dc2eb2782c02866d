"""NVIDIA GPUs: the energy counter and the sampled power, side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from ttq_energy.errors import InputError, SensorError, unknown_name
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.nvml_device import (
    READINGS,
    Gpu,
    NvmlAbsent,
    check_indices,
    conditions,
    describe,
    open_nvml,
    read_energy_mj,
    read_module_power,
    read_power,
    session,
    visible_indices,
)
from ttq_energy.meters.spot import measure_updates
from ttq_energy.meters.unwrap import Unwrapper

NOMINAL_UPDATE_S = 0.1
"""Power samples come every 15 to 100 ms, depending on the board (arXiv 2312.02741, table 2)."""
SPOT_LIMIT_S = 0.4
SPOT_PAUSE_S = 0.001
SUPERCHIPS = ("GH200", "GB200", "GB300", "GB10", "Grace")
PEAK_POWER_W = 3000.0
"""Above the limit of any board or superchip; a counter that rises faster was reset."""


class NvmlMeter(Meter):
    """NVIDIA GPUs through NVML.

    Domains of GPU N: "gpu-N", the energy counter (Volta and later), which may be added; and
    "gpu-N-power", the sampled power, which must not be added to it but is compared with it. On
    superchips also "gpu-N-module", the power of the GPU and the CPU beside it.
    """

    name = "nvml"
    sampled = True

    def __init__(
        self,
        indices: Sequence[int] | None = None,
        reading: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the GPUs and what they can tell.

        Args:
            indices: NVML's numbers of the GPUs; None takes those that CUDA_VISIBLE_DEVICES leaves.
            reading: the power reading, "power.draw.instant", "power.draw.average" or
                "power.draw"; None takes the instant one where the driver has it.
            clock: monotonic seconds.

        Raises:
            SensorError: there is no usable GPU.
            InputError: no such GPU or reading.
        """
        if reading is not None and reading not in READINGS:
            raise unknown_name("power reading", reading, READINGS, "nvml")
        try:
            with session() as nvml:
                self._gpus = self._found(nvml, indices)
                self._readings = [self._reading_of(gpu, reading) for gpu in self._gpus]
                self._domains = self._describe(nvml)
        except NvmlAbsent as absent:
            hint = f"; this would help: {absent.remedy}" if absent.remedy else ""
            raise SensorError(f"nvml: {absent.reason}{hint}") from None
        self._clock = clock
        self._nvml: ModuleType | None = None
        self._handles: list[Any] = []
        self._unwrappers: list[Unwrapper] = []

    @staticmethod
    def _found(nvml: ModuleType, indices: Sequence[int] | None) -> list[Gpu]:
        if indices is None:
            indices = visible_indices(nvml)
        else:
            problem = check_indices(indices, int(nvml.nvmlDeviceGetCount()))
            if problem:
                raise InputError(f"nvml: {problem}")
        gpus = [describe(nvml, index) for index in indices]
        silent = [gpu for gpu in gpus if not gpu.has_counter and not gpu.readings]
        if len(silent) == len(gpus):
            names = ", ".join(sorted({gpu.name for gpu in gpus}))
            raise NvmlAbsent(
                f"{names}: the driver reports neither energy nor power"
                " (in a virtual machine: a virtual GPU has no sensor)"
            )
        return [gpu for gpu in gpus if gpu not in silent]

    @staticmethod
    def _reading_of(gpu: Gpu, wanted: str | None) -> str | None:
        if wanted is None:
            return gpu.readings[0] if gpu.readings else None
        if wanted not in gpu.readings:
            raise SensorError(
                f"nvml: GPU {gpu.index} ({gpu.name}, driver {gpu.driver}) has no '{wanted}'; "
                f"it has: {', '.join(gpu.readings) or 'none'}"
            )
        return wanted

    def _describe(self, nvml: ModuleType) -> tuple[Domain, ...]:
        domains: list[Domain] = []
        for gpu, reading in zip(self._gpus, self._readings, strict=True):
            counter_s, power_s = _update_periods(nvml, gpu, reading)
            board = f"GPU {gpu.index} ({gpu.name}): {_scope(gpu)}"
            own = Domain(
                name=f"gpu-{gpu.index}",
                component="gpu",
                provenance=Provenance.COUNTER,
                covers=f"{board}; the driver's energy counter",
                update_period_s=counter_s,
                resolution_j=0.001,
                hardware=gpu.name,
                driver=gpu.driver,
            )
            sampled = replace(
                own, provenance=Provenance.INTEGRATED, update_period_s=power_s, resolution_j=0.0
            )
            if gpu.has_counter:
                domains.append(own)
            if reading is not None:
                power = replace(
                    sampled,
                    name=f"gpu-{gpu.index}-power",
                    covers=f"{board}; {reading}: {gpu.meaning(nvml, reading)}",
                    additive=not gpu.has_counter,
                    reading=reading,
                )
                domains.append(power)
            if gpu.module_power:
                module = replace(
                    sampled,
                    name=f"gpu-{gpu.index}-module",
                    component="soc",
                    covers=f"the module of GPU {gpu.index}: GPU, CPU and memory together",
                    additive=False,
                    reading="module.power.draw.instant",
                )
                domains.append(module)
        return tuple(domains)

    @property
    def domains(self) -> tuple[Domain, ...]:
        return self._domains

    def __getstate__(self) -> dict[str, Any]:
        """Without NVML's handles: a copy in another process makes its own at ``start``."""
        return {**self.__dict__, "_nvml": None, "_handles": [], "_unwrappers": []}

    def start(self) -> None:
        if self._nvml is not None:
            return
        try:
            nvml = open_nvml()
        except NvmlAbsent as absent:
            raise SensorError(f"nvml: {absent.reason}") from None
        try:
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(gpu.index) for gpu in self._gpus]
            self._unwrappers = [Unwrapper(1e-3, peak_power_w=PEAK_POWER_W) for _ in self._gpus]
            for gpu, handle, unwrapper in zip(
                self._gpus, self._handles, self._unwrappers, strict=True
            ):
                if gpu.has_counter:
                    unwrapper.start(read_energy_mj(nvml, handle), self._clock())
        except nvml.NVMLError as error:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
            raise SensorError(f"nvml: {error}") from None
        self._nvml = nvml

    def read(self) -> list[Reading]:
        nvml = self._nvml
        if nvml is None:
            now = self._clock()
            return [Reading(d.name, now, error="the meter is not started") for d in self._domains]
        readings: list[Reading] = []
        for place, gpu in enumerate(self._gpus):
            handle, power = self._handles[place], self._readings[place]
            if gpu.has_counter:
                readings.append(self._energy(nvml, place))
            if power is not None:
                readings.append(self._power(f"gpu-{gpu.index}-power", read_power, handle, power))
            if gpu.module_power:
                readings.append(self._power(f"gpu-{gpu.index}-module", read_module_power, handle))
        return readings

    def _energy(self, nvml: ModuleType, place: int) -> Reading:
        name = f"gpu-{self._gpus[place].index}"
        try:
            raw = read_energy_mj(nvml, self._handles[place])
            return self._unwrappers[place].reading(name, raw, self._clock())
        except nvml.NVMLError as error:
            return Reading(name, self._clock(), error=f"NVML: {error}")

    def _power(self, name: str, read: Callable[..., float], *arguments: Any) -> Reading:
        assert self._nvml is not None
        try:
            power_w = read(self._nvml, *arguments)
            return Reading(name, self._clock(), power_w=power_w)
        except self._nvml.NVMLError as error:
            return Reading(name, self._clock(), error=f"NVML: {error}")

    def stop(self) -> None:
        nvml, self._nvml, self._handles = self._nvml, None, []
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def conditions(self) -> dict[str, float | str | bool]:
        """Of each GPU: clocks, temperature, limit, seconds of throttling, other processes."""
        found: dict[str, float | str | bool] = {}
        if self._nvml is not None:
            for gpu, handle in zip(self._gpus, self._handles, strict=True):
                found.update(conditions(self._nvml, handle, f"gpu-{gpu.index}-"))
        return found

    @classmethod
    def probe(cls) -> SensorStatus:
        try:
            meter = cls()
        except SensorError as error:
            return _absent_status(cls.name, str(error).removeprefix("nvml: "))
        covers = ", ".join(
            f"{domain.name} ({domain.hardware}, driver {domain.driver})"
            for domain in meter.domains
            if domain.name.count("-") == 1 or domain.additive
        )
        first = meter.domains[0]
        return SensorStatus(
            cls.name,
            True,
            True,
            first.provenance,
            covers,
            update_period_s=first.update_period_s,
            resolution_j=first.resolution_j or None,
        )


def _absent_status(name: str, fallback: str) -> SensorStatus:
    reason, remedy, found = fallback, "", True
    try:
        with session() as nvml:
            visible_indices(nvml)
    except NvmlAbsent as absent:
        reason, remedy = absent.reason, absent.remedy
        found = "no NVIDIA GPU" not in reason and "knows no GPU" not in reason
    return SensorStatus(name, found, False, Provenance.COUNTER, reason=reason, remedy=remedy)


def _scope(gpu: Gpu) -> str:
    scope = "the whole board with its memory"
    if any(name in gpu.name for name in SUPERCHIPS):
        scope = "the GPU of a superchip; the CPU beside it is in the module's reading"
    if gpu.mig:
        scope += ", all MIG instances together"
    return scope


def _update_periods(nvml: ModuleType, gpu: Gpu, reading: str | None) -> tuple[float, float]:
    """Update periods of the counter and of the power, seen on the spot, else nominal."""
    handle = nvml.nvmlDeviceGetHandleByIndex(gpu.index)

    def values() -> list[float | None]:
        found: list[float | None] = [None, None]
        with contextlib.suppress(nvml.NVMLError):
            if gpu.has_counter:
                found[0] = float(read_energy_mj(nvml, handle))
        with contextlib.suppress(nvml.NVMLError):
            if reading is not None:
                found[1] = read_power(nvml, handle, reading)
        return found

    counter, power = measure_updates(values, SPOT_LIMIT_S, changes=4, pause_s=SPOT_PAUSE_S)
    return (counter.update_period_s or NOMINAL_UPDATE_S, power.update_period_s or NOMINAL_UPDATE_S)
