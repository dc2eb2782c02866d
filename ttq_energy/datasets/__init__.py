"""Data sets: digits and text that ship with installed packages, others from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ttq_energy.datasets.registry import DataInfo, available, load

if TYPE_CHECKING:
    from ttq_energy.datasets.base import Data

__all__ = ["Data", "DataInfo", "available", "load"]


def __getattr__(name: str) -> Any:
    if name == "Data":
        from ttq_energy.datasets.base import Data

        return Data
    raise AttributeError(f"module 'ttq_energy.datasets' has no attribute {name!r}")
