"""Row-stationary mapping (Y.-H. Chen et al., ISCA 2016 and JSSC 52(1), 2017).

A PE holds one filter row and slides it along one input row; a set of R x e PEs makes e output
rows. p filters and q channels are interleaved in a PE; r sets side by side take further channels
and t sets further filters. Partial sums of m filters, n images and e rows stay in the global
buffer while all channels pass; weights come from DRAM past the buffer, once for each such tile.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.energy_model.geometry import Geometry
from ttq_energy.energy_model.mapping import (
    Mapping,
    Widths,
    ceil_div,
    energy_per_bit,
    thinned,
    tile_sizes,
)
from ttq_energy.errors import InputError

if TYPE_CHECKING:
    from ttq_energy.energy_model.targets import Target

PARAMETERS = ("m", "n", "e", "p", "q", "r", "t")
MOST = 300_000


def map_layer(
    g: Geometry, target: Target, widths: Widths, given: MappingType[str, int] | None
) -> Mapping:
    """The given or the cheapest row-stationary mapping of a layer."""
    if given is not None:
        unknown = [name for name in PARAMETERS if name not in given]
        if unknown:
            raise InputError(f"mapping: the key '{unknown[0]}' is missing; needs m n e p q r t")
        choice = {name: np.array([int(given[name])]) for name in PARAMETERS}
    else:
        choice = _candidates(g, target, widths)
    traffic = _traffic(g, target, choice)
    best = int(np.argmin(_cost_pj(g, target, widths, traffic)))
    values = {
        name: float(np.broadcast_to(v, traffic["cycles"].shape)[best])
        for name, v in traffic.items()
    }
    tiles = {name: int(choice[name][best]) for name in PARAMETERS}
    return Mapping(dram_partial=0.0, buffer_weight=0.0, tiles=tiles, **values)


def _candidates(
    g: Geometry, target: Target, widths: Widths, least_active: float | None = None
) -> dict[str, Any]:
    """Every legal choice of e, n, p, q, r and t, each with the most filters m that fit.

    Sets and register files are checked pair by pair before the pairs are combined. Only images at
    a time are thinned out, where a large batch would make more than ``MOST`` candidates.
    """
    assert target.registers is not None
    weight_words, input_words, output_words = target.registers
    most_sets = target.rows // min(g.kernel_h, target.rows) * target.columns
    r, t = _pairs(tile_sizes(g.in_channels, most_sets), tile_sizes(g.out_channels, most_sets))
    r, t = _where(r * t <= most_sets, r, t)
    p, q = _pairs(
        tile_sizes(g.out_channels, output_words),
        tile_sizes(g.in_channels, max(1, input_words // g.kernel_w)),
    )
    p, q = _where(p * q * min(g.kernel_w, input_words) <= weight_words, p, q)
    heights = tile_sizes(g.out_h, most_sets)
    e, pair = _pairs(heights, np.arange(len(r)))
    e, pair = _where(r[pair] * t[pair] <= _sets(g, target, e), e, pair)
    active = _active(g, target, e, r[pair], t[pair])
    share = target.least_active if least_active is None else least_active
    e, pair = _where(active >= share * active.max(), e, pair)
    first, second = _pairs(np.arange(len(e)), np.arange(len(p)))
    e, r, t, p, q = e[first], r[pair[first]], t[pair[first]], p[second], q[second]
    e, p, q, r, t = _where(
        (q * r <= g.in_channels + q - 1)
        & (p * t <= g.out_channels + p - 1)
        & _weights_fit(g, target, widths, p, q, r, t)
        & _inputs_fit(g, target, widths, e, q, r),
        *(e, p, q, r, t),
    )
    images = thinned(tile_sizes(g.batch), max(8, MOST // len(e)))
    first, second = _pairs(np.arange(len(e)), np.arange(len(images)))
    e, p, q, r, t, n = (*(axis[first] for axis in (e, p, q, r, t)), images[second])
    m = _most_filters(g, target, widths, e, n, p, q, r, t)
    fits = m > 0
    if not fits.any() and share > 0:
        return _candidates(g, target, widths, least_active=0.0)
    if not fits.any():
        # Even the smallest tile overflows the buffer: map it and let the partial sums spill.
        smallest = np.argmin(m * 0 + e * n * p * t * q * r)
        fits = np.zeros_like(m, dtype=bool)
        fits[smallest] = True
        m = np.maximum(m, p * t)
    return {
        name: array[fits] for name, array in zip(PARAMETERS, (m, n, e, p, q, r, t), strict=True)
    }


def _pairs(a: Any, b: Any) -> tuple[Any, Any]:
    """Every element of one beside every element of the other."""
    return np.repeat(a, len(b)), np.tile(b, len(a))


def _where(holds: Any, *axes: Any) -> tuple[Any, ...]:
    return tuple(axis[holds] for axis in axes)


def _sets(g: Geometry, target: Target, e: Any) -> Any:
    """How many PE sets of e columns the array takes; a wider one is folded over the rows."""
    slots = target.rows // min(g.kernel_h, target.rows)
    folds = ceil_div(e, target.columns)
    beside = target.columns // np.minimum(e, target.columns)
    if target.stack_sets and slots > 1:
        beside = np.full_like(beside, max(1, target.columns // min(g.out_h, target.columns)))
    return np.where(folds == 1, slots * beside, slots // folds)


def _active(g: Geometry, target: Target, e: Any, r: Any, t: Any) -> Any:
    """PEs at work in a pass."""
    return np.minimum(r * t * min(g.kernel_h, target.rows) * e, target.units)


def _weights_fit(
    g: Geometry, target: Target, widths: Widths, p: Any, q: Any, r: Any, t: Any
) -> Any:
    """Whether a pass's weights fit where they are prefetched; the smallest pass always does."""
    words = p * q * r * t * min(g.kernel_h, target.rows) * g.kernel_w
    return (words * widths.weight / 8 <= target.weight_prefetch_bytes) | (p * q * r * t == 1)


