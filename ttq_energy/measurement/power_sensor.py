"""Models of sampled power sensors: how a reading follows the true power, and its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ttq_energy.errors import InputError
from ttq_energy.meters.base import Domain

GENERIC_GAIN_SD = 0.06
"""Gain spread where nothing is known of a sensor: that of GPU boards, arXiv 2312.02741."""


@dataclass(frozen=True)
class Sensor:
    """One kind of power reading.

    Attributes:
        name: for people.
        update_period_s: between fresh values.
        window_s: length of the average that a fresh value shows; for the exponential kernel its
            time constant.
        kernel: "boxcar" (moving average) or "exponential" (first-order lag).
        seen: share of the time that is sampled at all, 0 to 1.
        gain_sd: relative standard deviation of the gain over boards at full power.
        offset_sd: standard deviation of the offset over boards, relative to full power.
        gain_offset_correlation: of the two, over boards.
        full_power_w: the board's power at full load; None takes it from the readings.
        boards: how many boards the spread comes from, for the t quantile.
        model_error: relative error of the kernel itself, on each step of the power.
        known: False where the board was not recognised.
    """

    name: str
    update_period_s: float
    window_s: float
    kernel: str = "boxcar"
    seen: float = 1.0
    gain_sd: float = GENERIC_GAIN_SD
    offset_sd: float = 0.0
    gain_offset_correlation: float = 0.0
    full_power_w: float | None = None
    boards: int = 16
    model_error: float = 0.02
    known: bool = True

    def __post_init__(self) -> None:
        for key in ("update_period_s", "window_s"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"sensor: {key}: must be above 0, got {value}")
        if self.kernel not in ("boxcar", "exponential"):
            raise InputError(
                f"sensor: kernel: expected 'boxcar' or 'exponential', got '{self.kernel}'"
            )
        if not 0 < self.seen <= 1:
            raise InputError(f"sensor: seen: must be above 0 and at most 1, got {self.seen}")

    @property
    def reach_s(self) -> float:
        """How far before a reading the power still shows in it."""
        return self.window_s * (5.0 if self.kernel == "exponential" else 1.0)

    @property
    def tail_s(self) -> float:
        """How long after a window its power still shows in fresh readings."""
        return min(self.reach_s, 1.5) + 2.0 * self.update_period_s

    @property
    def minimum_s(self) -> float:
        """Shortest window that can be resolved: two updates."""
        return 2.0 * self.update_period_s

    def gain_spread(self, load: float) -> float:
        """Relative standard deviation of a reading over boards, at a share of full power.

        reported / true = gain + offset / true, so that the offset weighs more at low load. Never
        below ``gain_sd``.
        """
        x = min(max(load, 1e-3), 1.0)
        offset = self.offset_sd / x
        cross = 2.0 * self.gain_offset_correlation * self.gain_sd * offset
        return max(self.gain_sd, math.sqrt(max(self.gain_sd**2 + cross + offset**2, 0.0)))


def sensor_of(domain: Domain) -> Sensor:
    """The sensor of a meter's domain: an NVIDIA board by its name, else one of its period.

    A board's energy counter sums what its latest samples show.
    """
    if domain.hardware and (domain.reading or domain.driver):
        from ttq_energy.measurement.nvidia_sensors import nvml_sensor

        reading = domain.reading.removeprefix("module.") or "power.draw.instant"
        return nvml_sensor(domain.hardware, domain.driver or None, reading)
    return generic_sensor(domain.update_period_s, domain.name)


def generic_sensor(update_period_s: float, name: str = "power sensor") -> Sensor:
    """A sensor of which only the update period is known: it averages over one period."""
    return Sensor(name, update_period_s, update_period_s, known=False, model_error=0.1)
