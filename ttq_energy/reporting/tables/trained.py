"""What training gave and cost: accuracy, its price in time and energy, break-even, ablation."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ttq_energy.payback import break_even_inferences
from ttq_energy.reporting.tables.gather import (
    BASELINE,
    Runs,
    baseline_of,
    gather,
    in_order,
    once,
    source_of,
)
from ttq_energy.reporting.tables.measured import _energy, _latency, of_main_domain
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd


def accuracy(runs: Runs) -> pd.DataFrame:
    """Accuracy of the reported weights, and its change from full precision.

    Columns: model, variant, accuracy, accuracy_low, accuracy_high, seeds, examples, change,
    change_low, change_high (variant less fp32, as fractions).

    With one seed the interval is Wilson's, of the test set. With several, the accuracy is their
    mean, and Student's t interval over the seeds is added to Wilson's as squares: the seeds share
    one test set, so more seeds do not narrow its share. Changes take both intervals as
    independent, which errs on the wide side.
    """
    return gather(runs, _accuracy)


@once
def _accuracy(run: Run) -> pd.DataFrame:
    import pandas as pd

    frame = run.training
    chosen = frame[frame["selected"].fillna(False).astype(bool) & frame["accuracy"].notna()]
    rows = [
        {"model": model, "variant": variant, **_over_seeds(group)}
        for (model, variant), group in chosen.groupby(["model", "variant"], sort=False)
    ]
    columns = ["model", "variant", "accuracy", "accuracy_low", "accuracy_high", "seeds", "examples"]
    table = pd.DataFrame(rows, columns=columns)
    first = baseline_of(run)
    base = {row["model"]: row for row in rows if row["variant"] == first}
    changes = [_change(row, base.get(row["model"])) for row in rows]
    extra = pd.DataFrame(changes, columns=["change", "change_low", "change_high"])
    return in_order(pd.concat([table, extra], axis=1), run, ["model", "variant"])


def _over_seeds(group: pd.DataFrame) -> dict[str, Any]:
    from scipy import special

    values = group["accuracy"].to_numpy(float)
    mean, count = float(values.mean()), len(values)
    spread = (
        float(special.stdtrit(count - 1, 0.975) * values.std(ddof=1) / math.sqrt(count))
        if count > 1
        else 0.0
    )
    low = mean - math.hypot(float((values - group["accuracy_low"]).mean()), spread)
    high = mean + math.hypot(float((group["accuracy_high"] - values).mean()), spread)
    return {
        "accuracy": mean,
        "accuracy_low": max(0.0, low) if low == low else math.nan,
        "accuracy_high": min(1.0, high) if high == high else math.nan,
        "seeds": count,
        "examples": int(group["examples"].fillna(0).max()),
    }


def _change(row: dict[str, Any], base: dict[str, Any] | None) -> tuple[float, float, float]:
    if base is None or row["variant"] == base["variant"]:
        return (math.nan,) * 3
    change = row["accuracy"] - base["accuracy"]
    down = math.hypot(
        row["accuracy"] - row["accuracy_low"], base["accuracy_high"] - base["accuracy"]
    )
    up = math.hypot(row["accuracy_high"] - row["accuracy"], base["accuracy"] - base["accuracy_low"])
    return change, change - down, change + up


def accuracy_energy(runs: Runs) -> pd.DataFrame:
    """Accuracy beside energy per inference, with the Pareto front.

    One row for each model, ``where`` (the device, or a target), batch size (0 for targets) and
    variant that has both. Columns: model, where, batch_size, domain, provenance, variant,
    energy_j, energy_low_j, energy_high_j, accuracy, accuracy_low, accuracy_high, pareto (no other
    variant is at least as accurate for less energy).
    """
    return gather(runs, _accuracy_energy)


@once
def _accuracy_energy(run: Run) -> pd.DataFrame:
    import pandas as pd

    from ttq_energy.reporting.tables.estimated import _estimate_totals

    measured = of_main_domain(_energy(run), run).rename(columns={"device": "where"})
    targets = _estimate_totals(run).rename(columns={"target": "where"})
    targets = targets.assign(batch_size=0, domain="", provenance="modelled")
    price = ["energy_j", "energy_low_j", "energy_high_j"]
    place = ["model", "where", "batch_size", "domain", "provenance"]
    both = pd.concat(
        [f[[*place, "variant", *price]] for f in (measured, targets) if len(f)]
        or [measured[[*place, "variant", *price]]]
    )
    right = _accuracy(run)[["model", "variant", "accuracy", "accuracy_low", "accuracy_high"]]
    table = both[both["energy_j"].notna()].merge(right, on=["model", "variant"])
    table = table.reset_index(drop=True)
    table["pareto"] = False
    for _, group in table.groupby(place, sort=False):
        table.loc[group.index, "pareto"] = pareto_front(group)
    return table


def pareto_front(group: pd.DataFrame) -> list[bool]:
    """For each row, whether no other has at least its accuracy for less energy."""
    energy, right = group["energy_j"].to_numpy(float), group["accuracy"].to_numpy(float)
    return [
        not any(
            energy[j] <= energy[i]
            and right[j] >= right[i]
            and (energy[j] < energy[i] or right[j] > right[i])
            for j in range(len(energy))
        )
        for i in range(len(energy))
    ]


def training_curves(runs: Runs) -> pd.DataFrame:
    """Every epoch, in the study's order; see ``run.TABLES["training"]``."""
    keys = ["model", "variant", "seed", "epoch"]
    return gather(runs, lambda run: in_order(run.training, run, keys))


