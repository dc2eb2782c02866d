"""Warm-up: call a workload until its latency and its power stand still, bounded in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CHUNKS = 6
"""The latency slope is judged over this many chunks of calls."""
CHUNK_S = 0.04
STEADY_SHARE = 0.02
"""Latency: largest relative change over the chunks that counts as steady."""
STEADY_POWER_SHARE = 0.03
"""Power: largest relative change over the last second that counts as steady."""
POWER_SPAN_S = 1.0

PowerTrace = Callable[[float, float], Sequence[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class WarmUp:
    """How a warm-up ended: seconds a call, total seconds, and whether it became steady."""

    call_s: float
    duration_s: float
    steady: bool
    calls: int


def warm_up(
    run: Callable[[int], None],
    clock: Callable[[], float],
    limit_s: float,
    power_traces: PowerTrace | None = None,
) -> WarmUp:
    """Run a workload until it is steady or ``limit_s`` is over; always at least once.

    Args:
        run: runs that many calls and waits until they are done.
        clock: monotonic seconds.
        limit_s: upper bound; a single call may overshoot it.
        power_traces: polled power of the domains between two times; None without sensors.
    """
    begun = clock()
    run(1)
    calls, chunk = 1, 1
    latencies: list[float] = []
    while clock() - begun < limit_s or not latencies:
        start = clock()
        run(chunk)
        spent = clock() - start
        calls += chunk
        latencies.append(spent / chunk)
        if spent < CHUNK_S / 2:
            chunk = min(2 * chunk if spent <= 0 else int(chunk * CHUNK_S / spent) + 1, 8 * chunk)
        elif _steady(latencies) and _power_steady(power_traces, begun, clock()):
            return WarmUp(float(np.median(latencies[-CHUNKS:])), clock() - begun, True, calls)
    return WarmUp(float(np.median(latencies[-CHUNKS:])), clock() - begun, False, calls)


def _steady(latencies: Sequence[float]) -> bool:
    """No trend left: the slope over the chunks is small, or small against their own scatter."""
    if len(latencies) < CHUNKS:
        return False
    last = np.array(latencies[-CHUNKS:])
    return _relative_change(np.arange(CHUNKS, dtype=np.float64), last) < STEADY_SHARE


def _power_steady(power_traces: PowerTrace | None, begun: float, now: float) -> bool:
    if power_traces is None:
        return True
    if now - begun < POWER_SPAN_S:
        traces = power_traces(begun, now)
        return all(power.size == 0 for _, power in traces)
    traces = power_traces(now - POWER_SPAN_S, now)
    return all(
        power.size < 5 or _relative_change(t, power) < STEADY_POWER_SHARE for t, power in traces
    )


def _relative_change(t: np.ndarray, values: np.ndarray) -> float:
    """Absolute change along the fitted line over the span, less its standard error, relative."""
    x = t - t.mean()
    spread = float(np.sum(x**2))
    mean = float(values.mean())
    if spread == 0 or mean == 0:
        return 0.0
    slope = float(np.sum(x * (values - mean))) / spread
    residual = values - mean - slope * x
    error = float(np.sqrt(np.sum(residual**2) / max(values.size - 2, 1) / spread))
    span = float(t[-1] - t[0])
    return max(abs(slope) - error, 0.0) * span / abs(mean)
