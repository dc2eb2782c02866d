"""Energy and latency as measured, and the power traces behind them."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from ttq_energy.reporting import plots, tables, views
from ttq_energy.reporting.answer import FROM_LOAD, from_load
from ttq_energy.reporting.document import Block, FigureView, Section
from ttq_energy.reporting.formatting import interval, listed, scale_for
from ttq_energy.reporting.tables.measured import of_main_domain
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_MOST_TRACES = 4
_LONG_TABLE_ROWS = 48
_LONGEST_NAME = 80
_BETWEEN = "of batch sizes between the least and the greatest"
_SAID = {
    "counter": "measured with a hardware counter",
    "integrated": "measured by sampling power",
    "modelled": "modelled, not measured",
}


def energy_and_latency(run: Run) -> Section | None:
    """Energy and latency per inference by variant and batch size, and every comparison."""
    energy, latency = tables.energy(run), tables.latency(run)
    energy = energy[energy["energy_j"].notna()]
    if energy.empty and latency.empty:
        return None
    blocks: list[Block] = []
    if len(energy):
        blocks += _energy_blocks(run, energy)
    for key, frame in latency.groupby(["model", "device"], sort=False):
        blocks.append(
            FigureView(
                f"latency-{slug(*key)}",
                f"Latency of one inference of {key[0]} on {key[1]}, timed, with 95 % intervals.",
                _alt(frame, "latency_s", "s", "timed"),
                partial(plots.latency_bars, frame),
            )
        )
    if len(latency):
        shown, note = ends_of_batches(latency)
        blocks.append(
            views.table(
                "latency",
                f"Latency of one inference{_place(latency)}: block duration divided by inferences.",
                shown,
                [
                    views.count("batch_size", "batch"),
                    views.text("variant", "variant"),
                    views.interval("latency_s", "latency", "s"),
                    views.count("blocks", "blocks"),
                    views.text("kernel", "kernel", wide=True),
                ],
                note,
                latency,
            )
        )
    blocks += _comparison_blocks(run)
    return Section("energy-latency", "Energy and latency per inference", tuple(blocks))


def _energy_blocks(run: Run, energy: pd.DataFrame) -> list[Block]:
    kinds = list(dict.fromkeys(energy["provenance"]))
    blocks: list[Block] = [
        f"Energies here are {listed([_SAID.get(k, k) for k in kinds])}. Gross is what the sensor's "
        "domain took; net is gross less the idle power of the same domain times the duration. "
        "A domain `total` is the sum of the domains that do not overlap; no others are added."
    ]
    if from_load(run):
        blocks.append(FROM_LOAD)
    for key, frame in of_main_domain(energy, run).groupby(
        ["model", "device", "provenance"], sort=False
    ):
        blocks.append(
            FigureView(
                f"energy-{slug(*key)}",
                f"Energy of one inference of {key[0]} on {key[1]} ({key[2]}), gross, with 95 % "
                "intervals; the line inside each bar marks the net energy.",
                _alt(frame, "energy_j", "J", str(key[2])),
                partial(plots.energy_bars, frame),
            )
        )
    shown, note = _shortened(energy.reset_index(drop=True), run)
    blocks.append(
        views.table(
            "energy",
            f"Energy of one inference{_place(energy)}, with 95 % intervals.",
            shown,
            [
                views.count("batch_size", "batch"),
                views.text("domain", "domain"),
                views.text("variant", "variant"),
                views.interval("energy_j", "gross", "J"),
                views.interval("net_energy_j", "net", "J", "net_energy_low_j", "net_energy_high_j"),
                views.text("provenance", "provenance"),
                views.count("blocks", "blocks"),
                views.count("blocks_left_out", "left out"),
            ],
            note,
            energy,
        )
    )
    return blocks


def _comparison_blocks(run: Run) -> list[Block]:
    every = tables.comparisons(run)
    frame = every[every["ratio"].notna()]
    if frame.empty:
        return []
    missing = len(every) - len(frame)
    shown, note = _shortened(frame.reset_index(drop=True), run)
    if missing:
        note += f" {missing} more could not be made: too few rounds passed."
    note += f" {views.no_interval_note(frame, 'ratio')}"
    return [
        views.table(
            "comparisons",
            f"Ratios variant ÷ {listed(list(dict.fromkeys(frame['baseline'])), 'or')} per inference"
            f"{_place(frame)}, paired within rounds; below 1 the variant needs less.",
            shown,
            [
                views.count("batch_size", "batch"),
                views.words("quantity", "quantity"),
                views.text("domain", "domain"),
                views.text("variant", "variant"),
                views.interval("ratio", "ratio"),
                views.count("rounds", "rounds"),
                views.verdict(),
                views.text("provenance", "provenance"),
            ],
            note.strip(),
            every,
        )
    ]


def power_over_time(run: Run) -> Section | None:
    """The power of every block, and which blocks were left out."""
    frame = tables.traces(run)
    frame = frame[frame["power_w"].notna()]
    if frame.empty:
        return None
    groups = list(frame.groupby(["model", "device", "batch_size"], sort=False))
    if len(groups) > _MOST_TRACES:
        # One of each network and device before a second of any.
        seen = Counter()  # type: ignore[var-annotated]
        turn = []
        for key, _ in groups:
            turn.append(seen[key[:2]])
            seen[key[:2]] += 1
        groups = [groups[i] for i in sorted(range(len(groups)), key=lambda i: (turn[i], i))]
    blocks: list[Block] = []
    for key, group in groups[:_MOST_TRACES]:
        bad = group[~group["valid"].fillna(True).astype(bool)]
        refused = bad["block"].nunique()
        blocks.append(
            FigureView(
                f"power-{slug(*key)}",
                f"Power while {key[0]} was measured at batch size {key[2]} on {key[1]}. Shaded: "
                "blocks, by variant; white: idle. "
                + ("Crossed blocks were left out." if refused else "No block was left out."),
                f"Power over time, {group['block'].nunique() - 1} blocks, {refused} left out; "
                f"between {group['power_w'].min():.3g} and {group['power_w'].max():.3g} W.",
                partial(plots.power_trace, group),
            )
        )
    if len(groups) > _MOST_TRACES:
        rest = len(groups) - _MOST_TRACES
        blocks.append(f"{rest} more traces are in `traces.csv.gz`.")
    return Section("power", "Power over time", tuple(blocks))


def _place(frame: pd.DataFrame) -> str:
    """What every row shares, for a caption."""
    words = [
        f" {word} {frame[key].iloc[0]}"
        for key, word in (("model", "of"), ("device", "on"))
        if key in frame and len(frame[key].unique()) == 1
    ]
    return "".join(words)


def _shortened(frame: pd.DataFrame, run: Run) -> tuple[pd.DataFrame, str]:
    """A long table's rows of the domains that stand for all, and a note on the others."""
    if len(frame) <= _LONG_TABLE_ROWS:
        return frame, ""
    timed = frame["quantity"] == "latency" if "quantity" in frame else frame["domain"] == "time"
    main = of_main_domain(frame.reset_index(names="row"), run)["row"]
    shown = frame.loc[frame.index.isin(main) | timed]
    told = ["of other domains"]
    if len(shown) > 2 * _LONG_TABLE_ROWS and "quantity" in shown:
        shown = shown[shown["quantity"] != "net_energy"]
        told.append("of net energy")
    ends, _ = ends_of_batches(shown)
    if len(ends) < len(shown):
        shown = ends
        told.append(_BETWEEN)
    rest = len(frame) - len(shown)
    return shown, f"{rest} rows {listed(told, 'or')}: --format csv." if rest else ""


def ends_of_batches(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Of a very long table the rows of the least and the greatest batch size."""
    if len(frame) <= 2 * _LONG_TABLE_ROWS:
        return frame, ""
    batches = frame["batch_size"]
    shown = frame[batches.isin([batches.min(), batches.max()])]
    rest = len(frame) - len(shown)
    return shown, f"{rest} rows {_BETWEEN}: --format csv." if rest else ""


def _alt(frame: pd.DataFrame, column: str, unit: str, how: str) -> str:
    scale = scale_for(frame[column], unit)
    stem, _, suffix = column.rpartition("_")
    low, high = frame[f"{stem}_low_{suffix}"], frame[f"{stem}_high_{suffix}"]
    texts = [
        f"{v} at batch size {b}: {interval(x, a, c, scale.factor)} {scale.unit}"
        for v, b, x, a, c in zip(
            frame["variant"], frame["batch_size"], frame[column], low, high, strict=True
        )
    ]
    return f"{'; '.join(texts)} ({how})."


def slug(*parts: object) -> str:
    """A name for a file; names that differ only in odd characters stay different."""
    text = "-".join(str(part).replace(":", "") for part in parts)
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)
    safe = safe[:_LONGEST_NAME]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
