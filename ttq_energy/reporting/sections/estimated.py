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
from ttq_energy.reporting.sections.measured import slug
from ttq_energy.reporting.tables.gather import baseline_of, is_ternary
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_MOST_LAYERS = 40
_MOST_BARS = 60
_MOST_TARGETS = 6
_LONG_TABLE_ROWS = 90


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
                f"layers-{slug(model)}",
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
        f"layers_{slug(model)}",
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
        pages = _even_parts(list(dict.fromkeys(group["target"])), _MOST_TARGETS)
        for page, names in enumerate(pages, 1):
            here = mine[mine["target"].isin(names)]
            part = f", part {page} of {len(pages)}" if len(pages) > 1 else ""
            blocks.append(
                FigureView(
                    f"estimates-{slug(model)}{f'-{page}' if page > 1 else ''}",
                    f"Modelled energy of one inference of {model} by component, with the range of "
                    f"the total{part}.",
                    _alt(here),
                    partial(plots.component_bars, group[group["target"].isin(names)], here),
                )
            )
    shown, note = _few_variants(totals, run)
    blocks.append(
        views.table(
            "estimates",
            "Modelled energy and latency of one inference on every target.",
            shown.assign(provenance="modelled"),
            [
                views.text("target", "target"),
                views.text("variant", "variant"),
                views.interval("energy_j", "energy", "J"),
                views.interval("ratio", f"energy ÷ {base}"),
                views.verdict(),
                views.value("latency_s", "latency", "s"),
                views.value("latency_ratio", f"latency ÷ {base}", digits=2),
            ],
            note,
            totals.assign(provenance="modelled"),
        )
    )
    told = ["model", "target", "variant", "ratio", "reason"]
    reasons = shown[shown["reason"] != ""]
    if len(reasons):
        blocks.append(
            views.table(
                "estimate_reasons",
                f"Why: each component's part in the change, in percent of {base}'s energy.",
                reasons[told],
                [
                    views.text("target", "target"),
                    views.text("variant", "variant"),
                    views.value("ratio", "ratio", digits=2),
                    views.text("reason", "what makes the difference", wide=True),
                ],
                note,
                totals.loc[totals["reason"] != "", told],
            )
        )
    blocks += _target_notes(run)
    known = _how_figures_are_known(run)
    if known is not None:
        blocks.append(known)
    return Section("estimates", "Estimates for accelerators", tuple(blocks))


def _even_parts(items: list[str], most: int) -> list[list[str]]:
    """The items in order, in as few parts of nearly one size as keep to ``most`` each."""
    parts = -(-len(items) // most)
    size = -(-len(items) // parts)
    return [items[start : start + size] for start in range(0, len(items), size)]


def _few_variants(totals: pd.DataFrame, run: Run) -> tuple[pd.DataFrame, str]:
    """Of a table too long to read, what the answer needs: the baseline, the headline's ternary
    variant, and the ternary and the other variant that take the least energy over all targets."""
    if len(totals) <= _LONG_TABLE_ROWS:
        return totals, ""
    base = baseline_of(run)
    names = list(dict.fromkeys(totals["variant"]))
    least = totals.groupby("variant", sort=False)["ratio"].median().dropna()
    ternary = [v for v in names if is_ternary(run, v) and v in least]
    others = [v for v in names if v not in ternary and v in least]
    kept = {base, headline_variant(run, names)}
    kept |= {str(least[group].idxmin()) for group in (ternary, others) if group}
    shown = totals[totals["variant"].isin(kept)].reset_index(drop=True)
    rest = [v for v in names if v not in kept]
    note = f"Left to the plots and to --format csv: {listed(rest)}." if rest else ""
    return shown, note


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


def _how_figures_are_known(run: Run) -> Block | None:
    """One row a target: its figures by evidence, and those that no source confirms."""
    import pandas as pd

    figures = tables.target_figures(run)
    if figures.empty:
        return None
    rows = []
    for target, group in figures.groupby("target", sort=False):
        evidence = group["evidence"].fillna("not stated").replace("stated", "not stated")
        counted = [f"{number} {name}" for name, number in evidence.value_counts().items()]
        weak = group["figure"][evidence.isin(["assumption", "recalled", "not stated"])]
        rows.append((target, ", ".join(counted), ", ".join(weak)))
    return views.table(
        "target_figures",
        "How the targets' figures are known. The energies' ranges stem from the figures' own.",
        pd.DataFrame(rows, columns=["target", "known", "weak"]),
        [
            views.text("target", "target"),
            views.text("known", "its figures", wide=True),
            views.text("weak", "assumed, recalled or not stated", wide=True),
        ],
        data=figures,
    )


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
        group, _ = _few_variants(group, run)
        batches = group.loc[group["batch_size"] > 0, "batch_size"]
        if len(group) > _MOST_BARS and len(batches):
            group = group[group["batch_size"].isin([0, batches.min()])]
        texts = [
            f"{r.variant} on {r.where}: {interval(r.ratio, r.ratio_low, r.ratio_high)} "
            f"({r.provenance})"
            for r in each_row(group)
        ]
        blocks.append(
            FigureView(
                f"measured-modelled-{slug(model)}",
                f"Energy per inference of {model} relative to {base}: measured on this "
                "machine (solid) and modelled on the targets (hatched), with 95 % intervals and "
                "ranges.",
                f"{'; '.join(texts)}.",
                partial(plots.ratio_by_place, group, baseline=base),
            )
        )
    shown, note = _few_variants(frame, run)
    blocks.append(
        views.table(
            "measured_modelled",
            f"Energy ÷ {base}, measured here and modelled elsewhere.",
            shown,
            [
                views.text("variant", "variant"),
                views.text("where", "where"),
                views.count("batch_size", "batch", zero="–"),
                views.interval("ratio", "ratio"),
                views.text("provenance", "provenance"),
            ],
            note,
            frame,
        )
    )
    return Section("measured-modelled", "Measured against modelled", tuple(blocks))


def carbon(run: Run, country: str) -> Section | None:
    """CO2 equivalents of a million inferences in a country that the user names."""
    return carbon_section(tables.carbon(run, country), country)


def no_carbon(country: str) -> str:
    """Why a country was named and no carbon is given."""
    return (
        f"No carbon is given for {country_factor(country).country}: the run has no energy of an "
        "inference, measured or modelled."
    )


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
