"""pyRAPL: RAPL as that library reads it, with what it gets wrong repaired around it.

pyRAPL (pinned to 0.2.3.1, its last version) subtracts raw counters, so that a wrap gives a negative
or absurd energy; a memory zone that cannot be read makes it fail whole; and importing it prints a
warning about pymongo. Here its raw values are unwrapped with the range that powercap states,
memory is read apart from the packages, and the warning is kept from the user. It is a second
opinion on the counters that the rapl meter reads, and is never added to them.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ttq_energy.errors import SensorError
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.host import missing_cpu_counter
from ttq_energy.meters.rapl import NOMINAL_UPDATE_S, ROOT, poll_interval_s
from ttq_energy.meters.rapl_zones import Zone, find_zones
from ttq_energy.meters.unwrap import Unwrapper

NOT_READ = -1
"""pyRAPL's value of a socket without that counter."""


class _NoValue(Exception):
    """pyRAPL gave no value; the message says why."""


@dataclass
class _Source:
    """One socket's packages or memory, as pyRAPL numbers them."""

    domain: Domain
    device: Any
    socket: int
    unwrapper: Unwrapper


class PyRaplMeter(Meter):
    """The CPU packages and their memory, through pyRAPL: "pyrapl-package-N", "pyrapl-dram-N"."""

    name = "pyrapl"

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Let pyRAPL find its counters.

        Raises:
            SensorError: it is not installed, or finds none that it can read.
        """
        self._clock = clock
        library = _library()
        zones = {zone.domain_name: zone for zone in find_zones(Path(ROOT))}
        self._sensors: dict[Any, Any] = {}
        self._sources: list[_Source] = []
        problem = ""
        for device in (library.Device.PKG, library.Device.DRAM):
            try:
                sensor = library.Sensor(devices=[device])
                values = sensor.energy()[int(device) :: 2]
            except Exception as error:  # it raises whatever open() and int() raise
                problem = problem or _why(library, error)
                continue
            self._sensors[device] = sensor
            for socket, value in enumerate(values):
                if value != NOT_READ:
                    self._sources.append(_source(library, device, socket, zones))
        if not any(source.domain.component == "cpu" for source in self._sources):
            reason, remedy = _absent(problem)
            hint = f"; this would help: {remedy}" if remedy else ""
            raise SensorError(f"pyrapl: {reason}{hint}")
        self._running = False
        self._lock = threading.Lock()
        self._stopped: threading.Event | None = None

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(source.domain for source in self._sources)

    def start(self) -> None:
        if self._running:
            return
        for source in self._sources:
            try:
                source.unwrapper.start(self._raw(source, self._energies()), self._clock())
            except _NoValue as error:
                raise SensorError(f"pyrapl: {source.domain.name}: {error}") from None
        self._running = True
        self._stopped = threading.Event()
        interval = poll_interval_s([source.unwrapper for source in self._sources])
        threading.Thread(
            target=self._poll, args=(self._stopped, interval), name="ttq-energy-pyrapl", daemon=True
        ).start()

    def _poll(self, stopped: threading.Event, interval_s: float) -> None:
        while not stopped.wait(interval_s):
            self.read()

    def _energies(self) -> dict[Any, Any]:
        """pyRAPL's raw values of each device, or the exception that reading them raised."""
        found: dict[Any, Any] = {}
        for device, sensor in self._sensors.items():
            try:
                found[device] = sensor.energy()
            except Exception as error:
                found[device] = error
        return found

    @staticmethod
    def _raw(source: _Source, energies: dict[Any, Any]) -> int:
        values = energies[source.device]
        if isinstance(values, Exception):
            raise _NoValue(f"pyRAPL: {str(values) or type(values).__name__}")
        value = values[2 * source.socket + int(source.device)]
        if not value >= 0:
            raise _NoValue("pyRAPL gave no value")
        return int(value)

    def read(self) -> list[Reading]:
        with self._lock:
            energies = self._energies() if self._running else {}
            return [self._read_one(source, energies) for source in self._sources]

    def _read_one(self, source: _Source, energies: dict[Any, Any]) -> Reading:
        t_s = self._clock()
        if not energies:
            return Reading(source.domain.name, t_s, error="the meter is not started")
        try:
            raw = self._raw(source, energies)
            return source.unwrapper.reading(source.domain.name, raw, t_s)
        except _NoValue as error:
            return Reading(source.domain.name, t_s, error=str(error))

    def stop(self) -> None:
        self._running = False
        if self._stopped is not None:
            self._stopped.set()

    @classmethod
    def probe(cls) -> SensorStatus:
        try:
            meter = cls()
        except SensorError as error:
            reason, _, remedy = str(error).removeprefix("pyrapl: ").partition("; this would help: ")
            found = bool(find_zones(Path(ROOT)))
            return SensorStatus(
                cls.name, found, False, Provenance.COUNTER, reason=reason, remedy=remedy
            )
        covers = ", ".join(domain.name for domain in meter.domains)
        return SensorStatus(
            cls.name,
            True,
            True,
            Provenance.COUNTER,
            f"{covers}: the counters that the rapl meter reads, for comparison",
            update_period_s=NOMINAL_UPDATE_S,
            resolution_j=max(domain.resolution_j for domain in meter.domains),
        )


@functools.cache
def _library() -> ModuleType:
    """Import pyRAPL without the warning that it logs, and without the handler that this adds.

    Raises:
        SensorError: it is not installed.
    """
    root, silence = logging.getLogger(), logging.NullHandler()
    disabled = logging.root.manager.disable
    root.addHandler(silence)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pyRAPL
    except ImportError:
        raise SensorError(
            "pyrapl: it is not installed; this would help: pip install pyRAPL==0.2.3.1"
        ) from None
    finally:
        logging.disable(disabled)
        root.removeHandler(silence)
    library: ModuleType = pyRAPL
    return library


def _source(library: ModuleType, device: Any, socket: int, zones: dict[str, Zone]) -> _Source:
    memory = device == library.Device.DRAM
    same = f"dram-{socket}" if memory else f"cpu-package-{socket}"
    zone = zones.get(same)
    range_uj = zone.range_uj if zone else 0
    domain = Domain(
        name=f"pyrapl-{'dram' if memory else 'package'}-{socket}",
        component="dram" if memory else "cpu",
        provenance=Provenance.COUNTER,
        covers=f"{'the memory of' if memory else 'the whole'} CPU package {socket}, by pyRAPL",
        update_period_s=NOMINAL_UPDATE_S,
        resolution_j=zone.resolution_j if zone else 1e-6,
        same_as=same,
    )
    return _Source(domain, device, socket, Unwrapper(1e-6, range_uj + 1 if range_uj else 0))


def _why(library: ModuleType, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"pyRAPL: {error.filename}: {(error.strerror or str(error)).lower()}"
    if isinstance(error, library.PyRAPLException):
        return ""
    return f"pyRAPL: {str(error) or type(error).__name__}"


def _absent(problem: str) -> tuple[str, str]:
    if "permission denied" in problem:
        return problem, f"sudo chmod a+r {ROOT}/intel-rapl*/energy_uj"
    if problem:
        return problem, ""
    return missing_cpu_counter(
        "pyRAPL finds no RAPL package for every socket",
        "sudo modprobe -a intel_rapl_msr intel_rapl_common",
    )
