"""Several runs side by side: aligned by model, variant and batch size, provenances kept apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ttq_energy.reporting.tables.gather import Runs, as_list, gather
from ttq_energy.reporting.tables.measured import of_main_domain
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
