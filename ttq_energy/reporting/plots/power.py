"""Power over time, block by block, with the blocks that were refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ttq_energy.reporting.plots.style import (
    FULL_IN,
    HATCH,
    INK,
    MUTED,
    annotate_value,
    greatest,
    legend_columns,
    modelled,
    need,
    new_figure,
    short,
    style,
    variant_color,
    variant_rank,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_MOST_POINTS = 1200
_THINNEST = 0.004
"""Least width of a block, as a share of the axis."""


def power_trace(frame: pd.DataFrame, width: float = FULL_IN) -> Figure:
    """Power over time, a panel a domain.

    Blocks are shaded in their variant's colour; refused ones are crossed out. Traces too dense to
    print keep the least and the greatest value of each slice.

    Args:
        frame: rows of ``tables.traces`` of one model, device and batch size.
        width: of the figure in inches.
    """
    need(frame, "power_trace", "domain", "variant", "block", "t_s", "power_w", "provenance",
         "valid", "invalid_reason")  # fmt: skip
    domains = list(dict.fromkeys(frame["domain"]))
    variants = sorted({str(v) for v in frame["variant"] if v}, key=variant_rank)
    with style():
        figure, panels = new_figure(width, 0.45 + 1.35 * len(domains), len(domains), 1, sharex=True)
        for axes, domain in zip(panels, domains, strict=True):
            part = frame[frame["domain"] == domain].sort_values("t_s")
            _panel(axes, part)
            how = ", ".join(dict.fromkeys(part["provenance"]))
            axes.set_title(f"{short(domain)} ({how})")
        panels[-1].set_xlabel("time since the start [s]")
        handles: list[Patch | Line2D] = [
            Patch(facecolor=variant_color(v), alpha=0.55, label=short(v)) for v in variants
        ]
        if (~frame["valid"].fillna(True).astype(bool)).any():
            handles.append(
                Line2D([], [], color=INK, marker="x", linestyle="none", label="block left out")
            )
        figure.legend(
            handles=handles,
            loc="outside upper right",
            ncols=legend_columns(width, [str(h.get_label()) for h in handles]),
        )
        return figure


def _panel(axes: Axes, frame: pd.DataFrame) -> None:
    top = greatest(frame["power_w"]) * 1.15
    soft = modelled(frame["provenance"].iloc[0])
    blocks = frame[frame["block"] >= 0]
    thinnest = _THINNEST * float(frame["t_s"].max() - frame["t_s"].min())
    for (block, variant), group in blocks.groupby(["block", "variant"], sort=False):
        start, end = float(group["t_s"].min()), float(group["t_s"].max())
        # A short block of a counter has one point: give it a width that can be seen.
        short = max(0.0, thinnest - (end - start)) / 2
        start, end = start - short, end + short
        valid = bool(group["valid"].fillna(True).iloc[0])
        patch = axes.axvspan(
            start,
            end,
            facecolor="none" if soft else variant_color(str(variant)),
            edgecolor=variant_color(str(variant)),
            hatch=HATCH if soft else None,
            alpha=0.55,
            linewidth=0.3,
        )
        why = str(group["invalid_reason"].iloc[0])
        mean = float(group["power_w"].mean())
        state = "" if valid else f", left out: {why or 'no reason given'}"
        annotate_value(patch, f"block {block}, {variant}: mean {mean:.3g} W{state}")
        if not valid:
            axes.plot([(start + end) / 2], [top * 0.93], "x", color=INK, markersize=5)
    t, power = decimated(frame["t_s"].to_numpy(float), frame["power_w"].to_numpy(float))
    axes.plot(t, power, color=INK, linewidth=0.6, linestyle="--" if soft else "-")
    axes.set_ylim(0.0, top)
    axes.margins(x=0.005)
    axes.set_ylabel("power [W]")
    axes.spines["bottom"].set_color(MUTED)


def decimated(
    t: NDArray[np.float64], values: NDArray[np.float64], most: int = _MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``most`` points that keep the least and greatest value of each slice."""
    if len(t) <= most:
        return t, values
    keep: set[int] = {0, len(t) - 1}
    for part in np.array_split(np.arange(len(t)), most // 2 - 1):
        keep.add(int(part[np.argmin(values[part])]))
        keep.add(int(part[np.argmax(values[part])]))
    order = sorted(keep)
    return t[order], values[order]
