"""How a layer is laid out on a target: tiles, traffic by level and tensor, and cycles.

All traffic is in elements (words) of the tensor, before any compression; a layer that runs several
times (``calls``) is mapped once. The search tries every tile size that changes a number of tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.energy_model.geometry import Geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttq_energy.energy_model.targets import Target


@dataclass(frozen=True)
class Widths:
    """Bits of one word of each tensor as the buffer holds it, and of activations in DRAM."""

    weight: float
    input: float
    output: float
    accumulator: float
    dram_input: float
    dram_output: float


@dataclass(frozen=True)
class Mapping:
    """The chosen layout of one call of a layer.

    Attributes:
        dram_weight, dram_input, dram_output: words to and from DRAM.
        dram_partial: words of partial sums that do not stay on the chip, both ways.
        buffer_weight, buffer_input: words read from the buffer by the array.
        buffer_output: words of (partial) outputs between array and buffer, both ways.
        network_hops: words handed from unit to unit.
        cycles: of computing, all zeros computed too.
        load_cycles: of filling the units with weights, not overlapped.
        active_units: at work on average.
        tiles: the chosen sizes by name.
        input_resident, weight_resident: the whole tensor fits in the buffer beside the rest.
    """

    dram_weight: float
    dram_input: float
    dram_output: float
    dram_partial: float
    buffer_weight: float
    buffer_input: float
    buffer_output: float
    network_hops: float
    cycles: float
    load_cycles: float
    active_units: float
    tiles: MappingType[str, int] = field(default_factory=dict)


def tile_sizes(extent: int, largest: int | None = None) -> NDArray[np.int64]:
    """Every size of tile that covers ``extent`` in a different number of tiles, ascending.

    A superset of the divisors: 7 covers 55 in 8 tiles, and no divisor does.
    """
    root = int(extent**0.5) + 1
    counts = np.unique(np.concatenate([np.arange(1, root + 1), -(-extent // np.arange(1, root))]))
    sizes = np.unique(-(-extent // counts[counts <= extent]))
    return sizes if largest is None else sizes[sizes <= max(1, largest)]


def thinned(sizes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most ``most`` of the sizes, evenly spread in logarithm, both ends kept."""
    if len(sizes) <= most:
        return sizes
    wanted = np.geomspace(sizes[0], sizes[-1], most)
    return np.unique(sizes[np.abs(sizes[None, :] - wanted[:, None]).argmin(1)])


def ceil_div(a: Any, b: Any) -> Any:
    """Whole tiles of ``b`` that cover ``a``."""
    return -(-a // b)


def find_mapping(
    geometry: Geometry, target: Target, widths: Widths, published: MappingType[str, int] | None
) -> Mapping:
    """The mapping of least energy, or the given one.

    Args:
        geometry: of one call.
        published: row-stationary parameters m, n, e, p, q, r, t to use instead of searching.
    """
    if published is None:
        return _search(geometry, target, widths)
    chosen: Mapping = _mapper(target)(geometry, target, widths, published)
    return chosen


@functools.lru_cache(maxsize=100_000)
def _search(geometry: Geometry, target: Target, widths: Widths) -> Mapping:
    found: Mapping = _mapper(target)(geometry, target, widths, None)
    return found


def _mapper(target: Target) -> Any:
    from ttq_energy.energy_model import row_stationary, tiled

    if target.dataflow == "row-stationary":
        return row_stationary.map_layer
    return tiled.map_layer


def times(mapping: Mapping, factor: float) -> Mapping:
    """The traffic and cycles of ``factor`` such layers one after the other."""
    if factor == 1:
        return mapping
    scaled = {
        name: getattr(mapping, name) * factor
        for name in (
            "dram_weight",
            "dram_input",
            "dram_output",
            "dram_partial",
            "buffer_weight",
            "buffer_input",
            "buffer_output",
            "network_hops",
            "cycles",
            "load_cycles",
        )
    }
    return replace(mapping, **scaled)


def energy_per_bit(target: Target, role: str) -> float:
    """pJ to move one bit of the first level of a role; 0 where the target has none."""
    level = target.level(role)
    return 0.0 if level is None else level.read_pj.value / level.access_bits
