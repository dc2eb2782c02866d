"""Idle power from idle windows before, between and after the blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttq_energy.measurement.energy import Energy


@dataclass(frozen=True)
class IdleWindow:
    """One idle window that has ended."""

    start_s: float
    end_s: float
    energy: Energy

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2.0


@dataclass(frozen=True)
class IdlePower:
    """Idle power of one domain at one time, W, with its 95 % interval; NaN where unknown."""

    power_w: float = math.nan
    low_w: float = math.nan
    high_w: float = math.nan


def idle_power(windows: Sequence[IdleWindow], domain: str, t_s: float) -> IdlePower:
    """Idle power of a domain at a time, interpolated between the idle windows around it.

    The interval joins the scatter of the windows about their straight line over time (t quantile,
    standard error of their mean) and what each window's own reading leaves open.

    Args:
        windows: all idle windows of the session, in order of time.
        domain: the domain's name.
        t_s: the middle of the block that is asked for.
    """
    from scipy.special import stdtrit

    known = [
        (window.middle_s, energy.power_w, _half_width_w(window, domain))
        for window in windows
        if (energy := window.energy.domains.get(domain)) is not None and energy.power_w is not None
    ]
    if not known:
        return IdlePower()
    t, power, half = (np.array(column, dtype=np.float64) for column in zip(*known, strict=True))
    value = float(np.interp(t_s, t, power))
    reading = float(np.sqrt(np.mean(half**2) / half.size))
    scatter = 0.0
    if t.size >= 2:
        scatter = float(stdtrit(t.size - 1, 0.975) * power.std(ddof=1) / math.sqrt(t.size))
    spread = math.hypot(scatter, reading)
    return IdlePower(value, max(value - spread, 0.0), value + spread)


def _half_width_w(window: IdleWindow, domain: str) -> float:
    energy = window.energy.domains[domain]
    low, high = energy.relative_low_j, energy.relative_high_j
    if low is None or high is None:
        return 0.0
    return (high - low) / 2.0 / max(energy.duration_s, 1e-9)
