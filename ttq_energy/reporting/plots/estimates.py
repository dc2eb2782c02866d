"""Modelled energy on accelerators: always hatched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ttq_energy.reporting.formatting import interval, number, scale_for
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.plots.style import (
    FULL_IN,
    HATCH,
    INK,
    annotate_value,
    component_styles,
    error_bar,
    legend_columns,
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


def component_bars(
    components: pd.DataFrame, totals: pd.DataFrame, width: float = FULL_IN
) -> Figure:
    """Modelled energy of one inference by component, a panel a target, a bar a variant.

    Args:
        components: rows of ``tables.estimate_components`` of one model.
        totals: rows of ``tables.estimate_totals`` of the same model, for the ranges.
        width: of the figure in inches.
    """
    need(components, "component_bars", "target", "variant", "component", "energy_j")
    need(totals, "component_bars (totals)", "target", "variant", "energy_low_j", "energy_high_j")
    targets = list(dict.fromkeys(components["target"]))
    names = list(dict.fromkeys(components["component"]))
    variants = list(dict.fromkeys(components["variant"]))
    styles = component_styles(names)
    across = panels_abreast(len(targets), width)
    down = -(-len(targets) // across)
    with style():
        height = (0.65 + (0.2 if across < 3 else 0.14) * len(variants)) * down + 0.3
        figure, panels = new_figure(width, height, down, across, sharey=True)
        for axes, target in zip(panels, targets, strict=False):
            part = components[components["target"] == target]
            total = totals[totals["target"] == target].set_index("variant")
            scale = scale_for(total["energy_j"], "J")
            for place, variant in enumerate(variants):
                left = 0.0
                for row in each_row(part[part["variant"] == variant]):
                    value = float(row.energy_j) * scale.factor
                    color, hatch = styles[str(row.component)]
                    (patch,) = axes.barh(
                        -place,
                        value,
                        0.66,
                        left=left,
                        color="none",
                        edgecolor=color,
                        hatch=hatch,
                        linewidth=0.8,
                    )
                    left += value
                    annotate_value(
                        patch,
                        f"{target}, {variant}: {row.component} {number(value, 3)} {scale.unit} "
                        "(modelled)",
                    )
                if variant in total.index:
                    ends = total.loc[variant, ["energy_low_j", "energy_high_j"]] * scale.factor
                    error_bar(
                        axes, left, -place, low=ends.iloc[0], high=ends.iloc[1], vertical=False
                    )
            axes.set_title(short(target))
            axes.set_yticks([-place for place in range(len(variants))])
            axes.set_yticklabels(list(map(short, variants)))
            axes.set_xlim(left=0.0)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel(f"energy per inference\n(modelled) [{scale.unit}]")
        for axes in panels[len(targets) :]:
            axes.remove()
        handles = [
            Patch(facecolor="none", edgecolor=styles[n][0], hatch=styles[n][1], label=n)
            for n in names
        ]
        figure.legend(
            handles=handles, loc="outside upper right", ncols=legend_columns(width, names)
        )
        return figure


def ratio_by_place(
    frame: pd.DataFrame, width: float = FULL_IN, *, baseline: str = "fp32"
) -> Figure:
    """Energy ratios to the baseline: measured here, solid, beside modelled targets, hatched.

    Args:
        frame: rows of ``tables.measured_and_modelled`` of one model.
        width: of the figure in inches.
        baseline: what the ratios divide by, for the label.
    """
    need(frame, "ratio_by_place", "where", "batch_size", "provenance", "variant", "ratio",
         "ratio_low", "ratio_high")  # fmt: skip
    places = list(
        dict.fromkeys(zip(frame["where"], frame["batch_size"], frame["provenance"], strict=True))
    )
    variants = list(dict.fromkeys(frame["variant"]))
    thick = 0.8 / len(variants)
    bar = 0.13 if len(places) <= 8 else 0.085
    with style():
        tall = 0.8 + len(places) * max(0.3, 0.1 + bar * len(variants))
        figure, (axes,) = new_figure(width, tall)
        for place, (where, batch, how) in enumerate(places):
            part = frame[(frame["where"] == where) & (frame["batch_size"] == batch)]
            for row in each_row(part[part["provenance"] == how]):
                index = variants.index(row.variant)
                y = -place - (index - (len(variants) - 1) / 2) * thick
                color, soft = variant_color(str(row.variant)), modelled(how)
                (patch,) = axes.barh(
                    y,
                    float(row.ratio),
                    thick * 0.9,
                    color="none" if soft else color,
                    edgecolor=color,
                    hatch=HATCH if soft else None,
                    linewidth=0.8,
                )
                error_bar(
                    axes,
                    float(row.ratio),
                    y,
                    low=float(row.ratio_low),
                    high=float(row.ratio_high),
                    vertical=False,
                )
                annotate_value(
                    patch,
                    f"{where}, {row.variant}: "
                    f"{interval(row.ratio, row.ratio_low, row.ratio_high)} ({how})",
                )
        axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set_yticks([-place for place in range(len(places))])
        axes.set_yticklabels(
            [f"{short(w)}{f'  ×{b}' if b else ''}\n({how})" for w, b, how in places]
        )
        axes.set_ylim(-len(places) + 0.45, 0.55)
        axes.set_xlim(left=0.0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"energy per inference ÷ {baseline}")
        handles = [Patch(facecolor=variant_color(v), label=short(v)) for v in variants]
        figure.legend(
            handles=handles, loc="outside upper right", ncols=legend_columns(width, variants)
        )
        return figure
