"""The ratio of two variants from paired rounds, with an interval that a sceptic accepts.

Each round gives the logarithm of variant / baseline. What is common to a round (drift, most of
slow noise) cancels there. Three things are left and handled:

- Outliers. Log ratios further than ``CLIP`` robust standard deviations from their median are
  pulled back to that distance.
- Autocorrelation. How the log ratios hang together from round to round is not known, and few rounds
  cannot tell. Each of several models (independent, AR(1) of either sign, AR(1) with white noise on
  top) gives a mean by generalised least squares and a t distribution, and the interval is that of
  their mixture, weighted by how well each explains the data (Bayesian model averaging with the
  scale-invariant prior; Zellner & Tiao 1964 give the posterior for one correlation).
- Few rounds. Each part of the mixture is a t distribution with n - 1 degrees of freedom, and the
  fewer the rounds, the wider the mixture stays.

``benchmarks/coverage.py`` simulates how often the interval holds the true ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttq_energy.errors import InputError

FloatArray = NDArray[np.float64]

CLIP = 2.5
"""Robust standard deviations beyond which a log ratio is pulled back."""
FEWEST_FOR_CLIPPING = 6
MODELS = (
    (0.0, 1.0),
    (-0.5, 1.0),
    (0.4, 1.0),
    (0.6, 1.0),
    (0.8, 1.0),
    (0.95, 1.0),
    (0.8, 0.6),
    (0.95, 0.6),
)
"""Correlation from one round to the next, and the share of the variance that has it."""
PRIORS = {
    6: (0.065, 0.632, 0.001, 0.003, 0.020, 0.272, 0.003, 0.004),
    8: (0.228, 0.435, 0.008, 0.079, 0.108, 0.104, 0.018, 0.020),
    10: (0.289, 0.378, 0.010, 0.041, 0.118, 0.114, 0.023, 0.026),
    13: (0.236, 0.371, 0.012, 0.075, 0.166, 0.079, 0.029, 0.032),
    20: (0.282, 0.416, 0.031, 0.060, 0.028, 0.042, 0.116, 0.026),
    30: (0.244, 0.372, 0.097, 0.027, 0.026, 0.058, 0.161, 0.015),
}
"""Weights of the models by number of rounds. They are no beliefs about noise: they were fitted to
simulated studies of every kind in ``benchmarks/coverage.py`` (with other random numbers) so that
the coverage is between 94 and 98 % in each, with intervals as narrow as that allows."""
NORMAL_95 = 1.959964
BISECTIONS = 40
NO_NUMBER = (bool, np.bool_, str, bytes)
LARGEST_LOG = 700.0
"""Natural logarithm up to which a ratio or its inverse is a float64 number of full precision."""


@dataclass(frozen=True)
class Comparison:
    """A variant against its baseline.

    Attributes:
        ratio: variant / baseline: below 1 the variant needs less.
        low, high: 95 % interval of the ratio; 0 and infinity where there are fewer than two
            rounds.
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
        """Relative width of the interval, high / low - 1; infinite where there is none."""
        return self.high / self.low - 1.0 if self.low > 0 else math.inf

    def __str__(self) -> str:
        return (
            f"{self.ratio:.4f} [{self.low:.4f}, {self.high:.4f}] {self.verdict}, "
            f"{self.rounds} rounds"
        )


def compare(
    baseline_j: ArrayLike | Sequence[float],
    variant_j: ArrayLike | Sequence[float],
    *,
    extra_log_sd: float = 0.0,
) -> Comparison:
    """Compare a variant with its baseline over paired rounds.

    Args:
        baseline_j, variant_j: one value a round, in order of time; any unit, as long as both have
            the same (joules or seconds per inference).
        extra_log_sd: standard deviation of an error of the log ratio that is common to all rounds
            and so does not show in their scatter, such as that of the idle power.

    Returns:
        The ratio with its 95 % interval. One round gives a ratio and no interval; two to five
        give wide ones.

    Raises:
        InputError: the series are empty or of unequal length, a value is not a positive finite
            number, or the ratio is beyond float64.
    """
    baseline = _series("baseline_j", baseline_j)
    variant = _series("variant_j", variant_j)
    if baseline.size != variant.size:
        raise InputError(
            f"baseline_j has {baseline.size} rounds and variant_j {variant.size}; "
            "expected pairs, one of each a round"
        )
    if baseline.size == 0:
        raise InputError("baseline_j and variant_j hold no rounds: there is nothing to compare")
    if not (math.isfinite(extra_log_sd) and extra_log_sd >= 0):
        raise InputError(f"extra_log_sd: must be a number and at least 0, got {extra_log_sd}")
    return _compare_logs(np.log(variant) - np.log(baseline), extra_log_sd)


