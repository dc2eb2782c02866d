"""Energy between two readings of a cumulative counter, and what its edges leave open."""

from __future__ import annotations

from ttq_energy.measurement.energy import DomainEnergy, unresolved
from ttq_energy.meters.base import Domain, Provenance, Reading

MINIMUM_PERIODS = 2.0
"""A window shorter than this many update periods may hold no fresh value at either end."""
FROZEN_PERIODS = 20.0
"""A hardware counter that stands still for this many update periods is broken, not idle."""


def counter_energy(
    domain: Domain,
    meter: str,
    first: Reading | None,
    last: Reading | None,
    duration_s: float,
    peak_power_w: float = 0.0,
    still_s: float = 0.0,
) -> DomainEnergy:
    """Energy of a window from readings of a counter at its two ends.

    A counter shows the energy up to its last update, at most one update period T before the
    reading, in steps of its resolution. So the true energy of the window lies within
    P T + resolution of the difference, P being the power at the edges; the time that the reads
    themselves take outside the window is added to T.

    Args:
        domain: the counter's domain.
        meter: the sensor's name.
        first, last: readings at the two ends; None where the meter gave none.
        duration_s: of the window.
        peak_power_w: highest power known near the window; the window's mean where larger.
        still_s: longest time inside the window for which the counter was seen not to move.
    """
    for reading, place in ((first, "start"), (last, "end")):
        if reading is None:
            return unresolved(domain, meter, duration_s, f"no reading at the {place} of the window")
        if reading.error is not None:
            reason = f"read failed at the {place} of the window: {reading.error}"
            return unresolved(domain, meter, duration_s, reason)
        if reading.energy_j is None:
            reason = f"no energy in the reading at the {place} of the window"
            return unresolved(domain, meter, duration_s, reason)
    assert first is not None
    assert last is not None
    assert first.energy_j is not None
    assert last.energy_j is not None
    if first.epoch != last.epoch:
        reason = f"the counter lost track inside the window: {last.lost}"
        return unresolved(domain, meter, duration_s, reason)
    energy = last.energy_j - first.energy_j
    if energy < 0:
        reason = f"the counter went backwards by {-energy:.6g} J"
        return unresolved(domain, meter, duration_s, reason)
    period = domain.update_period_s
    minimum_s = _minimum(domain, energy, duration_s)
    still_s = max(still_s, duration_s if energy == 0 else 0.0)
    if still_s >= max(FROZEN_PERIODS * period, minimum_s):
        if domain.provenance is Provenance.COUNTER:
            reason = f"the counter stood still for {still_s:.3g} s of the window"
            return unresolved(domain, meter, duration_s, reason)
    elif duration_s < minimum_s:
        reason = (
            f"the window of {duration_s:.3g} s is too short for this sensor: "
            f"make it at least {minimum_s:.3g} s"
        )
        return unresolved(domain, meter, duration_s, reason, minimum_s)
    outside_s = max(last.t_s - first.t_s - duration_s, 0.0)
    power = max(energy / max(last.t_s - first.t_s, duration_s, 1e-9), peak_power_w)
    half = power * (period + outside_s) + domain.resolution_j
    return DomainEnergy(
        domain=domain.name,
        duration_s=duration_s,
        energy_j=energy,
        low_j=max(energy - half, 0.0),
        high_j=energy + half,
        provenance=domain.provenance,
        meter=meter,
        covers=domain.covers,
        additive=domain.additive,
        component=domain.component,
        relative_low_j=max(energy - half, 0.0),
        relative_high_j=energy + half,
    )


def _minimum(domain: Domain, energy_j: float, duration_s: float) -> float:
    """Shortest window with two fresh values and, at this power, two steps of the counter."""
    shortest = MINIMUM_PERIODS * domain.update_period_s
    if domain.resolution_j > 0 and energy_j > 0:
        power = energy_j / max(duration_s, 1e-9)
        shortest = max(shortest, 2.0 * domain.resolution_j / power)
    return shortest
