"""The tables of a report as DataFrames: tidy, SI units in the names, one function a table.

Each takes a Run or a list of Runs; with several, a first column ``run`` tells them apart.
"""

from ttq_energy.reporting.tables.comparing import across_runs, differences, mean_power
from ttq_energy.reporting.tables.estimated import (
    carbon,
    estimate_components,
    estimate_totals,
    layer_totals,
    layers,
    measured_and_modelled,
    target_figures,
)
from ttq_energy.reporting.tables.machine import machine, sensors, stages, variants
from ttq_energy.reporting.tables.measured import (
    blocks_left_out,
    comparisons,
    energy,
    latency,
    main_domains,
    traces,
)
from ttq_energy.reporting.tables.trained import (
    ablation,
    accuracy,
    accuracy_energy,
    training_cost,
    training_curves,
)

__all__ = [
    "ablation",
    "accuracy",
    "accuracy_energy",
    "across_runs",
    "blocks_left_out",
    "carbon",
    "comparisons",
    "differences",
    "energy",
    "estimate_components",
    "estimate_totals",
    "latency",
    "layer_totals",
    "layers",
    "machine",
    "main_domains",
    "mean_power",
    "measured_and_modelled",
    "sensors",
    "stages",
    "target_figures",
    "traces",
    "training_cost",
    "training_curves",
    "variants",
]
