"""Packed ternary weights on NVIDIA GPUs: Triton kernels, tuning, CUDA graphs, dense baselines.

Importing this loads neither Triton nor a driver; the names below do when first used. Without
Triton :func:`usable` is False, and CUDA tensors take the plain torch reference.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttq_energy.kernels.gpu.baselines import BASELINES, baseline
    from ttq_energy.kernels.gpu.forms import fastest, packed_form, with_activations
    from ttq_energy.kernels.gpu.functional import conv2d, linear, lstm, lstm_step
    from ttq_energy.kernels.gpu.graphs import GraphedModule, graphed
    from ttq_energy.kernels.gpu.layout import (
        DeviceWeight,
        pack_conv2d_gpu,
        pack_linear_gpu,
        repack,
    )
    from ttq_energy.kernels.gpu.operators import (
        describe,
        packed_lstm_step,
        ran,
        register,
        takes,
    )
    from ttq_energy.kernels.gpu.tuning import cache_folder

_HOMES = {
    "BASELINES": "baselines",
    "DeviceWeight": "layout",
    "GraphedModule": "graphs",
    "baseline": "baselines",
    "cache_folder": "tuning",
    "conv2d": "functional",
    "describe": "operators",
    "fastest": "forms",
    "graphed": "graphs",
    "linear": "functional",
    "lstm": "functional",
    "lstm_step": "functional",
    "pack_conv2d_gpu": "layout",
    "pack_linear_gpu": "layout",
    "packed_form": "forms",
    "packed_lstm_step": "operators",
    "ran": "operators",
    "register": "operators",
    "repack": "layout",
    "takes": "operators",
    "with_activations": "forms",
}

__all__ = [
    "BASELINES",
    "DeviceWeight",
    "GraphedModule",
    "baseline",
    "cache_folder",
    "conv2d",
    "describe",
    "fastest",
    "graphed",
    "linear",
    "lstm",
    "lstm_step",
    "pack_conv2d_gpu",
    "pack_linear_gpu",
    "packed_form",
    "packed_lstm_step",
    "ran",
    "register",
    "repack",
    "takes",
    "usable",
    "with_activations",
]


OLDEST_TRITON = (3, 4)


@functools.cache
def usable() -> bool:
    """Whether Triton 3.4 or newer is installed (``pip install ttq-energy[triton]``)."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        numbers = metadata.version("triton").split(".")
        return (int(numbers[0]), int(numbers[1])) >= OLDEST_TRITON
    except (metadata.PackageNotFoundError, IndexError, ValueError):
        return True  # under another package's name, as nightly builds of torch bring it


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ttq_energy.kernels.gpu' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ttq_energy.kernels.gpu.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
