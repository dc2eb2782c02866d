"""Ratios variant / baseline with their intervals: the answer as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttq_energy.errors import InputError
from ttq_energy.reporting.formatting import interval
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.plots.style import (
    FULL_IN,
    HATCH,
    INK,
    MUTED,
    annotate_value,
    dodge,
    error_bar,
    greatest,
    legend_columns,
    modelled,
    need,
    new_figure,
    short,
    style,
    variant_color,
)

if TYPE_CHECKING:
    import pandas as pd

Row = tuple[str, int, str]
"""Model, batch size, variant."""

_NEEDS = ("model", "batch_size", "baseline", "variant", "quantity", "ratio", "ratio_low",
          "ratio_high", "provenance")  # fmt: skip
_NAMES = {"gross_energy": "energy", "net_energy": "net energy", "latency": "latency"}


def ratios(frame: pd.DataFrame, width: float = FULL_IN) -> Figure:
    """Ratios of every variant, a panel a quantity and a row a variant and batch size.

    Args:
        frame: rows of a comparisons table with one baseline and one domain a quantity: model,
            batch_size, baseline, variant, quantity, ratio, ratio_low, ratio_high, provenance.
        width: of the figure in inches.
    """
    need(frame, "ratios", *_NEEDS)
    quantities = list(dict.fromkeys(frame["quantity"]))
    rows = list(
        dict.fromkeys(zip(frame["model"], frame["batch_size"], frame["variant"], strict=True))
    )
    with style():
        height = 0.55 + 0.19 * len(rows)
        stacked = width < FULL_IN * 0.8
        shape = (len(quantities), 1) if stacked else (1, len(quantities))
        figure, panels = new_figure(
            width, height * (len(quantities) if stacked else 1) + 0.1, *shape, sharey=True
        )
        for place, (axes, quantity) in enumerate(zip(panels, quantities, strict=True)):
            _panel(axes, frame[frame["quantity"] == quantity], rows)
            _name_rows(axes, rows, groups=stacked or place == 0)
        return figure


def _panel(axes: Axes, frame: pd.DataFrame, rows: list[Row]) -> None:
    places = {row: -place for place, row in enumerate(rows)}
    for row in each_row(frame):
        _bar(axes, places[row.model, row.batch_size, row.variant], row, 0.62)
    base = frame["baseline"].iloc[0]
    kind = _NAMES.get(str(frame["quantity"].iloc[0]), str(frame["quantity"].iloc[0]))
    how = dict.fromkeys(frame["provenance"])
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=3)
    axes.set_xlim(left=0.0, right=max(1.12, greatest(frame["ratio"], frame["ratio_high"]) * 1.05))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{kind} per inference ÷ {base} ({', '.join(how)})")


def _name_rows(axes: Axes, rows: list[Row], groups: bool = True) -> None:
    """Variants as tick labels, and each batch size once beside its rows."""
    axes.set_yticks([-place for place in range(len(rows))])
    axes.set_yticklabels([short(row[2]) for row in rows])
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    models = len({row[0] for row in rows}) > 1
    longest = max(len(short(row[2])) for row in rows)
    first = 0
    for place in range(1, len(rows) + 1):
        if place < len(rows) and rows[place][:2] == rows[first][:2]:
            continue
        model, batch, _ = rows[first]
        if groups:
            axes.annotate(
                f"{short(model)}\nbatch {batch}" if models else f"batch {batch}",
                (0, -(first + place - 1) / 2),
                xycoords=("axes fraction", "data"),
                xytext=(-4.4 * longest - 13, 0),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="center",
                fontsize=7,
                color=MUTED,
                annotation_clip=False,
            )
        if place < len(rows):
            axes.axhline(0.5 - place, color=MUTED, linewidth=0.5)
        first = place


def _bar(axes: Axes, y: float, row: object, thickness: float) -> None:
    color = variant_color(str(row.variant))  # type: ignore[attr-defined]
    soft = modelled(row.provenance)  # type: ignore[attr-defined]
    value, low, high = row.ratio, row.ratio_low, row.ratio_high  # type: ignore[attr-defined]
    (patch,) = axes.barh(
        y,
        value,
        thickness,
        color="none" if soft else color,
        edgecolor=color,
        hatch=HATCH if soft else None,
        linewidth=0.8,
        zorder=2,
    )
    error_bar(axes, value, y, low=low, high=high, vertical=False, zorder=4)
    name = _NAMES.get(str(row.quantity), "ratio")  # type: ignore[attr-defined]
    annotate_value(
        patch,
        f"{row.variant} ÷ {row.baseline}, {name}, batch {row.batch_size}: "  # type: ignore[attr-defined]
        f"{interval(value, low, high)} ({row.provenance})",  # type: ignore[attr-defined]
    )


def ratios_by_run(frame: pd.DataFrame, width: float = FULL_IN) -> Figure:
    """One quantity's ratios in several runs, a row a variant and batch size, a mark a run.

    Args:
        frame: rows of a comparisons table of several runs with one quantity and one provenance:
            run, model, batch_size, baseline, variant, ratio, ratio_low, ratio_high, provenance.
        width: of the figure in inches.

    Raises:
        InputError: more than one provenance or quantity; they must not share an axis.
    """
    need(frame, "ratios_by_run", "run", *_NEEDS)
    if len(frame[["provenance", "quantity"]].drop_duplicates()) > 1:
        raise InputError("ratios_by_run: expected one provenance and one quantity")
    runs = list(dict.fromkeys(frame["run"]))
    rows = list(
        dict.fromkeys(zip(frame["model"], frame["batch_size"], frame["variant"], strict=True))
    )
    places = {row: -place for place, row in enumerate(rows)}
    soft = modelled(frame["provenance"].iloc[0])
    markers = "osD^vPX<>h"
    with style():
        tall = 0.8 + len(rows) * (0.12 + 0.09 * len(runs)) + 0.15 * len(runs)
        figure, (axes,) = new_figure(width, tall)
        for index, run in enumerate(runs):
            for row in each_row(frame[frame["run"] == run]):
                y = places[row.model, row.batch_size, row.variant] - dodge(len(runs), index, 0.6)
                color = variant_color(str(row.variant))
                error_bar(
                    axes, row.ratio, y, low=row.ratio_low, high=row.ratio_high, vertical=False
                )
                mark = axes.scatter(
                    [row.ratio],
                    [y],
                    s=26,
                    marker=markers[index % len(markers)],
                    facecolor="none" if soft else color,
                    edgecolor=color,
                    hatch=HATCH * 2 if soft else None,
                    zorder=5,
                )
                annotate_value(
                    mark,
                    f"{run}: {row.variant} ÷ {row.baseline}, batch {row.batch_size}: "
                    f"{interval(row.ratio, row.ratio_low, row.ratio_high)} ({row.provenance})",
                )
            axes.scatter(
                [],
                [],
                s=26,
                marker=markers[index % len(markers)],
                color=MUTED,
                label=short(run, 40),
            )
        axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        _name_rows(axes, rows)
        axes.set_xlim(left=0.0)
        kind = _NAMES.get(str(frame["quantity"].iloc[0]), "ratio")
        base, how = frame["baseline"].iloc[0], frame["provenance"].iloc[0]
        axes.set_xlabel(f"{kind} per inference ÷ {base} ({how})")
        figure.legend(
            loc="outside upper left", ncols=legend_columns(width, [short(r, 40) for r in runs])
        )
        return figure
