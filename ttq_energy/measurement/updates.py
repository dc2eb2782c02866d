"""Fresh values of a sensor found among polled readings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttq_energy.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Updates:
    """When a sensor showed a fresh value, and which.

    Attributes:
        t_s: times of the updates, increasing.
        power_w: the values.
        timing_sd_s: standard deviation of an update's time: it lies between two polls.
        first_s, last_s: times of the first and the last usable poll.
    """

    t_s: FloatArray
    power_w: FloatArray
    timing_sd_s: float
    first_s: float
    last_s: float


ABSENT = {"", "n/a", "na", "nan", "not supported", "unknown error", "none"}
"""What logs of nvidia-smi hold where there is no value, brackets left out."""


def _numbers(values: ArrayLike, name: str) -> FloatArray:
    """As float64; in text, as logs hold it, units are left out and absent values are NaN.

    Raises:
        InputError: a text that is neither a number nor a known word for none.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        cells = np.asarray(values, dtype=object)
    numbers = [_number(cell, f"{name}[{place}]") for place, cell in enumerate(cells.ravel())]
    return np.array(numbers, dtype=np.float64).reshape(cells.shape)


def _number(cell: object, where: str) -> float:
    text = str(cell).strip().strip("[]").lower()
    if text in ABSENT:
        return float("nan")
    try:
        return float(text.removesuffix("w").removesuffix("s").strip())
    except ValueError:
        raise InputError(f"{where}: expected a number, got {str(cell)!r}") from None


def clean_samples(t_s: ArrayLike, power_w: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Samples in order of time, without those that are not finite; of equal times the last.

    Raises:
        InputError: arrays of unequal length or not one-dimensional, a negative power, or fewer
            than two usable samples.
    """
    t, p = _numbers(t_s, "t_s"), _numbers(power_w, "power_w")
    if t.ndim != 1 or t.shape != p.shape:
        raise InputError(
            f"t_s and power_w: expected two arrays of equal length, got shapes {t.shape}, {p.shape}"
        )
    usable = np.isfinite(t) & np.isfinite(p)
    t, p = t[usable], p[usable]
    order = np.argsort(t, kind="stable")
    t, p = t[order], p[order]
    if t.size:
        last_of_equal = np.append(np.diff(t) > 0, True)
        t, p = t[last_of_equal], p[last_of_equal]
    if t.size < 2:
        raise InputError(f"power_w: expected at least two finite samples, got {t.size}")
    if (p < 0).any():
        raise InputError(f"power_w: expected no negative power, got {p.min():g} W")
    return t, p


def find_updates(t: FloatArray, p: FloatArray, update_period_s: float) -> Updates:
    """Updates from clean samples.

    A changed value was updated between two polls: the middle is taken. A value that stays for
    longer than a period was updated to itself: such updates are filled in, one a period, as long
    as polls show the value. Where polling is slower than updating, each poll stands for an update
    half a period earlier.

    Args:
        t, p: from :func:`clean_samples`.
        update_period_s: of the sensor.
    """
    fresh = np.append(0, np.flatnonzero(np.diff(p) != 0) + 1)
    last_same = np.append(fresh[1:] - 1, t.size - 1)
    gap = np.append(update_period_s, t[fresh[1:]] - t[fresh[1:] - 1])
    gap = np.minimum(gap, update_period_s)
    begin = t[fresh] - gap / 2.0
    following = np.append(begin[1:], np.inf)
    shown_until = np.minimum(t[last_same], following - update_period_s / 2.0)
    counts = np.floor((shown_until - begin) / update_period_s + 1e-9).astype(np.int64)
    times, values = [begin], [p[fresh]]
    for index in np.flatnonzero(counts > 0):
        at = begin[index] + update_period_s * np.arange(1, counts[index] + 1)
        times.append(_only_shown(at, t[fresh[index] : last_same[index] + 1], update_period_s))
        values.append(np.full(times[-1].size, p[fresh[index]]))
    at_all, shown = np.concatenate(times), np.concatenate(values)
    order = np.argsort(at_all, kind="stable")
    timing = float(np.sqrt(np.mean(gap[1:] ** 2) / 12.0)) if gap.size > 1 else float(gap[0]) / 3.46
    return Updates(at_all[order], shown[order], timing, float(t[0]), float(t[-1]))


def _only_shown(at: FloatArray, polls: FloatArray, period_s: float) -> FloatArray:
    """Filled-in updates that some poll, within a period after, really showed."""
    position = np.searchsorted(polls, at - 1e-9)
    position = np.minimum(position, polls.size - 1)
    shown = (polls[position] >= at - 1e-9) & (polls[position] <= at + period_s)
    return at[shown]
