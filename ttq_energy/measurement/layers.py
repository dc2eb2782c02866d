"""Energy of one layer: repeat it alone until its window is long enough for the sensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ttq_energy.errors import InputError
from ttq_energy.measurement.energy import Energy
from ttq_energy.measurement.monitor import EnergyMonitor
from ttq_energy.measurement.statistics import mean_interval
from ttq_energy.measurement.steady import warm_up
from ttq_energy.meters.base import Provenance

PERIODS_PER_WINDOW = 20.0


@dataclass(frozen=True)
class LayerEnergy:
    """Energy of one call of a layer.

    Attributes:
        name: the layer's.
        energy_j: gross, of one call; None where no sensor resolved it.
        low_j, high_j: 95 % interval from the scatter of the windows and what each leaves open.
        net_energy_j: less idle power times latency; None without ``idle_power_w``.
        latency_s: of one call.
        calls: in each window.
        windows: that entered.
        provenance: of the joules; None where there are none.
        reason: why there is no joule; empty where there is.
    """

    name: str
    energy_j: float | None
    low_j: float | None
    high_j: float | None
    net_energy_j: float | None
    latency_s: float
    calls: int
    windows: int
    provenance: Provenance | None
    reason: str = ""


def layer_energy(
    call: Callable[[], object],
    monitor: EnergyMonitor,
    *,
    name: str = "layer",
    synchronize: Callable[[], object] | None = None,
    window_s: float = 0.5,
    windows: int = 5,
    warmup_s: float = 1.0,
    idle_power_w: float | None = None,
) -> LayerEnergy:
    """Measure one layer alone, on inputs that stay the same.

    Alone and repeated, a layer finds its weights and inputs in cache: the figure is that of a
    warm layer, and the sum over layers is not the energy of the network.

    Args:
        call: runs the layer once.
        monitor: a running monitor.
        name: the layer's name.
        synchronize: waits until the device is done.
        window_s: shortest window; it grows to 20 update periods of the slowest sensor.
        windows: repeated windows, at least two.
        warmup_s: at most this long before the first.
        idle_power_w: of the same domains, for the net energy.

    Raises:
        InputError: fewer than two windows.
    """
    if windows < 2:
        raise InputError(f"windows: must be at least 2, got {windows}")

    def run(calls: int) -> None:
        for _ in range(calls):
            call()
        if synchronize is not None:
            synchronize()

    done = warm_up(run, monitor.clock, warmup_s)
    length = max(window_s, PERIODS_PER_WINDOW * monitor.slowest_period_s())
    calls = max(1, math.ceil(length / max(done.call_s, 1e-9)))
    measured: list[Energy] = []
    for _ in range(windows):
        with monitor.window(f"layer {name}") as window:
            run(calls)
        measured.append(window.energy)
    latency = sum(energy.duration_s for energy in measured) / len(measured) / calls
    return _summary(name, measured, calls, latency, idle_power_w)


def _summary(
    name: str, measured: list[Energy], calls: int, latency_s: float, idle_power_w: float | None
) -> LayerEnergy:
    import numpy as np

    resolved = [energy for energy in measured if energy.energy_j is not None and energy.valid]
    if len(resolved) < 2:
        reason = measured[-1].reason or "fewer than two windows were resolved"
        provenance = measured[-1].provenance
        return LayerEnergy(name, None, None, None, None, latency_s, calls, 0, provenance, reason)
    each = np.array([energy.energy_j for energy in resolved], dtype=np.float64) / calls
    centre, low, high = mean_interval(each)
    own = [
        max((e.high_j or 0.0) - (e.energy_j or 0.0), (e.energy_j or 0.0) - (e.low_j or 0.0))
        for e in resolved
    ]
    half = max(own) / calls
    net = None if idle_power_w is None else centre - idle_power_w * latency_s
    return LayerEnergy(
        name=name,
        energy_j=centre,
        low_j=max(centre - math.hypot(centre - low, half), 0.0),
        high_j=centre + math.hypot(high - centre, half),
        net_energy_j=net,
        latency_s=latency_s,
        calls=calls,
        windows=len(resolved),
        provenance=resolved[0].provenance,
    )
