"""The first page: the question, its answer, one plot and what it must be seen beside."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from ttq_energy.reporting import tables, views
from ttq_energy.reporting.answer import (
    FROM_LOAD,
    MEASURED,
    PROVENANCE,
    Headline,
    answer,
    compared_estimates,
    from_load,
    headline,
    notices,
    percent_of,
)
from ttq_energy.reporting.document import Block, FigureView, Front, TableView
from ttq_energy.reporting.formatting import interval, listed
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.tables.gather import baseline_of, is_ternary, variant_order
from ttq_energy.reporting.tables.measured import of_main_domain
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "What does making the network's weights ternary save, in joules, and at what accuracy?"


def front(run: Run) -> Front:
    """The first page of one run's report."""
    chosen = headline(run)
    provenance = {"estimate": "modelled", "accuracy": "", "nothing": ""}.get(
        chosen.kind, str(chosen.row.get("provenance", ""))
    )
    return Front(
        question=QUESTION,
        answer=answer(run, chosen),
        verdict=views.verdict_word(chosen.row.get("verdict"), provenance),
        provenance=PROVENANCE.get(provenance, ""),
        notices=tuple(notices(run)),
        blocks=tuple(_front_blocks(run, chosen)),
    )


def _front_blocks(run: Run, chosen: Headline) -> list[Block]:
    blocks: list[Block] = []
    figure = _front_figure(run, chosen)
    if figure is not None:
        blocks.append(figure)
    context = beside(run, chosen)
    if context:
        blocks.append(context)
    summary = summary_view(run, chosen)
    if summary is not None:
        blocks.append(summary)
    others = _networks_view(run)
    if others is not None:
        blocks.append(others)
    return blocks


def _networks_view(run: Run) -> TableView | None:
    """The same question answered for every network, where there are several."""
    import pandas as pd

    right = tables.accuracy(run).set_index(["model", "variant"])
    rows = []
    for model in run.manifest.get("models") or {}:
        found = headline(run, model)
        if not found.row:
            continue
        row = {**found.row, "kind": "latency" if found.kind == "latency" else "energy"}
        row.setdefault("provenance", "modelled")
        row["where"] = row.get("device") or row.get("target")
        key = (model, row["variant"])
        for name in ("accuracy", "accuracy_low", "accuracy_high"):
            row[name] = right.loc[key, name] if key in right.index else math.nan
        rows.append(row)
    if len(rows) < 2:
        return None
    columns = ["model", "variant", "where", "batch_size", "kind", "ratio", "ratio_low"]
    columns += ["ratio_high", "verdict", "provenance", "accuracy", "accuracy_low", "accuracy_high"]
    return views.table(
        "networks",
        f"Every network of the run, chosen by the same rule; ratios to {baseline_of(run)}.",
        pd.DataFrame(rows).reindex(columns=columns),
        [
            views.text("variant", "variant"),
            views.text("where", "where"),
            views.count("batch_size", "batch"),
            views.text("kind", "quantity"),
            views.interval("ratio", "ratio"),
            views.verdict(),
            views.text("provenance", "provenance"),
            views.percent("accuracy", "accuracy"),
        ],
    )


def _front_figure(run: Run, chosen: Headline) -> FigureView | None:
    from ttq_energy.reporting import plots

    if chosen.kind in ("energy", "latency"):
        rows = front_comparisons(run, chosen)
        return FigureView(
            "answer",
            "Energy and latency per inference relative to full precision (left of the dashed line "
            "is less), with 95 % intervals."
            + " Hatched bars are modelled."
            * bool((rows["provenance"] == "modelled").any()),
            _alt(rows, baseline_of(run)),
            partial(plots.ratios, rows),
        )
    if chosen.kind == "estimate":
        frame = tables.measured_and_modelled(run)
        frame = frame[frame["model"] == chosen.row["model"]]
        return FigureView(
            "answer",
            "Modelled energy per inference relative to full precision, with the range that the "
            "targets' coefficients leave.",
            _alt(frame.assign(quantity="energy"), baseline_of(run)),
            partial(plots.ratio_by_place, frame, baseline=baseline_of(run)),
        )
    if chosen.kind == "accuracy":
        frame = tables.accuracy(run)
        frame = frame[frame["model"] == frame["model"].iloc[0]]
        texts = [f"{r.variant} {percent_of(r)}" for r in each_row(frame)]
        return FigureView(
            "answer",
            "Test accuracy of each variant with its 95 % interval.",
            f"Accuracy: {'; '.join(texts)}.",
            partial(plots.accuracy_dots, frame),
        )
    return None


def front_comparisons(run: Run, chosen: Headline) -> pd.DataFrame:
    """Energy (main domain, one provenance) and latency of the chosen row's model and device."""
    import pandas as pd

    frame = tables.comparisons(run)
    frame = frame[frame["baseline"] == baseline_of(run)]
    for key in ("model", "device"):
        frame = frame[frame[key] == chosen.row[key]]
    frame = frame[frame["ratio"].notna()]
    energy = of_main_domain(frame[frame["quantity"] == "gross_energy"], run)
    for provenance in (*MEASURED, "modelled"):
        if (energy["provenance"] == provenance).any():
            energy = energy[energy["provenance"] == provenance]
            break
    both = pd.concat([f for f in (energy, frame[frame["quantity"] == "latency"]) if len(f)])
    batches = sorted(both["batch_size"].unique())
    if both["variant"].nunique() * len(batches) > 24:
        both = both[both["batch_size"].isin([batches[0], batches[-1]])]
    return both.sort_values("batch_size", kind="stable").reset_index(drop=True)


