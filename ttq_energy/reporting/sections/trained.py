"""Accuracy, what training cost, and the ablation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ttq_energy.reporting import plots, tables, views
from ttq_energy.reporting.document import Block, FigureView, Section
from ttq_energy.reporting.formatting import interval, listed, percent, quantity
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.sections.measured import slug
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_MOST_PANELS = 6
_LONG_FRONT = 60


def accuracy_against_energy(run: Run) -> Section | None:
    """Accuracy of every variant, against what one inference takes."""
    right = tables.accuracy(run)
    if right.empty:
        return None
    both = tables.accuracy_energy(run)
    blocks: list[Block] = []
    for (model, soft), every in both.groupby(
        ["model", both["provenance"] == "modelled"], sort=False
    ):
        kind = "modelled" if soft else "measured"
        frame = _for_panels(every)
        front = frame[frame["pareto"]]
        blocks.append(
            FigureView(
                f"accuracy-energy-{slug(model, kind)}",
                f"Accuracy of {model} against {kind} energy per inference, with 95 % intervals. "
                "Dashed: the Pareto front, the variants that no other beats in both."
                + " More places are in the table accuracy_energy."
                * (len(frame) < len(every)),
                "On the Pareto front: "
                + "; ".join(
                    f"{r.variant} on {r.where}"
                    + f" at batch size {r.batch_size}" * bool(r.batch_size)
                    for r in each_row(front)
                )
                + ".",
                partial(plots.accuracy_energy, frame),
            )
        )
    blocks += _front_table(both)
    blocks += _untested(run)
    blocks.append(
        views.table(
            "accuracy",
            "Test accuracy of the reported weights, with 95 % intervals; the change is from full "
            "precision, in percentage points.",
            right,
            [
                views.text("variant", "variant"),
                views.percent("accuracy", "accuracy"),
                views.points("change", "change"),
                views.count("seeds", "seeds"),
                views.count("examples", "test examples"),
            ],
            _selection_note(run),
        )
    )
    title = "Accuracy against energy" if len(both) else "Accuracy"
    return Section("accuracy-energy", title, tuple(blocks))


def _for_panels(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that one figure has room for: the least and the greatest batch size first."""
    places = ["where", "provenance", "batch_size"]
    if len(frame[places].drop_duplicates()) > _MOST_PANELS:
        batches = frame.groupby(["where", "provenance"])["batch_size"]
        ends = frame["batch_size"].isin([batches.min().min(), batches.max().max()])
        frame = frame[ends] if ends.any() else frame
    keys = frame[places].drop_duplicates()[:_MOST_PANELS]
    return frame.merge(keys, on=places, how="inner")


def _front_table(both: pd.DataFrame) -> list[Block]:
    front = both[both["pareto"]]
    if front.empty:
        return []
    batches = front["batch_size"].unique()
    shown = front
    if len(front) > _LONG_FRONT:
        shown = front[front["batch_size"].isin([0, min(b for b in batches if b), max(batches)])
                      if any(batches) else front["batch_size"] == 0]  # fmt: skip
        shown = shown[:_LONG_FRONT]
    left = len(front) - len(shown)
    return [
        views.table(
            "accuracy_energy",
            "The Pareto fronts: variants that no other beats in both accuracy and energy.",
            shown,
            [
                views.text("where", "where"),
                views.count("batch_size", "batch", zero="–"),
                views.text("variant", "variant"),
                views.interval("energy_j", "energy", "J"),
                views.percent("accuracy", "accuracy"),
                views.text("provenance", "provenance"),
            ],
            f"{left} more rows, and the variants behind the front: --format csv." if left else "",
            both,
        )
    ]


def _untested(run: Run) -> list[Block]:
    """Variants that were run but whose own accuracy was not tested: they get no one else's."""
    tested = set(tables.accuracy(run)["variant"])
    names = [v for v in dict.fromkeys(run.measurements["variant"]) if v not in tested]
    if not names:
        return []
    verb = "has" if len(names) == 1 else "have"
    return [
        f"{listed([f'`{v}`' for v in names])} {verb} no point here: "
        "the accuracy of weights run at another precision was not tested."
    ]


def _selection_note(run: Run) -> str:
    training = (run.manifest.get("study") or {}).get("training")
    if isinstance(training, dict) and training.get("select") == "best":
        return (
            "The reported epoch is the best on the test set, which makes these accuracies "
            "optimistic."
        )
    return ""