def _series(name: str, values: ArrayLike | Sequence[float]) -> FloatArray:
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "iufO" or any(
            isinstance(v, NO_NUMBER) for v in _elements(values)
        ):
            raise TypeError
        array = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: expected one number a round") from None
    if array.ndim != 1:
        raise InputError(f"{name}: expected one value a round, got an array of shape {array.shape}")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if wrong.size:
        raise InputError(
            f"{name}[{wrong[0]}]: expected a positive, finite value, got {array[wrong[0]]}"
        )
    return array


def _elements(values: ArrayLike | Sequence[float]) -> Iterable[object]:
    """What may hide something that numpy turns into a number, as in [True, 2.0]."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return ()
    return np.asarray(values, dtype=object).flat


def _compare_logs(logs: FloatArray, extra_log_sd: float) -> Comparison:
    rounds = int(logs.size)
    if rounds < 2:
        return Comparison(_ratio(float(logs[0])), 0.0, math.inf, "undecided", rounds)
    centre, low, high = mean_interval(logs)
    extra = NORMAL_95 * extra_log_sd
    low = centre - math.hypot(centre - low, extra)
    high = centre + math.hypot(high - centre, extra)
    verdict = "saves" if high < 0 else "costs" if low > 0 else "undecided"
    return Comparison(_ratio(centre), _end(low), _end(high), verdict, rounds)


def _ratio(log: float) -> float:
    if abs(log) > LARGEST_LOG:
        raise InputError(
            f"variant_j / baseline_j is about 1e{log / math.log(10):+.0f}, beyond float64; "
            "have both the same unit?"
        )
    return math.exp(log)


def _end(log: float) -> float:
    """An end of the interval; one that is beyond float64 is told as 0 or infinity."""
    return math.exp(log) if log <= LARGEST_LOG else math.inf


def mean_interval(series: FloatArray) -> tuple[float, float, float]:
    """Mean of a short series with outliers and unknown autocorrelation, and its 95 % interval.

    Args:
        series: (n,) values in order of time, n at least 2.

    Returns:
        Centre, low and high.
    """
    from scipy.special import stdtr, stdtrit

    clipped = _clipped(series)
    n = clipped.size
    if np.ptp(clipped) == 0:
        value = float(clipped[0])
        return value, value, value
    precision, sums, log_weight = _models(n)
    means = (clipped @ precision).sum(axis=1) / sums
    residuals = clipped[None, :] - means[:, None]
    squares = np.einsum("ki,kij,kj->k", residuals, precision, residuals)
    scales = np.sqrt(squares / (n - 1) / sums)
    evidence = log_weight - 0.5 * (n - 1) * np.log(squares)
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    centre = float(weights @ means)

    # A quantile of the mixture lies between the smallest and the largest of its parts'.
    parts = stdtrit(n - 1, 0.975) * scales * np.array([[-1.0], [1.0]]) + means
    low, high = parts.min(axis=1), parts.max(axis=1)
    wanted = np.array([0.025, 0.975])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        below = stdtr(n - 1, (middle[:, None] - means) / scales) @ weights < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    ends = (low + high) / 2.0
    return centre, min(float(ends[0]), centre), max(float(ends[1]), centre)


def _clipped(series: FloatArray) -> FloatArray:
    """The series with outliers pulled back; as it is where it is too short to know them."""
    middle = np.median(series)
    spread = 1.4826 * np.median(np.abs(series - middle))
    if series.size < FEWEST_FOR_CLIPPING or spread == 0:
        return series
    return np.asarray(np.clip(series, middle - CLIP * spread, middle + CLIP * spread))


@lru_cache(maxsize=64)
def _models(n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Inverse correlation matrix of each model, its sum, and log prior plus determinants."""
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    precision, log_determinant = np.empty((len(MODELS), n, n)), np.empty(len(MODELS))
    for index, (correlation, share) in enumerate(MODELS):
        matrix = share * correlation**apart + (1.0 - share) * np.eye(n)
        precision[index] = np.linalg.inv(matrix)
        log_determinant[index] = np.linalg.slogdet(matrix)[1]
    sums = precision.sum(axis=(1, 2))
    return precision, sums, np.log(_prior(n)) - 0.5 * log_determinant - 0.5 * np.log(sums)


def _prior(n: int) -> FloatArray:
    """Weights of the models, between those of ``PRIORS`` by interpolation."""
    rounds = list(PRIORS)
    table = np.array(list(PRIORS.values()))
    weights = np.array([np.interp(n, rounds, column) for column in table.T])
    return np.asarray(weights / weights.sum())
