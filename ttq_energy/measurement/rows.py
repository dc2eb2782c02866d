"""From blocks and idle windows to rows of a Run's tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttq_energy.measurement.aliasing import in_step
from ttq_energy.measurement.comparisons import NO_DOMAIN, TIMED
from ttq_energy.measurement.energy import DomainEnergy, Energy, headline_domains
from ttq_energy.measurement.idle import IdlePower, IdleWindow, idle_power
from ttq_energy.measurement.monitor import EnergyMonitor, Window
from ttq_energy.measurement.power_sensor import Sensor
from ttq_energy.measurement.validity import (
    SENSOR,
    Surroundings,
    block_problems,
    device_problems,
    disagreements,
)

TOTAL = "total"
"""Domain of the sum over the additive domains of the best provenance, where there are several."""
TRACE_POINTS = 60
"""At most this many points of one domain and phase are kept in the traces."""


@dataclass(frozen=True)
class Block:
    """One measured block."""

    index: int
    round: int
    variant: str
    kernel: str
    inferences: int
    window: Window
    around: Surroundings
    calls: int = 1


@dataclass(frozen=True)
class _Limits:
    """What a block must be for each domain's sensor; see :func:`measurement_rows`."""

    shortest_s: Mapping[str, float]
    sensors: Mapping[str, Sensor]


@dataclass(frozen=True)
class Phase:
    """A span of time for the traces: "warmup", "idle" or "block"."""

    kind: str
    start_s: float
    end_s: float
    variant: str = ""
    block: int = -1


def total_domains(energy: Energy) -> list[DomainEnergy]:
    """The domains that the row ``total`` sums; empty where a single one is the total."""
    chosen = headline_domains(energy.domains)
    return chosen if len(chosen) > 1 else []


def measurement_rows(
    blocks: Sequence[Block],
    head: Mapping[str, Any],
    idle: Sequence[IdleWindow],
    idle_around: Sequence[Surroundings],
    cores: int,
    shortest_s: Mapping[str, float] | None = None,
    sensors: Mapping[str, Sensor] | None = None,
) -> list[dict[str, Any]]:
    """One row per block and domain, with every gate applied.

    Args:
        blocks: in order of time.
        head: model, device and batch_size.
        idle: the idle windows.
        idle_around: what was seen around them.
        cores: of the machine.
        shortest_s: how long a block must be for each domain's sensor, by domain.
        sensors: the power sensors, by domain, that might be in step with the calls.
    """
    others = [a.other_cores for a in idle_around if not math.isnan(a.other_cores)]
    usual = statistics.median(others) if others else math.nan
    clocks: dict[str, list[float]] = {}
    for block in blocks:
        clocks.setdefault(block.variant, []).append(block.around.clock_mhz)
    rows: list[dict[str, Any]] = []
    for block in blocks:
        problems = block_problems(
            block.around,
            idle_other_cores=usual,
            clocks_mhz=clocks[block.variant],
            cores=cores,
        )
        limits = _Limits(shortest_s or {}, sensors or {})
        rows.extend({**head, **row} for row in _block_rows(block, problems, idle, limits))
    return rows


def _block_rows(
    block: Block,
    problems: Sequence[str],
    idle: Sequence[IdleWindow],
    limits: _Limits,
) -> list[dict[str, Any]]:
    energy = block.window.energy
    common = {
        "variant": block.variant,
        "round": block.round,
        "block": block.index,
        "inferences": block.inferences,
        "duration_s": block.window.duration_s,
        "kernel": block.kernel,
        "load_average": block.around.after.load_average,
        "clock_mhz": block.around.clock_mhz,
        "temperature_c": block.around.temperature_c,
    }
    if not energy.domains:
        return [
            {
                **common,
                "domain": NO_DOMAIN,
                "energy_j": None,
                "provenance": TIMED,
                "valid": not problems,
                "invalid_reason": "; ".join(problems),
                "meter": "",
            }
        ]
    middle = block.window.start_s + block.window.duration_s / 2.0
    differing = disagreements(energy)
    rows = []
    for domain in energy.domains.values():
        own = [*problems, *_domain_problems(domain, differing, block, limits)]
        power = idle_power(idle, domain.domain, middle)
        rows.append({**common, **_energy_cells(domain, power, own)})
    parts = total_domains(energy)
    if parts:
        total_problems = list(problems)
        for part in parts:
            reasons = _domain_problems(part, differing, block, limits)
            total_problems += [f"{SENSOR}{part.domain}: {r.removeprefix(SENSOR)}" for r in reasons]
        powers = [idle_power(idle, part.domain, middle) for part in parts]
        rows.append({**common, **_total_cells(energy, parts, powers, total_problems)})
    return rows


