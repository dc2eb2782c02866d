"""What every meter offers: domains, readings, and a life from start to stop.

Units: energy_j in joule, power_w in watt, t_s in seconds of ``time.monotonic()``.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple


class Provenance(enum.StrEnum):
    """Where a joule comes from. Joules of different provenance are never added together."""

    COUNTER = "counter"
    """Difference of a hardware energy counter."""
    INTEGRATED = "integrated"
    """Sampled power of a sensor, integrated over time."""
    MODELLED = "modelled"
    """Derived from load, a datasheet figure or operation counts: not measured."""


@dataclass(frozen=True)
class Domain:
    """One thing whose energy is told apart.

    Attributes:
        name: unique within a monitor, such as "cpu-package-0", "dram-0", "gpu-0", "machine".
        component: "cpu", "dram", "gpu", "soc" or "system".
        provenance: of every joule of this domain.
        covers: one sentence for people: what is and is not inside.
        additive: True where it may be added to the other additive domains of the same provenance
            without counting anything twice (packages, dram, GPUs); False for parts of another
            domain (core, uncore) and for wholes that contain others (psys).
        update_period_s: nominal time between fresh values of the sensor; measured where possible.
        resolution_j: smallest step of a counter; 0 where it has none.
        same_as: name of the domain by which another meter shows the same sensor; where both are
            read, only that one is added. Empty where there is no such domain.
        hardware, driver, reading: what ``measurement.nvml_sensor`` needs to know a GPU's sensor:
            the board's name, the driver's version and the reading ("power.draw", ...); else empty.
    """

    name: str
    component: str
    provenance: Provenance
    covers: str
    additive: bool = True
    update_period_s: float = 0.001
    resolution_j: float = 0.0
    same_as: str = ""
    hardware: str = ""
    driver: str = ""
    reading: str = ""


class Reading(NamedTuple):
    """One value of one domain; a tuple, since a window makes several within microseconds.

    A counter gives ``energy_j``: joules since the meter's ``start()``, already unwrapped and never
    decreasing. A power sensor gives ``power_w``. Exactly one of ``energy_j``, ``power_w`` and
    ``error`` is not None; an error is never a zero.

    A counter that jumps, is reset or was unread for too long has lost the energy of that span. The
    reading that shows it is an error, and those after it are of a new ``epoch``: the energy between
    two readings is known only where both are of one epoch. ``lost`` says why the present epoch
    began; empty in the first.
    """

    domain: str
    t_s: float
    energy_j: float | None = None
    power_w: float | None = None
    error: str | None = None
    epoch: int = 0
    lost: str = ""


@dataclass(frozen=True)
class SensorStatus:
    """What ``ttq-energy sensors`` prints of one sensor that was looked for.

    Attributes:
        name: the meter's name ("rapl", "rapl-perf", "nvml", "codecarbon", "pyrapl", ...).
        found: the hardware or library is there.
        readable: it can be read by this process now.
        provenance: of its joules.
        covers: domains or hardware it covers, for people; empty where nothing was found.
        reason: one sentence why it is not usable; empty where readable.
        remedy: the exact command that would make it readable; empty where none would.
        update_period_s, resolution_j: measured on the spot where readable, else None.
    """

    name: str
    found: bool
    readable: bool
    provenance: Provenance
    covers: str = ""
    reason: str = ""
    remedy: str = ""
    update_period_s: float | None = None
    resolution_j: float | None = None


class Meter(ABC):
    """A source of energy readings. Constructing one finds its domains; ``start`` begins reading.

    The constructor raises :class:`ttq_energy.errors.SensorError` with one clear line when the
    sensor is absent or unreadable. A meter is a context manager (start and stop).
    """

    name: str
    sampled: bool = False
    """True where ``read`` gives power that must be polled between the ends of a window."""

    @property
    @abstractmethod
    def domains(self) -> tuple[Domain, ...]:
        """The domains of this meter, in a fixed order."""

    @abstractmethod
    def start(self) -> None:
        """Begin: set the counters' origin and whatever thread keeps wraps from being missed."""

    @abstractmethod
    def read(self) -> list[Reading]:
        """One reading of each domain, now. Never raises for a failed sensor read: see Reading."""

    @abstractmethod
    def stop(self) -> None:
        """End; releases everything. May be called twice."""

    @classmethod
    @abstractmethod
    def probe(cls) -> SensorStatus:
        """Look for the sensor on this machine without raising, in well under a second."""

    def conditions(self) -> dict[str, float | str | bool]:
        """State that decides validity, such as clocks, temperature and throttling; may be empty."""
        return {}

    def __enter__(self) -> Meter:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
