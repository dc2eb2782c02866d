"""The gates a block must pass before it may enter a comparison (DESIGN rule 4)."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ttq_energy.measurement.energy import DomainEnergy, Energy
from ttq_energy.measurement.machine import MachineState
from ttq_energy.meters.base import Provenance

Conditions = Mapping[str, float | str | bool]

OTHER_LOAD_CORES = 0.10
OTHER_LOAD_SHARE = 0.01
"""CPU use of others, above that in the idle windows, that spoils a block: in cores, or where it is
more, as a share of all cores."""
BUSY_MACHINE_SHARE = 0.25
"""Share of all cores used by others that spoils a block even where it was so all the time."""
TICK_S = 0.01
"""/proc/stat counts in ticks of 10 ms, one count a core."""
CLOCK_SHARE = 0.05
"""A clock this far from the median of the variant's blocks has moved."""
THROTTLED_SHARE = 0.002
"""Cumulative throttling that rises by more than this share of the block has held it back."""
DISAGREEMENT = 0.05
"""Counter and integral of one device may differ by this share and by their edges."""
_DEVICE = re.compile(r"(gpu-\d+)-")
SENSOR = "sensor: "
"""Head of a reason that spoils the joule of one domain but not the block's latency."""


@dataclass(frozen=True)
class Surroundings:
    """What was seen just before and just after a block.

    Attributes:
        before, after: the machine.
        conditions_before, conditions_after: of the meters' devices, by "<meter>.<key>".
        gpu: which of the GPUs that the meters tell of ran the block (0 for the first); None where
            the CPU did.
    """

    before: MachineState
    after: MachineState
    conditions_before: Conditions
    conditions_after: Conditions
    gpu: int | None = None

    @property
    def other_cores(self) -> float:
        """CPU use of everybody else between the two looks, in cores; NaN where unknown."""
        span = self.after.t_s - self.before.t_s
        busy = self.after.busy_s - self.before.busy_s
        own = self.after.own_s - self.before.own_s
        return (busy - own) / span if span > 0 else math.nan

    @property
    def device(self) -> str:
        """The GPU that ran the block, such as "gpu-0"; empty for the CPU."""
        if self.gpu is None:
            return ""
        names = [match.group(1) for key in self.conditions_after if (match := _device(key))]
        devices = list(dict.fromkeys(names))
        return devices[self.gpu] if self.gpu < len(devices) else f"gpu-{self.gpu}"

    @property
    def clock_mhz(self) -> float:
        """Clock of the device at the end, MHz; NaN where it does not tell."""
        if self.gpu is None:
            return self.after.clock_mhz
        return self._of_gpu("sm_clock_mhz")

    @property
    def temperature_c(self) -> float:
        """Temperature of the device at the end; NaN where it does not tell."""
        if self.gpu is None:
            return self.after.temperature_c
        return self._of_gpu("temperature_c")

    def _of_gpu(self, name: str) -> float:
        for key, value in self.conditions_after.items():
            if key.endswith(f"{self.device}-{name}") and isinstance(value, (int, float)):
                return float(value)
        return math.nan


def _device(key: str) -> re.Match[str] | None:
    return _DEVICE.match(key.partition(".")[2] or key)


def block_problems(
    around: Surroundings,
    *,
    idle_other_cores: float,
    clocks_mhz: Sequence[float],
    cores: int,
) -> list[str]:
    """Why a block may not be compared; empty where it may.

    The state of a GPU that did not run the block spoils that GPU's joules only: see
    :func:`device_problems`.

    Args:
        around: the looks before and after it.
        idle_other_cores: median CPU use of others in the idle windows; NaN where unknown.
        clocks_mhz: clocks at the ends of all the variant's blocks.
        cores: of the machine.
    """
    problems = [*_cpu_throttling(around), *_clocks(around, clocks_mhz)]
    problems += _other_load(around, idle_other_cores, cores)
    for device, reasons in _of_devices(around).items():
        if device in ("", around.device):
            problems += reasons
    return problems


def device_problems(around: Surroundings, domain: str) -> list[str]:
    """What spoils the joules of one domain: throttling or other processes on its device."""
    return [
        reason
        for device, reasons in _of_devices(around).items()
        if device and (domain == device or domain.startswith(f"{device}-"))
        for reason in reasons
    ]


