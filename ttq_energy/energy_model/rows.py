"""Rows of a Run's tables from counts and estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ttq_energy.run import TABLES

if TYPE_CHECKING:
    import pandas as pd

    from ttq_energy.energy_model.estimating import Estimate


def layer_rows(model: str, variant: str, counts: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the ``layers`` table."""
    names = [name for name in TABLES["layers"].names if name not in ("model", "variant")]
    records = counts[names].to_dict("records")
    return [{"model": model, "variant": variant, **record} for record in records]  # type: ignore[dict-item]


def estimate_rows(
    model: str, variant: str, target: str, estimate: Estimate
) -> list[dict[str, Any]]:
    """Rows of the ``estimates`` table: one a layer and component, of one inference.

    An estimate for a batch is divided by its size.
    """
    latency = dict(zip(estimate.layers["layer"], estimate.layers["latency_s"], strict=True))
    batch = estimate.batch_size
    return [
        {
            "model": model,
            "variant": variant,
            "target": target,
            "layer": row["layer"],
            "component": row["component"],
            "energy_j": float(row["energy_j"]) / batch,
            "energy_low_j": float(row["energy_low_j"]) / batch,
            "energy_high_j": float(row["energy_high_j"]) / batch,
            "latency_s": float(latency[row["layer"]]) / batch,
        }
        for row in estimate.components.to_dict("records")
    ]
