"""Raw counters made cumulative: wraps undone, jumps and gaps told from them."""

from __future__ import annotations

from dataclasses import dataclass, field

PEAK_POWER_W = 1000.0
"""No CPU package, its memory or the whole of a board drew more when this was written (the largest
server packages are sold at 500 W); a counter that rises faster than that did not count joules."""
SLACK_J = 500.0
"""Allowed beyond the peak power, for counters that are updated in bursts."""
SHORTEST_WRAP_S = 10.0
"""No real counter wraps faster, whatever range its file states (RAPL's smallest is 65 kJ)."""


class CounterError(Exception):
    """A raw value that cannot be turned into joules; the message says why."""


@dataclass
class Unwrapper:
    """Follows one raw counter.

    A counter that jumps or was unread for so long that it may have wrapped unseen has lost the
    energy of that span; every later reading is then an error, because a window may have begun
    before it. Starting the meter anew clears it.

    Attributes:
        joule: of one raw step.
        modulus: raw steps after which it starts at zero again; 0 where it never does.
        peak_power_w: no true power is higher.
    """

    joule: float
    modulus: int = 0
    peak_power_w: float = PEAK_POWER_W
    _raw: int = field(default=0, init=False)
    _t_s: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)
    _broken: str = field(default="", init=False)

    @property
    def wrap_s(self) -> float:
        """Shortest time in which it can wrap; infinite where it never does."""
        if self.modulus <= 0:
            return float("inf")
        return self.modulus * self.joule / self.peak_power_w

    def start(self, raw: int, t_s: float) -> None:
        """Take this value as zero joules."""
        self._raw, self._t_s, self._steps, self._broken = raw, t_s, 0, ""

    def update(self, raw: int, t_s: float) -> float:
        """Joules since ``start``.

        Raises:
            CounterError: this value, or an earlier one, cannot follow from the one before it.
        """
        if self._broken:
            raise CounterError(self._broken)
        gap_s = max(t_s - self._t_s, 0.0)
        step = raw - self._raw
        if step < 0 and self.modulus > 0:
            step += self.modulus
        allowed_j = self.peak_power_w * gap_s + SLACK_J
        if step < 0 or step * self.joule > allowed_j or gap_s > SHORTEST_WRAP_S:
            self._broken = self._problem(raw, step, gap_s, allowed_j)
            if self._broken:
                raise CounterError(self._broken)
        self._raw, self._t_s = raw, t_s
        self._steps += step
        return self._steps * self.joule

    def _problem(self, raw: int, step: int, gap_s: float, allowed_j: float) -> str:
        if gap_s > max(self.wrap_s, SHORTEST_WRAP_S):
            return f"not read for {gap_s:.3g} s: the counter may have wrapped unseen"
        if step < 0:
            return f"the counter went back from {self._raw} to {raw}"
        if step * self.joule > allowed_j:
            return (
                f"the counter jumped from {self._raw} to {raw} in {gap_s:.3g} s "
                f"({step * self.joule:.6g} J): it was reset, or is faulty"
            )
        return ""
