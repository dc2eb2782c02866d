"""What each layer needs: multiplies, adds, weight traffic, zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ttq_energy.reporting.formatting import number, quantity
from ttq_energy.reporting.plots.style import (
    FULL_IN,
    MUTED,
    annotate_value,
    legend_columns,
    need,
    new_figure,
    short,
    style,
    variant_color,
    variant_marker,
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
    need(frame, "layer_bars", "layer", "variant", *(column for column, _, _ in _PANELS))
    layers = list(dict.fromkeys(frame["layer"]))
    places = {layer: place for place, layer in enumerate(layers)}
    variants = list(dict.fromkeys(frame["variant"]))
    with style():
        named = len(layers) <= 40
        figure, panels = new_figure(
            width, 3.6 + (0.7 if named else 0.0), len(_PANELS), 1, sharex=True
        )
        for axes, (column, label, scale) in zip(panels, _PANELS, strict=True):
            factor = 100.0 if scale == "linear" else 1.0
            for index, variant in enumerate(variants):
                part = frame[frame["variant"] == variant]
                x = np.array([places[layer] for layer in part["layer"]], float)
                x += (index - (len(variants) - 1) / 2) * 0.8 / len(variants)
                y = part[column].to_numpy(float, na_value=np.nan) * factor
                color = variant_color(variant)
                if scale == "log":
                    known = y > 0
                    marks = [
                        axes.plot(
                            [a],
                            [b],
                            marker=variant_marker(variant),
                            color=color,
                            markersize=4,
                            linestyle="none",
                        )[0]
                        for a, b in zip(x[known], y[known], strict=True)
                    ]
                else:
                    known = ~np.isnan(y)
                    bars = axes.bar(x[known], y[known], 0.8 / len(variants), color=color)
                    marks = list(bars)
                named_layers = part["layer"].to_numpy()[known]
                for mark, layer, value in zip(marks, named_layers, y[known], strict=True):
                    shown = (
                        quantity(value, "B", 3)
                        if column == "weight_bytes"
                        else f"{number(value, 3)}{' %' if factor > 1 else ''}"
                    )
                    what = label.split(" [")[0].replace("\n", " ")
                    annotate_value(mark, f"{layer}, {variant}: {shown} {what}")
            axes.set_yscale(scale)
            if scale == "log":
                axes.margins(y=0.2)
            if scale == "linear":
                axes.set_ylim(0, 100)
            axes.set_ylabel(label)
            axes.grid(visible=False, axis="x")
        last = panels[-1]
        if named:
            last.set_xticks(range(len(layers)))
            last.set_xticklabels(
                list(map(short, layers)),
                rotation=60,
                ha="right",
                rotation_mode="anchor",
                fontsize=6.5,
            )
        else:
            last.set_xlabel("layer, in the network's order")
        last.tick_params(axis="x", color=MUTED)
        handles = [
            Line2D(
                [],
                [],
                marker=variant_marker(v),
                color=variant_color(v),
                linestyle="none",
                label=short(v),
            )
            for v in variants
        ]
        figure.legend(
            handles=handles, loc="outside upper right", ncols=legend_columns(width, variants)
        )
        figure.align_ylabels(panels)
        return figure