def training_cost(runs: Runs) -> pd.DataFrame:
    """Training's time and energy beside full precision, and when a variant has paid for itself.

    Columns: model, variant, start ("scratch" or "fp32"), seeds, epochs, wall_s, energy_j,
    energy_low_j, energy_high_j, provenance, wall_ratio, energy_ratio (variant / fp32),
    saving_j (per inference, at ``batch_size``, same provenance), break_even_inferences,
    break_even_low, break_even_high, why_not (one sentence where there is no break-even).

    Figures are means over the seeds. A variant that starts from full precision's weights costs
    its own training on top; one from scratch costs the difference. The saving per inference is
    the baseline's energy times (1 - ratio), its range from the ratio's interval; a break-even is
    given only where the whole interval saves, in one provenance.
    """
    return gather(runs, _training_cost)


_COST = ["wall_s", "energy_j", "energy_low_j", "energy_high_j"]


@once
def _training_cost(run: Run) -> pd.DataFrame:
    import pandas as pd

    frame = run.training
    frame = frame[(frame["epoch"] > 0) & frame["wall_s"].notna() & frame["seed"].notna()]
    trained: dict[tuple[Any, Any], dict[str, Any]] = {}
    for (model, variant), group in frame.groupby(["model", "variant"], sort=False):
        by_seed = group.groupby("seed", sort=False)
        totals = {name: float(by_seed[name].sum(min_count=1).mean()) for name in _COST}
        complete = bool(group["energy_j"].notna().all())
        kinds = [str(p) for p in group["provenance"].unique() if str(p)]
        if not complete or len(kinds) != 1:
            totals.update(energy_j=math.nan, energy_low_j=math.nan, energy_high_j=math.nan)
        trained[model, variant] = {
            "start": _start(run, str(variant)),
            "seeds": len(by_seed),
            "epochs": round(len(group) / len(by_seed)),
            "provenance": kinds[0] if complete and len(kinds) == 1 else "",
            **totals,
        }
    rows = []
    for (model, variant), row in trained.items():
        base = trained.get((model, BASELINE))
        ratios = {"wall_ratio": math.nan, "energy_ratio": math.nan}
        if base and variant != BASELINE:
            ratios["wall_ratio"] = row["wall_s"] / base["wall_s"] if base["wall_s"] else math.nan
            if row["provenance"] == base["provenance"] and base["energy_j"]:
                ratios["energy_ratio"] = row["energy_j"] / base["energy_j"]
        pay = _break_even(run, str(model), str(variant), row, base)
        rows.append({"model": model, "variant": variant, **row, **ratios, **pay})
    columns = ["model", "variant", "start", "seeds", "epochs", *_COST, "provenance"]
    columns += ["wall_ratio", "energy_ratio", "batch_size", "saving_j", "break_even_inferences"]
    columns += ["break_even_low", "break_even_high", "why_not"]
    return in_order(pd.DataFrame(rows, columns=columns), run, ["model", "variant"])


def _start(run: Run, variant: str) -> str:
    if variant == BASELINE:
        return "scratch"
    for spec in (run.manifest.get("study") or {}).get("variants") or []:
        if isinstance(spec, dict) and spec.get("name") == variant and spec.get("start"):
            return str(spec["start"])
    return BASELINE