def _domain_problems(
    domain: DomainEnergy,
    differing: Mapping[str, str],
    block: Block,
    limits: _Limits,
) -> list[str]:
    reasons = [f"{SENSOR}{domain.reason}"] if domain.reason else []
    shortest = limits.shortest_s.get(domain.domain, 0.0)
    if domain.energy_j is not None and domain.duration_s < shortest:
        reasons.append(
            f"{SENSOR}the block of {domain.duration_s:.3g} s is shorter than {shortest:.3g} s, "
            f"20 of the sensor's update periods"
        )
    sensor = limits.sensors.get(domain.domain)
    if domain.energy_j is not None and sensor is not None:
        step = in_step(domain.duration_s / block.calls, domain.duration_s, sensor)
        reasons += [f"{SENSOR}{step}"] if step else []
    reasons += [f"{SENSOR}{reason}" for reason in device_problems(block.around, domain.domain)]
    if domain.domain in differing:
        reasons.append(f"{SENSOR}{differing[domain.domain]}")
    return reasons


def _energy_cells(domain: DomainEnergy, idle: IdlePower, problems: Sequence[str]) -> dict[str, Any]:
    net = None
    if domain.energy_j is not None and not math.isnan(idle.power_w):
        net = domain.energy_j - idle.power_w * domain.duration_s
    return {
        "domain": domain.domain,
        "energy_j": domain.energy_j,
        "energy_low_j": domain.low_j,
        "energy_high_j": domain.high_j,
        "idle_power_w": idle.power_w,
        "idle_power_low_w": idle.low_w,
        "idle_power_high_w": idle.high_w,
        "net_energy_j": net,
        "provenance": str(domain.provenance),
        "valid": not problems,
        "invalid_reason": "; ".join(problems),
        "meter": domain.meter,
    }


def _total_cells(
    energy: Energy,
    parts: Sequence[DomainEnergy],
    powers: Sequence[IdlePower],
    problems: Sequence[str],
) -> dict[str, Any]:
    total = DomainEnergy(
        domain=TOTAL,
        duration_s=energy.duration_s,
        energy_j=energy.energy_j,
        low_j=energy.low_j,
        high_j=energy.high_j,
        provenance=parts[0].provenance,
        meter="+".join(dict.fromkeys(part.meter for part in parts)),
        covers="+".join(part.domain for part in parts),
    )
    idle = IdlePower(
        sum(p.power_w for p in powers), sum(p.low_w for p in powers), sum(p.high_w for p in powers)
    )
    return _energy_cells(total, idle, problems)


def trace_rows(
    phases: Sequence[Phase], head: Mapping[str, Any], monitor: EnergyMonitor, origin_s: float
) -> list[dict[str, Any]]:
    """The power of every domain over the session, thinned to ``TRACE_POINTS`` a phase.

    A counter gives one point in a phase shorter than its trace's polling: the phase's own mean.
    """
    rows: list[dict[str, Any]] = []
    for name, domain in monitor.domains.items():
        t_s, power_w = monitor.power_trace(name, -math.inf, math.inf)
        for phase in phases:
            inside = ((t_s >= phase.start_s) & (t_s <= phase.end_s)).nonzero()[0]
            step = max(1, math.ceil(inside.size / TRACE_POINTS))
            rows.extend(
                {
                    **head,
                    "domain": name,
                    "t_s": float(t_s[index]) - origin_s,
                    "power_w": float(power_w[index]),
                    "phase": phase.kind,
                    "variant": phase.variant,
                    "block": phase.block,
                    "provenance": str(domain.provenance),
                }
                for index in inside[::step]
            )
    return rows
