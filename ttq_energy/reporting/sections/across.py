"""Parts of a comparison that show every run's own figures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ttq_energy.reporting import plots, tables, views
from ttq_energy.reporting.answer import headline_variant
from ttq_energy.reporting.document import Block, FigureView, Section
from ttq_energy.reporting.formatting import interval
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.sections.measured import ends_of_batches, slug
from ttq_energy.reporting.tables.gather import baseline_of
from ttq_energy.run import Run

_MOST_PANELS = 9
_MOST_NETWORKS = 4


def accuracy_energy(runs: Sequence[Run]) -> list[Block]:
    """Accuracy against energy, a panel a run and place; one figure a network and provenance.

    Measured and modelled energies never share a figure, let alone an axis.
    """
    frame = tables.accuracy_energy(list(runs))
    blocks: list[Block] = []
    if frame.empty:
        return blocks
    for (model, how), every in frame.groupby(["model", "provenance"], sort=False):
        smallest = every.groupby(["run", "where"])["batch_size"].transform("min")
        group = every[every["batch_size"] == smallest]
        if group["run"].nunique() < 2:
            continue
        group = group.assign(where=group["run"] + ": " + group["where"])
        kept = list(dict.fromkeys(group["where"]))[:_MOST_PANELS]
        group = group[group["where"].isin(kept)]
        texts = [
            f"{r.where}, {r.variant}: {interval(r.accuracy, r.accuracy_low, r.accuracy_high, 100)}"
            " %"
            for r in each_row(group)
        ]
        blocks.append(
            FigureView(
                f"accuracy-energy-{slug(model, how)}",
                f"Accuracy of {model} against {how} energy per inference in each run, at its "
                "smallest batch size; dashed: the run's own Pareto front. The axes differ.",
                f"{'; '.join(texts)}.",
                partial(plots.accuracy_energy, group),
            )
        )
    return blocks


def power(runs: Sequence[Run]) -> Section | None:
    """Mean power of the blocks in every run."""
    frame = tables.mean_power(list(runs))
    if frame.empty:
        return None
    frame = frame.sort_values(["model", "batch_size", "variant"], kind="stable")
    shown, note = ends_of_batches(frame)
    view = views.table(
        "power",
        "Mean power of the valid blocks in every run, with 95 % intervals. Over time: each run's "
        "own report.",
        shown,
        [
            views.count("batch_size", "batch"),
            views.text("variant", "variant"),
            views.text("domain", "domain"),
            views.interval("power_w", "power", "W"),
            views.value("idle_power_w", "idle", "W"),
            views.text("provenance", "provenance"),
            views.count("blocks", "blocks"),
        ],
        note,
        frame,
    )
    return Section("power", "Power", (view,))


def layers(runs: Sequence[Run]) -> Section | None:
    """What whole networks need in every run, and the layers of the ternary variant by run."""
    totals = tables.layer_totals(list(runs))
    if totals.empty:
        return None
    blocks: list[Block] = []
    every = tables.layers(list(runs))
    base = baseline_of(runs[0])
    for model, group in list(every.groupby("model", sort=False))[:_MOST_NETWORKS]:
        group = group[group["macs"].fillna(1) > 0]
        names = [v for v in dict.fromkeys(group["variant"]) if v != base]
        if group["run"].nunique() < 2 or not names:
            continue
        variant = headline_variant(runs[0], names)
        group = group[group["variant"] == variant]
        blocks.append(
            FigureView(
                f"layers-{slug(model)}",
                f"Layers with products of {model} as `{variant}`: what one inference needs, by "
                "run. Marks that coincide are the same counts.",
                f"Counts by layer of {model} as {variant} in {group['run'].nunique()} runs.",
                partial(plots.layer_bars, group.assign(variant=group["run"])),
            )
        )
    blocks.append(
        views.table(
            "layer_totals",
            "One inference of the whole network in every run, counted.",
            totals.sort_values(["model", "variant"], kind="stable"),
            [
                views.text("variant", "variant"),
                views.value("macs", "dense MACs", "MAC"),
                views.value("multiplies", "multiplies", "op"),
                views.value("adds", "adds", "op"),
                views.value("weight_bytes", "weights", "B"),
                views.share("weight_zero_fraction", "zeros"),
            ],
        )
    )
    return Section("layers", "Layer by layer", tuple(blocks))
