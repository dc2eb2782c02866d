"""Packed ternary operators: packing, native CPU kernels, modules, fusion and dense rivals.

Everything is imported when first used, so that ``kernels.isa`` answers without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttq_energy.kernels.functional import ternary_conv2d, ternary_linear
    from ttq_energy.kernels.naming import describe
    from ttq_energy.kernels.packing import PackedWeight, pack_conv2d, pack_linear

_HOMES = {
    "PackedWeight": "packing",
    "describe": "naming",
    "pack_conv2d": "packing",
    "pack_linear": "packing",
    "ternary_conv2d": "functional",
    "ternary_linear": "functional",
}

__all__ = [
    "PackedWeight",
    "describe",
    "pack_conv2d",
    "pack_linear",
    "ternary_conv2d",
    "ternary_linear",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ttq_energy.kernels' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ttq_energy.kernels.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
