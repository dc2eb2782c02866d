"""The ratio of two variants from paired rounds, with an interval that a sceptic accepts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttq_energy.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A variant against its baseline.

    Attributes:
        ratio: variant / baseline: below 1 the variant needs less.
        low, high: 95 % interval of the ratio; 0 and infinity where two rounds or fewer say nothing.
        verdict: "saves" (high < 1), "costs" (low > 1) or "undecided".
        rounds: paired rounds that entered.
    """

    ratio: float
    low: float
    high: float
    verdict: str
    rounds: int

    @property
    def width(self) -> float:
        """Relative width of the interval, high / low - 1."""
        return self.high / self.low - 1.0 if self.low > 0 else math.inf


def compare(
    baseline_j: ArrayLike | Sequence[float],
    variant_j: ArrayLike | Sequence[float],
    *,
    extra_log_sd: float = 0.0,
) -> Comparison:
    baseline = _series("baseline_j", baseline_j)
    variant = _series("variant_j", variant_j)
    if baseline.size != variant.size:
        raise InputError(
            f"baseline_j has {baseline.size} rounds and variant_j {variant.size}; "
            "expected pairs, one of each a round"
        )
    return _compare_logs(np.log(variant / baseline), extra_log_sd)


def _series(name: str, values: ArrayLike | Sequence[float]) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{name}: expected one value a round, got an array of shape {array.shape}")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if wrong.size:
        raise InputError(
            f"{name}[{wrong[0]}]: expected a positive, finite energy, got {array[wrong[0]]}"
        )
    return array


def _compare_logs(logs: FloatArray, extra_log_sd: float) -> Comparison:
    n = int(logs.size)
    if n < 2:
        return Comparison(math.exp(logs[0]) if n else math.nan, 0.0, math.inf, "undecided", n)
    centre, low, high = _location(logs)
    extra = 1.96 * extra_log_sd
    low, high = centre - math.hypot(centre - low, extra), centre + math.hypot(high - centre, extra)
    verdict = "saves" if high < 0 else "costs" if low > 0 else "undecided"
    return Comparison(math.exp(centre), math.exp(low), math.exp(high), verdict, n)


def _location(x: FloatArray) -> tuple[float, float, float]:
    from scipy import stats

    n = x.size
    if n < 6:
        half = float(stats.t.ppf(0.975, n - 1)) * float(x.std(ddof=1)) / math.sqrt(n)
        return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half
    i, j = np.triu_indices(n)
    walsh = np.sort((x[i] + x[j]) / 2.0)
    k = _signed_rank_critical(n)
    return float(np.median(walsh)), float(walsh[k]), float(walsh[walsh.size - 1 - k])


@lru_cache(maxsize=256)
def _signed_rank_critical(n: int, alpha: float = 0.05) -> int:
    total = n * (n + 1) // 2
    counts = np.zeros(total + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] += counts[: total + 1 - rank].copy()
    cumulative = np.cumsum(counts / 2.0**n)
    return int(np.searchsorted(cumulative, alpha / 2.0, side="right")) - 1
