"""The analytic energy model: counting layers, pricing them on a target, explaining the answer.

Everything is imported when first used; ``energy_model.targets`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttq_energy.energy_model import targets
    from ttq_energy.energy_model.claims import arithmetic_claims
    from ttq_energy.energy_model.counting import activation_zeros, count
    from ttq_energy.energy_model.estimating import (
        EnergyRatio,
        Estimate,
        compare_estimates,
        estimate,
    )
    from ttq_energy.energy_model.explaining import Explanation, explain
    from ttq_energy.energy_model.rows import estimate_rows, layer_rows
    from ttq_energy.energy_model.storage import weight_storage
    from ttq_energy.energy_model.sweeping import sweep

_HOMES = {
    "EnergyRatio": "estimating",
    "Estimate": "estimating",
    "Explanation": "explaining",
    "activation_zeros": "counting",
    "arithmetic_claims": "claims",
    "compare_estimates": "estimating",
    "count": "counting",
    "estimate": "estimating",
    "estimate_rows": "rows",
    "explain": "explaining",
    "layer_rows": "rows",
    "sweep": "sweeping",
    "weight_storage": "storage",
}

__all__ = [
    "EnergyRatio",
    "Estimate",
    "Explanation",
    "activation_zeros",
    "arithmetic_claims",
    "compare_estimates",
    "count",
    "estimate",
    "estimate_rows",
    "explain",
    "layer_rows",
    "sweep",
    "targets",
    "weight_storage",
]


def __getattr__(name: str) -> Any:
    if name == "targets":
        return importlib.import_module("ttq_energy.energy_model.targets")
    if name not in _HOMES:
        raise AttributeError(f"module 'ttq_energy.energy_model' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ttq_energy.energy_model.{_HOMES[name]}"), name)
