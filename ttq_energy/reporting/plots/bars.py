"""Energy and latency of one inference, by variant and batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttq_energy.reporting.formatting import interval, scale_for
from ttq_energy.reporting.plots.style import (
    COLUMN_IN,
    HATCH,
    annotate_value,
    error_bar,
    modelled,
    need,
    new_figure,
    panels_abreast,
    short,
    style,
    variant_color,
)

if TYPE_CHECKING:
    import pandas as pd


def energy_bars(frame: pd.DataFrame, width: float = COLUMN_IN) -> Figure:
    """Gross energy per inference, net energy as the solid part below a line.

    Args:
        frame: rows of ``tables.energy`` of one model, device and domain.
        width: of the figure in inches.
    """
    what = {
        "value": "energy_j",
        "low": "energy_low_j",
        "high": "energy_high_j",
        "net": "net_energy_j",
    }
    need(frame, "energy_bars", "variant", "batch_size", "domain", "provenance", *what.values())
    domain = short(", ".join(dict.fromkeys(frame["domain"])), 32)
    how = ", ".join(dict.fromkeys(frame["provenance"]))
    return _bars(frame, what, "J", f"energy per inference,\n{domain} ({how})", width)


def latency_bars(frame: pd.DataFrame, width: float = COLUMN_IN) -> Figure:
    """Latency per inference.

    Args:
        frame: rows of ``tables.latency`` of one model and device.
        width: of the figure in inches.
    """
    what = {"value": "latency_s", "low": "latency_low_s", "high": "latency_high_s"}
    need(frame, "latency_bars", "variant", "batch_size", *what.values())
    return _bars(frame, what, "s", "time per inference\n(timed)", width)


def _bars(frame: pd.DataFrame, what: dict[str, str], unit: str, label: str, width: float) -> Figure:
    batches = list(dict.fromkeys(frame["batch_size"]))
    variants = list(dict.fromkeys(frame["variant"]))
    across = panels_abreast(len(batches), width)
    down = -(-len(batches) // across)
    with style():
        height = (0.65 + (0.2 if across < 3 else 0.14) * len(variants)) * down + 0.1
        figure, panels = new_figure(width, height, down, across, sharey=True)
        for axes, batch in zip(panels, batches, strict=False):
            _panel(axes, frame[frame["batch_size"] == batch], variants, what, unit)
            axes.set_title(f"batch size {batch}")
            scale = scale_for(frame[frame["batch_size"] == batch][what["value"]], unit)
            axes.set_xlabel(f"{label} [{scale.unit}]")
        for axes in panels[len(batches) :]:
            axes.remove()
        return figure


def _panel(
    axes: Axes, frame: pd.DataFrame, variants: list[str], what: dict[str, str], unit: str
) -> None:
    scale = scale_for(frame[what["value"]], unit)
    rows: list[dict[Any, Any]] = frame.to_dict("records")
    for row in rows:
        place = variants.index(row["variant"])
        color = variant_color(row["variant"])
        soft = modelled(row.get("provenance", ""))
        value, low, high = (row[what[end]] * scale.factor for end in ("value", "low", "high"))
        (patch,) = axes.barh(
            -place,
            value,
            0.66,
            color="none" if soft else color,
            edgecolor=color,
            hatch=HATCH if soft else None,
            linewidth=0.8,
        )
        text = f"{row['variant']}, batch {row['batch_size']}: {interval(value, low, high)}"
        net = row.get(what.get("net", ""), float("nan"))
        if net == net:
            net *= scale.factor
            axes.plot([net, net], [-place - 0.33, -place + 0.33], color="#ffffff", linewidth=2.2)
            axes.plot([net, net], [-place - 0.33, -place + 0.33], color="#1b1b1f", linewidth=0.9)
            text += f" {scale.unit} gross, {interval(net, None, None)}"
            text += f" {scale.unit} net ({row['provenance']})"
        else:
            text += f" {scale.unit} ({row.get('provenance') or 'timed'})"
        error_bar(axes, value, -place, low=low, high=high, vertical=False)
        annotate_value(patch, text)
    axes.set_yticks([-place for place in range(len(variants))])
    axes.set_yticklabels(list(map(short, variants)))
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0.0)
