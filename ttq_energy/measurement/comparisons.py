"""From a Run's measurements to its comparisons: every variant against the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.errors import unknown_name
from ttq_energy.measurement.statistics import compare
from ttq_energy.measurement.validity import SENSOR

if TYPE_CHECKING:
    import pandas as pd

TIME_DOMAIN = "time"
TIMED = "timed"
NO_DOMAIN = "none"
"""The domain of rows of a machine without any energy sensor: they hold times only."""
_GROUP = ["model", "device", "batch_size"]


def compare_measurements(
    measurements: pd.DataFrame, baseline: str = "fp32"
) -> list[dict[str, Any]]:
    """Rows of the comparisons table: latency, gross and net energy per inference.

    Only rounds in which both blocks are valid enter. Net energy is gross less idle power times
    duration; the uncertainty of the idle power, common to all blocks, widens its interval. A
    comparison with a net energy that is not above zero in some round says ``undecided`` without
    an interval.

    Args:
        measurements: the measurements table of a Run.
        baseline: the variant that the others are divided by.

    Returns:
        One row per model, device, batch size, variant, quantity and domain.

    Raises:
        InputError: the baseline was not measured.
    """
    rows: list[dict[str, Any]] = []
    if measurements.empty:
        return rows
    known = list(dict.fromkeys(measurements["variant"]))
    if baseline not in known:
        raise unknown_name("baseline variant", baseline, known)
    for key, group in measurements.groupby(_GROUP, sort=False):
        head = dict(zip(_GROUP, key, strict=True))
        variants = [v for v in dict.fromkeys(group["variant"]) if v != baseline]
        for variant in variants:
            pair = (baseline, variant)
            for quantity, domain, provenance, result in _quantities(group, pair):
                rows.append(
                    {
                        **head,
                        "domain": domain,
                        "baseline": baseline,
                        "variant": variant,
                        "quantity": quantity,
                        **result,
                        "provenance": provenance,
                    }
                )
    return rows


def _quantities(
    group: pd.DataFrame, pair: tuple[str, str]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    yield "latency", TIME_DOMAIN, TIMED, _latency(group, pair)
    energies = group[group["domain"] != NO_DOMAIN]
    for (domain, provenance), rows in energies.groupby(["domain", "provenance"], sort=False):
        both = _paired(rows[rows["valid"].astype(bool)], pair)
        yield "gross_energy", str(domain), str(provenance), _gross(both)
        if rows["net_energy_j"].notna().any():
            yield "net_energy", str(domain), str(provenance), _net(both)


def _paired(rows: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    """Rounds in which both variants have a row, as columns ``<name>_b`` and ``<name>_v``."""
    columns = [
        "round",
        "inferences",
        "duration_s",
        "energy_j",
        "net_energy_j",
        "idle_power_w",
        "idle_power_low_w",
        "idle_power_high_w",
    ]
    rows = rows.reindex(columns=[*columns, "variant"])
    sides = [
        rows[rows["variant"] == name].drop_duplicates("round")[columns].astype("float64")
        for name in pair
    ]
    return sides[0].merge(sides[1], on="round", suffixes=("_b", "_v")).sort_values("round")


def _latency(group: pd.DataFrame, pair: tuple[str, str]) -> dict[str, Any]:
    """A round counts where the block itself was undisturbed, whatever its energy sensors did."""
    of_sensor = group["invalid_reason"].fillna("").astype(str).str.startswith(SENSOR)
    rows = group[group["valid"].astype(bool) | of_sensor]
    both = _paired(rows, pair)
    both = both[(both["duration_s_b"] > 0) & (both["duration_s_v"] > 0)]
    return _result(
        both["duration_s_b"] / both["inferences_b"], both["duration_s_v"] / both["inferences_v"]
    )


def _gross(both: pd.DataFrame) -> dict[str, Any]:
    both = both[(both["energy_j_b"] > 0) & (both["energy_j_v"] > 0)]
    return _result(
        both["energy_j_b"] / both["inferences_b"], both["energy_j_v"] / both["inferences_v"]
    )


def _net(both: pd.DataFrame) -> dict[str, Any]:
    both = both[both["net_energy_j_b"].notna() & both["net_energy_j_v"].notna()]
    if both.empty:
        return _nothing(0)
    if (both[["net_energy_j_b", "net_energy_j_v"]] <= 0).any(axis=None):
        return _nothing(len(both))
    base = (both["net_energy_j_b"] / both["inferences_b"]).to_numpy()
    other = (both["net_energy_j_v"] / both["inferences_v"]).to_numpy()
    # d log(ratio) / d idle power: how much a wrong idle power, common to all rounds, would move it.
    leverage = (
        both["duration_s_v"].sum() / both["net_energy_j_v"].sum()
        - both["duration_s_b"].sum() / both["net_energy_j_b"].sum()
    )
    extra = abs(float(leverage)) * _idle_sd(both)
    return _result(base, other, extra)


def _idle_sd(both: pd.DataFrame) -> float:
    """Standard error of the idle power, W: from its interval, else from its scatter."""
    width = (both["idle_power_high_w_b"] - both["idle_power_low_w_b"]).median()
    if math.isfinite(width):
        return float(width) / (2.0 * 1.96)
    idle = both["idle_power_w_b"].dropna().unique()
    return float(np.std(idle, ddof=1) / math.sqrt(idle.size)) if idle.size > 1 else 0.0


def _result(baseline: Any, variant: Any, extra_log_sd: float = 0.0) -> dict[str, Any]:
    if len(baseline) == 0:
        return _nothing(0)
    found = compare(baseline, variant, extra_log_sd=extra_log_sd)
    return {
        "ratio": found.ratio,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "rounds": found.rounds,
        "verdict": found.verdict,
    }


def _nothing(rounds: int) -> dict[str, Any]:
    return {
        "ratio": math.nan,
        "ratio_low": math.nan,
        "ratio_high": math.nan,
        "rounds": rounds,
        "verdict": "undecided",
    }
