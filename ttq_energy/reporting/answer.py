"""The first page: the question, its answer in one sentence, and what must be known before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ttq_energy.reporting import tables, views
from ttq_energy.reporting.document import Block, FigureView, Front, TableView
from ttq_energy.reporting.formatting import interval, listed, percent
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.tables.gather import baseline_of, is_ternary, variant_order
from ttq_energy.reporting.tables.measured import of_main_domain
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "What does making the network's weights ternary save, in joules, and at what accuracy?"
MEASURED = ("counter", "integrated")
PROVENANCE = {
    "counter": "counter (read from a hardware energy counter)",
    "integrated": "integrated (sampled power of a sensor, integrated over time)",
    "modelled": "modelled (computed from load or operation counts, not measured)",
    "timed": "timed (measured with a monotonic clock)",
}
_TIME_VERDICT = {
    "saves": "it is **faster**",
    "costs": "it is **slower**",
    "undecided": "whether it is faster is **undecided**",
}
_ENERGY_VERDICT = {
    "saves": "it **saves** energy",
    "costs": "it **costs** energy",
    "undecided": "whether it saves energy is **undecided**",
}


@dataclass(frozen=True)
class Headline:
    """The comparison that answers for a run.

    Attributes:
        kind: "energy" (measured), "latency" (no measured energy), "estimate", "accuracy" or
            "nothing".
        row: of the comparisons or estimate totals that was chosen; empty for the last two.
    """

    kind: str
    row: Mapping[str, Any]


def headline(run: Run, model: str | None = None) -> Headline:
    """The one comparison to begin with, chosen by rule and not by its outcome.

    Measured energy comes before latency, latency before estimates. Among the rows it is the
    study's first model (or ``model``), the smallest batch size, ``ttq`` (else the first ternary
    variant, else the first variant), gross energy of the main domain.
    """
    against = _of(model, tables.comparisons(run))
    against = against[against["baseline"] == baseline_of(run)]
    against = against[against["ratio"].notna()]
    energy = of_main_domain(against[against["quantity"] == "gross_energy"], run)
    for provenance in MEASURED:
        row = _first(run, energy[energy["provenance"] == provenance])
        if row is not None:
            return Headline("energy", row)
    row = _first(run, against[against["quantity"] == "latency"])
    if row is not None:
        return Headline("latency", row)
    row = _first(run, _of(model, _compared_estimates(run)))
    if row is not None:
        return Headline("estimate", row)
    return Headline("accuracy" if len(_of(model, tables.accuracy(run))) else "nothing", {})


def _of(model: str | None, frame: pd.DataFrame) -> pd.DataFrame:
    return frame if model is None else frame[frame["model"] == model]


def _compared_estimates(run: Run) -> pd.DataFrame:
    totals = tables.estimate_totals(run)
    return totals[totals["ratio"].notna()]


def _first(run: Run, frame: pd.DataFrame) -> Mapping[str, Any] | None:
    if frame.empty:
        return None
    frame = frame[frame["model"] == frame["model"].iloc[0]]
    if "batch_size" in frame:
        frame = frame[frame["batch_size"] == frame["batch_size"].min()]
    variant = headline_variant(run, list(frame["variant"]))
    return {str(k): v for k, v in frame[frame["variant"] == variant].iloc[0].items()}


def headline_variant(run: Run, variants: list[str]) -> str:
    """``ttq``, else the first ternary variant, else the first that is not the baseline."""
    ternary = [v for v in variants if is_ternary(run, v)]
    others = [v for v in variants if v != baseline_of(run)]
    return "ttq" if "ttq" in variants else (ternary or others or variants)[0]


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


def answer(run: Run, chosen: Headline | None = None) -> str:
    """The answer in one sentence."""
    chosen = chosen or headline(run)
    row, base = chosen.row, baseline_of(run)
    if chosen.kind == "nothing":
        return "Nothing has been measured, trained or estimated yet."
    if chosen.kind == "accuracy":
        return _accuracy_answer(run)
    ratio = f"**{interval(row['ratio'], row['ratio_low'], row['ratio_high'])}**"
    right = _at_accuracy(run, row["model"], row["variant"])
    if chosen.kind == "estimate":
        return (
            f"On the target `{row['target']}`, {row['model']} as `{row['variant']}` is modelled "
            f"to take {ratio} times the energy of `{base}` per inference{right}; "
            f"{_what_was_measured(run)}."
        )
    where = (
        f"{row['model']} as `{row['variant']}`, at batch size {row['batch_size']} on "
        f"{device(run, row['device'])},"
    )
    if chosen.kind == "energy":
        return (
            f"{where} takes {ratio} times the energy of `{base}` per inference "
            f"({row['provenance']}, {row['domain']}, gross): "
            f"{_ENERGY_VERDICT[str(row['verdict'])]}{right}."
        )
    return (
        f"{where} takes {ratio} times the time of `{base}` per inference (timed): "
        f"{_TIME_VERDICT[str(row['verdict'])]}{right}; what it saves in joules was not measured."
    )


def _what_was_measured(run: Run) -> str:
    blocks = len(run.measurements.drop_duplicates(["model", "device", "batch_size", "block"]))
    if not blocks:
        return "nothing was measured"
    return f"the {blocks} blocks measured here gave no comparison (see What was left out)"


def _at_accuracy(run: Run, model: str, variant: str) -> str:
    rows = tables.accuracy(run)
    found = {r.variant: r for r in each_row(rows[rows["model"] == model])}
    mine, base = found.get(variant), found.get(baseline_of(run))
    if mine is None:
        return ""
    text = f", at an accuracy of {_percent(mine)}"
    return f"{text} against {_percent(base)}" if base is not None else text


def _percent(row: Any) -> str:
    return percent(row.accuracy, row.accuracy_low, row.accuracy_high)


def _accuracy_answer(run: Run) -> str:
    rows = tables.accuracy(run)
    variant = headline_variant(run, list(rows["variant"]))
    row = rows[rows["variant"] == variant].iloc[0]
    against = _at_accuracy(run, row["model"], variant).removeprefix(", at an accuracy of ")
    against = against.replace("against", f"against `{baseline_of(run)}`'s")
    return (
        f"{row['model']} as `{variant}` reaches an accuracy of {against}; no energy was measured "
        "or estimated."
    )


def device(run: Run, name: str) -> str:
    """A device as people know it: the processor's or the GPU's name."""
    environment = run.manifest.get("environment") or {}
    machine = environment.get("machine") or {}
    if name.startswith("cuda"):
        gpus = environment.get("gpus") or []
        index = int(name.partition(":")[2] or 0)
        gpu = gpus[index] if index < len(gpus) else None
        return str(gpu.get("name", name) if isinstance(gpu, Mapping) else gpu or name)
    for key in ("cpu", "cpu_model", "processor", "model"):
        found = machine.get(key) if isinstance(machine, Mapping) else None
        if isinstance(found, Mapping):
            found = found.get("model") or found.get("name") or found.get("brand")
        if found:
            return str(found)
    return name


# -- what must be known first --------------------------------------------------------------------


def notices(run: Run) -> list[str]:
    """One sentence each: the run did not finish; no sensor was readable."""
    found = [_status_notice(run), sensor_notice(run)]
    return [sentence for sentence in found if sentence]


def _status_notice(run: Run) -> str:
    if run.status in ("complete", "trained"):
        return ""
    word = {"interrupted": "was interrupted", "failed": "failed"}.get(run.status, "is unfinished")
    done = dict.fromkeys(str(stage).partition("|")[0] for stage in run.manifest["stages"])
    finished = f"stages finished: {listed(done)}" if done else "no stage was finished"
    return f"**This run {word}**: the report shows what there is ({finished})."


def sensor_notice(run: Run) -> str:
    """The sentence on sensors; empty where one was read, or where nothing was to be measured."""
    table = tables.sensors(run)
    kinds = set(run.measurements["provenance"].unique()) | set(run.training["provenance"].unique())
    if kinds & set(MEASURED) or (table.empty and not kinds & {"modelled", "timed"}):
        return ""
    real = table[table["provenance"] != "modelled"]
    readable = [
        str(name) for name, ok in zip(real["name"], real["readable"], strict=True) if ok is True
    ]
    if readable:
        if "modelled" not in kinds:
            return ""
        meters = listed(map(str, run.manifest.get("meters") or [])) or "a model"
        return (
            f"**No sensor was used**: energies come from {meters}, which models them, although "
            f"{listed(readable)} could be read."
        )
    looked = [_unusable(sensor) for sensor in real.to_dict("records")]
    if not looked:
        return "**No energy sensor was readable**; the run does not say which were looked for."
    hopeless = not any(real["remedy"])
    return (
        f"**No energy sensor was readable**; looked for were {listed(looked)}"
        f"{'; no command would make one readable here' if hopeless else ''}."
    )


def _unusable(sensor: Mapping[Any, Any]) -> str:
    why = str(sensor["reason"]).rstrip(".") or (
        "not readable" if sensor["found"] else "not found on this machine"
    )
    remedy = f"; `{sensor['remedy']}` would make it so" if sensor["remedy"] else ""
    return f"{sensor['name']} ({why}{remedy})"


# -- the plot and the table of the first page ----------------------------------------------------


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
        rows = front_comparisons(run, str(chosen.row["model"]))
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
        texts = [f"{r.variant} {_percent(r)}" for r in each_row(frame)]
        return FigureView(
            "answer",
            "Test accuracy of each variant with its 95 % interval.",
            f"Accuracy: {'; '.join(texts)}.",
            partial(plots.accuracy_dots, frame),
        )
    return None


def front_comparisons(run: Run, model: str) -> pd.DataFrame:
    """Energy (main domain, one provenance) and latency of one model against full precision."""
    import pandas as pd

    frame = tables.comparisons(run)
    frame = frame[(frame["baseline"] == baseline_of(run)) & (frame["model"] == model)]
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
    rows = front_comparisons(run, str(chosen.row["model"]))
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
    return views.table("summary", f"{model} {place}, with 95 % intervals.", frame, columns)


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
        rows = front_comparisons(run, str(chosen.row["model"]))
        rows = rows[rows["batch_size"] == chosen.row["batch_size"]]
        return rows[rows["quantity"] == "gross_energy"], rows[rows["quantity"] == "latency"]
    if chosen.kind == "estimate":
        totals = _compared_estimates(run)
        here = (totals["target"] == chosen.row["target"]) & (totals["model"] == chosen.row["model"])
        return totals[here].assign(provenance="modelled"), none
    return none, none
