"""Energy of a window from polled power readings, with what the sensor leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttq_energy.errors import InputError
from ttq_energy.measurement.deconvolution import Power, find_power
from ttq_energy.measurement.power_sensor import Sensor, generic_sensor
from ttq_energy.measurement.updates import Updates, clean_samples, find_updates

FloatArray = NDArray[np.float64]

LARGEST_HOLE = 0.5
"""A window of which more than this share was not sampled gives an error, not a figure."""
REPEATABILITY = 0.002
"""Relative standard deviation of a board's own gain from window to window: on a steady load, the
ratio to the external meter moved by 0.2 % between windows of one recording (arXiv 2312.02741)."""
WITHIN_UPDATE = 0.7
"""Error at a window's end, as share of the power's change from update to update times the period;
set so that intervals hold for square waves of 20 ms to 1 s (``tests/measurement``)."""
FASTER = 0.7
"""Share of the expected update period below which the readings' own period is believed."""
FEWEST_CHANGES = 20
UNSEEN_MODEL_ERROR = 0.1
LONG_AVERAGE = 4.0
"""Update periods from which an average counts as long."""
PEAK_LOAD = 0.75
"""Share of its full power that a board of unknown full power is taken to reach at its peak."""


@dataclass(frozen=True)
class PowerEnergy:
    """Energy of a window from sampled power.

    Attributes:
        energy_j: lag, averaging and edges undone.
        low_j, high_j: 95 % interval, the spread of gain and offset between boards included: for
            an absolute figure.
        relative_low_j, relative_high_j: 95 % interval without that spread: for a ratio of two
            windows on one board (see :func:`energy_ratio`).
        duration_s: of the window.
        samples: fresh values of the sensor inside the window.
        unsampled_s: part of the window that no sample tells of.
        sensor: the model that was used.
    """

    energy_j: float
    low_j: float
    high_j: float
    relative_low_j: float
    relative_high_j: float
    duration_s: float
    samples: int
    unsampled_s: float
    sensor: Sensor
    full_power_w: float

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_j / self.duration_s

    @property
    def note(self) -> str:
        """What the interval rests on where nothing was published of the sensor; else empty."""
        if self.sensor.known:
            return ""
        return (
            f"{self.sensor.name}: not a sensor that was measured; a middle model, a wider interval"
        )


def energy_from_power(
    t_s: ArrayLike,
    power_w: ArrayLike,
    start_s: float,
    end_s: float,
    sensor: Sensor | None = None,
) -> PowerEnergy:
    """Energy that was drawn between two times, from polled readings of a power sensor.

    The sensor's averaging is inverted (see ``deconvolution``), so that a 1 s average neither
    leaks the window into what follows nor what was before into the window. Give samples from at
    least the sensor's ``reach_s`` before the window to its ``tail_s`` after it: without them the
    interval is wider. The interval of an absolute figure holds the spread of gain and offset
    between boards (arXiv 2312.02741); energy_j itself trusts the sensor's gain.

    Args:
        t_s: times of the readings, seconds of one monotonic clock; order, duplicates and gaps do
            not matter.
        power_w: the readings; those that are not finite are left out.
        start_s, end_s: the window, on the same clock.
        sensor: from :func:`nvml_sensor`; None finds the update period in the readings and
            assumes nothing else.

    Returns:
        The energy with two intervals.

    Raises:
        InputError: the window is empty, the arrays do not fit together, or less than half of the
            window was sampled.
    """
    if not (math.isfinite(start_s) and math.isfinite(end_s) and end_s > start_s):
        raise InputError(f"end_s: must be after start_s ({start_s}), got {end_s}")
    t, p = clean_samples(t_s, power_w)
    if sensor is None:
        sensor = generic_sensor(_update_period(t, p))
    sensor = _as_seen(sensor, t, p)
    updates = find_updates(t, p, sensor.update_period_s)
    sensor = _not_averaged(sensor, updates)
    sensor = _as_polled(sensor, t)
    holes = _holes(updates, start_s, end_s, sensor)
    unsampled = sum(high - low for low, high in holes)
    duration = end_s - start_s
    if unsampled > LARGEST_HOLE * duration:
        raise InputError(
            f"power_w: only {max(duration - unsampled, 0.0):.3g} s of the window's "
            f"{duration:.3g} s are sampled "
            f"(samples from {updates.first_s:.6g} to {updates.last_s:.6g} s, "
            f"window from {start_s:.6g} to {end_s:.6g} s)"
        )
    power = find_power(updates, start_s, end_s, sensor)
    energy = power.energy_j(start_s, end_s)
    half = 1.96 * math.sqrt(_variance(updates, power, start_s, end_s, sensor, unsampled))
    full_power = sensor.full_power_w or float(p.max()) / PEAK_LOAD
    spread = spread_half_j(energy, duration, full_power, sensor)
    total = math.hypot(half, spread)
    inside = (updates.t_s >= start_s) & (updates.t_s <= end_s)
    return PowerEnergy(
        energy_j=energy,
        low_j=max(energy - total, 0.0),
        high_j=energy + total,
        relative_low_j=max(energy - half, 0.0),
        relative_high_j=energy + half,
        duration_s=duration,
        samples=int(inside.sum()),
        unsampled_s=unsampled,
        sensor=sensor,
        full_power_w=full_power,
    )


