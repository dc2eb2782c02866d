"""Energy of a window from polled power readings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ttq_energy.errors import InputError
from ttq_energy.measurement.power_sensor import Sensor


@dataclass(frozen=True)
class PowerEnergy:
    energy_j: float
    low_j: float
    high_j: float
    relative_low_j: float
    relative_high_j: float


def energy_from_power(
    t_s: ArrayLike, power_w: ArrayLike, start_s: float, end_s: float, sensor: Sensor
) -> PowerEnergy:
    t, p = np.asarray(t_s, float), np.asarray(power_w, float)
    if t.size < 2:
        raise InputError("no samples in the window")
    inside = (t > start_s) & (t < end_s)
    grid = np.concatenate([[start_s], t[inside], [end_s]])
    power = np.interp(grid, t, p)
    energy = float(np.trapezoid(power, grid))
    half = float(power.max()) * (sensor.update_period_s + sensor.window_s)
    return PowerEnergy(energy, energy - half, energy + half, energy - half, energy + half)
