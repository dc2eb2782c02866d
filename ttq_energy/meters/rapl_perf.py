"""RAPL by perf events: the same counters as powercap's, for whom those files are closed.

The kernel undoes the wraps itself (arch/x86/events/rapl.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ttq_energy.errors import SensorError
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.host import is_container, missing_cpu_counter
from ttq_energy.meters.perf_events import PerfCounter, PerfEvent, pmu_events
from ttq_energy.meters.spot import measure_updates
from ttq_energy.meters.unwrap import Unwrapper

ROOT = "/sys/bus/event_source/devices"
CPUS = "/sys/devices/system/cpu"
NOMINAL_UPDATE_S = 0.001
RESOLUTION_J = 2.0**-14
"""Energy unit of most Intel and AMD packages (Intel SDM vol. 3B, 16.10.1); perf's own 2^-32 J is
finer than the register."""
SPOT_LIMIT_S = 0.03

_PACKAGE = "the whole CPU package: cores, caches, memory controller, integrated GPU; no DRAM"
_MEANING: dict[str, tuple[str, str, str, bool]] = {
    "energy-pkg": ("cpu-package", "cpu", _PACKAGE, True),
    "energy-ram": ("dram", "dram", "the memory of one package", True),
    "energy-cores": ("cpu-core", "cpu", "the cores of one package: a part of it", False),
    "energy-gpu": ("cpu-uncore", "gpu", "the integrated GPU of one package: a part of it", False),
    "energy-psys": ("psys", "system", "the platform: contains the packages", False),
    "energy-core": (
        "cpu-core",
        "cpu",
        "the cores of one package, each counted alone and summed: a part of it",
        False,
    ),
}


@dataclass
class _Source:
    """One domain and the events that make it up (one, but one a core for energy-core)."""

    domain: Domain
    event: PerfEvent
    cpus: list[int]
    counters: list[PerfCounter] = field(default_factory=list)
    unwrapper: Unwrapper | None = None

    def count(self) -> int:
        return sum(counter.read() for counter in self.counters)


class RaplPerfMeter(Meter):
    """CPU packages, their memory and parts from the ``power`` and ``power_core`` PMUs.

    The domains bear the names that :class:`RaplMeter` gives them.
    """

    name = "rapl-perf"

    def __init__(
        self,
        root: str | os.PathLike[str] = ROOT,
        *,
        cpus: str | os.PathLike[str] = CPUS,
        per_core: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the events and see that they can be opened.

        Args:
            root: the folder of the PMUs.
            cpus: the folder of the CPUs, which says which package each is in.
            per_core: read AMD's ``power_core`` too. It is off by itself because every read then
                wakes every core, which spoils the idle power.
            clock: monotonic seconds.

        Raises:
            SensorError: there is no energy event, or it cannot be opened.
        """
        self._clock = clock
        self._running = False
        self._sources = _find(Path(root), Path(cpus), per_core)
        if not self._sources:
            reason, remedy = _absent(Path(root))
            raise SensorError(_line(reason, remedy))
        try:
            self._open()
            spots = measure_updates(self._counts, SPOT_LIMIT_S)
        except OSError as error:
            raise SensorError(_line(*_refused(error))) from None
        finally:
            self._close()
        self._period_s = min(
            (s.update_period_s for s in spots if s.update_period_s is not None), default=None
        )
        self._step_j = min(
            (
                spot.resolution * source.event.scale
                for spot, source in zip(spots, self._sources, strict=True)
                if spot.resolution is not None
            ),
            default=None,
        )

    def _open(self) -> None:
        for source in self._sources:
            for cpu in source.cpus:
                source.counters.append(PerfCounter(source.event, cpu))

    def _close(self) -> None:
        for source in self._sources:
            for counter in source.counters:
                with contextlib.suppress(OSError):
                    counter.close()
            source.counters.clear()

    def _counts(self) -> list[float | None]:
        return [float(source.count()) for source in self._sources]

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(source.domain for source in self._sources)

    def start(self) -> None:
        if self._running:
            return
        try:
            self._open()
            for source in self._sources:
                source.unwrapper = Unwrapper(source.event.scale)
                source.unwrapper.start(source.count(), self._clock())
        except OSError as error:
            self._close()
            raise SensorError(_line(*_refused(error))) from None
        self._running = True

    def read(self) -> list[Reading]:
        return [self._read_one(source) for source in self._sources]

    def _read_one(self, source: _Source) -> Reading:
        name = source.domain.name
        if not self._running or source.unwrapper is None:
            return Reading(name, self._clock(), error="the meter is not started")
        try:
            return source.unwrapper.reading(name, source.count(), self._clock())
        except OSError as error:
            return Reading(name, self._clock(), error=f"{source.event.name}: {error.strerror}")

    def stop(self) -> None:
        self._running = False
        self._close()

    @classmethod
    def probe(cls, root: str | os.PathLike[str] = ROOT) -> SensorStatus:
        sources = _find(Path(root), Path(CPUS), per_core=False)
        names = ", ".join(source.domain.name for source in sources)
        if not sources:
            reason, remedy = _absent(Path(root))
            return SensorStatus(
                cls.name, False, False, Provenance.COUNTER, reason=reason, remedy=remedy
            )
        try:
            for source in sources:
                PerfCounter(source.event, source.cpus[0]).close()
            meter = cls(root)
        except OSError as error:
            reason, remedy = _refused(error)
            return SensorStatus(cls.name, True, False, Provenance.COUNTER, names, reason, remedy)
        except SensorError as error:
            reason = str(error).removeprefix("rapl-perf: ")
            return SensorStatus(cls.name, True, False, Provenance.COUNTER, names, reason)
        return SensorStatus(
            cls.name,
            True,
            True,
            Provenance.COUNTER,
            names,
            update_period_s=meter._period_s,
            resolution_j=meter._step_j,
        )