def _as_seen(sensor: Sensor, t: FloatArray, p: FloatArray) -> Sensor:
    """The sensor with the update period of the readings where that is clearly the shorter one.

    Boards of one family differ, and a driver may refresh faster than the one that was measured. A
    longer time between changes proves nothing: a steady power shows the same value again.
    """
    changes = t[1:][np.diff(p) != 0]
    if changes.size < FEWEST_CHANGES:
        return sensor
    period = max(float(np.median(np.diff(changes))), float(np.median(np.diff(t))))
    if period >= FASTER * sensor.update_period_s:
        return sensor
    share = period / sensor.update_period_s
    one_period = sensor.kernel == "boxcar" and sensor.window_s <= 1.5 * sensor.update_period_s
    window_s = sensor.window_s * (share if one_period else 1.0)
    error = max(sensor.model_error, UNSEEN_MODEL_ERROR)
    return replace(sensor, update_period_s=period, window_s=window_s, model_error=error)


def _not_averaged(sensor: Sensor, updates: Updates) -> Sensor:
    """A board that is not recognised, without its supposed long average where readings refute it.

    From one update to the next an average over many periods moves by little of the power's range.
    """
    if sensor.known or sensor.window_s < LONG_AVERAGE * sensor.update_period_s:
        return sensor
    moved = np.abs(np.diff(updates.power_w))
    if moved.size < FEWEST_CHANGES or moved.max() <= 0.5 * np.ptp(updates.power_w):
        return sensor
    return replace(sensor, window_s=sensor.update_period_s)


def _as_polled(sensor: Sensor, t: FloatArray) -> Sensor:
    """The sensor as it looks through polls slower than its updates: less of the time is seen."""
    polls = float(np.median(np.diff(t)))
    if polls <= sensor.update_period_s:
        return sensor
    seen = min(sensor.seen, sensor.window_s / polls)
    return replace(sensor, update_period_s=polls, seen=seen)


def _update_period(t: FloatArray, p: FloatArray) -> float:
    """Median time between changes of the reading; at least the median time between polls."""
    polls = float(np.median(np.diff(t)))
    changes = t[1:][np.diff(p) != 0]
    return max(float(np.median(np.diff(changes))), polls) if changes.size >= 3 else polls


def _holes(
    updates: Updates, start_s: float, end_s: float, sensor: Sensor
) -> list[tuple[float, float]]:
    """Parts of the window that lie in no update's period."""
    span = 1.6 * max(sensor.update_period_s, min(sensor.window_s, sensor.update_period_s))
    near = updates.t_s[(updates.t_s > start_s) & (updates.t_s - span < end_s)]
    before = np.append(start_s, near)
    until = np.append(near - span, end_s)
    until[-1] = end_s if before[-1] + sensor.update_period_s < end_s else before[-1]
    open_ = until > before
    return [
        (float(low), min(float(high), end_s))
        for low, high in zip(before[open_], until[open_], strict=True)
    ]


