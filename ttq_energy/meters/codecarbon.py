"""CodeCarbon: its own estimate of this machine's power, as its trackers would use it.

CodeCarbon decides itself what it rests on. Without a sensor that is a table of chips' design power
and the CPU's load: a model, and every joule of it says so. Where it reads RAPL or NVML, its joules
are those of a counter.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ttq_energy.errors import SensorError
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus

JOULES_PER_KWH = 3.6e6
SHORTEST_STEP_S = 0.05
"""The load comes from counters in ticks of 10 ms a core: over a shorter span it is mostly noise."""
CONSTANT_UPDATE_S = 0.001
TICK_S = 0.01
SLOPE = 2.7
"""Steepest slope of CodeCarbon's load model, in units of the design power: 0.1 + 0.9 load^3."""
READING_RAPL = "intel_rapl"


@dataclass
class _Source:
    """One thing that CodeCarbon estimates: its domain, and how to ask for its joules.

    ``joules(elapsed_s)`` gives those of the span since it was last asked. A source that is
    ``constant`` can be asked at any time; the others are asked every 50 ms at most.
    """

    domain: Domain
    start: Callable[[], None]
    joules: Callable[[float], float]
    constant: bool = False
    total_j: float = 0.0
    asked_s: float = 0.0
    broken: str = ""


