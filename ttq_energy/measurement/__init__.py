"""Windows, power samples, the protocol and the statistics of measured energy.

Everything is imported when first used, so that the sampling process starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttq_energy.measurement.comparisons import compare_measurements
    from ttq_energy.measurement.energy import DomainEnergy, Energy
    from ttq_energy.measurement.layers import LayerEnergy, layer_energy
    from ttq_energy.measurement.monitor import EnergyMonitor, Window
    from ttq_energy.measurement.nvidia_sensors import nvml_sensor
    from ttq_energy.measurement.power_energy import (
        EnergyRatio,
        PowerEnergy,
        energy_from_power,
        energy_ratio,
    )
    from ttq_energy.measurement.power_sensor import Sensor, generic_sensor
    from ttq_energy.measurement.protocol import (
        ProtocolInterrupted,
        ProtocolResult,
        Workload,
        run_protocol,
    )
    from ttq_energy.measurement.statistics import Comparison, compare
    from ttq_energy.payback import (
        Interval,
        break_even_inferences,
        energy_per_correct,
    )

_HOMES = {
    "Interval": ".payback",
    "LayerEnergy": "layers",
    "break_even_inferences": ".payback",
    "energy_per_correct": ".payback",
    "layer_energy": "layers",
    "Comparison": "statistics",
    "DomainEnergy": "energy",
    "Energy": "energy",
    "EnergyMonitor": "monitor",
    "PowerEnergy": "power_energy",
    "ProtocolInterrupted": "protocol",
    "ProtocolResult": "protocol",
    "Sensor": "power_sensor",
    "Window": "monitor",
    "Workload": "protocol",
    "compare": "statistics",
    "compare_measurements": "comparisons",
    "EnergyRatio": "power_energy",
    "energy_from_power": "power_energy",
    "energy_ratio": "power_energy",
    "generic_sensor": "power_sensor",
    "nvml_sensor": "nvidia_sensors",
    "run_protocol": "protocol",
}

__all__ = [
    "Comparison",
    "DomainEnergy",
    "Energy",
    "EnergyMonitor",
    "EnergyRatio",
    "Interval",
    "LayerEnergy",
    "PowerEnergy",
    "ProtocolInterrupted",
    "ProtocolResult",
    "Sensor",
    "Window",
    "Workload",
    "break_even_inferences",
    "compare",
    "compare_measurements",
    "energy_from_power",
    "energy_per_correct",
    "energy_ratio",
    "generic_sensor",
    "layer_energy",
    "nvml_sensor",
    "run_protocol",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ttq_energy.measurement' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
