"""Raw counters made cumulative: wraps undone, jumps and gaps told from them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ttq_energy.meters.base import Reading

PEAK_POWER_W = 1000.0
"""No CPU package, its memory or the whole of a board drew more when this was written (the largest
server packages are sold at 500 W); a counter that rises faster than that did not count joules."""
SLACK_J = 500.0
"""Allowed beyond the peak power, for counters that are updated in bursts."""
SHORTEST_WRAP_S = 10.0
"""No real counter wraps faster, whatever range its file states (RAPL's smallest is 65 kJ)."""


@dataclass
class Unwrapper:
    """Follows one raw counter.

    A counter that jumps or was unread for so long that it may have wrapped unseen has lost the
    energy of that span. It is followed from its new value on, in a new ``epoch``: the difference
    of two energies is that of the span between them only where both are of one epoch.

    Attributes:
        joule: of one raw step.
        modulus: raw steps after which it starts at zero again; 0 where it never does.
        peak_power_w: no true power is higher.
        epoch: how often the energy of a span was lost since ``start``.
        lost: why the latest epoch began; empty in the first.
    """

    joule: float
    modulus: int = 0
    peak_power_w: float = PEAK_POWER_W
    epoch: int = field(default=0, init=False)
    lost: str = field(default="", init=False)
    _raw: int = field(default=0, init=False)
    _t_s: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)

    @property
    def wrap_s(self) -> float:
        """Shortest time in which it can wrap; infinite where it never does."""
        if self.modulus <= 0:
            return float("inf")
        return self.modulus * self.joule / self.peak_power_w

    def start(self, raw: int, t_s: float) -> None:
        """Take this value as zero joules."""
        self._raw, self._t_s, self._steps = raw, t_s, 0
        self.epoch, self.lost = 0, ""

    def update(self, raw: int, t_s: float) -> float:
        """Joules since ``start``, those of lost spans left out."""
        gap_s = max(t_s - self._t_s, 0.0)
        step = raw - self._raw
        if step < 0 and self.modulus > 0:
            step += self.modulus
        problem = self._problem(raw, step, gap_s)
        if problem:
            self.epoch, self.lost, step = self.epoch + 1, problem, 0
        self._raw, self._t_s = raw, t_s
        self._steps += step
        return self._steps * self.joule

    def reading(self, domain: str, raw: int, t_s: float) -> Reading:
        """The reading that this raw value gives; an error where it is the one that lost energy."""
        step, gap_s = raw - self._raw, t_s - self._t_s
        if 0 <= step * self.joule <= SLACK_J and 0.0 <= gap_s <= SHORTEST_WRAP_S:
            # Nearly every reading; nothing that ``update`` looks for can be the case here.
            self._raw, self._t_s = raw, t_s
            self._steps += step
            return Reading(domain, t_s, self._steps * self.joule, None, None, self.epoch, self.lost)
        before, energy_j = self.epoch, self.update(raw, t_s)
        if self.epoch != before:
            return Reading(domain, t_s, error=self.lost, epoch=self.epoch, lost=self.lost)
        return Reading(domain, t_s, energy_j, epoch=self.epoch, lost=self.lost)

    def _problem(self, raw: int, step: int, gap_s: float) -> str:
        if gap_s > max(self.wrap_s, SHORTEST_WRAP_S):
            return f"not read for {gap_s:.3g} s: the counter may have wrapped unseen"
        if step < 0:
            return f"the counter went back from {self._raw} to {raw}"
        if step * self.joule > self.peak_power_w * gap_s + SLACK_J:
            return (
                f"the counter jumped from {self._raw} to {raw} in {gap_s:.3g} s "
                f"({step * self.joule:.6g} J): it was reset, or is faulty"
            )
        return ""
