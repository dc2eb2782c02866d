"""Which meters there are, which work here, and how to get one by name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

from ttq_energy.errors import SensorError, unknown_name
from ttq_energy.meters.amd_gpu import AmdGpuMeter
from ttq_energy.meters.apple import AppleMeter
from ttq_energy.meters.base import Meter, Provenance, SensorStatus
from ttq_energy.meters.codecarbon import CodeCarbonMeter
from ttq_energy.meters.hwmon import HwmonMeter
from ttq_energy.meters.nvml import NvmlMeter
from ttq_energy.meters.pyrapl import PyRaplMeter
from ttq_energy.meters.rapl import RaplMeter
from ttq_energy.meters.rapl_perf import RaplPerfMeter

ENTRY_POINTS = "ttq_energy.meters"
"""A package adds its meters by entry points of this group: the meter's name and its class."""

CPU_COUNTERS: tuple[type[Meter], ...] = (RaplMeter, RaplPerfMeter)
"""The same counters by different ways: the first that works is taken."""
OTHER_SENSORS: tuple[type[Meter], ...] = (NvmlMeter, AmdGpuMeter, AppleMeter, HwmonMeter)
"""Taken wherever they work."""
MODELS: tuple[type[Meter], ...] = (CodeCarbonMeter,)
"""Taken only where no sensor works."""
ON_REQUEST: tuple[type[Meter], ...] = (PyRaplMeter,)
"""Other readers of sensors that a meter above reads already: only for comparison."""

METERS: tuple[type[Meter], ...] = (*CPU_COUNTERS, *OTHER_SENSORS, *ON_REQUEST, *MODELS)
"""Every meter that comes with the package."""


def available_meters() -> list[Meter]:
    """The meters to measure with on this machine, constructed and ready to start.

    Powercap RAPL, else RAPL by perf events; every GPU and board sensor; those of other packages.
    Only where none of them works, CodeCarbon's model. Empty where not even that is there.
    """
    found: list[Meter] = []
    for kind in CPU_COUNTERS:
        meter = _try(kind)
        if meter is not None:
            found.append(meter)
            break
    found += [meter for kind in OTHER_SENSORS if (meter := _try(kind)) is not None]
    for point in _entry_points():
        try:
            found.append(_load(point)())
        except Exception:  # another package's meter must not stop the measuring; see probe_all
            continue
    if not found:
        found = [meter for kind in MODELS if (meter := _try(kind)) is not None]
    return found


def make_meter(name: str) -> Meter:
    """The meter of that name, because the user asked for it.

    Raises:
        InputError: there is no meter of that name.
        SensorError: it cannot be used here; the message says why and what would help.
    """
    for kind in METERS:
        if kind.name == name:
            return kind()
    points = {point.name: point for point in _entry_points()}
    if name not in points:
        raise unknown_name("meter", name, [*(kind.name for kind in METERS), *points])
    try:
        return _load(points[name])()
    except SensorError:
        raise
    except Exception as error:
        raise SensorError(f"{name}: {_first_line(error)}") from None


def probe_all() -> list[SensorStatus]:
    """What was looked for on this machine: what each sensor covers, or why it cannot be used."""
    statuses = [kind.probe() for kind in METERS]
    for point in _entry_points():
        try:
            statuses.append(_load(point).probe())
        except Exception as error:
            statuses.append(
                SensorStatus(
                    point.name,
                    False,
                    False,
                    Provenance.COUNTER,
                    reason=f"the meter of {point.value} failed: {_first_line(error)}",
                )
            )
    return statuses


def _try(kind: type[Meter]) -> Meter | None:
    try:
        return kind()
    except SensorError:
        return None


def _entry_points() -> Iterator[EntryPoint]:
    known = {kind.name for kind in METERS}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in known:
            yield point


def _load(point: EntryPoint) -> type[Meter]:
    kind = point.load()
    if not (isinstance(kind, type) and issubclass(kind, Meter)):
        raise TypeError(f"{point.value} is not a subclass of ttq_energy.meters.Meter")
    return kind


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
