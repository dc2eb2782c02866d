"""What a window gives back: the energy of each domain, and their sum over one provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ttq_energy.meters.base import Domain, Provenance

BEST_FIRST = (Provenance.COUNTER, Provenance.INTEGRATED, Provenance.MODELLED)


@dataclass(frozen=True)
class DomainEnergy:
    """Energy of one domain over one window.

    Attributes:
        domain: the domain's name.
        duration_s: of the window.
        energy_j: None where it could not be resolved or a read failed; never a made-up zero.
        low_j, high_j: 95 % interval of ``energy_j``.
        provenance: "counter", "integrated" or "modelled".
        meter: the sensor's name.
        covers: what is and is not inside.
        additive: whether it may be summed with other additive domains of its provenance.
        component: "cpu", "dram", "gpu", "soc" or "system".
        reason: why ``energy_j`` is None, or what else is wrong; empty where nothing is.
        minimum_s: how long a window would have to be where this one was too short; else None.
        relative_low_j, relative_high_j: the interval for a ratio of two windows of the same
            sensor: without the spread of the sensor's gain between boards.
    """

    domain: str
    duration_s: float
    energy_j: float | None
    low_j: float | None
    high_j: float | None
    provenance: Provenance
    meter: str
    covers: str
    additive: bool = True
    component: str = ""
    reason: str = ""
    minimum_s: float | None = None
    relative_low_j: float | None = None
    relative_high_j: float | None = None

    @property
    def power_w(self) -> float | None:
        """Mean power over the window; None where the energy is."""
        if self.energy_j is None or self.duration_s <= 0:
            return None
        return self.energy_j / self.duration_s

    @property
    def valid(self) -> bool:
        return self.energy_j is not None and not self.reason


def unresolved(
    domain: Domain, meter: str, duration_s: float, reason: str, minimum_s: float | None = None
) -> DomainEnergy:
    """A domain without a joule, and why."""
    return DomainEnergy(
        domain=domain.name,
        duration_s=duration_s,
        energy_j=None,
        low_j=None,
        high_j=None,
        provenance=domain.provenance,
        meter=meter,
        covers=domain.covers,
        additive=domain.additive,
        component=domain.component,
        reason=reason,
        minimum_s=minimum_s,
    )


@dataclass(frozen=True)
class Energy:
    """Energy of one window.

    Attributes:
        name: the window's name.
        duration_s: monotonic time between its ends.
        energy_j: sum of the additive domains of the best provenance there is (counter, else
            integrated, else modelled), never a mix; None where any of them has no value.
        low_j, high_j: 95 % interval; the domains' half-widths are added, because edges and gains
            of domains on one machine are not independent.
        provenance: of ``energy_j``; None where there is no sensor at all.
        domains: every domain, by name, whatever its provenance.
        valid: ``energy_j`` is there and no read of its domains failed.
        reason: why it is not valid; empty where it is.
        note: additive domains of another provenance, which the sum leaves out; empty where none.
    """

    name: str
    duration_s: float
    energy_j: float | None
    low_j: float | None
    high_j: float | None
    provenance: Provenance | None
    domains: Mapping[str, DomainEnergy] = field(default_factory=dict)
    valid: bool = True
    reason: str = ""
    note: str = ""

    @property
    def power_w(self) -> float | None:
        """Mean power over the window; None where the energy is."""
        if self.energy_j is None or self.duration_s <= 0:
            return None
        return self.energy_j / self.duration_s


def headline_domains(domains: Mapping[str, DomainEnergy]) -> list[DomainEnergy]:
    """The additive domains of the best provenance present: what the sum on top is made of."""
    additive = [d for d in domains.values() if d.additive]
    for provenance in BEST_FIRST:
        chosen = [d for d in additive if d.provenance is provenance]
        if chosen:
            return chosen
    return []


def combine(
    name: str, duration_s: float, domains: Mapping[str, DomainEnergy], absent: str = ""
) -> Energy:
    """Sum the domains of a window without mixing provenances.

    Args:
        name: the window's name.
        duration_s: its length.
        domains: its domains by name.
        absent: what to say where there is no domain at all.
    """
    chosen = headline_domains(domains)
    if not chosen:
        reason = absent or "no additive domain: nothing here may be summed; see .domains"
        return Energy(name, duration_s, None, None, None, None, domains, False, reason)
    provenance = chosen[0].provenance
    left_out = [
        f"{d.domain} ({d.provenance})"
        for d in domains.values()
        if d.additive and d.provenance is not provenance
    ]
    note = f"not in the sum: {', '.join(left_out)}" if left_out else ""
    reason = "; ".join(f"{d.domain}: {d.reason}" for d in chosen if d.reason)
    if any(d.energy_j is None for d in chosen):
        return Energy(name, duration_s, None, None, None, provenance, domains, False, reason, note)
    energy = sum(d.energy_j or 0.0 for d in chosen)
    low = sum(d.low_j or 0.0 for d in chosen)
    high = sum(d.high_j or 0.0 for d in chosen)
    return Energy(
        name, duration_s, energy, low, high, provenance, domains, not reason, reason, note
    )
