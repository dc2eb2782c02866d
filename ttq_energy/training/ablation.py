"""The ablation's answer: mean accuracies over seeds, and paired differences that claim no more.

Seeds are the repetitions; the test set is the same throughout, so the intervals say how far
another seed may lead, not another test set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttq_energy.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

REFERENCES = ("ttq", "fp32")
LEVEL = 0.95


def summarise(training: pd.DataFrame) -> pd.DataFrame:
    """Sum up a training table over seeds.

    Args:
        training: as ``Run.training``, with the epochs that are reported marked ``selected``.

    Returns:
        One row a model and variant: ``seeds``; ``accuracy`` (mean of the reported epochs) with its
        95 % t interval; ``zero_fraction``; ``scale_ratio``, mean Wp over mean Wn, with its
        interval (behind batch normalization the ratio is all that matters of the two); for each of
        ttq and fp32 the mean difference variant - reference, paired by seed, with its 95 % t
        interval, and ``verdict_...``: "higher" or "lower" only where the interval stays clear of 0
        after Bonferroni's correction for the number of variants compared, else "undecided".

    Raises:
        InputError: no reported epoch in the table.
    """
    import pandas as pd

    chosen = training[training["selected"].fillna(False).astype(bool)]
    if chosen.empty:
        raise InputError(
            "ablation: no epoch in the table is marked as selected; expected a trained run"
        )
    rows = []
    for model, of_model in chosen.groupby("model", sort=False):
        accuracy = of_model.pivot_table(index="seed", columns="variant", values="accuracy")
        for variant in of_model["variant"].unique():
            own = of_model[of_model["variant"] == variant]
            rows.append(
                {
                    "model": model,
                    "variant": variant,
                    "seeds": len(own),
                    **_mean("accuracy", own["accuracy"]),
                    "zero_fraction": own["zero_fraction"].mean(),
                    **_mean("scale_ratio", own["w_pos"] / own["w_neg"]),
                    **_versus(accuracy, variant),
                }
            )
    return pd.DataFrame(rows)


def _versus(accuracy: pd.DataFrame, variant: str) -> dict[str, Any]:
    """The variant against each reference, over the seeds that both have."""
    cells: dict[str, Any] = {}
    for reference in REFERENCES:
        name = f"versus_{reference}"
        if reference not in accuracy or reference == variant:
            empty = {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
            cells |= {**empty, f"verdict_{reference}": ""}
            continue
        differences = accuracy[variant] - accuracy[reference]
        cells |= _mean(name, differences)
        compared = max(accuracy.shape[1] - 1, 1)
        _, low, high = mean_interval(
            differences.dropna().to_numpy(np.float64), 1 - (1 - LEVEL) / compared
        )
        verdict = "higher" if low > 0 else "lower" if high < 0 else "undecided"
        cells[f"verdict_{reference}"] = verdict
    return cells


def _mean(name: str, values: pd.Series[float]) -> dict[str, float]:
    numbers = values.dropna().to_numpy(np.float64)
    middle, low, high = mean_interval(numbers)
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def mean_interval(
    values: NDArray[np.floating[Any]], level: float = LEVEL
) -> tuple[float, float, float]:
    """Mean and its Student t interval; without two values the interval says nothing.

    Args:
        values: independent repetitions, (n,).
        level: probability that the interval covers the mean.
    """
    from scipy import stats

    if values.size == 0:
        return float("nan"), float("nan"), float("nan")
    middle = float(values.mean())
    if values.size < 2:
        return middle, float("-inf"), float("inf")
    error = float(values.std(ddof=1)) / np.sqrt(values.size)
    half = float(stats.t.ppf((1 + level) / 2, values.size - 1)) * error
    return middle, middle - half, middle + half
