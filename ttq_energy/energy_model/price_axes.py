"""Swept prices of a target as arrays: a thousand prices cost one reading of the file.

A price enters each coefficient linearly (an access's energy over its bits) and no coefficient
depends on two keys, so that the targets at the ends of each axis give all those between. That is
checked at one point inside; where it does not hold, every target is read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.energy_model.estimating import SAMPLES, draws
from ttq_energy.energy_model.pricing import coefficients

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttq_energy.energy_model.targets import Target

FEWEST = 4
"""Fewer values than this are read one by one."""
_SAME = 1e-12


@dataclass(frozen=True)
class Prices:
    """Targets of one layout, which differ in prices alone.

    Attributes:
        target: the first of them.
        points: values of the swept keys.
        figures: (points, coefficients, 3): value, low and high of each coefficient of ``target``.
        ends: targets at the ends of the axes.
    """

    target: Target
    points: list[tuple[Any, ...]]
    figures: NDArray[np.float64]
    ends: tuple[Target, ...]

    def energies(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joules at each price, (prices, rows), of how often each coefficient is paid.

        Args:
            totals: (rows, coefficients).
        """
        found: NDArray[np.float64] = self.figures[:, :, 0] @ totals.T * 1e-12
        return found

    def drawn(self, start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Prices ``start`` to ``stop`` under each draw.

        Returns:
            (fixed, moving): (coefficients, samples) of the coefficients that no price moves, zero
            for the others; and (prices, moved coefficients, 1 or samples) of those.
        """
        names = list(coefficients(self.target))
        base = draws(self.target, SAMPLES, seed=0)
        fixed = np.stack([base[name] for name in names])
        moved = self.moved()
        value, low, high = np.moveaxis(self.figures[start:stop][:, moved], -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            down = np.log(value / np.maximum(low, value * 1e-6))
            up = np.log(high / value)
        down, up = (np.where(value > 0, part, 0.0)[..., None] for part in (down, up))
        moving = value[..., None]
        if down.any() or up.any():
            z = np.stack([_normal(names[place]) for place in moved])
            moving = moving * np.exp(np.where(z < 0, down, up) * z)
        fixed[moved] = 0.0
        return fixed, moving

    def moved(self) -> list[int]:
        """Places of the coefficients that are not the same at every price."""
        different = (self.figures != self.figures[0]).any(axis=(0, 2))
        return [int(place) for place in np.flatnonzero(different)]


def _normal(name: str) -> NDArray[np.float64]:
    from ttq_energy.energy_model.estimating import _family, _normal_draws

    return _normal_draws(_family(name), SAMPLES, 0)


def price_groups(
    axes: Mapping[str, Sequence[Any]],
    load: Callable[[Mapping[str, Any]], Target],
    same_layout: Callable[[Target, Target], bool],
) -> list[Prices]:
    """Every combination of a target's swept keys, by layout.

    Args:
        axes: values of those keys; may be empty.
        load: gives the target with these keys set.
        same_layout: whether two targets differ in prices alone.

    Returns:
        In each group, all combinations that share a layout; their order is that of the axes only
        within a group.
    """
    prices = {
        key: values for key, values in axes.items() if _is_price(key, axes, load, same_layout)
    }
    others = [key for key in axes if key not in prices]
    groups = []
    for fixed in itertools.product(*(axes[key] for key in others)):
        given = dict(zip(others, fixed, strict=True))
        group = _interpolated(prices, given, list(axes), load) if prices else None
        groups += [group] if group is not None else _one_by_one(prices, given, list(axes), load)
    return groups


def _is_price(
    key: str,
    axes: Mapping[str, Sequence[Any]],
    load: Callable[[Mapping[str, Any]], Target],
    same_layout: Callable[[Target, Target], bool],
) -> bool:
    values = axes[key]
    plain = all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if len(values) < FEWEST or not plain:
        return False
    first = {name: found[0] for name, found in axes.items()}
    low, high = (load({**first, key: end(values)}) for end in (min, max))
    return same_layout(low, high)


def _interpolated(
    prices: Mapping[str, Sequence[Any]],
    given: Mapping[str, Any],
    order: list[str],
    load: Callable[[Mapping[str, Any]], Target],
) -> Prices | None:
    """All combinations of prices from the targets at the axes' ends; None where that fails."""
    target = load({**given, **{key: values[0] for key, values in prices.items()}})
    names = list(coefficients(target))
    lowest = {key: min(values) for key, values in prices.items()}
    corner = load({**given, **lowest})
    base = price_figures(corner, names)
    ends, slopes = [corner], {}
    for key, values in prices.items():
        span = max(values) - lowest[key]
        end = load({**given, **lowest, key: max(values)})
        ends.append(end)
        slopes[key] = (price_figures(end, names) - base) / span if span else np.zeros_like(base)

    def at(point: tuple[Any, ...]) -> NDArray[np.float64]:
        found = base.copy()
        for (key, slope), value in zip(slopes.items(), point, strict=True):
            found += slope * (value - lowest[key])
        return found

    inside = tuple(values[len(values) // 2] for values in prices.values())
    read = price_figures(load({**given, **dict(zip(prices, inside, strict=True))}), names)
    if not np.allclose(at(inside), read, rtol=_SAME, atol=0.0):
        return None
    points = list(itertools.product(*prices.values()))
    figures = np.broadcast_to(base, (len(points), *base.shape)).copy()
    for place, (key, slope) in enumerate(slopes.items()):
        steps = np.array([point[place] for point in points], dtype=float) - lowest[key]
        figures += steps[:, None, None] * slope
    values = [_in_order(order, prices, point, given) for point in points]
    return Prices(target, values, figures, tuple(ends))


def _one_by_one(
    prices: Mapping[str, Sequence[Any]],
    given: Mapping[str, Any],
    order: list[str],
    load: Callable[[Mapping[str, Any]], Target],
) -> list[Prices]:
    found = []
    for point in itertools.product(*prices.values()):
        target = load({**given, **dict(zip(prices, point, strict=True))})
        figures = price_figures(target, list(coefficients(target)))[None]
        found.append(Prices(target, [_in_order(order, prices, point, given)], figures, (target,)))
    return found


def _in_order(
    order: list[str], prices: Mapping[str, Any], point: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[Any, ...]:
    every = {**given, **dict(zip(prices, point, strict=True))}
    return tuple(every[key] for key in order)


def price_figures(target: Target, names: list[str]) -> NDArray[np.float64]:
    """(coefficients, 3): value, low, high; a level without a price of writing reads its own."""
    found = coefficients(target)
    rows = []
    for name in names:
        other = name.replace("write ", "read ", 1)
        figure = (found.get(name) or found.get(other) or (None, None))[1]
        rows.append((figure.value, figure.low, figure.high) if figure else (0.0, 0.0, 0.0))
    return np.array(rows, dtype=float).reshape(len(names), 3)