def _inputs_fit(g: Geometry, target: Target, widths: Widths, e: Any, q: Any, r: Any) -> Any:
    """Whether the input tile of one image fits its banks; one channel may always take more."""
    level = target.level("buffer")
    assert level is not None
    rows = (e - 1) * g.stride_h + g.reach_h
    tile_bytes = rows * g.padded_w * np.minimum(q * r, g.in_channels) * widths.input / 8
    return (tile_bytes <= level.input_banks * level.bank_bytes) | (q * r == 1)


def _most_filters(
    g: Geometry, target: Target, widths: Widths, e: Any, n: Any, p: Any, q: Any, r: Any, t: Any
) -> Any:
    """The most filters whose partial sums fit beside the input tile; 0 where not even p x t do.

    The buffer is shared out in whole banks: 25 of 4 KB in Eyeriss.
    """
    level = target.level("buffer")
    assert level is not None
    input_rows = (e - 1) * g.stride_h + g.reach_h
    input_bytes = n * input_rows * g.padded_w * np.minimum(q * r, g.in_channels) * widths.input / 8
    banks = np.floor(level.size_bytes / level.bank_bytes)
    left = (banks - np.ceil(input_bytes / level.bank_bytes)) * level.bank_bytes
    a_filter = n * e * g.out_w * widths.accumulator / 8
    filters = np.floor(np.maximum(left, 0) / a_filter)
    m = np.minimum(filters, g.out_channels)
    at_once = np.minimum(p * t, g.out_channels)
    return np.where(m >= at_once, m // at_once * at_once, 0).astype(np.int64)


def _traffic(g: Geometry, target: Target, c: dict[str, Any]) -> dict[str, Any]:
    m, n, e, p, q, r, t = (c[name] for name in PARAMETERS)
    tiles_e, tiles_n = ceil_div(g.out_h, e), ceil_div(g.batch, n)
    filter_groups = ceil_div(g.out_channels, p * t)
    channel_groups = ceil_div(g.in_channels, q * r)
    kernel_folds = ceil_div(g.kernel_h, target.rows)
    rows_read = np.minimum(tiles_e * ((e - 1) * g.stride_h + g.reach_h), tiles_e * g.in_h)
    rows_touched = np.where(tiles_e == 1, np.minimum(rows_read, g.in_h), rows_read)
    images = g.batch * g.groups
    refetches = np.where(tiles_e * tiles_n == 1, 1, tiles_e * tiles_n)
    padded_rows = tiles_e * ((e - 1) * g.stride_h + g.reach_h)
    passes = filter_groups * channel_groups * tiles_e * g.groups * kernel_folds
    words_a_pass = (
        np.minimum(p * t, g.out_channels)
        * np.minimum(q * r, g.in_channels)
        * g.kernel_h
        * g.kernel_w
    )
    cycles = passes * g.batch * g.out_w * p * q * g.kernel_w
    return {
        "dram_weight": g.weights * refetches,
        "dram_input": images * g.in_channels * rows_touched * g.in_w * ceil_div(g.out_channels, m),
        "dram_output": np.full_like(m, g.outputs, dtype=float),
        "buffer_input": padded_rows * g.padded_w * g.in_channels * images * filter_groups,
        "buffer_output": 2.0 * g.outputs * channel_groups * kernel_folds,
        "network_hops": g.outputs * channel_groups * np.maximum(g.kernel_h * r - 1, 0),
        "cycles": cycles / target.efficiency,
        "load_cycles": passes * tiles_n * words_a_pass / target.weight_words_per_cycle,
        "active_units": _active(g, target, e, r, t).astype(float),
    }


def _cost_pj(g: Geometry, target: Target, widths: Widths, traffic: dict[str, Any]) -> Any:
    """What differs between mappings: DRAM, buffer, network, and power over time."""
    dram, buffer = energy_per_bit(target, "dram"), energy_per_bit(target, "buffer")
    network = energy_per_bit(target, "network")
    words_in_buffer = traffic["buffer_input"] * widths.input
    partial = traffic["buffer_output"] * widths.accumulator
    cost = dram * (
        traffic["dram_weight"] * widths.weight
        + traffic["dram_input"] * widths.dram_input
        + traffic["dram_output"] * widths.dram_output
    )
    cost = cost + (buffer + network) * (words_in_buffer + partial)
    cost = cost + network * (
        traffic["network_hops"] * widths.accumulator + traffic["dram_weight"] * widths.weight
    )
    seconds = _seconds(target, widths, traffic)
    return cost + target.static_w.value * seconds * 1e12


def _seconds(target: Target, widths: Widths, traffic: dict[str, Any]) -> Any:
    """Latency of each candidate."""
    buffer, dram = target.level("buffer"), target.level("dram")
    assert buffer is not None
    seconds = np.maximum(
        (traffic["cycles"] + traffic["load_cycles"]) / target.clock_hz,
        traffic["buffer_output"] * (widths.accumulator / 16) / buffer.output_bandwidth_bytes_per_s,
    )
    if dram is None:
        return seconds
    fill = traffic["dram_input"] * widths.dram_input / 8 / dram.bandwidth_bytes_per_s
    drain = traffic["dram_output"] * widths.dram_output / 8 / dram.bandwidth_bytes_per_s
    weights = traffic["dram_weight"] * widths.weight / 8 / dram.bandwidth_bytes_per_s
    waits = fill * target.serial_input_fill + drain * target.serial_output_drain
    return np.maximum(seconds + waits, fill + drain + weights)
