"""The state of the machine around a block: who used the CPU, clocks, temperature, throttling."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class MachineState:
    """One look at the machine. NaN where the machine does not tell.

    Attributes:
        t_s: monotonic.
        busy_s: CPU time used by everybody since boot, all cores together.
        own_s: CPU time used by this process and its children.
        load_average: runnable processes, over the last minute.
        clock_mhz: of the fastest core now.
        temperature_c: of the CPU.
        throttle_count: thermal throttling events of the CPU since boot.
    """

    t_s: float
    busy_s: float = math.nan
    own_s: float = math.nan
    load_average: float = math.nan
    clock_mhz: float = math.nan
    temperature_c: float = math.nan
    throttle_count: float = math.nan


class Machine:
    """Looks at the machine, sleeps and tells the time; tests put a stand-in here."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sysfs: str | os.PathLike[str] = "/sys/devices/system/cpu",
    ) -> None:
        self.clock = clock
        self.cores = os.cpu_count() or 1
        self._sysfs = Path(sysfs)
        self._process = psutil.Process()
        self._ended_children: dict[int, float] = {}

    def sleep(self, seconds: float) -> None:
        """Idle for a while."""
        time.sleep(seconds)

    def state(self) -> MachineState:
        """Look once; takes some milliseconds, so never inside a window."""
        return MachineState(
            t_s=self.clock(),
            busy_s=_busy_s(),
            own_s=self._own_s(),
            load_average=_load_average(),
            clock_mhz=_clock_mhz(),
            temperature_c=_temperature_c(),
            throttle_count=self._throttle_count(),
        )

    def _own_s(self) -> float:
        """This process and all its children, ended ones as they were when last seen."""
        times = self._process.cpu_times()
        with contextlib.suppress(psutil.Error):
            for child in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    spent = child.cpu_times()
                    self._ended_children[child.pid] = spent.user + spent.system
        return float(times.user + times.system + sum(self._ended_children.values()))

    def _throttle_count(self) -> float:
        total, found = 0.0, False
        for file in self._sysfs.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
            with contextlib.suppress(OSError, ValueError):
                total += float(file.read_text())
                found = True
        return total if found else math.nan


def _busy_s() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # inside user, nice
    return float(sum(times) - idle - guest)


def _load_average() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:
        return math.nan


def _clock_mhz() -> float:
    try:
        clocks = [c.current for c in psutil.cpu_freq(percpu=True) or [] if c.current]
    except (OSError, NotImplementedError, AttributeError):
        return math.nan
    return float(max(clocks)) if clocks else math.nan


def _temperature_c() -> float:
    try:
        chips = psutil.sensors_temperatures()
    except (OSError, AttributeError):
        return math.nan
    for name in ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal"):
        if chips.get(name):
            return float(max(entry.current for entry in chips[name]))
    return math.nan
