"""Several runs side by side: aligned by model, variant and batch size, provenances kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ttq_energy.reporting.formatting import listed
from ttq_energy.reporting.tables.gather import Runs, as_list, gather, in_order, run_names
from ttq_energy.reporting.tables.measured import mean_interval, of_main_domain
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_ALIGN = ["model", "batch_size", "quantity", "baseline", "variant", "provenance"]


def across_runs(runs: Runs) -> pd.DataFrame:
    """What each comparison gave in every run.

    Columns: model, batch_size, quantity, baseline, variant, provenance, runs, saves, costs,
    undecided (how many runs gave each verdict), ratio_least, ratio_most (the outermost ends of
    the runs' intervals). Rows are aligned within one provenance only: a counted and a modelled
    ratio never share a row, and ratios of different machines are not averaged.
    """
    import pandas as pd

    table = gather(as_list(runs), main_comparisons)
    rows = []
    for key, group in table.groupby(_ALIGN, sort=False):
        verdicts = group["verdict"].value_counts()
        rows.append(
            {
                **dict(zip(_ALIGN, key, strict=True)),
                "runs": group["run"].nunique() if "run" in group else 1,
                **{v: int(verdicts.get(v, 0)) for v in ("saves", "costs", "undecided")},
                "ratio_least": float(group["ratio_low"].min()) if len(group) else math.nan,
                "ratio_most": float(group["ratio_high"].max()) if len(group) else math.nan,
            }
        )
    columns = [*_ALIGN, "runs", "saves", "costs", "undecided", "ratio_least", "ratio_most"]
    return pd.DataFrame(rows, columns=columns)


def main_comparisons(run: Run) -> pd.DataFrame:
    """Latency, and the energies of the domain that stands for each place."""
    import pandas as pd

    frame = run.comparisons
    timed = frame[frame["quantity"] == "latency"]
    energies = of_main_domain(frame[frame["quantity"] != "latency"], run)
    return pd.concat([f for f in (energies, timed) if len(f)] or [frame]).reset_index(drop=True)


def mean_power(runs: Runs) -> pd.DataFrame:
    """Mean power of the valid blocks, of the domain that stands for each place.

    Columns: model, device, batch_size, domain, variant, provenance, power_w, power_low_w,
    power_high_w (Student's t interval of the blocks, 95 %), idle_power_w, blocks.
    """
    return gather(runs, _mean_power)


def _mean_power(run: Run) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    frame = of_main_domain(run.measurements, run)
    good = frame["valid"].fillna(False).to_numpy(bool) & (frame["duration_s"] > 0)
    frame = frame[good & np.isfinite(frame["energy_j"])]
    keys = ["model", "device", "batch_size", "domain", "variant", "provenance"]
    rows = []
    for key, group in frame.groupby(keys, sort=False):
        power = (group["energy_j"] / group["duration_s"]).to_numpy(float)
        mean, low, high = mean_interval(power)
        rows.append((*key, mean, low, high, float(group["idle_power_w"].mean()), len(group)))
    columns = [*keys, "power_w", "power_low_w", "power_high_w", "idle_power_w", "blocks"]
    table = pd.DataFrame(rows, columns=columns)
    return in_order(table, run, ["model", "device", "batch_size", "variant"])


_SAME = {"parameters": "parameters", "dataset": "data set", "input_shape": "input shape"}


def differences(runs: Sequence[Run]) -> list[str]:
    """Sentences on networks that bear one name in several runs and are not the same."""
    names = run_names(runs)
    told = []
    found: dict[str, dict[str, Mapping[str, object]]] = {}
    for name, run in zip(names, runs, strict=True):
        for model, entry in (run.manifest.get("models") or {}).items():
            if isinstance(entry, Mapping):
                found.setdefault(str(model), {})[name] = entry
    for model, entries in found.items():
        for key, word in _SAME.items():
            values = {name: entry.get(key) for name, entry in entries.items() if entry.get(key)}
            if len({str(value) for value in values.values()}) > 1:
                each = listed([f"{value} in `{name}`" for name, value in values.items()])
                told.append(
                    f"**{model} is not the same network in every run**: {word} {each}. Its rows "
                    "stand side by side; its energies per inference are of different work."
                )
    return told
