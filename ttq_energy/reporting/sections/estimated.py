"""Counts by layer, estimates on targets, measured beside modelled, carbon."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ttq_energy.reporting import plots, tables, views
from ttq_energy.reporting.answer import headline_variant
from ttq_energy.reporting.carbon import country_factor
from ttq_energy.reporting.document import Block, FigureView, Section
from ttq_energy.reporting.formatting import interval, listed, number, quantity
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.sections.measured import _slug
from ttq_energy.reporting.tables.gather import baseline_of
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_MOST_LAYERS = 40


def per_layer(run: Run) -> Section | None:
    """Multiplies, adds, traffic and zeros of every layer."""
    layers = tables.layers(run)
    if layers.empty:
        return None
    totals, base = tables.layer_totals(run), baseline_of(run)
    blocks: list[Block] = [
        views.table(
            "layer_totals",
            "One inference of the whole network: dense multiply-accumulates, and the multiplies "
            "and adds that remain when zero weights are left out.",
            totals,
            [
                views.text("variant", "variant"),
                views.value("macs", "dense MACs", "MAC"),
                views.value("multiplies", "multiplies", "op"),
                views.value("adds", "adds", "op"),
                views.value("weight_bytes", "weights", "B"),
                views.value("activation_bytes", "activations", "B"),
                views.share("weight_zero_fraction", "zeros"),
                views.count("unsupported_layers", "layers not counted"),
            ],
        )
    ]
    for model, group in layers.groupby("model", sort=False):
        ternary = headline_variant(run, list(dict.fromkeys(group["variant"])))
        # Norms, activations and the like have no products: they are in the totals only.
        group = group[group["macs"].fillna(1) > 0]
        shown = group[group["variant"].isin([base, ternary])]
        if shown.empty:
            continue
        counted = totals[totals["model"] == model]
        texts = [
            f"{r.variant}: {quantity(r.multiplies, 'multiplies', 3)}, {quantity(r.adds, 'adds', 3)}"
            for r in each_row(counted)
        ]
        blocks.append(
            FigureView(
                f"layers-{_slug(model)}",
                f"Layers with products of {model}: what one inference needs in `{base}` and "
                f"`{ternary}`.",
                f"{'; '.join(texts)}.",
                partial(plots.layer_bars, shown),
            )
        )
        blocks.append(_layer_table(str(model), ternary, group))
    return Section("layers", "Layer by layer", tuple(blocks))


def _layer_table(model: str, variant: str, group: pd.DataFrame) -> Block:
    frame = group[group["variant"] == variant]
    note = ""
    if len(frame) > _MOST_LAYERS:
        note = f"The {_MOST_LAYERS} largest of {len(frame)} layers with products; all layers "
        note += "are in layers.csv."
        frame = frame.loc[frame["macs"].fillna(0).nlargest(_MOST_LAYERS).index.sort_values()]
    return views.table(
        f"layers_{_slug(model)}",
        f"Layers with products of {model} as {variant}, one inference.",
        frame,
        [
            views.text("layer", "layer"),
            views.text("op", "op"),
            views.value("macs", "dense MACs", "MAC"),
            views.value("multiplies", "multiplies", "op"),
            views.value("adds", "adds", "op"),
            views.value("weight_bits", "bits a weight", digits=2),
            views.value("weight_bytes", "weights", "B"),
            views.share("weight_zero_fraction", "zeros"),
            views.count("activation_bits", "activation bits"),
        ],
        note,
    )


def targets(run: Run) -> Section | None:
    """Modelled energy on every target, with ranges and the reasons for the ratio."""
    totals, parts = tables.estimate_totals(run), tables.estimate_components(run)
    base = baseline_of(run)
    if totals.empty:
        return None
    blocks: list[Block] = [
        "These figures are **modelled** from operation counts and published energies of each "
        "operation and memory access; nothing here was measured. Ranges take every coefficient "
        "to the ends of its 95 % range."
    ]
    for model, group in parts.groupby("model", sort=False):
        mine = totals[totals["model"] == model]
        blocks.append(
            FigureView(
                f"estimates-{_slug(model)}",
                f"Modelled energy of one inference of {model} by component, with the range of the "
                "total.",
                _alt(mine),
                partial(plots.component_bars, group, mine),
            )
        )
    blocks.append(
        views.table(
            "estimates",
            "Modelled energy and latency of one inference on every target.",
            totals.assign(provenance="modelled"),
            [
                views.text("target", "target"),
                views.text("variant", "variant"),
                views.interval("energy_j", "energy", "J"),
                views.interval("ratio", f"energy ÷ {base}"),
                views.verdict(),
                views.value("latency_s", "latency", "s"),
                views.value("latency_ratio", f"latency ÷ {base}", digits=2),
            ],
        )
    )
    reasons = totals[totals["reason"] != ""]
    if len(reasons):
        blocks.append(
            views.table(
                "estimate_reasons",
                f"Why: each component's part in the change, in percent of {base}'s energy.",
                reasons[["model", "target", "variant", "ratio", "reason"]],
                [
                    views.text("target", "target"),
                    views.text("variant", "variant"),
                    views.value("ratio", "ratio", digits=2),
                    views.text("reason", "what makes the difference", wide=True),
                ],
            )
        )
    blocks += _target_notes(run)
    return Section("estimates", "Estimates for accelerators", tuple(blocks))


def _target_notes(run: Run) -> list[Block]:
    """What the run says of each target, such as what it does with a zero weight."""
    known = run.manifest.get("targets")
    if not isinstance(known, dict):
        return []
    notes: list[Block] = []
    for name, entry in known.items():
        facts = entry if isinstance(entry, dict) else {"description": entry}
        told = [
            str(value) if key == "description" else f"{key.replace('_', ' ')}: {value}"
            for key, value in facts.items()
            if isinstance(value, (str, int, float)) and str(value)
        ]
        if told:
            notes.append(f"`{name}`: {'; '.join(told)}.")
    return notes


def _alt(totals: pd.DataFrame) -> str:
    texts = [
        f"{r.target}, {r.variant}: {quantity(r.energy_j, 'J')}"
        + (f", ratio {interval(r.ratio, r.ratio_low, r.ratio_high)}" if r.ratio == r.ratio else "")
        for r in each_row(totals)
    ]
    return f"Modelled. {'; '.join(texts)}."


def measured_against_modelled(run: Run) -> Section | None:
    """The ratios measured here beside those modelled for the targets."""
    frame, base = tables.measured_and_modelled(run), baseline_of(run)
    here, there = frame[frame["batch_size"] > 0], frame[frame["batch_size"] == 0]
    if not (here["provenance"] != "modelled").any() or there.empty:
        return None
    blocks: list[Block] = [
        "The ratios stand side by side and are not combined: they are of different hardware, and "
        "of different provenance."
    ]
    for model, group in frame.groupby("model", sort=False):
        texts = [
            f"{r.variant} on {r.where}: {interval(r.ratio, r.ratio_low, r.ratio_high)} "
            f"({r.provenance})"
            for r in each_row(group)
        ]
        blocks.append(
            FigureView(
                f"measured-modelled-{_slug(model)}",
                f"Energy per inference of {model} relative to {base}: measured on this "
                "machine (solid) and modelled on the targets (hatched), with 95 % intervals and "
                "ranges.",
                f"{'; '.join(texts)}.",
                partial(plots.ratio_by_place, group, baseline=base),
            )
        )
    blocks.append(
        views.table(
            "measured_modelled",
            f"Energy ÷ {base}, measured here and modelled elsewhere.",
            frame,
            [
                views.text("variant", "variant"),
                views.text("where", "where"),
                views.count("batch_size", "batch", zero="–"),
                views.interval("ratio", "ratio"),
                views.text("provenance", "provenance"),
            ],
        )
    )
    return Section("measured-modelled", "Measured against modelled", tuple(blocks))


def carbon(run: Run, country: str) -> Section | None:
    """CO2 equivalents of a million inferences in a country that the user names."""
    return carbon_section(tables.carbon(run, country), country)


def carbon_section(frame: pd.DataFrame, country: str) -> Section | None:
    """The section for a table of ``tables.carbon``."""
    if frame.empty:
        return None
    factor = country_factor(country)
    kinds = listed(list(dict.fromkeys(frame["provenance"])))
    return Section(
        "carbon",
        "Carbon",
        (
            f"For {factor.country}, CodeCarbon's factor is {number(factor.g_per_kwh, 3)} g of CO₂ "
            f"equivalents per kWh ({factor.year}). The country was named by the user, not looked "
            f"up. Energies are {kinds}; only the part of the machine that the domain covers is "
            "counted, and neither its making nor cooling.",
            *(
                _carbon_table(frame[here], factor.country, what)
                for what, here in (
                    ("on this machine", frame["batch_size"] > 0),
                    ("on accelerators, modelled", frame["batch_size"] == 0),
                )
                if here.any()
            ),
        ),
    )


def _carbon_table(frame: pd.DataFrame, country: str, what: str) -> Block:
    return views.table(
        "carbon" if (frame["batch_size"] > 0).all() else "carbon_targets",
        f"CO₂ equivalents of a million inferences in {country}, {what}.",
        frame,
        [
            views.text("where", "where"),
            views.count("batch_size", "batch", zero="–"),
            views.text("variant", "variant"),
            views.interval("carbon_g", "CO₂e", "g"),
            views.text("provenance", "provenance"),
        ],
    )
