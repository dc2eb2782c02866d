"""The power behind readings that average it: regularized inversion of the sensor's kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttq_energy.measurement.power_sensor import Sensor
from ttq_energy.measurement.updates import Updates

FloatArray = NDArray[np.float64]

SMOOTHING = 0.5
"""Weight of the total variation against the misfit; see docs/measurement.md for how it was set."""
EDGE_WEIGHT = 0.01
"""Steps of the power are expected at the window's ends: they cost this share of one elsewhere."""
NOISE_SHARE = 0.005
NOISE_FLOOR_W = 0.3
"""Noise of a reading: this share of the range of the readings, and never below the floor."""
ITERATIONS = 8
END_S = 30.0
"""A window is inverted this far from its ends."""


@dataclass(frozen=True)
class Power:
    """Piecewise constant power.

    Attributes:
        edges_s: (n + 1,) bin edges; the window's ends are among them.
        power_w: (n,) power in each bin.
        residual_sd_w: standard deviation of what the readings leave unexplained.
    """

    edges_s: FloatArray
    power_w: FloatArray
    residual_sd_w: float

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Energy between two times inside the bins."""
        left = np.maximum(self.edges_s[:-1], start_s)
        right = np.minimum(self.edges_s[1:], end_s)
        return float(np.sum(self.power_w * np.maximum(right - left, 0.0)))

    def range_w(self, start_s: float, end_s: float) -> float:
        """Largest less smallest power between two times; 0 where there is no bin."""
        inside = (self.edges_s[1:] > start_s) & (self.edges_s[:-1] < end_s)
        return float(np.ptp(self.power_w[inside])) if inside.any() else 0.0

    def flicker_w(self, start_s: float, end_s: float, lag_s: float) -> float:
        """Root mean square change of the power over ``lag_s`` inside a span, over sqrt(2).

        Where the span holds too few bins to tell, a uniform spread over their range is taken.
        """
        inside = (self.edges_s[:-1] >= start_s) & (self.edges_s[1:] <= end_s)
        power = self.power_w[inside]
        step = max(1, round(lag_s * power.size / max(end_s - start_s, 1e-9)))
        if power.size < step + 3:
            return self.range_w(start_s - lag_s, end_s + lag_s) / math.sqrt(12.0)
        return float(np.sqrt(np.mean((power[step:] - power[:-step]) ** 2) / 2.0))


def find_power(updates: Updates, start_s: float, end_s: float, sensor: Sensor) -> Power:
    """The power in and around a window: inverted at the ends, and all through where it is short.

    In the middle of a long window the lag does nothing to the energy but shift it, by half the
    averaging window (by the time constant of an exponential), so the readings stand as they are.
    """
    if end_s - start_s <= 2.0 * END_S + sensor.reach_s:
        return deconvolve(updates, start_s, end_s, sensor)
    head_end, tail_start = start_s + END_S, end_s - END_S
    head = deconvolve(updates, start_s, head_end, sensor)
    tail = deconvolve(updates, tail_start, end_s, sensor)
    count = max(1, round((tail_start - head_end) / sensor.update_period_s))
    edges = np.linspace(head_end, tail_start, count + 1)
    shift = sensor.window_s / (1.0 if sensor.kernel == "exponential" else 2.0)
    middle = np.interp((edges[1:] + edges[:-1]) / 2.0 + shift, updates.t_s, updates.power_w)
    before = int(np.searchsorted(head.edges_s, head_end - 1e-9))
    after = int(np.searchsorted(tail.edges_s, tail_start - 1e-9))
    return Power(
        np.concatenate([head.edges_s[:before], edges, tail.edges_s[after + 1 :]]),
        np.concatenate([head.power_w[:before], middle, tail.power_w[after:]]),
        max(head.residual_sd_w, tail.residual_sd_w),
    )


def deconvolve(updates: Updates, start_s: float, end_s: float, sensor: Sensor) -> Power:
    """Find the power in and around a window from a sensor's updates.

    Minimises the squared misfit of the kernel's averages plus the total variation of the power,
    by iteratively reweighted least squares. Total variation keeps steps sharp, as loads have
    them, and does not let the inversion of a long average amplify its noise.

    Args:
        updates: covering the window and, where there are any, ``reach_s`` around it.
        start_s, end_s: the window.
        sensor: its kernel.
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    margin = sensor.reach_s + 3.0 * sensor.update_period_s
    near = (updates.t_s > start_s - margin) & (updates.t_s < end_s + margin)
    t, y = updates.t_s[near], updates.power_w[near]
    bin_s = max(min(sensor.window_s, sensor.update_period_s) / 2.0, sensor.update_period_s / 8.0)
    edges = _bins(start_s, end_s, margin + sensor.reach_s, margin, bin_s)
    forward = _kernel_matrix(t, edges, sensor)
    noise = max(NOISE_SHARE * float(np.ptp(y)), NOISE_FLOOR_W)
    n = edges.size - 1
    step = sparse.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n), format="csr")
    free = np.ones(n - 1)
    for end in (start_s, end_s):
        free[int(np.argmin(np.abs(edges[1:-1] - end)))] = EDGE_WEIGHT
    misfit = (forward.T @ forward) / noise**2 + 1e-9 * sparse.eye(n)
    target = forward.T @ y / noise**2
    weight = np.full(n - 1, 1.0 / noise)
    power = np.full(n, float(y.mean()))
    for _ in range(ITERATIONS):
        penalty = step.T @ sparse.diags(SMOOTHING * weight * free / noise) @ step
        power = spsolve((misfit + penalty).tocsc(), target)
        weight = 1.0 / np.maximum(np.abs(step @ power), noise)
    residual = forward @ power - y
    return Power(edges, np.maximum(power, 0.0), float(residual.std()))


def _bins(
    start_s: float, end_s: float, before_s: float, after_s: float, bin_s: float
) -> FloatArray:
    def span(low: float, high: float) -> FloatArray:
        return np.linspace(low, high, max(1, round((high - low) / bin_s)) + 1)

    return np.concatenate(
        [
            span(start_s - before_s, start_s)[:-1],
            span(start_s, end_s)[:-1],
            span(end_s, end_s + after_s),
        ]
    )


def _kernel_matrix(t: FloatArray, edges: FloatArray, sensor: Sensor):  # type: ignore[no-untyped-def]
    """(updates, bins) weights of each bin's power in each update; every row sums to one."""
    from scipy import sparse

    first = np.maximum(np.searchsorted(edges, t - sensor.reach_s, side="right") - 1, 0)
    last = np.minimum(np.searchsorted(edges, t, side="left"), edges.size - 1)
    counts = np.maximum(last - first, 0)
    rows = np.repeat(np.arange(t.size), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = first[rows] + offsets
    age_new = np.maximum(t[rows] - edges[columns + 1], 0.0)
    age_old = np.minimum(t[rows] - edges[columns], sensor.reach_s)
    if sensor.kernel == "exponential":
        weights = np.exp(-age_new / sensor.window_s) - np.exp(-age_old / sensor.window_s)
    else:
        weights = np.maximum(age_old - age_new, 0.0)
    matrix = sparse.csr_matrix((weights, (rows, columns)), shape=(t.size, edges.size - 1))
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    return sparse.diags(1.0 / np.where(totals > 0, totals, 1.0)) @ matrix
