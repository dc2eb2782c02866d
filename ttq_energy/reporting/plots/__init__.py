"""Plots in one style: each takes a DataFrame (see ``reporting.tables``) and returns a Figure.

They use no global matplotlib state. Modelled figures are always hatched, measured ones never.
"""

from ttq_energy.reporting.plots.bars import energy_bars, latency_bars
from ttq_energy.reporting.plots.estimates import component_bars, ratio_by_place
from ttq_energy.reporting.plots.layers import layer_bars
from ttq_energy.reporting.plots.pareto import accuracy_energy
from ttq_energy.reporting.plots.power import power_trace
from ttq_energy.reporting.plots.ratios import ratios, ratios_by_run
from ttq_energy.reporting.plots.style import COLUMN_IN, FULL_IN, save_svg, svg_text, variant_color
from ttq_energy.reporting.plots.training import accuracy_dots, curves, training_bars

__all__ = [
    "COLUMN_IN",
    "FULL_IN",
    "accuracy_dots",
    "accuracy_energy",
    "component_bars",
    "curves",
    "energy_bars",
    "latency_bars",
    "layer_bars",
    "power_trace",
    "ratio_by_place",
    "ratios",
    "ratios_by_run",
    "save_svg",
    "svg_text",
    "training_bars",
    "variant_color",
]
