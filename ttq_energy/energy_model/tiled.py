"""Weight- and output-stationary arrays, and processors seen as such.

Two questions are answered apart. What the array needs from the buffer follows from its dataflow.
What the buffer needs from DRAM follows from which tensor stays in the buffer while the others pass:
partial outputs, inputs or weights; all tile sizes are tried for each.
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
    tile_sizes,
)
from ttq_energy.errors import InputError

if TYPE_CHECKING:
    from ttq_energy.energy_model.targets import Target

STAYS = ("output", "input", "weight")


def map_layer(
    g: Geometry, target: Target, widths: Widths, given: MappingType[str, int] | None
) -> Mapping:
    """The cheapest mapping of a layer."""
    if given is not None:
        raise InputError("mapping: only row-stationary targets take a mapping; leave it out")
    array = _array(g, target)
    dram, tiles = _buffer_tiles(g, target, widths)
    return Mapping(**dram, **array, network_hops=0.0, tiles=tiles)


def _array(g: Geometry, target: Target) -> dict[str, float]:
    """Buffer reads and cycles of the array: positions x filters x sums on rows x columns."""
    if target.dataflow == "weight-stationary":
        return _weight_stationary(g, target)
    return _output_stationary(g, target)


def _weight_stationary(g: Geometry, target: Target) -> dict[str, float]:
    """A systolic array holds ``rows`` inputs of a sum by ``columns`` filters; positions stream.

    One tile of weights takes ``rows`` cycles to load, overlapped with the tile before where that
    streams at least as long.
    """
    row_tiles = ceil_div(g.reduction, target.rows)
    column_tiles = ceil_div(g.out_channels, target.columns)
    tiles = row_tiles * column_tiles * g.groups
    tiles_a_core = ceil_div(tiles, target.cores)
    stream = float(g.positions)
    cycles = tiles_a_core * max(stream, target.rows) + target.rows + target.columns
    active = g.macs / (tiles_a_core * stream) if stream else 0.0
    return {
        "buffer_weight": float(g.weights),
        "buffer_input": float(g.positions * g.groups * g.reduction * column_tiles),
        "buffer_output": float(g.outputs * (2 * row_tiles - 1)),
        "cycles": cycles / target.efficiency,
        "load_cycles": 0.0,
        "active_units": min(active, float(target.units)),
    }


def _output_stationary(g: Geometry, target: Target) -> dict[str, float]:
    """Each unit keeps one output while its products pass; cores share the tiles of outputs."""
    best: tuple[float, float, int, int] | None = None
    for rows, columns, split in _layouts(g, target):
        position_tiles = ceil_div(g.positions, rows)
        filter_tiles = ceil_div(g.out_channels, columns)
        tiles = position_tiles * filter_tiles * g.groups
        cycles = float(ceil_div(tiles, target.cores) * ceil_div(g.reduction, split))
        reads = float(g.positions * filter_tiles + g.out_channels * position_tiles)
        if best is None or (cycles, reads) < best[:2]:
            kept = ceil_div(g.out_channels, columns * target.outputs_per_unit)
            best = (cycles, reads, position_tiles, kept)
    assert best is not None
    cycles, _, position_tiles, filter_tiles = best
    # Where the inputs do not all fit into the units' registers, they pass in batches, and each
    # batch reads the sums of the one before and writes its own, a word a cycle in each unit.
    batches = 1
    load_cycles = 0.0
    if target.inputs_per_unit is not None:
        units = target.rows * target.columns
        batches = ceil_div(g.reduction, units * target.inputs_per_unit)
        sums = g.groups * g.positions * ceil_div(g.out_channels, units)
        load_cycles = 2.0 * batches * sums
    return {
        "buffer_weight": float(g.weights * position_tiles),
        "buffer_input": float(g.positions * g.groups * g.reduction * filter_tiles),
        "buffer_output": float(g.outputs * (2 * batches - 1)),
        "cycles": cycles / target.efficiency,
        "load_cycles": load_cycles,
        "active_units": min(g.macs / cycles, float(target.units)),
    }


def _layouts(g: Geometry, target: Target) -> list[tuple[int, int, int]]:
    """(positions, filters, parts of one sum) worked on at once by one core."""
    rows, columns = target.rows, target.columns
    layouts = [(rows, columns, 1)]
    if target.flexible:
        layouts += [(1, rows * columns, 1), (rows * columns, 1, 1)]
    if target.parallelize_inputs:
        units = rows * columns
        layouts += [(1, 1, units), (1, rows, columns), (rows, 1, columns), (1, columns, rows)]
    return layouts


def _buffer_tiles(
    g: Geometry, target: Target, widths: Widths
) -> tuple[dict[str, float], dict[str, int]]:
    """DRAM words of the cheapest tiling over the three choices of what stays."""
    level = target.level("buffer")
    size_bits = 8 * (level.size_bytes if level is not None else 0.0)
    if size_bits == float("inf") or target.level("dram") is None:
        once = {
            "dram_weight": float(g.weights),
            "dram_input": float(g.inputs),
            "dram_output": float(g.outputs),
            "dram_partial": 0.0,
        }
        return once, {}
    n, e, c = (
        a.ravel()
        for a in np.meshgrid(
            tile_sizes(g.batch), tile_sizes(g.out_h), tile_sizes(g.in_channels), indexing="ij"
        )
    )
    rows = np.minimum((e - 1) * g.stride_h + g.reach_h, g.in_h)
    input_bits = n * rows * g.in_w * c * widths.input
    a_filter = c * (g.kernel_h * g.kernel_w) * widths.weight + n * e * g.out_w * widths.accumulator
    # More filters at once never cost more: the most that fit are the only ones to try.
    m = np.clip((size_bits - input_bits) // a_filter, 1, g.out_channels)
    tiles_x = ceil_div(g.batch, n) * ceil_div(g.out_h, e)
    tiles_m, tiles_c = ceil_div(g.out_channels, m), ceil_div(g.in_channels, c)
    overlap = np.where(e >= g.out_h, 1.0, ceil_div(g.out_h, e) * rows / max(1, g.in_h))
    fits = input_bits + m * a_filter <= size_bits
    if not fits.any():
        fits[np.argmin(input_bits + m * a_filter)] = True
    one_pass = tiles_c == 1
    spill = np.where(one_pass, 0.0, 2.0 * g.outputs * (tiles_c - 1))
    options = {
        # Outputs stay while all channels pass: weights come again for each tile of positions.
        "output": (
            np.where(one_pass & (tiles_m == 1), 1, tiles_x),
            np.where(one_pass, 1, tiles_m),
            0.0 * spill,
        ),
        # Inputs stay while all filters pass.
        "input": (tiles_x, np.ones_like(tiles_x), spill),
        # Weights stay while all positions pass.
        "weight": (np.ones_like(tiles_x), tiles_m, spill),
    }
    dram = energy_per_bit(target, "dram")
    best: tuple[float, str, int] | None = None
    traffic = {}
    for stays, (weights, inputs, partial) in options.items():
        dram_weight, dram_input = g.weights * weights, g.inputs * inputs * overlap
        traffic[stays] = (dram_weight, dram_input, np.broadcast_to(partial, fits.shape))
        cost = dram * (
            dram_weight * widths.weight
            + dram_input * widths.dram_input
            + partial * widths.accumulator
        )
        cost = np.where(fits, cost, np.inf)
        index = int(np.argmin(cost))
        if best is None or cost[index] < best[0]:
            best = (float(cost[index]), stays, index)
    assert best is not None
    _, stays, index = best
    chosen: tuple[Any, Any, Any] = traffic[stays]
    words = {
        "dram_weight": float(chosen[0][index]),
        "dram_input": float(chosen[1][index]),
        "dram_output": float(g.outputs),
        "dram_partial": float(chosen[2][index]),
    }
    tiles = {"m": int(m[index]), "n": int(n[index]), "e": int(e[index]), "c": int(c[index])}
    return words, {**tiles, "stays": STAYS.index(stays)}