def _alt(frame: pd.DataFrame, base: str) -> str:
    texts = [
        f"{r.variant}, {str(r.quantity).replace('_', ' ')} at "
        f"{f'batch size {r.batch_size}' if r.batch_size else r.where}: "
        f"{interval(r.ratio, r.ratio_low, r.ratio_high)} ({r.provenance})"
        for r in each_row(frame)
    ]
    return f"Ratios to {base}. {'; '.join(texts)}."


def beside(run: Run, chosen: Headline) -> str:
    """What the answer must be seen beside: the best ternary and the best other variant."""
    if chosen.kind not in ("energy", "latency"):
        return ""
    rows = front_comparisons(run, chosen)
    quantity = "gross_energy" if chosen.kind == "energy" else "latency"
    rows = rows[(rows["quantity"] == quantity) & (rows["batch_size"] == chosen.row["batch_size"])]
    ternary = [is_ternary(run, str(v)) for v in rows["variant"]]
    what = "energy" if chosen.kind == "energy" else "time"
    told = []
    for frame, name in (
        (rows[ternary], "ternary variants"),
        (rows[[not t for t in ternary]], "variants without ternary weights"),
    ):
        if len(frame):
            best = frame.loc[frame["ratio"].idxmin()]
            ratio = interval(best["ratio"], best["ratio_low"], best["ratio_high"])
            told.append(f"of the {name} `{best['variant']}` takes the least {what}, {ratio}")
    if not told:
        return ""
    sentence = (
        f"At batch size {chosen.row['batch_size']}, {listed(told)} times `{baseline_of(run)}`'s."
    )
    return sentence


def summary_view(run: Run, chosen: Headline) -> TableView | None:
    """The answer as a table, one row a variant: accuracy, energy, latency, at one batch size."""
    frame = summary_rows(run, chosen)
    if frame.empty:
        return None
    base = baseline_of(run)
    columns = [views.text("variant", "variant"), views.percent("accuracy", "accuracy")]
    if frame["ratio"].notna().any():
        how = str(frame["provenance"].dropna().iloc[0])
        columns += [views.interval("ratio", f"energy ÷ {base} ({how})"), views.verdict()]
    if frame["time_ratio"].notna().any():
        columns.append(views.interval("time_ratio", f"latency ÷ {base} (timed)"))
    place = (
        f"at batch size {chosen.row['batch_size']}"
        if "batch_size" in chosen.row
        else (f"on {chosen.row['target']}" if "target" in chosen.row else "as trained")
    )
    model = frame["model"].iloc[0]
    note = views.no_interval_note(frame, "ratio", "time_ratio")
    if chosen.kind in ("energy", "latency") and frame["ratio"].notna().any() and from_load(run):
        note = f"{FROM_LOAD} {note}".strip()
    return views.table("summary", f"{model} {place}, with 95 % intervals.", frame, columns, note)


def summary_rows(run: Run, chosen: Headline) -> pd.DataFrame:
    """Columns: model, variant, accuracy and its interval, ratio (energy), its interval, verdict,
    provenance, time_ratio and its interval. One model, one batch size."""
    import pandas as pd

    right = tables.accuracy(run)
    model = chosen.row.get("model") or (right["model"].iloc[0] if len(right) else "")
    names = pd.Series(variant_order(run), dtype=object)
    frame = (
        pd.DataFrame({"variant": names})
        .assign(model=model)
        .merge(
            right[["model", "variant", "accuracy", "accuracy_low", "accuracy_high"]],
            on=["model", "variant"],
            how="left",
        )
    )
    ratios = ["ratio", "ratio_low", "ratio_high", "verdict", "provenance"]
    energy, time = _summary_ratios(run, chosen)
    frame = frame.merge(energy[["variant", *ratios]], on="variant", how="left")
    time = time[["variant", *ratios[:3]]].rename(columns={c: f"time_{c}" for c in ratios[:3]})
    frame = frame.merge(time, on="variant", how="left")
    known = frame[["accuracy", "ratio", "time_ratio"]].notna().any(axis=1)
    return frame[known].reset_index(drop=True)


def _summary_ratios(run: Run, chosen: Headline) -> tuple[pd.DataFrame, pd.DataFrame]:
    none = tables.comparisons(run).iloc[:0]
    if chosen.kind in ("energy", "latency"):
        rows = front_comparisons(run, chosen)
        rows = rows[rows["batch_size"] == chosen.row["batch_size"]]
        return rows[rows["quantity"] == "gross_energy"], rows[rows["quantity"] == "latency"]
    if chosen.kind == "estimate":
        totals = compared_estimates(run)
        here = (totals["target"] == chosen.row["target"]) & (totals["model"] == chosen.row["model"])
        return totals[here].assign(provenance="modelled"), none
    return none, none