class CodeCarbonMeter(Meter):
    """CodeCarbon's CPU, RAM and GPU figures: "codecarbon-cpu", "codecarbon-ram", ..."""

    name = "codecarbon"

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Let CodeCarbon look at the machine; without network, files or messages.

        Args:
            clock: monotonic seconds.

        Raises:
            SensorError: CodeCarbon is not installed, or finds nothing it can use.
        """
        self._clock = clock
        found = _found()
        sources = [source for item in found.hardware for source in _sources(item, found)]
        self._sources = sorted(sources, key=lambda source: source.domain.name)
        if not self._sources:
            raise SensorError("codecarbon: it found nothing on this machine that it can estimate")
        self._running = False

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(source.domain for source in self._sources)

    def start(self) -> None:
        if self._running:
            return
        with _quiet():
            for source in self._sources:
                source.start()
        now = self._clock()
        for source in self._sources:
            source.total_j, source.asked_s, source.broken = 0.0, now, ""
        self._running = True

    def read(self) -> list[Reading]:
        """Each total, brought up to now where the last look is at least 50 ms ago."""
        now = self._clock()
        if not self._running:
            return [Reading(d.name, now, error="the meter is not started") for d in self.domains]
        due = [s for s in self._sources if s.constant or now - s.asked_s >= SHORTEST_STEP_S]
        if due:
            with _quiet():
                for source in due:
                    _ask(source, now)
        return [
            Reading(source.domain.name, now, error=source.broken)
            if source.broken
            else Reading(source.domain.name, now, energy_j=source.total_j)
            for source in self._sources
        ]

    def stop(self) -> None:
        self._running = False

    @classmethod
    def probe(cls) -> SensorStatus:
        try:
            meter = cls()
        except SensorError as error:
            return SensorStatus(
                cls.name,
                False,
                False,
                Provenance.MODELLED,
                reason=str(error).removeprefix("codecarbon: "),
                remedy="pip install codecarbon",
            )
        real = [d for d in meter.domains if d.provenance is not Provenance.MODELLED]
        covers = "; ".join(f"{domain.name}: {domain.covers}" for domain in meter.domains)
        return SensorStatus(
            cls.name,
            True,
            True,
            real[0].provenance if real else Provenance.MODELLED,
            covers,
            update_period_s=SHORTEST_STEP_S,
        )


@dataclass(frozen=True)
class _Found:
    """CodeCarbon's hardware objects, and whether it only guessed the CPU's design power."""

    hardware: tuple[Any, ...]
    guessed: bool


@functools.cache
def _found() -> _Found:
    """What CodeCarbon would track here; found once a process, because it takes a second or two.

    Raises:
        SensorError: CodeCarbon is not installed or does not start.
    """
    try:
        with _quiet() as messages:
            from codecarbon import OfflineEmissionsTracker

            tracker = OfflineEmissionsTracker(
                country_iso_code="USA",
                output_methods=[],
                log_level="warning",
                allow_multiple_runs=True,
                tracking_mode="machine",
            )
            ready = getattr(tracker, "_ensure_hardware_ready", None)
            if ready is not None:  # since 3.3 it looks at the machine only when it starts
                ready()
            hardware = tuple(tracker._hardware)
    except ImportError:
        raise SensorError("codecarbon: it is not installed: pip install codecarbon") from None
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else repr(error)
        raise SensorError(f"codecarbon: it does not start: {text}") from None
    return _Found(hardware, any("default power consumption" in text for text in messages))


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep what CodeCarbon logs and warns from the user's terminal; gives its log messages."""
    messages: list[str] = []

    def swallow(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger = logging.getLogger("codecarbon")
    level = logger.level
    logger.addFilter(swallow)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield messages
    finally:
        logger.removeFilter(swallow)
        logger.setLevel(level)


def _ask(source: _Source, now: float) -> None:
    elapsed_s, source.asked_s = now - source.asked_s, now
    try:
        source.total_j += max(source.joules(elapsed_s), 0.0)
    except Exception as error:  # its sensors raise whatever their libraries raise
        source.broken = f"CodeCarbon: {error or type(error).__name__}"


def _sources(item: Any, found: _Found) -> list[_Source]:
    kind = type(item).__name__
    if kind == "CPU":
        return [_rapl(item)] if item._mode == READING_RAPL else [_cpu_model(item, found)]
    if kind == "RAM":
        return [_ram_model(item)]
    if kind == "GPU":
        return _gpus(item)
    return []  # Raspberry and Apple: each read starts a program and takes a second


def _cpu_model(cpu: Any, found: _Found) -> _Source:
    design_w = float(cpu._tdp)
    if getattr(cpu, "_is_generic_tdp", False):
        basis = f"{design_w:g} W assumed, as for any CPU that it does not know"
    elif found.guessed:
        basis = f"{design_w:g} W guessed from the number of threads of '{cpu._model}'"
    else:
        basis = f"{design_w:g} W design power of '{cpu._model}' from its table"
    follows_load = cpu._mode == "cpu_load"
    how = "x (0.1 + 0.9 load^3)" if follows_load else "x 0.5, whatever runs"
    cores = os.cpu_count() or 1
    return _Source(
        Domain(
            name="codecarbon-cpu",
            component="cpu",
            provenance=Provenance.MODELLED,
            covers=f"a model, not a measurement: {basis}, {how}, of the whole machine",
            update_period_s=SHORTEST_STEP_S if follows_load else CONSTANT_UPDATE_S,
            resolution_j=SLOPE * design_w * TICK_S / cores if follows_load else 0.0,
        ),
        cpu.start,
        lambda elapsed_s: float(cpu.total_power().W) * elapsed_s,
        constant=not follows_load,
    )


def _ram_model(ram: Any) -> _Source:
    power_w = float(ram.total_power().W)
    return _Source(
        Domain(
            name="codecarbon-ram",
            component="dram",
            provenance=Provenance.MODELLED,
            covers=f"a model, not a measurement: a constant {power_w:g} W for the memory modules "
            "that the machine's memory size suggests, whatever runs",
            update_period_s=CONSTANT_UPDATE_S,
        ),
        ram.start,
        lambda elapsed_s: power_w * elapsed_s,
        constant=True,
    )


def _rapl(cpu: Any) -> _Source:
    def joules(elapsed_s: float) -> float:
        _, energy = cpu.measure_power_and_energy(elapsed_s)
        files = getattr(cpu._intel_interface, "_rapl_files", [])
        if any(getattr(file, "sample_skipped", False) for file in files):
            raise RuntimeError("it could not read a RAPL counter, and would report 0")
        return float(energy.kWh) * JOULES_PER_KWH

    return _Source(
        Domain(
            name="codecarbon-cpu",
            component="cpu",
            provenance=Provenance.COUNTER,
            covers="the CPU packages, by RAPL as CodeCarbon reads it",
            same_as="cpu-package-0",
            update_period_s=SHORTEST_STEP_S,
            resolution_j=1e-4,
        ),
        cpu.start,
        joules,
    )


def _gpus(gpus: Any) -> list[_Source]:
    devices = list(gpus.devices.devices)
    if not devices or not all(getattr(device, "_has_counter", False) for device in devices):
        return []  # it would average a few power readings: the nvml meter does that properly

    def joules(elapsed_s: float) -> float:
        from codecarbon.core.units import Time

        deltas = gpus.devices.get_delta(Time.from_seconds(elapsed_s))
        if len(deltas) != len(devices):
            raise RuntimeError("it could not read a GPU, and would report 0")
        if any(getattr(device, "_use_power_fallback", False) for device in devices):
            raise RuntimeError("a GPU's energy counter failed and it fell back to sampled power")
        return sum(float(d["delta_energy_consumption"].kWh) for d in deltas) * JOULES_PER_KWH

    return [
        _Source(
            Domain(
                name="codecarbon-gpu",
                component="gpu",
                provenance=Provenance.COUNTER,
                covers="every GPU together, by its driver's energy counter as CodeCarbon reads it",
                same_as="gpu-0",
                update_period_s=0.1,
                resolution_j=0.001,
            ),
            gpus.start,
            joules,
        )
    ]
