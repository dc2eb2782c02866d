"""Layers as the model prices them, read from the table that ``count`` gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.energy_model.geometry import GEOMETRY_COLUMNS, Geometry
from ttq_energy.errors import InputError
from ttq_energy.study import MOST_EXAMPLES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Layer:
    """One row of counts. See ``count`` for the figures.

    Attributes:
        kind: of its weights: "dense", "ternary", "binary" or "none".
        columns: weights of one row.
        geometry: of one call; None where it has no products.
    """

    name: str
    op: str
    kind: str
    macs: float
    multiplies: float
    adds: float
    weight_elements: int
    weight_bits: float
    weight_bytes: float
    weight_zero_fraction: float
    input_elements: float
    output_elements: float
    activation_bits: int
    scale_multiplies: int
    calls: int
    geometry: Geometry | None

    @property
    def columns(self) -> int:
        return self.geometry.reduction if self.geometry else 1

    @property
    def out_channels(self) -> int:
        return self.geometry.out_channels * self.geometry.groups if self.geometry else 1


def layers_of(counts: pd.DataFrame, batch_size: int | None) -> list[Layer]:
    """The supported layers for a batch of ``batch_size`` (None: as counted).

    Raises:
        InputError: the table was not made by ``count``.
    """
    import pandas as pd

    if not isinstance(counts, pd.DataFrame):
        raise InputError(f"counts: expected count()'s table, got {type(counts).__name__}")
    missing = [c for c in ("macs", "calls", "weight_kind", "batch") if c not in counts.columns]
    if missing:
        raise InputError(f"counts: the column '{missing[0]}' is missing; expected count()'s table")
    if not len(counts):
        raise InputError("counts: expected at least one layer, got an empty table")
    check_batch_size(batch_size)
    rows: list[dict[str, Any]] = counts[counts["supported"]].to_dict("records")  # type: ignore[assignment]
    layers = [_layer(row) for row in rows]
    if batch_size is None or not rows:
        return layers
    counted = int(rows[0]["counted_batch"])
    return [_rebatched(layer, batch_size, counted) for layer in layers]


def check_batch_size(batch_size: Any) -> None:
    """Refuse anything but None and whole numbers from 1 to the largest batch."""
    if batch_size is None:
        return
    whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if not whole or not 1 <= batch_size <= MOST_EXAMPLES:
        raise InputError(
            f"batch_size: must be a whole number from 1 to {MOST_EXAMPLES}, got {batch_size!r}"
        )


def _layer(row: dict[str, Any]) -> Layer:
    geometry = None
    if row["macs"] and row["calls"]:
        geometry = Geometry(**{name: int(row[name]) for name in GEOMETRY_COLUMNS})
    return Layer(
        name=str(row["layer"]),
        op=str(row["op"]),
        kind=str(row["weight_kind"]),
        macs=float(row["macs"]),
        multiplies=float(row["multiplies"]),
        adds=float(row["adds"]),
        weight_elements=int(row["weight_elements"]),
        weight_bits=float(row["weight_bits"]),
        weight_bytes=float(row["weight_bytes"]),
        weight_zero_fraction=float(row["weight_zero_fraction"]),
        input_elements=float(row["input_elements"]),
        output_elements=float(row["output_elements"]),
        activation_bits=int(row["activation_bits"]),
        scale_multiplies=int(row["scale_multiplies"]),
        calls=int(row["calls"]),
        geometry=geometry,
    )


def _rebatched(layer: Layer, batch: int, counted: int) -> Layer:
    factor = batch / counted
    geometry = layer.geometry
    if geometry is not None and layer.kind == "none":
        geometry = replace(geometry, groups=max(1, round(geometry.groups * factor)))
    elif geometry is not None:
        geometry = geometry.with_batch(max(1, round(geometry.batch * factor)))
    return replace(
        layer,
        macs=layer.macs * factor,
        multiplies=layer.multiplies * factor,
        adds=layer.adds * factor,
        input_elements=layer.input_elements * factor,
        output_elements=layer.output_elements * factor,
        geometry=geometry,
    )
