"""Apple silicon through zeus-apple-silicon: the chip's energy counters, without root."""

from __future__ import annotations

import platform
import sys
import time
from typing import Any

from ttq_energy.errors import SensorError
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.unwrap import Unwrapper

NOMINAL_UPDATE_S = 0.02
MILLIJOULE = 1e-3
FIELDS = {
    "cpu_total_mj": ("apple-cpu", "cpu", "all CPU clusters"),
    "gpu_mj": ("apple-gpu", "gpu", "the GPU"),
    "gpu_sram_mj": ("apple-gpu-sram", "gpu", "the GPU's own memory"),
    "ane_mj": ("apple-ane", "soc", "the neural engine"),
    "dram_mj": ("apple-dram", "dram", "the memory"),
}
"""Fields of AppleEnergyMetrics that do not overlap; the others are parts of cpu_total_mj."""


class AppleMeter(Meter):
    """The parts of an Apple chip: "apple-cpu", "apple-gpu", "apple-dram", "apple-ane"."""

    name = "apple"

    def __init__(self) -> None:
        """Find what this chip counts.

        Raises:
            SensorError: this is not such a machine, or the library is missing.
        """
        self._monitor = _monitor()
        values = self._values()
        self._fields = [field for field in FIELDS if values.get(field) is not None]
        if not self._fields:
            raise SensorError("apple: the chip tells no energy")
        self._unwrappers: dict[str, Unwrapper] = {}

    def _values(self) -> dict[str, int | None]:
        metrics = self._monitor.get_cumulative_energy()
        return {field: getattr(metrics, field, None) for field in FIELDS}

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(
            Domain(
                name=FIELDS[field][0],
                component=FIELDS[field][1],
                provenance=Provenance.COUNTER,
                covers=f"{FIELDS[field][2]}, by the chip's counters, which Apple calls estimates",
                update_period_s=NOMINAL_UPDATE_S,
                resolution_j=MILLIJOULE,
            )
            for field in self._fields
        )

    def start(self) -> None:
        if self._unwrappers:
            return
        now, values = time.monotonic(), self._values()
        for field in self._fields:
            value = values[field]
            if value is None:
                raise SensorError(f"apple: {FIELDS[field][0]} gave no value")
            self._unwrappers[field] = Unwrapper(MILLIJOULE)
            self._unwrappers[field].start(value, now)

    def read(self) -> list[Reading]:
        problem, values = "", dict.fromkeys(FIELDS, None) if not self._unwrappers else None
        if values is None:
            try:
                values = self._values()
            except Exception as error:  # the library raises RuntimeError for whatever fails
                values, problem = dict.fromkeys(FIELDS, None), str(error)
        else:
            problem = "the meter is not started"
        t_s = time.monotonic()
        return [self._read_one(field, values[field], t_s, problem) for field in self._fields]

    def _read_one(self, field: str, value: int | None, t_s: float, problem: str) -> Reading:
        name = FIELDS[field][0]
        if value is None:
            return Reading(name, t_s, error=problem or "the chip gave no value")
        return self._unwrappers[field].reading(name, value, t_s)

    def stop(self) -> None:
        self._unwrappers = {}

    @classmethod
    def probe(cls) -> SensorStatus:
        try:
            meter = cls()
        except SensorError as error:
            reason, _, remedy = str(error).removeprefix("apple: ").partition("; ")
            return SensorStatus(
                cls.name, _is_apple(), False, Provenance.COUNTER, reason=reason, remedy=remedy
            )
        return SensorStatus(
            cls.name,
            True,
            True,
            Provenance.COUNTER,
            ", ".join(domain.name for domain in meter.domains),
            update_period_s=NOMINAL_UPDATE_S,
            resolution_j=MILLIJOULE,
        )


def _is_apple() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _monitor() -> Any:
    if not _is_apple():
        raise SensorError("apple: this is not a Mac with Apple silicon")
    try:
        import zeus_apple_silicon
    except ImportError:
        raise SensorError(
            "apple: zeus-apple-silicon is not installed; pip install zeus-apple-silicon"
        ) from None
    try:
        return zeus_apple_silicon.AppleEnergyMonitor()
    except RuntimeError as error:
        raise SensorError(f"apple: {error}") from None
