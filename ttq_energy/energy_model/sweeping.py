"""What-if sweeps: the ratio over grids of sparsity, widths, batch sizes and figures of a target."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.energy_model import targets as target_files
from ttq_energy.energy_model.estimating import (
    Prepared,
    percentiles,
    prepare,
    rebuilt,
)
from ttq_energy.energy_model.explaining import ternary_layers
from ttq_energy.energy_model.price_axes import Prices, price_figures, price_groups
from ttq_energy.energy_model.pricing import Events, Pricer, coefficients
from ttq_energy.errors import InputError, unknown_name
from ttq_energy.study import MOST_EXAMPLES

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ttq_energy.energy_model.targets import Target

OWN_KEYS = ("sparsity", "activation_bits", "activation_zeros", "batch_size")
"""Swept properties of the network; any other key is one of the target."""
POINTS_AT_ONCE = 1000
"""Points whose draws are held at once: 1000 draws each in float64 are 8 MB a side."""


def sweep(
    baseline_counts: pd.DataFrame,
    variant_counts: pd.DataFrame,
    target: str,
    axes: Mapping[str, Sequence[Any]],
    *,
    overrides: Mapping[str, Any] | None = None,
    baseline_zeros: Mapping[str, float] | None = None,
    variant_zeros: Mapping[str, float] | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Estimate a variant and its baseline at every combination of values.

    Args:
        axes: values by key: ``sparsity`` (zeros of the variant's ternary layers, 0 to below 1),
            ``activation_bits`` (of the variant; the baseline keeps its own widths),
            ``activation_zeros`` (in every layer's input but the first, of both), ``batch_size``, or
            a dotted key of the target.
        overrides: other figures of the target that are set throughout.
        baseline_zeros, variant_zeros: as ``activation_zeros`` of ``estimate``.

    Returns:
        One row a point, all modelled: the axes, baseline_j, variant_j, ratio, ratio_low,
        ratio_high (95 % over the target's figures, each draw used for both sides, as
        ``compare_estimates`` has it), baseline_s, variant_s and latency_ratio; energies and times
        of one call. ``attrs["ratio_off_by"]`` says by what share of itself the ratio differs at
        most where the ends of swept prices get a mapping of their own (see ``same_layout``).

    Raises:
        InputError: an unknown key or a value out of range.
    """
    import pandas as pd

    if not axes or any(not len(values) for values in axes.values()):
        raise InputError("sweep: expected at least one key with at least one value")
    _check(axes)
    target_keys = [k for k in axes if k not in OWN_KEYS]
    outer_keys = [k for k in axes if k in ("activation_bits", "batch_size")]
    inner_keys = [k for k in axes if k in ("sparsity", "activation_zeros")]
    inner = list(itertools.product(*(axes[k] for k in inner_keys)))
    groups = price_groups(
        {k: axes[k] for k in target_keys}, _loader(target, dict(overrides or {})), same_layout
    )
    columns: dict[str, list[Any]] = {k: [] for k in axes}
    results: dict[str, list[Any]] = {
        k: []
        for k in ("baseline_j", "variant_j", "ratio_low", "ratio_high", "baseline_s", "variant_s")
    }
    apart = 0.0
    for outer in itertools.product(*(axes[k] for k in outer_keys)):
        fixed = dict(zip(outer_keys, outer, strict=True))
        size = int(fixed["batch_size"]) if "batch_size" in fixed else batch_size
        first = groups[0].target
        base = prepare(baseline_counts, first, baseline_zeros, size)
        own = prepare(variant_counts, first, variant_zeros, size)
        if "activation_bits" in fixed:
            own = rebuilt(own, activation_bits=int(fixed["activation_bits"]))
        prepared = {True: base, False: own}
        laid_out = first
        events: dict[bool, Events] = {}
        for group in groups:
            chosen = group.target
            if not events or not same_layout(laid_out, chosen):
                laid_out = chosen
                if chosen is not first:
                    prepared = {k: rebuilt(p, target=chosen) for k, p in prepared.items()}
                events = {k: _events(p, inner_keys, inner, k) for k, p in prepared.items()}
            totals = {k: _totals(e, chosen, len(inner)) for k, e in events.items()}
            for is_base, label in ((True, "baseline"), (False, "variant")):
                results[f"{label}_j"].append(group.energies(totals[is_base]).ravel())
                times_s = _seconds(events[is_base], len(inner))
                results[f"{label}_s"].append(np.tile(times_s, len(group.points)))
            low, high = _ratio_ranges(totals[True], totals[False], group)
            results["ratio_low"].append(low)
            results["ratio_high"].append(high)
            for values in group.points:
                here = dict(zip(target_keys, values, strict=True))
                for key in axes:
                    columns[key].extend(_column(key, inner_keys, inner, fixed, target_keys, here))
            apart = max(apart, _apart(prepared, totals, group, inner_keys, inner))
    table = pd.DataFrame(columns)
    for key, parts in results.items():
        table[key] = np.concatenate(parts)
    table.insert(len(axes) + 2, "ratio", table["variant_j"] / table["baseline_j"])
    # The middle of the figures need not lie between the percentiles of a skewed draw.
    table["ratio_low"] = table[["ratio_low", "ratio"]].min(axis=1)
    table["ratio_high"] = table[["ratio_high", "ratio"]].max(axis=1)
    table["latency_ratio"] = table["variant_s"] / table["baseline_s"]
    keys = [str(key) for key in reversed(list(axes))]
    table = table.sort_values(by=keys, kind="stable", ignore_index=True)
    table.attrs["ratio_off_by"] = apart
    return table