def _break_even(
    run: Run, model: str, variant: str, cost: dict[str, Any], base: dict[str, Any] | None
) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "batch_size": math.nan,
        "saving_j": math.nan,
        "break_even_inferences": math.nan,
        "break_even_low": math.nan,
        "break_even_high": math.nan,
        "why_not": "",
    }
    if variant == BASELINE:
        return empty
    saving = _saving_per_inference(run, model, variant, cost["provenance"])
    if isinstance(saving, str):
        return {**empty, "why_not": saving}
    batch, mean, low, high = saving
    spent = [cost["energy_j"], cost["energy_low_j"], cost["energy_high_j"]]
    if cost["start"] == "scratch":
        if base is None or base["provenance"] != cost["provenance"]:
            return {**empty, "why_not": "full precision's training energy is not known alike"}
        opposite = [base["energy_j"], base["energy_high_j"], base["energy_low_j"]]
        spent = [max(0.0, a - b) for a, b in zip(spent, opposite, strict=True)]
    known = spent if all(map(math.isfinite, spent)) else [spent[0]] * 3
    found = break_even_inferences(known, (mean, low, high))
    return {
        "batch_size": batch,
        "saving_j": mean,
        "break_even_inferences": found.value,
        "break_even_low": found.low,
        "break_even_high": found.high,
        "why_not": "",
    }


def _saving_per_inference(
    run: Run, model: str, variant: str, provenance: str
) -> tuple[int, float, float, float] | str:
    """Batch size, mean, low and high saving in joules, or why there is none."""
    if not provenance:
        return "training energy was not recorded"
    rows = of_main_domain(run.comparisons, run)
    runs_it = [v for v in rows["variant"].unique() if source_of(run, str(v)) == variant]
    name = variant if variant in runs_it else (runs_it[0] if runs_it else variant)
    rows = rows[
        (rows["model"] == model)
        & (rows["variant"] == name)
        & (rows["baseline"] == BASELINE)
        & (rows["quantity"] == "gross_energy")
        & (rows["provenance"] == provenance)
    ].sort_values("batch_size")
    if rows.empty:
        return f"no energy per inference of provenance {provenance} was compared"
    row = rows.iloc[0]
    if not row["ratio_high"] < 1:
        return f"at batch size {row['batch_size']} no saving is established"
    spent = of_main_domain(_energy(run), run)
    spent = spent[
        (spent["model"] == model)
        & (spent["variant"] == BASELINE)
        & (spent["batch_size"] == row["batch_size"])
        & (spent["provenance"] == provenance)
    ]
    if spent.empty or not spent["energy_j"].notna().all():
        return "full precision's energy per inference is not known"
    per_inference = float(spent["energy_j"].iloc[0])
    mean, low, high = (
        per_inference * (1 - float(row[end])) for end in ("ratio", "ratio_high", "ratio_low")
    )
    return int(row["batch_size"]), mean, low, high


def ablation(runs: Runs) -> pd.DataFrame:
    """The quantizers side by side: settings, accuracy, zeros and scales.

    Columns: model, variant, quantizer, accuracy, accuracy_low, accuracy_high, change, change_low,
    change_high, seeds, zero_fraction, w_pos, w_neg (means over the seeds' reported epochs),
    latency_s (at the smallest batch size measured). Empty unless at least two variants that train
    quantized weights were trained.
    """
    return gather(runs, _ablation)


def _ablation(run: Run) -> pd.DataFrame:
    frame = run.training
    chosen = frame[frame["selected"].fillna(False).astype(bool) & frame["wall_s"].notna()]
    summary = (
        chosen.groupby(["model", "variant"], sort=False)[["zero_fraction", "w_pos", "w_neg"]]
        .mean()
        .reset_index()
    )
    table = _accuracy(run).merge(summary, on=["model", "variant"])
    speed = _latency(run)
    smallest = speed.groupby("model", sort=False)["batch_size"].transform("min")
    speed = speed[speed["batch_size"] == smallest][["model", "variant", "latency_s"]]
    table = table.merge(speed, on=["model", "variant"], how="left")
    table.insert(2, "quantizer", [_settings(run, str(v)) for v in table["variant"]])
    table = table.drop(columns=["examples"])
    quantized = table[table["variant"] != BASELINE].groupby("model")["variant"].nunique()
    enough = [model for model, count in quantized.items() if count >= 2]
    return table[table["model"].isin(enough)].reset_index(drop=True)


def _settings(run: Run, variant: str) -> str:
    entry = (run.manifest.get("variants") or {}).get(variant)
    quantizer = entry.get("quantizer") if isinstance(entry, dict) else None
    if not isinstance(quantizer, dict):
        return str(quantizer) if quantizer else ("none" if variant == BASELINE else "")
    options = ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in quantizer.items()
        if key != "type" and value is not None
    )
    return f"{quantizer.get('type', '?')}({options})"
