"""What each layer needs: multiplies, adds, weight traffic, zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ttq_energy.reporting.formatting import number, quantity
from ttq_energy.reporting.plots.style import (
    FULL_IN,
    MUTED,
    annotate_value,
    new_figure,
    style,
    variant_color,
)

if TYPE_CHECKING:
    import pandas as pd

_PANELS = (
    ("multiplies", "multiplies", "log"),
    ("adds", "adds", "log"),
    ("weight_bytes", "weights [bytes]", "log"),
    ("weight_zero_fraction", "zeros among\nweights [%]", "linear"),
)


def layer_bars(frame: pd.DataFrame, width: float = FULL_IN) -> Figure:
    """Counts of one inference by layer, one mark a variant.

    Args:
        frame: rows of ``tables.layers`` of one model and a few variants.
        width: of the figure in inches.
    """
    layers = list(dict.fromkeys(frame["layer"]))
    places = {layer: place for place, layer in enumerate(layers)}
    variants = list(dict.fromkeys(frame["variant"]))
    with style():
        named = len(layers) <= 40
        figure, panels = new_figure(
            width, 4.2 + (0.7 if named else 0.0), len(_PANELS), 1, sharex=True
        )
        for axes, (column, label, scale) in zip(panels, _PANELS, strict=True):
            factor = 100.0 if scale == "linear" else 1.0
            for index, variant in enumerate(variants):
                part = frame[frame["variant"] == variant]
                x = np.array([places[layer] for layer in part["layer"]], float)
                x += (index - (len(variants) - 1) / 2) * 0.8 / len(variants)
                y = part[column].to_numpy(float, na_value=np.nan) * factor
                bars = axes.bar(
                    x,
                    np.nan_to_num(y),
                    0.8 / len(variants),
                    color=variant_color(variant),
                    label=variant if column == "multiplies" else None,
                )
                for patch, layer, value in zip(bars, part["layer"], y, strict=True):
                    shown = (
                        quantity(value, "B", 3)
                        if column == "weight_bytes"
                        else f"{number(value, 3)}{' %' if factor > 1 else ''}"
                    )
                    annotate_value(
                        patch,
                        f"{layer}, {variant}: {shown} {label.split(' [')[0]}".replace("\n", " "),
                    )
            axes.set_yscale(scale)
            if scale == "linear":
                axes.set_ylim(0, 100)
            axes.set_ylabel(label)
            axes.grid(visible=False, axis="x")
        last = panels[-1]
        if named:
            last.set_xticks(range(len(layers)))
            last.set_xticklabels(
                layers, rotation=60, ha="right", rotation_mode="anchor", fontsize=6.5
            )
        else:
            last.set_xlabel("layer, in the network's order")
        last.tick_params(axis="x", color=MUTED)
        figure.legend(loc="outside upper right", ncols=min(6, len(variants)))
        figure.align_ylabels(panels)
        return figure