def _check(axes: Mapping[str, Sequence[Any]]) -> None:
    for key, values in axes.items():
        for value in values:
            if key in OWN_KEYS and not isinstance(value, (int, float)):
                raise InputError(f"{key}: expected a number, got '{value}'")
            if key in ("sparsity", "activation_zeros") and not 0 <= value < 1:
                raise InputError(f"{key}: must be at least 0 and below 1, got {value}")
            most = {"activation_bits": 64, "batch_size": MOST_EXAMPLES}.get(key)
            if most and not (1 <= value <= most and value == int(value)):
                raise InputError(f"{key}: expected a whole number from 1 to {most}, got {value:g}")
        if key not in OWN_KEYS and key.split(".")[0] not in target_files.schema()["properties"]:
            valid = [*OWN_KEYS, *target_files.schema()["properties"]]
            raise unknown_name("key", key, valid, "sweep")


def _loader(name: str, overrides: dict[str, Any]) -> Callable[[Mapping[str, Any]], Target]:
    def load(keys: Mapping[str, Any]) -> Target:
        # With 17 digits, so that a price is the very number that was asked for.
        texts = {k: f"{v:.17g}" if isinstance(v, float) else v for k, v in keys.items()}
        return target_files.load(name, {**overrides, **texts})

    return load


def same_layout(a: Target, b: Target) -> bool:
    """Whether two targets differ in prices alone, so that the same mapping and times hold.

    The mapping found for the first is kept where only prices move: what is asked is what that
    price does, not what another schedule would. How much the ratio differs with a mapping of its
    own is looked up at the ends of the prices.
    """
    return _layout(a) == _layout(b)


def _layout(target: Target) -> dict[str, Any]:
    """Everything that mapping, times or event counts depend on."""
    priced = ("figures", "modes", "levels", "formats", "vector_pj", "static_w")
    found = {key: value for key, value in vars(target).items() if key not in priced}
    for group in ("modes", "levels", "formats"):
        found[group] = [
            {key: value for key, value in vars(member).items() if not key.endswith("_pj")}
            for member in getattr(target, group)
        ]
    return found


