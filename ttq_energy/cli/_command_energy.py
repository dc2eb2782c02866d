"""Energy of a command over its runs: gross, and net of the idle machine, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ttq_energy.measurement.energy import DomainEnergy, headline_domains
from ttq_energy.measurement.idle import IdleWindow, idle_power
from ttq_energy.measurement.monitor import Window

TOTAL = "total"


@dataclass(frozen=True)
class Quantity:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CommandEnergy:
    """One domain's energy of one run of the command, the mean over the runs.

    Attributes:
        domain: its name, or "total".
        provenance: "counter", "integrated" or "modelled".
        covers: what is and is not inside.
        gross_j, idle_w, net_j: None where not known.
        reason: why ``gross_j`` is not; empty where it is.
        additive: False for parts of another domain and for wholes.
    """

    domain: str
    provenance: str
    covers: str
    gross_j: Quantity | None
    idle_w: Quantity | None
    net_j: Quantity | None
    reason: str = ""
    additive: bool = True


def command_energies(runs: Sequence[Window], idle: Sequence[IdleWindow]) -> list[CommandEnergy]:
    """Every domain, then the total where several may be added.

    The interval of a mean over runs joins the scatter of the runs (Student's t) and what each
    run's own reading leaves open, which may be the same error each time and is not averaged away.
    """
    rows = [_domain(name, runs, idle) for name in runs[0].energy.domains]
    parts = headline_domains(runs[0].energy.domains)
    if len(parts) > 1:
        rows.append(_total([row for row in rows if row.domain in {p.domain for p in parts}]))
    return rows


def _domain(name: str, runs: Sequence[Window], idle: Sequence[IdleWindow]) -> CommandEnergy:
    energies = [run.energy.domains[name] for run in runs]
    first = energies[0]
    reasons = [energy.reason for energy in energies if energy.energy_j is None]
    gross = None if reasons else _mean(energies)
    middle = (runs[0].start_s + (runs[-1].end_s or runs[-1].start_s)) / 2.0
    power = idle_power(idle, name, middle)
    idle_w = None
    if not math.isnan(power.power_w):
        idle_w = Quantity(power.power_w, power.low_w, power.high_w)
    duration_s = statistics.fmean(run.duration_s for run in runs)
    return CommandEnergy(
        domain=name,
        provenance=str(first.provenance),
        covers=first.covers,
        gross_j=gross,
        idle_w=idle_w,
        net_j=_net(gross, idle_w, duration_s),
        reason=reasons[0] if reasons else "",
        additive=first.additive,
    )


def _mean(energies: Sequence[DomainEnergy]) -> Quantity:
    values = [energy.energy_j or 0.0 for energy in energies]
    mean = statistics.fmean(values)
    below = statistics.fmean(v - (e.low_j or 0.0) for v, e in zip(values, energies, strict=True))
    above = statistics.fmean((e.high_j or v) - v for v, e in zip(values, energies, strict=True))
    scatter = 0.0
    if len(values) > 1:
        from scipy.special import stdtrit

        error = statistics.stdev(values) / math.sqrt(len(values))
        scatter = float(stdtrit(len(values) - 1, 0.975)) * error
    return Quantity(
        mean, max(mean - math.hypot(below, scatter), 0.0), mean + math.hypot(above, scatter)
    )


def _net(gross: Quantity | None, idle: Quantity | None, duration_s: float) -> Quantity | None:
    """Gross less idle power times duration; may be negative where the idle machine was busier."""
    if gross is None or idle is None:
        return None
    net = gross.value - idle.value * duration_s
    below = math.hypot(gross.value - gross.low, (idle.high - idle.value) * duration_s)
    above = math.hypot(gross.high - gross.value, (idle.value - idle.low) * duration_s)
    return Quantity(net, net - below, net + above)


def _total(parts: Sequence[CommandEnergy]) -> CommandEnergy:
    missing = [part.domain for part in parts if part.gross_j is None]
    return CommandEnergy(
        domain=TOTAL,
        provenance=parts[0].provenance,
        covers="the sum of " + ", ".join(part.domain for part in parts),
        gross_j=_sum([part.gross_j for part in parts]),
        idle_w=_sum([part.idle_w for part in parts]),
        net_j=_sum([part.net_j for part in parts]),
        reason=f"no figure for {', '.join(missing)}" if missing else "",
    )


def _sum(parts: Sequence[Quantity | None]) -> Quantity | None:
    """Widths are added: the errors of domains on one machine are not independent."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return Quantity(
        sum(p.value for p in known), sum(p.low for p in known), sum(p.high for p in known)
    )
