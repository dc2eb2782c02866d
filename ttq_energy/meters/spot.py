"""Update period and resolution of a sensor, measured on the spot."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spot:
    """What was seen: None where too few changes came within the time."""

    update_period_s: float | None
    resolution: float | None
    """Smallest step seen, in the unit of the values."""


def measure_updates(
    read: Callable[[], Sequence[float | None]],
    limit_s: float,
    changes: int = 6,
    pause_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Spot]:
    """Read again and again, and note when each value changes.

    Args:
        read: the sensor's values now; None where one cannot be read.
        limit_s: give up after this long.
        changes: enough changes of a value.
        pause_s: between two reads.
        clock, sleep: time, and how it passes.
    """
    last = list(read())
    times: list[list[float]] = [[] for _ in last]
    steps: list[list[float]] = [[] for _ in last]
    began = clock()
    while (now := clock()) - began < limit_s:
        for index, value in enumerate(read()):
            before = last[index]
            if value is None or before is None or value == before:
                continue
            times[index].append(now)
            steps[index].append(abs(value - before))
            last[index] = value
        if all(len(seen) > changes for seen in times):
            break
        if pause_s:
            sleep(pause_s)
    return [_spot(t, s) for t, s in zip(times, steps, strict=True)]


def _spot(times: list[float], steps: list[float]) -> Spot:
    if len(times) < 3:
        return Spot(None, None)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return Spot(statistics.median(gaps), min(steps))