def _cpu_throttling(around: Surroundings) -> Iterator[str]:
    if around.after.throttle_count > around.before.throttle_count:
        count = around.after.throttle_count - around.before.throttle_count
        yield f"throttled: {count:.0f} thermal events of the CPU"


def _of_devices(around: Surroundings) -> dict[str, list[str]]:
    """Problems by device ("gpu-0", or empty for the machine), from the meters' conditions.

    Keys are "<meter>.<device>-<name>": "throttle..." holds seconds so far, a flag or a reason;
    "other_processes" a count.
    """
    span = max(around.after.t_s - around.before.t_s, 1e-9)
    found: dict[str, list[str]] = {}
    for key, after in around.conditions_after.items():
        name = key.partition(".")[2] or key
        match = _device(key)
        device = match.group(1) if match else ""
        reason = ""
        if "throttle" in name:
            reason = _throttled(name, around.conditions_before.get(key), after, span)
        elif name.endswith("other_processes") and not isinstance(after, str) and after > 0:
            reason = f"other load: another process on the device ({name}: {after:g})"
        if reason:
            found.setdefault(device, []).append(reason)
    return found


def _throttled(
    name: str, before: float | str | bool | None, after: float | str | bool, span_s: float
) -> str:
    if isinstance(after, bool):
        return f"throttled: {name}" if after else ""
    if isinstance(after, str):
        return f"throttled: {name} says {after}" if after else ""
    if isinstance(before, str) or before is None:
        return ""
    rise = after - before
    if rise <= THROTTLED_SHARE * span_s:
        return ""
    return f"throttled: {name} rose by {rise:.3g}"


def _clocks(around: Surroundings, clocks_mhz: Sequence[float]) -> Iterator[str]:
    known = [clock for clock in clocks_mhz if clock > 0]
    if len(known) < 3 or not around.clock_mhz > 0:
        return
    usual = statistics.median(known)
    if abs(around.clock_mhz - usual) > CLOCK_SHARE * usual:
        yield f"clock moved: {around.clock_mhz:.0f} MHz where the median is {usual:.0f}"


def _other_load(around: Surroundings, idle_other_cores: float, cores: int) -> Iterator[str]:
    other = around.other_cores
    span = max(around.after.t_s - around.before.t_s, 1e-9)
    ticks = 2.0 * TICK_S * math.sqrt(cores) / span
    usual = idle_other_cores if idle_other_cores > 0 else 0.0
    rise = max(OTHER_LOAD_CORES, OTHER_LOAD_SHARE * cores)
    allowed = min(usual + rise, BUSY_MACHINE_SHARE * cores) + ticks
    if other > allowed:
        yield f"other load: {other:.2f} cores busy besides this process ({allowed:.2f} allowed)"


def disagreements(energy: Energy) -> dict[str, str]:
    """Domains whose counter and integral disagree, with the reason, by domain name.

    A counter "gpu-0" and a power sensor "gpu-0-..." of the same component tell of one device.
    """
    found: dict[str, str] = {}
    counters = [d for d in energy.domains.values() if d.provenance is Provenance.COUNTER]
    sampled = [d for d in energy.domains.values() if d.provenance is Provenance.INTEGRATED]
    for counter in counters:
        for power in sampled:
            if power.component != counter.component or not _same_device(counter, power):
                continue
            reason = _disagreement(counter, power)
            if reason:
                found[counter.domain] = found[power.domain] = reason
    return found


def _same_device(counter: DomainEnergy, power: DomainEnergy) -> bool:
    return power.domain == counter.domain or power.domain.startswith(f"{counter.domain}-")


def _disagreement(counter: DomainEnergy, power: DomainEnergy) -> str:
    if counter.energy_j is None or power.energy_j is None:
        return ""
    apart = abs(counter.energy_j - power.energy_j)
    allowed = DISAGREEMENT * counter.energy_j + _half_width(counter) + _half_width(power)
    if apart <= allowed:
        return ""
    return (
        f"counter and integral disagree: {counter.energy_j:.4g} J by {counter.domain}, "
        f"{power.energy_j:.4g} J by {power.domain}"
    )


def _half_width(energy: DomainEnergy) -> float:
    low, high = energy.relative_low_j, energy.relative_high_j
    return (high - low) / 2.0 if low is not None and high is not None else 0.0
