"""AMD GPUs through amdsmi, the library of ROCm: energy accumulator and socket power.

Reference: https://rocm.docs.amd.com/projects/amdsmi/ (Power Queries).
"""

from __future__ import annotations

import contextlib
import time
from types import ModuleType
from typing import Any

from ttq_energy.errors import SensorError
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.host import has_display_device
from ttq_energy.meters.unwrap import Unwrapper

AMD = "0x1002"
"""PCI vendor."""
NOMINAL_UPDATE_S = 0.1
POWER_KEYS = ("current_socket_power", "socket_power", "average_socket_power")
"""Best first: the instant value of newer boards, else the driver's average."""
MICROJOULE = 1e-6
PEAK_POWER_W = 3000.0


class AmdGpuMeter(Meter):
    """AMD GPUs: "amd-gpu-N", the energy accumulator, and "amd-gpu-N-power", the sampled power."""

    name = "amd-gpu"
    sampled = True

    def __init__(self) -> None:
        """Find the GPUs.

        Raises:
            SensorError: amdsmi or its driver is missing, or no GPU tells its energy or power.
        """
        library = _open()
        try:
            gpus = [_describe(library, index, h) for index, h in enumerate(_handles(library))]
        finally:
            _shut(library)
        self._gpus = [gpu for gpu in gpus if gpu]
        if not self._gpus:
            raise SensorError("amd-gpu: amdsmi finds no GPU that tells its energy or power")
        self._library: ModuleType | None = None
        self._live: list[Any] = []
        self._unwrappers: dict[str, Unwrapper] = {}

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(domain for gpu in self._gpus for domain in gpu)

    def __getstate__(self) -> dict[str, Any]:
        """Without the library's handles: a copy in another process makes its own at ``start``."""
        return {**self.__dict__, "_library": None, "_live": [], "_unwrappers": {}}

    def start(self) -> None:
        if self._library is not None:
            return
        library = _open()
        self._live = _handles(library)
        for domain in self.domains:
            if domain.provenance is Provenance.COUNTER:
                handle = self._live[_index(domain)]
                try:
                    count, joule = _energy(library, handle)
                except Exception as error:
                    _shut(library)
                    raise SensorError(f"amd-gpu: {_text(error)}") from None
                unwrapper = Unwrapper(joule, modulus=2**64, peak_power_w=PEAK_POWER_W)
                unwrapper.start(count, time.monotonic())
                self._unwrappers[domain.name] = unwrapper
        self._library = library

    def read(self) -> list[Reading]:
        return [self._read_one(domain) for domain in self.domains]

    def _read_one(self, domain: Domain) -> Reading:
        library = self._library
        if library is None:
            return Reading(domain.name, time.monotonic(), error="the meter is not started")
        try:
            handle = self._live[_index(domain)]
            if domain.provenance is Provenance.INTEGRATED:
                power_w = _power_w(library, handle)
                return Reading(domain.name, time.monotonic(), power_w=power_w)
            count, _ = _energy(library, handle)
            return self._unwrappers[domain.name].reading(domain.name, count, time.monotonic())
        except Exception as error:  # amdsmi's exceptions differ between its versions
            return Reading(domain.name, time.monotonic(), error=f"amdsmi: {_text(error)}")

    def stop(self) -> None:
        library, self._library, self._live = self._library, None, []
        if library is not None:
            _shut(library)

    @classmethod
    def probe(cls) -> SensorStatus:
        try:
            meter = cls()
        except SensorError as error:
            reason, _, remedy = str(error).removeprefix("amd-gpu: ").partition("; ")
            return SensorStatus(
                cls.name, False, False, Provenance.COUNTER, reason=reason, remedy=remedy
            )
        covers = ", ".join(f"{d.name} ({d.hardware})" for d in meter.domains if d.additive)
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


def _open() -> ModuleType:
    try:
        import amdsmi
    except ImportError:
        if not has_display_device(AMD):
            raise SensorError("amd-gpu: no AMD GPU on this machine") from None
        raise SensorError(
            "amd-gpu: amdsmi is not installed (it comes with ROCm); pip install amdsmi"
        ) from None
    except Exception as error:  # it loads its C library at import
        raise SensorError(f"amd-gpu: amdsmi does not load: {_text(error)}") from None
    try:
        amdsmi.amdsmi_init()
    except Exception as error:
        raise SensorError(f"amd-gpu: amdsmi does not start: {_text(error)}") from None
    library: ModuleType = amdsmi
    return library


def _shut(library: ModuleType) -> None:
    with contextlib.suppress(Exception):
        library.amdsmi_shut_down()


def _handles(library: ModuleType) -> list[Any]:
    try:
        return list(library.amdsmi_get_processor_handles())
    except Exception as error:
        raise SensorError(f"amd-gpu: {_text(error)}") from None


def _describe(library: ModuleType, index: int, handle: Any) -> tuple[Domain, ...]:
    name = f"amd-gpu-{index}"
    hardware = driver = ""
    with contextlib.suppress(Exception):
        hardware = str(library.amdsmi_get_gpu_asic_info(handle)["market_name"])
    with contextlib.suppress(Exception):
        driver = str(library.amdsmi_get_gpu_driver_info(handle)["driver_version"])
    domains: list[Domain] = []
    with contextlib.suppress(Exception):
        count, joule = _energy(library, handle)
        if count > 0:  # the second chip of a two-chip board always shows 0
            domains.append(
                Domain(
                    name=name,
                    component="gpu",
                    provenance=Provenance.COUNTER,
                    covers=f"GPU {index} ({hardware}): the socket, by its energy accumulator",
                    update_period_s=NOMINAL_UPDATE_S,
                    resolution_j=joule,
                    hardware=hardware,
                    driver=driver,
                )
            )
    with contextlib.suppress(Exception):
        _power_w(library, handle)
        domains.append(
            Domain(
                name=f"{name}-power",
                component="gpu",
                provenance=Provenance.INTEGRATED,
                covers=f"GPU {index} ({hardware}): the socket, by its sampled power",
                additive=not domains,
                update_period_s=NOMINAL_UPDATE_S,
                hardware=hardware,
                driver=driver,
            )
        )
    return tuple(domains)


def _energy(library: ModuleType, handle: Any) -> tuple[int, float]:
    """The accumulator and the joules of one count ("power" before amdsmi 6.2.1)."""
    info = library.amdsmi_get_energy_count(handle)
    count = info["energy_accumulator"] if "energy_accumulator" in info else info["power"]
    return int(count), float(info["counter_resolution"]) * MICROJOULE


def _power_w(library: ModuleType, handle: Any) -> float:
    info = library.amdsmi_get_power_info(handle)
    for key in POWER_KEYS:
        value = info.get(key)
        if isinstance(value, (int, float)) and 0 < value < 65535:  # "N/A" and 65535: not there
            return float(value)
    raise ValueError("the driver reports no power")


def _index(domain: Domain) -> int:
    return int(domain.name.split("-")[2])


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