def _find(root: Path, cpus: Path, per_core: bool) -> list[_Source]:
    events = pmu_events(root / "power")
    known = {event.name for event in events}
    if per_core and "energy-cores" not in known:
        events += pmu_events(root / "power_core")
    several_dies = _several_dies(cpus, events)
    sources: dict[str, _Source] = {}
    for event in events:
        if event.name not in _MEANING or event.unit not in ("Joules", ""):
            continue
        name, component, covers, additive = _MEANING[event.name]
        for cpu in event.cpus:
            full = name if name == "psys" else f"{name}-{_place(cpus, cpu, several_dies)}"
            if full not in sources:
                domain = Domain(
                    name=full,
                    component=component,
                    provenance=Provenance.COUNTER,
                    covers=covers,
                    additive=additive,
                    update_period_s=NOMINAL_UPDATE_S,
                    resolution_j=max(RESOLUTION_J, event.scale),
                )
                sources[full] = _Source(domain, event, [cpu])
            elif event.name == "energy-core":
                sources[full].cpus.append(cpu)
    return sorted(sources.values(), key=lambda source: source.domain.name)


def _several_dies(cpus: Path, events: Sequence[PerfEvent]) -> bool:
    """Whether some package has several counters of one kind, one a die."""
    for event in events:
        packages = [_topology(cpus, cpu, "physical_package_id") for cpu in event.cpus]
        if event.name != "energy-core" and len(set(packages)) < len(packages):
            return True
    return False


def _place(cpus: Path, cpu: int, several_dies: bool) -> str:
    """The package of a CPU as in powercap's names: "0", or "0-die-1" where it has several."""
    package = _topology(cpus, cpu, "physical_package_id")
    return f"{package}-die-{_topology(cpus, cpu, 'die_id')}" if several_dies else package


def _topology(cpus: Path, cpu: int, what: str) -> str:
    try:
        return (cpus / f"cpu{cpu}" / "topology" / what).read_text().strip()
    except OSError:
        return "0"


def _absent(root: Path) -> tuple[str, str]:
    return missing_cpu_counter(f"no PMU 'power' in {root}", "sudo modprobe rapl")


def _refused(error: OSError) -> tuple[str, str]:
    reason = f"perf_event_open: {(error.strerror or str(error)).lower()}"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return reason, ""
    if is_container():
        return reason, "docker run --cap-add PERFMON --security-opt seccomp=unconfined ..."
    return reason, "sudo sysctl kernel.perf_event_paranoid=0"


def _line(reason: str, remedy: str) -> str:
    return f"rapl-perf: {reason}" + (f"; this would help: {remedy}" if remedy else "")
