"""A load in step with its sensor: what part of each call no sample can tell of."""

from __future__ import annotations

import numpy as np

from ttq_energy.measurement.power_sensor import Sensor

UNSEEN_LIMIT = 0.5
"""A block whose samples miss more than this share of a call says nothing of its energy."""


def unseen_share(call_s: float, duration_s: float, sensor: Sensor) -> float:
    """Share of a repeated call that lies under no sample of a sensor that looks now and then.

    A sensor that looks for w out of every T seconds meets call k T / call_s at the phase
    k T mod call_s. Where the two periods are in step the same phases come again and again, and
    the rest of the call is never seen.

    Args:
        call_s: length of one call, repeated without a pause.
        duration_s: of the block.
        sensor: T is its update period, w the share of it that is ``seen``.

    Returns:
        0 where every phase is seen, up to 1 - w / call_s where one phase is seen alone.
    """
    looks_s = sensor.seen * sensor.update_period_s
    if sensor.seen >= 1.0 or looks_s >= call_s:
        return 0.0
    samples = max(int(duration_s / sensor.update_period_s), 1)
    begins = np.sort((np.arange(samples) * sensor.update_period_s / call_s) % 1.0)
    gaps = np.diff(begins, append=begins[0] + 1.0) - looks_s / call_s
    return float(np.maximum(gaps, 0.0).sum())


def in_step(call_s: float, duration_s: float, sensor: Sensor) -> str:
    """Why a block cannot be judged by this sensor; empty where it can."""
    unseen = unseen_share(call_s, duration_s, sensor)
    if unseen <= UNSEEN_LIMIT:
        return ""
    return (
        f"calls of {call_s:.3g} s are in step with the sensor's {sensor.update_period_s:.3g} s: "
        f"it never sees {unseen:.0%} of a call; another batch size would"
    )