def _events(prepared: Prepared, keys: list[str], inner: list[Any], is_base: bool) -> Events:
    """Events at every inner point: (points, layers)."""
    count = len(prepared.layers)
    shape = (len(inner), count)
    weights = np.broadcast_to(prepared.weight_zeros, shape).copy()
    inputs = np.broadcast_to(prepared.input_zeros, shape).copy()
    outputs = np.broadcast_to(prepared.output_zeros, shape).copy()
    points = np.array(inner, dtype=float).reshape(len(inner), len(keys))
    if "sparsity" in keys and not is_base:
        ternary = ternary_layers(prepared)
        weights[:, ternary] = points[:, [keys.index("sparsity")]]
    if "activation_zeros" in keys:
        products = np.flatnonzero(prepared.pricer.products)
        share = points[:, [keys.index("activation_zeros")]]
        inputs[:, products[1:]] = share
        outputs[:, products[:-1]] = share
    pricer: Pricer = prepared.pricer
    return pricer.events(weights, inputs, outputs, prepared.scale_multiplies)


def _totals(events: Events, target: Target, points: int) -> NDArray[np.float64]:
    """How often each coefficient of the target is paid, (points, coefficients)."""
    names = coefficients(target)
    found = np.zeros((points, len(names)))
    for place, name in enumerate(names):
        if name in events.counts:
            counted = np.broadcast_to(events.counts[name], (points, np.shape(events.latency_s)[-1]))
            found[:, place] = counted.sum(axis=-1)
    return found


def _seconds(events: Events, points: int) -> NDArray[np.float64]:
    times_s = np.broadcast_to(events.latency_s, (points, np.shape(events.latency_s)[-1]))
    total: NDArray[np.float64] = times_s.sum(axis=-1)
    return total


def _ratio_ranges(
    baseline: NDArray[np.float64], variant: NDArray[np.float64], group: Prices
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high of variant / baseline at each price and point, under the same draws for both."""
    rows, moved = len(baseline), group.moved()
    at_once = max(1, POINTS_AT_ONCE // rows)
    lows, highs = [], []
    for start in range(0, len(group.points), at_once):
        fixed, moving = group.drawn(start, start + at_once)
        sides = [
            side @ fixed + np.einsum("pcs,rc->prs", moving, side[:, moved])
            for side in (variant, baseline)
        ]
        for first in range(0, rows, POINTS_AT_ONCE):
            here = slice(first, first + POINTS_AT_ONCE)
            low, high = percentiles(sides[0][:, here] / sides[1][:, here])
            lows.append(low)
            highs.append(high)
    if rows > POINTS_AT_ONCE:
        per_price = -(-rows // POINTS_AT_ONCE)
        lows, highs = (
            [
                np.concatenate(parts[i : i + per_price], axis=1)
                for i in range(0, len(parts), per_price)
            ]
            for parts in (lows, highs)
        )
    return np.concatenate(lows).ravel(), np.concatenate(highs).ravel()


def _apart(
    prepared: Mapping[bool, Prepared],
    totals: Mapping[bool, NDArray[np.float64]],
    group: Prices,
    inner_keys: list[str],
    inner: list[Any],
) -> float:
    """By what share of itself the ratio differs where each end of the prices is mapped anew."""
    if len(group.points) == 1:
        return 0.0
    worst, names = 0.0, list(coefficients(group.target))
    for end in group.ends:
        prices = price_figures(end, names)[:, 0]
        held = (totals[False] @ prices) / (totals[True] @ prices)
        again = {k: rebuilt(p, target=end) for k, p in prepared.items()}
        found = {
            k: _totals(_events(p, inner_keys, inner, k), end, len(inner)) for k, p in again.items()
        }
        own = price_figures(end, list(coefficients(end)))[:, 0]
        worst = max(
            worst, float(np.abs((found[False] @ own) / (found[True] @ own) / held - 1).max())
        )
    return worst


def _column(
    key: str,
    inner_keys: list[str],
    inner: list[Any],
    fixed: Mapping[str, Any],
    target_keys: list[str],
    values: Mapping[str, Any],
) -> list[Any]:
    if key in inner_keys:
        place = inner_keys.index(key)
        return [point[place] for point in inner]
    if key in target_keys:
        return [values[key]] * len(inner)
    return [int(fixed[key])] * len(inner)