def training(run: Run) -> Section | None:
    """Wall time and energy of training, and the inferences until a variant has paid for it."""
    cost = tables.training_cost(run)
    if cost.empty:
        return None
    blocks: list[Block] = []
    for model, frame in tables.training_curves(run).groupby("model", sort=False):
        epochs = frame[frame["loss"].notna()]
        if epochs.empty:
            continue
        final = tables.accuracy(run)
        texts = [
            f"{r.variant} {percent(r.accuracy, r.accuracy_low, r.accuracy_high)}"
            for r in each_row(final[final["model"] == model])
        ]
        blocks.append(
            FigureView(
                f"training-{slug(model)}",
                f"Training of {model}: the mean over seeds, shaded from the least to the greatest.",
                f"Training loss and test accuracy by epoch; at the end {listed(texts)}.",
                partial(plots.curves, epochs),
            )
        )
    blocks += [_cost_figure(str(m), part) for m, part in cost.groupby("model", sort=False)]
    blocks.append(
        views.table(
            "training",
            "What training took (mean over seeds; a variant that starts from full precision's "
            "weights counts only its own fine-tuning).",
            cost,
            [
                views.text("variant", "variant"),
                views.count("seeds", "seeds"),
                views.count("epochs", "epochs"),
                views.value("wall_s", "wall time", "s"),
                views.value("wall_ratio", "time ÷ fp32", digits=2),
                views.interval("energy_j", "energy", "J"),
                views.value("energy_ratio", "energy ÷ fp32", digits=2),
                views.text("provenance", "provenance"),
            ],
        )
    )
    blocks += _break_even(run)
    return Section("training", "Training and break-even", tuple(blocks))


def _cost_figure(model: str, cost: pd.DataFrame) -> FigureView:
    texts = [
        f"{r.variant} {quantity(r.wall_s, 's', 3)}"
        + (f", {quantity(r.energy_j, 'J', 3)} ({r.provenance})" if r.provenance else "")
        for r in each_row(cost)
    ]
    return FigureView(
        f"training-cost-{slug(model)}",
        f"{'Time and energy' if cost['energy_j'].notna().any() else 'Time'} of training {model}.",
        f"{'; '.join(texts)}.",
        partial(plots.training_bars, cost),
    )


def _break_even(run: Run) -> list[Block]:
    cost = tables.training_cost(run)
    cost = cost[cost["variant"] != "fp32"]
    if cost.empty:
        return []
    if cost["break_even_inferences"].isna().all():
        reasons = cost.groupby("why_not", sort=False)["variant"].agg(
            lambda names: listed([f"`{name}`" for name in names])
        )
        told = "; ".join(f"{names}: {why}" for why, names in reasons.items())
        return [f"**No break-even is given.** {told}."]
    frame = cost.reset_index(drop=True)
    return [
        views.table(
            "break_even",
            "Inferences after which a variant's lower energy has made up for its training.",
            frame,
            [
                views.text("variant", "variant"),
                views.count("batch_size", "batch"),
                views.value("saving_j", "energy less per inference", "J"),
                views.interval(
                    "break_even_inferences",
                    "break-even inferences",
                    low="break_even_low",
                    high="break_even_high",
                ),
                views.text("provenance", "provenance"),
                views.text("why_not", "why there is none", wide=True),
            ],
        )
    ]


def ablation(run: Run) -> Section | None:
    """The quantizers side by side."""
    frame = tables.ablation(run)
    if frame.empty:
        return None
    blocks: list[Block] = []
    for model, group in frame.groupby("model", sort=False):
        texts = [
            f"{r.variant}: {interval(r.accuracy, r.accuracy_low, r.accuracy_high, 100)} %"
            for r in each_row(group)
        ]
        blocks.append(
            FigureView(
                f"ablation-{slug(model)}",
                f"Accuracy of {model} by quantizer, with 95 % intervals; dotted: full precision.",
                f"{'; '.join(texts)}.",
                partial(plots.accuracy_dots, group),
                plots.COLUMN_IN,
            )
        )
    columns = [
        views.text("variant", "variant"),
        views.text("quantizer", "quantizer", wide=True),
        views.percent("accuracy", "accuracy"),
        views.points("change", "change from fp32"),
        views.share("zero_fraction", "zeros"),
        views.value("w_pos", "mean Wp"),
        views.value("w_neg", "mean Wn"),
    ]
    if frame["latency_s"].notna().any():
        columns.append(views.value("latency_s", "latency", "s"))
    blocks.append(
        views.table(
            "ablation",
            "Quantizers side by side; zeros and scales are means over quantized layers and seeds.",
            frame,
            columns,
        )
    )
    return Section("ablation", "Ablation", tuple(blocks))