def _variance(
    updates: Updates,
    power: Power,
    start_s: float,
    end_s: float,
    sensor: Sensor,
    unsampled_s: float,
) -> float:
    """Variance of the energy without gain and offset, J^2."""
    period, duration = sensor.update_period_s, end_s - start_s
    energy = power.energy_j(start_s, end_s)
    unseen = 1.0 - sensor.seen
    timing = math.hypot(updates.timing_sd_s, unseen * period / math.sqrt(12.0))
    lag = sensor.window_s * sensor.model_error
    variance = 0.0
    for end in (start_s, end_s):
        close = power.range_w(end - period, end + period)
        around = power.range_w(end - sensor.reach_s, end + sensor.reach_s)
        variance += (close * timing) ** 2 + (around * lag) ** 2
    # Of an update only the mean is known, not how the power lay within it: it matters at the ends.
    flicker = max(
        power.flicker_w(start_s + period, end_s - period, period),
        power.flicker_w(start_s - 10.0 * period, start_s - period, period),
        power.flicker_w(end_s + period, end_s + 10.0 * period, period),
    )
    variance += 2.0 * (WITHIN_UPDATE * flicker * min(period, duration)) ** 2
    # What was not sampled between the updates differs from what was, as the updates do.
    inside = (updates.t_s >= start_s) & (updates.t_s <= end_s + period)
    y = updates.power_w[inside]
    change = float(np.sqrt(np.mean(np.diff(y) ** 2) / 2.0)) if y.size > 2 else 0.0
    variance += unseen * change**2 * period * duration
    variance += 2.0 * (power.residual_sd_w * sensor.window_s) ** 2
    reach = power.range_w(start_s - sensor.reach_s, end_s + sensor.reach_s)
    unknown = max(reach, 0.5 * energy / duration)
    return variance + (unsampled_s * unknown) ** 2 / 3.0 + (REPEATABILITY * energy) ** 2


def spread_half_j(energy_j: float, duration_s: float, full_power_w: float, sensor: Sensor) -> float:
    """Half-width of the 95 % interval from gain and offset: t quantile over the boards tested."""
    from scipy.special import stdtrit

    load = energy_j / duration_s / max(full_power_w, 1e-9)
    quantile = float(stdtrit(max(sensor.boards - 1, 1), 0.975))
    return quantile * sensor.gain_spread(load) * energy_j


@dataclass(frozen=True)
class EnergyRatio:
    """Ratio of two energies of one board with its 95 % interval; ``gain_included`` says which."""

    ratio: float
    low: float
    high: float
    gain_included: bool


def energy_ratio(
    variant: PowerEnergy, baseline: PowerEnergy, *, same_board: bool = True
) -> EnergyRatio:
    """Ratio variant / baseline of two windows.

    On one board the gain is common and leaves the ratio; its offset weighs on the window of lower
    power more and stays in the interval. On two boards both spreads stay.

    Args:
        variant, baseline: from :func:`energy_from_power`.
        same_board: both windows were measured by the same sensor.

    Raises:
        InputError: an energy that is not above zero.
    """
    if baseline.energy_j <= 0 or variant.energy_j <= 0:
        raise InputError("energy_ratio: expected two energies above 0 J")
    sides = (variant, baseline)
    if same_board:
        variance = sum(_log_sd(s.energy_j, s.relative_low_j, s.relative_high_j) ** 2 for s in sides)
        offset_w = baseline.sensor.offset_sd * baseline.full_power_w
        leverage = 1.0 / variant.power_w - 1.0 / baseline.power_w
        variance += (leverage * offset_w) ** 2
    else:
        variance = sum(_log_sd(s.energy_j, s.low_j, s.high_j) ** 2 for s in sides)
    ratio = variant.energy_j / baseline.energy_j
    factor = math.exp(1.96 * math.sqrt(variance))
    return EnergyRatio(ratio, ratio / factor, ratio * factor, not same_board)


def _log_sd(energy_j: float, low_j: float, high_j: float) -> float:
    return (high_j - low_j) / (2.0 * 1.96 * energy_j)
