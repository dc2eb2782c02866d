"""RAPL by powercap: the CPU's energy counters as Linux shows them in sysfs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ttq_energy.errors import SensorError
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.host import cpu_vendor, missing_cpu_counter
from ttq_energy.meters.rapl_zones import Zone, find_zones
from ttq_energy.meters.spot import measure_updates
from ttq_energy.meters.unwrap import Unwrapper

ROOT = "/sys/class/powercap"
NOMINAL_UPDATE_S = 0.001
"""Intel SDM vol. 3B, 16.10: the energy status is updated about every 1 ms; AMD's likewise."""
SPOT_LIMIT_S = 0.03
POLL_SHARE = 0.4
"""Counters are read within this share of the shortest wrap time, so that no wrap is missed."""
SLOWEST_POLL_S = 30.0
FASTEST_POLL_S = 0.02


class RaplMeter(Meter):
    """CPU packages, their memory and parts, from ``energy_uj`` of the powercap tree.

    Domains: "cpu-package-N" and "dram-N" may be added; "cpu-core-N", "cpu-uncore-N" are parts of a
    package and "psys" contains everything, so none of these is.
    """

    name = "rapl"

    def __init__(
        self,
        root: str | os.PathLike[str] = ROOT,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the zones and see that they can be read.

        Args:
            root: the powercap folder, ``/sys/class/powercap`` or another tree of that layout.
            clock: monotonic seconds.

        Raises:
            SensorError: there is no zone, or a package cannot be read.
        """
        self._root, self._clock = Path(root), clock
        zones = find_zones(self._root)
        if not zones:
            reason, remedy = _absent(self._root)
            raise SensorError(_line(reason, remedy))
        self.left_out: dict[str, str] = {}
        self._zones = self._usable(zones)
        self._domains = self._describe()
        self._unwrappers = [_unwrapper(zone) for zone in self._zones]
        self._files = [CounterFile(zone.energy_file) for zone in self._zones]
        names = [domain.name for domain in self._domains]
        self._counters = list(zip(self._files, names, self._unwrappers, strict=True))
        self._running = False
        self._lock: threading.Lock | None = None
        self._stopped: threading.Event | None = None
        self._poller: threading.Thread | None = None

    def _usable(self, zones: Sequence[Zone]) -> list[Zone]:
        usable: list[Zone] = []
        for zone in zones:
            try:
                read_counter(zone.energy_file)
            except OSError as error:
                if zone.is_package:
                    raise SensorError(_line(*_unreadable(zone, error, self._root))) from None
                self.left_out[zone.domain_name] = _why(error)
            except ValueError as error:
                if zone.is_package:
                    raise SensorError(f"rapl: {zone.energy_file}: {error}") from None
                self.left_out[zone.domain_name] = str(error)
            else:
                usable.append(zone)
        for zone in mirrors(usable):
            self.left_out[zone.domain_name] = "shows the counter of another die once more"
            usable.remove(zone)
        if not usable:
            raise SensorError(f"rapl: {self._root}: no zone can be read")
        return usable

    def _describe(self) -> tuple[Domain, ...]:
        spots = measure_updates(self._raw_values, SPOT_LIMIT_S)
        vendor = cpu_vendor()
        domains = []
        for zone, spot in zip(self._zones, spots, strict=True):
            domain = domain_of(zone, vendor)
            if spot.update_period_s is not None and not zone.parent:
                domain = replace(
                    domain, update_period_s=max(spot.update_period_s, NOMINAL_UPDATE_S)
                )
            domains.append(domain)
        return tuple(domains)

    def _raw_values(self) -> list[float | None]:
        values: list[float | None] = []
        for zone in self._zones:
            try:
                values.append(float(read_counter(zone.energy_file)))
            except (OSError, ValueError):
                values.append(None)
        return values

    @property
    def domains(self) -> tuple[Domain, ...]:
        return self._domains

    def start(self) -> None:
        if self._running:
            return
        self._lock = threading.Lock()
        for file, unwrapper in zip(self._files, self._unwrappers, strict=True):
            try:
                unwrapper.start(file.read(), self._clock())
            except (OSError, ValueError) as error:
                text = _why(error) if isinstance(error, OSError) else str(error)
                raise SensorError(f"rapl: {file.path}: {text}") from None
        self._running = True
        self._stopped = threading.Event()
        self._poller = threading.Thread(
            target=self._poll, args=(self._stopped,), name="ttq-energy-rapl", daemon=True
        )
        self._poller.start()

    def _poll(self, stopped: threading.Event) -> None:
        interval = poll_interval_s(self._unwrappers)
        while not stopped.wait(interval):
            self.read()

    def read(self) -> list[Reading]:
        if self._lock is None or not self._running:
            now = self._clock()
            return [Reading(d.name, now, error="the meter is not started") for d in self._domains]
        clock = self._clock
        found: list[Reading] = []
        with self._lock:
            for file, name, unwrapper in self._counters:
                try:
                    raw = file.read()
                    found.append(unwrapper.reading(name, raw, clock()))
                except OSError as error:
                    text = f"{file.path}: {_why(error)}"
                    found.append(Reading(name, clock(), error=text))
                except ValueError as error:
                    found.append(Reading(name, clock(), error=f"{file.path}: {error}"))
        return found

    def stop(self) -> None:
        if self._stopped is not None:
            self._stopped.set()
        if self._poller is not None:
            self._poller.join(timeout=1.0)
        self._running = False
        for file in self._files:
            file.close()
        self._lock = self._stopped = self._poller = None

    @classmethod
    def probe(cls, root: str | os.PathLike[str] = ROOT) -> SensorStatus:
        path = Path(root)
        zones = find_zones(path)
        if not zones:
            reason, remedy = _absent(path)
            return SensorStatus(
                cls.name, False, False, Provenance.COUNTER, reason=reason, remedy=remedy
            )
        names = ", ".join(zone.domain_name for zone in zones)
        try:
            meter = cls(path)
        except SensorError as error:
            for zone in zones:
                try:
                    read_counter(zone.energy_file)
                except OSError as failure:
                    reason, remedy = _unreadable(zone, failure, path)
                    break
                except ValueError:
                    continue
            else:
                reason, remedy = str(error).removeprefix("rapl: "), ""
            return SensorStatus(cls.name, True, False, Provenance.COUNTER, names, reason, remedy)
        covers = ", ".join(domain.name for domain in meter.domains)
        if meter.left_out:
            covers += "; without " + ", ".join(f"{n} ({w})" for n, w in meter.left_out.items())
        spots = measure_updates(meter._raw_values, 2.0 * SPOT_LIMIT_S)
        periods = [s.update_period_s for s in spots if s.update_period_s is not None]
        steps = [s.resolution for s in spots if s.resolution is not None]
        return SensorStatus(
            cls.name,
            True,
            True,
            Provenance.COUNTER,
            covers,
            update_period_s=min(periods) if periods else None,
            resolution_j=min(steps) * 1e-6 if steps else None,
        )


def poll_interval_s(unwrappers: Sequence[Unwrapper]) -> float:
    """How often to read counters so that none wraps twice between two reads."""
    shortest = min(unwrapper.wrap_s for unwrapper in unwrappers)
    return min(max(POLL_SHARE * shortest, FASTEST_POLL_S), SLOWEST_POLL_S)


class CounterFile:
    """A counter's file, kept open because opening it costs more than reading it.

    A file that was removed keeps its last value for those who hold it open, so each read looks.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._descriptor = -1
        self._text, self._value = b"", 0

    def read(self) -> int:
        """The raw value, in microjoule.

        Raises:
            OSError: it cannot be read, or is no longer there.
            ValueError: what it holds is not a whole number of at least 0.
        """
        try:
            if self._descriptor >= 0 and not os.fstat(self._descriptor).st_nlink:
                self.close()  # removed, perhaps replaced: look again at its path
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            text = os.pread(self._descriptor, 64, 0)
        except OSError:
            self.close()
            raise
        if text != self._text:
            digits = text.strip()
            if not digits.isdigit():
                raise ValueError(f"expected a number of microjoule, got {text[:20]!r}")
            self._text, self._value = text, int(digits)
        return self._value

    def close(self) -> None:
        """May be called twice; the next read opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_counter(path: Path) -> int:
    """The raw value of a counter file, read once; see :class:`CounterFile`."""
    file = CounterFile(path)
    try:
        return file.read()
    finally:
        file.close()


def mirrors(zones: Sequence[Zone]) -> list[Zone]:
    """Dies that show one counter of their socket, each counted once more.

    Some AMD kernels list a package zone a die though the counter is the socket's. Two counters of
    their own cannot stay so close that one, read between two reads of the other, lies between them
    three times over: they differ by whatever was used since the machine started.
    """
    packages = [zone for zone in zones if zone.is_package and "-die-" in zone.name]
    found: list[Zone] = []
    for index, zone in enumerate(packages):
        for first in packages[:index]:
            if first not in found and all(_bracketed(first, zone) for _ in range(3)):
                found.append(zone)
                break
    return found


def _bracketed(first: Zone, second: Zone) -> bool:
    try:
        low = read_counter(first.energy_file)
        value = read_counter(second.energy_file)
        high = read_counter(first.energy_file)
    except (OSError, ValueError):
        return False
    return 0 < low <= value <= high


def domain_of(zone: Zone, vendor: str = "") -> Domain:
    """The domain of a zone: what it covers and whether it may be added to others."""
    component, covers, additive = _meaning(zone, vendor)
    return Domain(
        name=zone.domain_name,
        component=component,
        provenance=Provenance.COUNTER,
        covers=covers,
        additive=additive,
        update_period_s=NOMINAL_UPDATE_S,
        resolution_j=zone.resolution_j,
    )


def _meaning(zone: Zone, vendor: str) -> tuple[str, str, bool]:
    if zone.is_package:
        part = "one die of a package" if "-die-" in zone.name else "the whole CPU package"
        return "cpu", f"{part}: cores, caches, memory controller, integrated GPU; no DRAM", True
    if zone.name == "dram":
        return "dram", "the memory of one package", True
    if zone.name == "psys":
        return "system", "the platform as its maker wired it: contains the packages", False
    if zone.name == "core":
        covers = "the cores of one package: a part of it"
        if vendor in ("AuthenticAMD", "HygonGenuine"):
            covers = "a single core of one package (AMD counts each core alone): a part of it"
        return "cpu", covers, False
    if zone.name == "uncore":
        return "gpu", "the integrated GPU of one package: a part of it", False
    where = "a part of its package" if zone.parent else "not told by the kernel"
    return "cpu", f"zone '{zone.name}': {where}", False


def _unwrapper(zone: Zone) -> Unwrapper:
    return Unwrapper(joule=1e-6, modulus=zone.range_uj + 1 if zone.range_uj > 0 else 0)


def _absent(root: Path) -> tuple[str, str]:
    return missing_cpu_counter(
        f"no RAPL zone in {root}", "sudo modprobe -a intel_rapl_msr intel_rapl_common"
    )


def _unreadable(zone: Zone, error: OSError, root: Path) -> tuple[str, str]:
    reason = f"{zone.energy_file}: {_why(error)}"
    if not isinstance(error, PermissionError):
        return reason, ""
    flat = zone.path.parent == root
    return reason, f"sudo chmod {f'a+r {root}/intel-rapl*/energy_uj' if flat else f'-R a+r {root}'}"


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _line(reason: str, remedy: str) -> str:
    return f"rapl: {reason}" + (f"; this would help: {remedy}" if remedy else "")
