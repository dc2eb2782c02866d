"""EnergyMonitor: the energy of named windows from every meter at once."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.measurement.counters import counter_energy
from ttq_energy.measurement.energy import DomainEnergy, Energy, combine, unresolved
from ttq_energy.measurement.polling import TRACE_S, Series, read_safely
from ttq_energy.measurement.power_energy import PEAK_LOAD, energy_from_power, spread_half_j
from ttq_energy.measurement.power_sensor import Sensor, sensor_of
from ttq_energy.measurement.sampler import ThreadSampler, recipe_of, start_sampler
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading

NO_SENSOR = (
    "no sensor is readable on this machine and no model was asked for: nothing was measured; "
    "'ttq-energy sensors' says what was looked for"
)


HISTORY_S = 10.0
FEWEST_STEPS = 4
STEPS_MISSED = 5.0
SHORTEST_STILL_S = 1.0


class _Sampler(Protocol):
    problem: str

    def series(self, domain: str) -> Series: ...
    def flush(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(slots=True)
class Window:
    """One span of time under measurement; ``energy`` is there once it has ended.

    ``first`` and ``last`` hold the counters' readings at its ends.
    """

    name: str
    _monitor: EnergyMonitor = field(repr=False)
    start_s: float = 0.0
    end_s: float | None = None
    first: Sequence[Reading] = field(default=(), repr=False)
    last: Sequence[Reading] = field(default=(), repr=False)
    _energy: Energy | None = field(default=None, repr=False)

    def end(self) -> Window:
        """End the window, in any thread; the first call counts and later ones do nothing."""
        if self.end_s is None:
            self._monitor._end(self)
        return self

    @property
    def duration_s(self) -> float:
        """Length of the ended window.

        Raises:
            InputError: it has not ended.
        """
        if self.end_s is None:
            raise InputError(f"window '{self.name}' has not ended yet")
        return self.end_s - self.start_s

    @property
    def energy(self) -> Energy:
        """The window's energy.

        Where a power sensor lags, this waits for the samples that still tell of the window.

        Raises:
            InputError: the window has not ended.
        """
        if self._energy is None:
            self._energy = self._monitor._energy_of(self)
        return self._energy


class WindowContext(contextlib.ContextDecorator):
    """A window from ``with`` to its end; as a decorator, one for each call of the function."""

    def __init__(self, monitor: EnergyMonitor, name: str) -> None:
        self._monitor, self._name = monitor, name
        self._window: Window | None = None

    def _recreate_cm(self) -> WindowContext:
        return WindowContext(self._monitor, self._name)

    def __enter__(self) -> Window:
        if self._window is not None:
            raise InputError(
                f"window '{self._name}' was entered before: each 'with' takes a window of its own, "
                f"with monitor.window('{self._name}')"
            )
        self._window = self._monitor.begin(self._name)
        return self._window

    def __exit__(self, *exc: object) -> None:
        if self._window is None:
            raise InputError(f"window '{self._name}' was not entered")
        self._window.end()


class EnergyMonitor:
    """Measures the energy of windows with every meter given, or every one this machine has.

    Windows may nest, overlap and cross threads. Counters are read at both ends of a window;
    power sensors are polled all the while in a process of their own. Use it as a context manager,
    or call ``start`` and ``stop``.

        with EnergyMonitor() as monitor:
            with monitor.window("forward"):
                model(x)
        monitor["forward"].energy_j

    Attributes:
        messages: what the user should know, such as that there is no sensor.
    """

    def __init__(
        self,
        meters: Iterable[Meter | str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the meters; nothing is read before ``start``.

        Args:
            meters: the meters to read, each a meter or its name as in a study ("rapl"); None
                takes ``meters.available_meters()``. An empty sequence measures time only.
            clock: monotonic seconds, the one of the meters' readings.

        Raises:
            InputError: not a sequence of meters and names, an unknown name, or two domains of the
                same name.
            SensorError: a meter given by its name cannot be used here.
        """
        self.meters: tuple[Meter, ...] = _meters_of(meters)
        self.clock = clock
        self.messages = _messages_of(self.meters, chosen=meters is not None)
        self._locks = [threading.Lock() for _ in self.meters]
        self._domains: dict[str, tuple[Domain, Meter]] = {}
        for meter in self.meters:
            for domain in meter.domains:
                if domain.name in self._domains:
                    raise InputError(
                        f"meters: the domain '{domain.name}' stands in both "
                        f"'{self._domains[domain.name][1].name}' and '{meter.name}'"
                    )
                self._domains[domain.name] = (domain, meter)
        for name, (domain, meter) in list(self._domains.items()):
            if domain.same_as in self._domains:  # one sensor by two ways is added once
                self._domains[name] = (replace(domain, additive=False), meter)
        self._edge = [
            (meter, lock)
            for meter, lock in zip(self.meters, self._locks, strict=True)
            if any(d.provenance is not Provenance.INTEGRATED for d in meter.domains)
        ]
        self._windows: dict[str, list[Window]] = {}
        self._samplers: list[_Sampler] = []
        self._sensors: dict[str, Sensor] = {}
        self._running = False
        self._entered = False
        self._last_end_s = 0.0

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> EnergyMonitor:
        """Start the meters and the sampling; may be called twice."""
        if self._running:
            return self
        sampled = [(m, k) for m, k in zip(self.meters, self._locks, strict=True) if m.sampled]
        others = [(m, k) for m, k in zip(self.meters, self._locks, strict=True) if not m.sampled]
        recipe = recipe_of([meter for meter, _ in sampled])
        started: list[Meter] = []
        try:
            for meter in self.meters:
                meter.start()
                started.append(meter)
            self._samplers = self._start_samplers(recipe, sampled, others)
        except BaseException:
            for meter in started:
                meter.stop()
            raise
        self._running = True
        return self

    def _start_samplers(
        self,
        recipe: bytes | str,
        sampled: Sequence[tuple[Meter, threading.Lock]],
        others: Sequence[tuple[Meter, threading.Lock]],
    ) -> list[_Sampler]:
        samplers: list[_Sampler] = []
        if sampled:
            power = start_sampler(recipe, [m for m, _ in sampled], [k for _, k in sampled])
            if power.problem:
                self.messages.append(power.problem)
            samplers.append(power)
        trace = ThreadSampler([m for m, _ in others], [k for _, k in others])
        trace.start()
        return [*samplers, trace]

    def stop(self) -> None:
        """Stop sampling and the meters; ended windows keep their energy. May be called twice."""
        if not self._running:
            return
        self._await_tail(self._last_end_s)
        self._running = False
        for sampler in self._samplers:
            sampler.stop()
        for meter in self.meters:
            meter.stop()

    def __enter__(self) -> EnergyMonitor:
        if self._entered:
            raise InputError(
                "this monitor is in use by a 'with' already: take its windows, or another monitor"
            )
        self.start()
        self._entered = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._entered = False
        for window in self._all():
            window.end()
        self.stop()

    # -- windows ---------------------------------------------------------------------------------

    def window(self, name: str) -> WindowContext:
        """Measure what runs inside. The name may be used again: ``monitor[name]`` is the latest.

        Raises:
            InputError: the name is not text or is empty; at ``with``: the monitor is not running,
                or this very window was entered before.
        """
        return WindowContext(self, _window_name(name))

    def begin(self, name: str) -> Window:
        """Begin a window that ``end()`` ends, perhaps in another thread.

        Raises:
            InputError: the monitor is not running, or the name is not text or is empty.
        """
        _window_name(name)
        if not self._running:
            raise InputError(
                f"window '{name}': the monitor is not running; use 'with EnergyMonitor() as ...'"
            )
        window = Window(name, self)
        first = self._read_edges()
        for reading in first:
            if reading.error is not None and reading.lost:
                first = self._read_edges()  # the jump was before the window: it is of no concern
                break
        window.first = first
        self._windows.setdefault(name, []).append(window)
        window.start_s = self.clock()
        return window

    def _end(self, window: Window) -> None:
        end_s = self.clock()
        window.last = self._read_edges()
        window.end_s = end_s
        self._last_end_s = max(self._last_end_s, end_s)

    def _read_edges(self) -> list[Reading]:
        readings: list[Reading] = []
        for meter, lock in self._edge:
            with lock:
                readings += read_safely(meter)
        return readings

    def __getitem__(self, name: str) -> Energy:
        return self.windows(name)[-1].energy

    def __contains__(self, name: object) -> bool:
        return name in self._windows

    def windows(self, name: str) -> list[Window]:
        """Every window of that name, in order of their starts.

        Raises:
            InputError: there was none.
        """
        if name not in self._windows:
            raise unknown_name("window", name, self._windows)
        return list(self._windows[name])

    def _all(self) -> Iterator[Window]:
        return itertools.chain.from_iterable(list(self._windows.values()))

    def forget(self, name: str) -> None:
        """Drop the windows of a name, for monitors that live for days."""
        self._windows.pop(name, None)

    # -- what was measured -----------------------------------------------------------------------

    @property
    def domains(self) -> dict[str, Domain]:
        """Every domain by name."""
        return {name: domain for name, (domain, _) in self._domains.items()}

    def meter_of(self, domain: str) -> Meter:
        """The meter of a domain.

        Raises:
            InputError: no such domain.
        """
        if domain not in self._domains:
            raise unknown_name("domain", domain, self._domains)
        return self._domains[domain][1]

    def slowest_period_s(self) -> float:
        """Longest update period of any domain; 0 without sensors."""
        return max((d.update_period_s for d, _ in self._domains.values()), default=0.0)

    def power_sensors(self) -> dict[str, Sensor]:
        """The power sensor behind each domain that rests on one: sampled, or a GPU's counter."""
        return {
            name: self._sensor(domain)
            for name, (domain, _) in self._domains.items()
            if domain.provenance is Provenance.INTEGRATED or domain.hardware
        }

    def power_trace(
        self, domain: str, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times and powers polled of a domain, in [start_s, end_s].

        For a counter, each power is the mean between two of its readings and its time their
        middle; readings between which the counter did not change are merged.

        Returns:
            ``(t_s, power_w)``, float64 arrays of equal length, as sampled: no lag is undone.

        Raises:
            InputError: no such domain.
        """
        if domain not in self._domains:
            raise unknown_name("domain", domain, self._domains)
        series = self._series(domain)
        t_s, value = np.array(series.t_s), np.array(series.value)
        if series.cumulative:
            t_s, value = _counter_power(t_s, value)
        inside = (t_s >= start_s) & (t_s <= end_s)
        return t_s[inside], value[inside]

    def _series(self, domain: str) -> Series:
        for sampler in self._samplers:
            sampler.flush()
            series = sampler.series(domain)
            if series.t_s or series.errors:
                return series
        return Series()

    def _sensor(self, domain: Domain) -> Sensor:
        if domain.name not in self._sensors:
            self._sensors[domain.name] = sensor_of(domain)
        return self._sensors[domain.name]

    def _await_tail(self, end_s: float) -> None:
        """Wait until the slowest power sensor has told of everything up to ``end_s``."""
        if not self._running or not any(meter.sampled for meter in self.meters):
            return
        tail = max(
            (
                self._sensor(domain).tail_s
                for domain, _ in self._domains.values()
                if domain.provenance is Provenance.INTEGRATED
            ),
            default=0.0,
        )
        wait = end_s + tail - self.clock()
        if 0 < wait <= tail:
            time.sleep(wait)

    def _energy_of(self, window: Window) -> Energy:
        duration = window.duration_s
        assert window.end_s is not None
        self._await_tail(window.end_s)
        domains = {
            name: self._domain_energy(window, domain, meter.name)
            for name, (domain, meter) in self._domains.items()
        }
        return combine(window.name, duration, domains, absent=NO_SENSOR)

    def _domain_energy(self, window: Window, domain: Domain, meter: str) -> DomainEnergy:
        first, last = _of_domain(window.first, domain), _of_domain(window.last, domain)
        polled = domain.provenance is Provenance.INTEGRATED or (
            first is not None and first.power_w is not None
        )
        if polled:
            return self._polled_energy(window, domain, meter)
        assert window.end_s is not None
        near = max(TRACE_S, domain.update_period_s) * 2.0
        _, power = self.power_trace(domain.name, window.start_s - near, window.end_s + near)
        peak = float(power.max()) if power.size else 0.0
        still = _longest_still_s(self._series(domain.name), window.start_s, window.end_s)
        energy = counter_energy(domain, meter, first, last, window.duration_s, peak, still)
        if domain.hardware:
            energy = _with_gain_spread(energy, domain, peak)
        return energy

    def _polled_energy(self, window: Window, domain: Domain, meter: str) -> DomainEnergy:
        assert window.end_s is not None
        series, sensor = self._series(domain.name), self._sensor(domain)
        start_s, end_s, duration = window.start_s, window.end_s, window.duration_s
        reach = sensor.reach_s
        failed = [e for e in series.errors if start_s - reach <= e[0] <= end_s + sensor.tail_s]
        if failed:
            reason = f"{len(failed)} reads failed, the first {failed[0][0] - start_s:+.3f} s from "
            reason += f"the window's start: {failed[0][1]}"
            return unresolved(domain, meter, duration, reason)
        if duration < sensor.minimum_s:
            reason = (
                f"the window of {duration:.3g} s is too short for this sensor: "
                f"make it at least {sensor.minimum_s:.3g} s"
            )
            return unresolved(domain, meter, duration, reason, sensor.minimum_s)
        t_s, power_w = np.array(series.t_s), np.array(series.value)
        try:
            energy = energy_from_power(t_s, power_w, start_s, end_s, sensor=sensor)
        except InputError as error:
            return unresolved(domain, meter, duration, str(error))
        return DomainEnergy(
            domain=domain.name,
            duration_s=duration,
            energy_j=energy.energy_j,
            low_j=energy.low_j,
            high_j=energy.high_j,
            provenance=domain.provenance,
            meter=meter,
            covers=domain.covers,
            additive=domain.additive,
            component=domain.component,
            relative_low_j=energy.relative_low_j,
            relative_high_j=energy.relative_high_j,
        )


def _meters_of(meters: Iterable[Meter | str] | None) -> tuple[Meter, ...]:
    from ttq_energy.meters import available_meters, make_meter

    if meters is None:
        return tuple(available_meters())
    expected = "expected a sequence of meters or their names, such as ['rapl']"
    if isinstance(meters, str) or not isinstance(meters, Iterable):
        raise InputError(f"meters: {expected}, got {meters!r}")
    given = list(meters)
    for place, meter in enumerate(given):
        if not isinstance(meter, (Meter, str)):
            raise InputError(f"meters[{place}]: {expected}, got {meter!r}")
    return tuple(make_meter(meter) if isinstance(meter, str) else meter for meter in given)


def _messages_of(meters: Sequence[Meter], *, chosen: bool) -> list[str]:
    """What the meters leave to be said: that there is none, or that none of them is a sensor."""
    if not meters:
        return [NO_SENSOR]
    provenances = {domain.provenance for meter in meters for domain in meter.domains}
    if provenances != {Provenance.MODELLED}:
        return []
    names = ", ".join(meter.name for meter in meters)
    modelled = f"every joule is modelled by {names}, not measured"
    if chosen:
        return [f"no sensor is read, as chosen: {modelled}"]
    return [
        f"no sensor is readable on this machine: {modelled}; "
        "'ttq-energy sensors' says what was looked for"
    ]


def _of_domain(readings: Sequence[Reading], domain: Domain) -> Reading | None:
    return next((reading for reading in readings if reading.domain == domain.name), None)


def _window_name(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"window: expected a name, text that is not empty, got {name!r}")
    return name


def _with_gain_spread(energy: DomainEnergy, domain: Domain, peak_w: float) -> DomainEnergy:
    """A GPU's energy counter sums what its power sensor reads: it has the sensor's gain."""
    if energy.energy_j is None or energy.relative_low_j is None or energy.duration_s <= 0:
        return energy
    sensor = sensor_of(domain)
    mean_w = energy.energy_j / energy.duration_s
    full_power = sensor.full_power_w or max(peak_w, mean_w) / PEAK_LOAD
    edges = energy.energy_j - energy.relative_low_j
    half = math.hypot(edges, spread_half_j(energy.energy_j, energy.duration_s, full_power, sensor))
    return replace(energy, low_j=max(energy.energy_j - half, 0.0), high_j=energy.energy_j + half)


def _longest_still_s(series: Series, start_s: float, end_s: float) -> float:
    """How long a counter that was moving stood still inside a window; 0 where it did not.

    Slow counters move in steps: still is what lasts for ``STEPS_MISSED`` of the usual distances
    between the changes seen, from ``HISTORY_S`` before the window on, and for a second at least.
    """
    if not series.cumulative:
        return 0.0
    t_s, energy_j = np.array(series.t_s), np.array(series.value)
    known = (t_s >= start_s - HISTORY_S) & (t_s <= end_s)
    t_s, energy_j = t_s[known], energy_j[known]
    changes = np.flatnonzero(np.diff(energy_j) != 0) + 1
    if changes.size < FEWEST_STEPS:
        return 0.0
    begins = np.maximum(t_s[np.append(0, changes)], start_s)
    ends = t_s[np.append(changes - 1, t_s.size - 1)]
    still = float(np.max(ends - begins))
    usual = float(np.median(np.diff(t_s[changes])))
    return still if still >= max(STEPS_MISSED * usual, SHORTEST_STILL_S) else 0.0


def _counter_power(
    t_s: NDArray[np.float64], energy_j: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if t_s.size < 2:
        return np.empty(0), np.empty(0)
    fresh = np.flatnonzero(np.diff(energy_j, prepend=-np.inf) > 0)
    t_s, energy_j = t_s[fresh], energy_j[fresh]
    return (t_s[1:] + t_s[:-1]) / 2.0, np.diff(energy_j) / np.maximum(np.diff(t_s), 1e-9)
