"""Time and energy of an epoch, in parts where it was interrupted, over all hosts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WINDOW = "training"


@dataclass
class Cost:
    """What part of an epoch took; parts add up.

    Attributes:
        wall_s: monotonic time.
        energy_j: None once any part's energy could not be measured: unknown is not zero.
        energy_low_j, energy_high_j: 95 % interval; half-widths add, since one sensor's errors in
            two windows are not independent.
        provenance: of the energy; empty before anything was measured.
    """

    wall_s: float = 0.0
    energy_j: float | None = 0.0
    energy_low_j: float | None = 0.0
    energy_high_j: float | None = 0.0
    provenance: str = ""

    def add(self, part: Cost) -> None:
        """Add a part that came after; energies of different provenance are never summed."""
        self.wall_s += part.wall_s
        mixed = bool(self.provenance and part.provenance and self.provenance != part.provenance)
        self.provenance = "" if mixed else self.provenance or part.provenance
        for name in ("energy_j", "energy_low_j", "energy_high_j"):
            own, new = getattr(self, name), getattr(part, name)
            unknown = mixed or own is None or new is None
            setattr(self, name, None if unknown else own + new)


@contextlib.contextmanager
def measured(monitor: Any, cost: Cost, synchronize: Any = None) -> Iterator[None]:
    """Add to ``cost`` what runs inside.

    Args:
        monitor: an EnergyMonitor that is running; None measures time alone.
        cost: what is added to.
        synchronize: called before the end is taken, to wait for a GPU.
    """
    window = contextlib.nullcontext() if monitor is None else monitor.window(WINDOW)
    with window:
        began_s = time.monotonic()
        yield
        if synchronize is not None:
            synchronize()
        wall_s = time.monotonic() - began_s
    if monitor is None:
        cost.add(Cost(wall_s, None, None, None))
        return
    energy = monitor[WINDOW]
    provenance = "" if energy.provenance is None else str(energy.provenance)
    cost.add(Cost(wall_s, energy.energy_j, energy.low_j, energy.high_j, provenance))
    monitor.forget(WINDOW)


def over_hosts(costs: Sequence[Cost | None]) -> Cost:
    """The cost of all hosts together: their energies summed, the longest time.

    Args:
        costs: one a process, None for those that share their host's sensors with another.
    """
    measured_ones = [cost for cost in costs if cost is not None]
    total = Cost()
    for cost in measured_ones:
        total.add(cost)
    total.wall_s = max(cost.wall_s for cost in measured_ones)
    return total
