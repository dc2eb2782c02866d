"""ttq-energy: measure, and predict, what ternary weights save in joules.

Everything below is imported when first used, so that ``import ttq_energy`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ttq_energy import datasets, models
    from ttq_energy.energy_model import count, estimate
    from ttq_energy.measurement import EnergyMonitor, compare
    from ttq_energy.profiler import profile
    from ttq_energy.quantization import (
        BWN,
        TTQ,
        TWN,
        AbsMean,
        DoReFa,
        convert,
        prepare_,
    )
    from ttq_energy.run import load_run
    from ttq_energy.study import load_study

_HOMES = {
    "AbsMean": "quantization",
    "BWN": "quantization",
    "DoReFa": "quantization",
    "EnergyMonitor": "measurement",
    "TTQ": "quantization",
    "TWN": "quantization",
    "compare": "measurement",
    "convert": "quantization",
    "count": "energy_model",
    "estimate": "energy_model",
    "load_run": "run",
    "load_study": "study",
    "prepare_": "quantization",
    "profile": "profiler",
}
_MODULES = ("datasets", "models")

__all__ = [
    "BWN",
    "TTQ",
    "TWN",
    "AbsMean",
    "DoReFa",
    "EnergyMonitor",
    "compare",
    "convert",
    "count",
    "datasets",
    "estimate",
    "load_run",
    "load_study",
    "models",
    "prepare_",
    "profile",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"ttq_energy.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"ttq_energy.{name}")
    else:
        raise AttributeError(f"module 'ttq_energy' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
