"""Ratios variant / baseline with their intervals: the answer as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttq_energy.reporting.formatting import interval
from ttq_energy.reporting.plots.style import (
    FULL_IN,
    HATCH,
    INK,
    MUTED,
    annotate_value,
    dodge,
    error_bar,
    modelled,
    new_figure,
    style,
    variant_color,
)

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {"gross_energy": "energy", "net_energy": "net energy", "latency": "latency"}


def ratios(frame: pd.DataFrame, width: float = FULL_IN) -> Figure:
    """Ratios of every variant, a panel a quantity and a row a variant and batch size.

    Args:
        frame: rows of a comparisons table with one baseline and one domain a quantity: model,
            batch_size, baseline, variant, quantity, ratio, ratio_low, ratio_high, provenance.
        width: of the figure in inches.
    """
    quantities = list(dict.fromkeys(frame["quantity"]))
    rows = list(dict.fromkeys(zip(frame["model"], frame["batch_size"], frame["variant"])))
    models = frame["model"].nunique() > 1
    with style():
        height = 0.55 + 0.19 * len(rows)
        stacked = width < FULL_IN * 0.8
        shape = (len(quantities), 1) if stacked else (1, len(quantities))
        figure, panels = new_figure(
            width, height * (len(quantities) if stacked else 1) + 0.1, *shape, sharey=True
        )
        for axes, quantity in zip(panels, quantities, strict=True):
            _panel(axes, frame[frame["quantity"] == quantity], rows, models)
        return figure


def _panel(axes: Axes, frame: pd.DataFrame, rows: list[tuple[str, int, str]], models: bool) -> None:
    places = {row: -place for place, row in enumerate(rows)}
    for row in frame.itertuples():
        y = places[row.model, row.batch_size, row.variant]
        _bar(axes, y, row, 0.62)
    base = frame["baseline"].iloc[0]
    kind = _NAMES.get(str(frame["quantity"].iloc[0]), str(frame["quantity"].iloc[0]))
    how = dict.fromkeys(frame["provenance"])
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=3)
    axes.set_yticks([-place for place in range(len(rows))])
    axes.set_yticklabels([f"{f'{m}  ' if models else ''}{v}  ×{b}" for m, b, v in rows])
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_xlim(left=0.0, right=max(1.12, float(frame["ratio_high"].max()) * 1.05))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{kind} per inference ÷ {base} ({', '.join(how)})")
    _separate_groups(axes, rows)


def _separate_groups(axes: Axes, rows: list[tuple[str, int, str]]) -> None:
    for place in range(1, len(rows)):
        if rows[place][:2] != rows[place - 1][:2]:
            axes.axhline(0.5 - place, color=MUTED, linewidth=0.5)


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
        ValueError: more than one provenance or quantity; they must not share an axis.
    """
    if frame["provenance"].nunique() > 1 or frame["quantity"].nunique() > 1:
        raise ValueError("ratios_by_run: expected one provenance and one quantity")
    runs = list(dict.fromkeys(frame["run"]))
    rows = list(dict.fromkeys(zip(frame["model"], frame["batch_size"], frame["variant"])))
    places = {row: -place for place, row in enumerate(rows)}
    soft = modelled(frame["provenance"].iloc[0])
    markers = "osD^vPX<>h"
    with style():
        tall = 0.8 + len(rows) * (0.12 + 0.09 * len(runs)) + 0.15 * len(runs)
        figure, (axes,) = new_figure(width, tall)
        for index, run in enumerate(runs):
            for row in frame[frame["run"] == run].itertuples():
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
            axes.scatter([], [], s=26, marker=markers[index % len(markers)], color=MUTED, label=run)
        axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set_yticks(list(places.values()))
        models = frame["model"].nunique() > 1
        axes.set_yticklabels([f"{f'{m}  ' if models else ''}{v}  ×{b}" for m, b, v in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.set_xlim(left=0.0)
        kind = _NAMES.get(str(frame["quantity"].iloc[0]), "ratio")
        base, how = frame["baseline"].iloc[0], frame["provenance"].iloc[0]
        axes.set_xlabel(f"{kind} per inference ÷ {base} ({how})")
        figure.legend(loc="outside upper left", ncols=min(3, len(runs)))
        return figure
