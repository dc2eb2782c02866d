"""Accuracy against energy, with the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ttq_energy.reporting.formatting import interval, percent, scale_for
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.plots.style import (
    COLUMN_IN,
    HATCH,
    INK,
    MUTED,
    annotate_value,
    error_bar,
    greatest,
    legend_columns,
    modelled,
    need,
    new_figure,
    panels_abreast,
    short,
    style,
    variant_color,
    variant_marker,
    variant_rank,
)

if TYPE_CHECKING:
    import pandas as pd


_NEEDS = ("where", "batch_size", "provenance", "variant", "energy_j", "energy_low_j",
          "energy_high_j", "accuracy", "accuracy_low", "accuracy_high", "pareto")  # fmt: skip


def accuracy_energy(frame: pd.DataFrame, width: float = COLUMN_IN) -> Figure:
    """Accuracy against energy per inference, a panel for each place and batch size.

    Args:
        frame: rows of ``tables.accuracy_energy`` of one model.
        width: of the figure in inches; with a whole page's width panels stand abreast.

    Raises:
        InputError: a column is missing, or there are no rows.
    """
    need(frame, "accuracy_energy", *_NEEDS)
    groups = list(frame.groupby(["where", "batch_size", "provenance"], sort=False))
    across = panels_abreast(len(groups), width)
    down = -(-len(groups) // across)
    with style():
        height = (2.0 if across < 3 else 1.75) * down + 0.25
        figure, panels = new_figure(width, height, down, across)
        for axes, ((where, batch, how), group) in zip(panels, groups, strict=False):
            _panel(axes, group, str(how))
            title = f"{short(where)}, batch size {batch}" if batch else short(where)
            axes.set_title(title)
        for axes in panels[len(groups) :]:
            axes.remove()
        variants = sorted({str(v) for v in frame["variant"]}, key=variant_rank)
        handles = [
            Line2D(
                [],
                [],
                marker=variant_marker(v),
                color=variant_color(v),
                markerfacecolor="none" if frame["provenance"].map(modelled).all() else None,
                linestyle="none",
                label=short(v),
            )
            for v in variants
        ]
        columns = legend_columns(width, list(map(short, variants)))
        figure.legend(handles=handles, loc="outside upper right", ncols=columns)
        return figure


def _panel(axes: Axes, frame: pd.DataFrame, how: str) -> None:
    scale = scale_for(frame["energy_j"], "J")
    soft = modelled(how)
    for row in each_row(frame):
        x, low, high = (
            float(v) * scale.factor for v in (row.energy_j, row.energy_low_j, row.energy_high_j)
        )
        y = float(row.accuracy) * 100
        y_low, y_high = float(row.accuracy_low) * 100, float(row.accuracy_high) * 100
        color = variant_color(str(row.variant))
        error_bar(axes, x, y, low=low, high=high, vertical=False, ecolor=MUTED, elinewidth=0.8)
        error_bar(axes, x, y, low=y_low, high=y_high, ecolor=MUTED, elinewidth=0.8)
        mark = axes.scatter(
            [x],
            [y],
            s=42,
            marker=variant_marker(str(row.variant)),
            facecolor="none" if soft else color,
            edgecolor=color,
            hatch=HATCH * 2 if soft else None,
            linewidth=1.0,
            zorder=5,
        )
        annotate_value(
            mark,
            f"{row.variant}: {percent(row.accuracy, row.accuracy_low, row.accuracy_high)} at "
            f"{interval(x, low, high)} {scale.unit} ({how})",
        )
    front = frame[frame["pareto"]].sort_values("energy_j")
    axes.step(
        front["energy_j"] * scale.factor,
        front["accuracy"] * 100,
        where="post",
        color=INK,
        linewidth=0.9,
        linestyle=(0, (4, 2)),
        zorder=1,
    )
    axes.set_xlim(0.0, greatest(frame["energy_j"], frame["energy_high_j"]) * scale.factor * 1.18)
    axes.set_xlabel(f"energy per inference\n({how}) [{scale.unit}]")
    axes.set_ylabel("accuracy [%]")
