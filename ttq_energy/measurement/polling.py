"""Polling meters at the rate that their sensors deserve, in a thread or in a process of its own."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ttq_energy.meters.base import Meter, Reading

POLLS_PER_UPDATE = 4.0
"""A fresh value is then seen at most a quarter of an update period late."""
CORE_SHARE = 0.006
"""Polling may take this share of one core; waking up and handing the samples on
come on top, and the limit promised to users is 1 %."""
FASTEST_S = 0.001
TRACE_S = 0.1
"""Counters are polled this often for the power trace; their energy needs the window's ends only."""
_LEARNING_S = 2.0


@dataclass
class Series:
    """Everything polled of one domain, in order of time.

    ``value`` is power_w of a power sensor, energy_j of a counter; ``errors`` holds the failures
    with their times.
    """

    cumulative: bool = False
    t_s: array[float] = field(default_factory=lambda: array("d"))
    value: array[float] = field(default_factory=lambda: array("d"))
    errors: list[tuple[float, str]] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        if reading.error is not None:
            self.errors.append((reading.t_s, reading.error))
            return
        self.cumulative = reading.energy_j is not None
        value = reading.energy_j if reading.energy_j is not None else reading.power_w
        if value is not None:
            self.t_s.append(reading.t_s)
            self.value.append(value)


class Rate:
    """Finds how often to poll one meter: from the changes seen, the nominal period and the cost."""

    def __init__(self, meter: Meter) -> None:
        self._sampled = meter.sampled
        self._nominal = min((d.update_period_s for d in meter.domains), default=TRACE_S)
        self._last: dict[str, float] = {}
        self._changed: dict[str, float] = {}
        self._gaps: list[float] = []
        self._polled_s = 0.0
        self._cost_s = 0.0
        self._polls = 0

    @property
    def update_period_s(self) -> float:
        """The sensor's: measured once enough changes were seen, else nominal."""
        if len(self._gaps) < 8:
            return self._nominal
        return sorted(self._gaps)[len(self._gaps) // 2]

    @property
    def interval_s(self) -> float:
        """How long to wait between two polls."""
        cost = self._cost_s / self._polls / CORE_SHARE if self._polls else 0.0
        if not self._sampled:
            return max(TRACE_S, 4.0 * cost)
        learning = len(self._gaps) < 8 and self._polled_s < _LEARNING_S
        wanted = (
            self._nominal / (2.0 * POLLS_PER_UPDATE)
            if learning
            else self.update_period_s / POLLS_PER_UPDATE
        )
        return max(wanted, FASTEST_S, cost)

    def next_s(self) -> float:
        """How long to wait for the next poll.

        Polls that come slower than the sensor's updates miss some. Their distance is then made
        uneven, so that they do not fall in step with a load that repeats.
        """
        interval = self.interval_s
        if self._sampled and interval > self.update_period_s:
            return interval * random.uniform(0.5, 1.5)
        return interval

    def saw(self, readings: Sequence[Reading], cost_s: float, elapsed_s: float) -> None:
        """Learn from one poll: its readings, its CPU time and the time since the one before."""
        self._polls += 1
        self._cost_s += cost_s
        self._polled_s += elapsed_s
        if not self._sampled or len(self._gaps) >= 64:
            return
        for reading in readings:
            value = reading.power_w
            if value is None:
                continue
            before = self._last.get(reading.domain)
            if before is not None and before != value:
                changed = self._changed.get(reading.domain)
                if changed is not None:
                    self._gaps.append(reading.t_s - changed)
                self._changed[reading.domain] = reading.t_s
            self._last[reading.domain] = value


def read_safely(meter: Meter) -> list[Reading]:
    """The meter's readings; a meter that breaks its promise not to raise gives errors instead."""
    try:
        return meter.read()
    except Exception as error:
        now = time.monotonic()
        text = f"{type(error).__name__}: {error}"
        return [Reading(domain.name, now, error=text) for domain in meter.domains]


def poll(
    meters: Sequence[Meter],
    emit: Callable[[list[Reading]], None],
    stopped: threading.Event,
    locks: Sequence[threading.Lock] | None = None,
) -> None:
    """Poll started meters until ``stopped`` is set.

    Args:
        meters: started meters.
        emit: takes the readings of each poll.
        stopped: ends the loop.
        locks: one a meter where other threads read it too.
    """
    rates = [Rate(meter) for meter in meters]
    due = [time.monotonic()] * len(meters)
    last = list(due)
    spent_s = time.thread_time()
    while meters and not stopped.is_set():
        now = time.monotonic()
        for index, meter in enumerate(meters):
            if due[index] > now:
                continue
            if locks is None:
                readings = read_safely(meter)
            else:
                with locks[index]:
                    readings = read_safely(meter)
            emit(readings)
            before_s, spent_s = spent_s, time.thread_time()  # waking up costs more than most reads
            rates[index].saw(readings, spent_s - before_s, now - last[index])
            last[index] = now
            due[index] = max(due[index] + rates[index].next_s(), now)
        stopped.wait(max(min(due) - time.monotonic(), 0.0002))
