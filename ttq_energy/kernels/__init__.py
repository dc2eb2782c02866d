"""Packed ternary operators: packing, native CPU kernels, modules, fusion and dense rivals."""

from ttq_energy.kernels.describe import describe
from ttq_energy.kernels.functional import ternary_conv2d, ternary_linear
from ttq_energy.kernels.packing import PackedWeight, pack_conv2d, pack_linear

__all__ = [
    "PackedWeight",
    "describe",
    "pack_conv2d",
    "pack_linear",
    "ternary_conv2d",
    "ternary_linear",
]
