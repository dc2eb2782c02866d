"""``explain``: where a ratio of two estimates comes from, and when ternary stops paying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ttq_energy.energy_model.estimating import (
    EnergyRatio,
    Estimate,
    Prepared,
    compare_estimates,
    rebuilt,
)
from ttq_energy.energy_model.pricing import Events, coefficients, totals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttq_energy.energy_model.targets import Target

MOVING_ROLES = ("network", "buffer", "dram")
SPARSITIES = np.linspace(0.0, 0.99, 100)
ACTIVATION_WIDTHS = (2, 4, 8, 16, 32)
NOTHING = 1e-6
"""A saving of less than this share is rounding."""


@dataclass(frozen=True)
class Part:
    """One reason. ``energy_j`` is what the variant saves by it (negative: what it costs more)."""

    name: str
    energy_j: float
    share_of_baseline: float


@dataclass(frozen=True)
class Explanation:
    """Why a variant needs what it needs on a target. All figures are modelled.

    Attributes:
        ratio: variant / baseline.
        savings: parts whose energies add up to baseline less variant, exactly.
        remaining: what the variant still spends; adds up to its total.
        break_even_sparsity: fraction of zeros in its ternary layers from which on the variant needs
            less than the baseline, where their energies cross: 0 where it pays without zeros, None
            where it never does.
        break_even_activation_bits: of 2, 4, 8, 16, 32 bits the narrowest from which on ternary
            weights need less than dense weights of that same width; None where not at 32.
        paying_activation_bits: every one of those widths at which they need less.
        verdict: one sentence.
    """

    ratio: EnergyRatio
    savings: tuple[Part, ...]
    remaining: tuple[Part, ...]
    break_even_sparsity: float | None
    break_even_activation_bits: int | None
    paying_activation_bits: tuple[int, ...]
    verdict: str


def explain(baseline: Estimate, variant: Estimate) -> Explanation:
    """Split baseline less variant into reasons.

    Args:
        baseline: of the dense network.
        variant: of the same network with ternary layers, on the same target and batch.

    Raises:
        InputError: the two do not belong together.
    """
    ratio = compare_estimates(baseline, variant)
    sparsity = _break_even_sparsity(baseline, variant)
    widths = _paying_widths(baseline, variant)
    return Explanation(
        ratio,
        _savings(baseline, variant),
        _remaining(baseline, variant),
        sparsity,
        _narrowest_that_stays(widths),
        widths,
        _verdict(baseline, variant, ratio, widths),
    )


def ternary_layers(prepared: Prepared) -> NDArray[np.bool_]:
    """Which layers have ternary or binary weights."""
    return np.array([layer.kind in ("ternary", "binary") for layer in prepared.layers])


def component_totals(target: Target, events: Events) -> dict[str, float]:
    """Joule by component over all layers."""
    found: dict[str, float] = {}
    for name, (component, figure) in coefficients(target).items():
        if name in events.counts:
            energy = float(np.sum(events.counts[name])) * figure.value * 1e-12
            found[component] = found.get(component, 0.0) + energy
    return found


def _grouped(target: Target, components: dict[str, float]) -> dict[str, float]:
    """Components as computing, moving and static."""
    moving = {level.name for level in target.levels if level.role in MOVING_ROLES}
    moving |= {"dram", "decode"}
    groups = {"computing": 0.0, "moving": 0.0, "static": 0.0}
    for name, energy in components.items():
        key = "static" if name == "static" else ("moving" if name in moving else "computing")
        groups[key] += energy
    return groups


def _savings(baseline: Estimate, variant: Estimate) -> tuple[Part, ...]:
    target, own = variant.target, variant.prepared
    without_zeros = np.where(ternary_layers(own), 0.0, own.weight_zeros)
    no_zeros = own.pricer.events(
        without_zeros, own.input_zeros, own.output_zeros, own.scale_multiplies
    )
    before = _grouped(target, component_totals(target, baseline.events))
    dense = _grouped(target, component_totals(target, no_zeros))
    after = _grouped(target, component_totals(target, variant.events))
    total = baseline.total.energy_j
    weights = _weight_moves_j(baseline) - _weight_moves_j(variant)
    parts = {
        "removed multipliers and narrower operands": before["computing"] - dense["computing"],
        "skipped or gated zeros": dense["computing"] - after["computing"],
        "weight traffic and decoding": weights,
        "traffic of activations and sums": before["moving"] - after["moving"] - weights,
        "fewer cycles (static power)": before["static"] - after["static"],
    }
    return tuple(Part(name, energy, energy / total) for name, energy in parts.items())


def _weight_moves_j(estimate: Estimate) -> float:
    """Moving weights through every level, and decoding them."""
    prices, size = coefficients(estimate.target), len(estimate.prepared.layers)
    return sum(
        float(np.sum(np.broadcast_to(bits, size))) * prices[name][1].value * 1e-12
        for name, bits in estimate.events.weight_counts.items()
        if name in prices
    )


def _remaining(baseline: Estimate, variant: Estimate) -> tuple[Part, ...]:
    ternary = ternary_layers(variant.prepared)
    products = variant.prepared.pricer.products
    prices = coefficients(variant.target)
    groups = np.zeros((3, len(ternary)))
    moving = {level.name for level in variant.target.levels if level.role in MOVING_ROLES}
    for name, (component, figure) in prices.items():
        if name not in variant.events.counts:
            continue
        energy = np.broadcast_to(variant.events.counts[name], ternary.shape) * figure.value * 1e-12
        row = 2 if component == "static" else (1 if component in moving | {"dram", "decode"} else 0)
        groups[row] += energy
    dram = prices.get(_dram_name(variant.target))
    weight_dram = np.zeros(len(ternary))
    if dram is not None:
        weight_dram = (
            np.broadcast_to(variant.events.weight_dram_bytes, ternary.shape)
            * 8
            * dram[1].value
            * 1e-12
        )
    dynamic = groups[0] + groups[1]
    parts = {
        "arithmetic of ternary layers": groups[0][ternary].sum(),
        "weights of ternary layers from DRAM": weight_dram[ternary].sum(),
        "activations and on-chip traffic of ternary layers": (
            groups[1][ternary].sum() - weight_dram[ternary].sum()
        ),
        "layers with dense weights": dynamic[~ternary & products].sum(),
        "norms, activations and other operators": dynamic[~products].sum(),
        "static power": groups[2].sum(),
    }
    total = baseline.total.energy_j
    return tuple(Part(name, float(energy), float(energy) / total) for name, energy in parts.items())


def _dram_name(target: Target) -> str:
    level = target.level("dram")
    return f"read {level.name}" if level is not None else ""


def _break_even_sparsity(baseline: Estimate, variant: Estimate) -> float | None:
    """Where the energies cross for good, to 1e-4; looked for between 100 sparsities, 0 to 0.99."""
    if not ternary_layers(variant.prepared).any():
        return None
    least = baseline.total.energy_j * (1 - NOTHING)

    def pays(sparsities: NDArray[np.float64]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = _energies_at(variant, sparsities) < least
        return found

    at = pays(SPARSITIES)
    if not at.any():
        return None
    # From here on it pays; or, if the format makes the last zeros dear, where it first does.
    start = len(at) - int(np.argmin(at[::-1])) if at[-1] and not at.all() else int(np.argmax(at))
    if start == 0:
        return 0.0
    low, high = SPARSITIES[start - 1], SPARSITIES[start]
    fine = np.linspace(low, high, round((high - low) / 1e-4) + 1)
    crossing = float(fine[np.argmax(pays(fine))])
    return 0.0 if start == 1 and crossing <= fine[1] else crossing


def _energies_at(variant: Estimate, sparsities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Joule of the variant with that share of zeros in all its ternary layers, (sparsities,)."""
    own = variant.prepared
    zeros = np.where(ternary_layers(own), sparsities[:, None], own.weight_zeros)
    events = own.pricer.events(
        zeros,
        np.broadcast_to(own.input_zeros, zeros.shape),
        np.broadcast_to(own.output_zeros, zeros.shape),
        own.scale_multiplies,
    )
    energies: NDArray[np.float64] = np.broadcast_to(
        totals(events, coefficients(own.target)), sparsities.shape
    )
    return energies


def _paying_widths(baseline: Estimate, variant: Estimate) -> tuple[int, ...]:
    """Widths at which ternary needs less than dense weights of the activations' own width."""
    if not ternary_layers(variant.prepared).any():
        return ()
    prices = coefficients(variant.target)
    paying = []
    for bits in ACTIVATION_WIDTHS:
        dense = rebuilt(baseline.prepared, activation_bits=bits, weight_bits=bits)
        thin = rebuilt(variant.prepared, activation_bits=bits, weight_bits=bits)
        if totals(thin.events(), prices) < totals(dense.events(), prices) * (1 - NOTHING):
            paying.append(bits)
    return tuple(paying)


def _narrowest_that_stays(paying: tuple[int, ...]) -> int | None:
    """The narrowest width from which on every wider one pays too."""
    found = None
    for bits in reversed(ACTIVATION_WIDTHS):
        if bits not in paying:
            break
        found = bits
    return found


def _verdict(
    baseline: Estimate, variant: Estimate, ratio: EnergyRatio, paying: tuple[int, ...]
) -> str:
    target = variant.target
    ternary = ternary_layers(variant.prepared)
    if not ternary.any():
        return f"{target.name}: no layer of this variant has ternary weights."
    modes = {
        s.mode.weights for s, t in zip(variant.prepared.settings, ternary, strict=True) if t and s
    }
    ways = []
    if modes & {"ternary", "binary"}:
        ways.append("adds without multiplying")
    narrower = _narrower_bits(baseline, variant)
    if narrower and not ways:
        ways.append(f"multiplies them as {narrower:g}-bit weights")
    if target.zero_weight != "none":
        ways.append(f"{'skips' if target.zero_weight == 'skip' else 'gates'} zero weights")
    if variant.prepared.pricer.uses_formats():
        ways.append("stores them packed")
    span = f"{ratio.ratio:.2f} of the baseline's energy [{ratio.low:.2f}, {ratio.high:.2f}]"
    if not ways:
        told = (
            f"{target.name} cannot use ternary weights here: it multiplies them at full width, "
            "does not see their zeros and does not store them packed"
        )
        if abs(ratio.ratio - 1) > 0.005:
            told += f"; {span} is a change of width alone"
        if paying:
            widths = ", ".join(str(bits) for bits in paying)
            told += f"; it can with activations of {widths} bits"
        return f"{told}."
    how = ", ".join(ways)
    if ratio.verdict == "saves":
        return f"{target.name} can use ternary weights (it {how}): {span}."
    if ratio.verdict == "costs":
        return f"{target.name} does not profit from ternary weights although it {how}: {span}."
    return f"{target.name} may or may not profit from ternary weights (it {how}): {span}."


def _narrower_bits(baseline: Estimate, variant: Estimate) -> float | None:
    """Bits of the weights that ternary layers run with where the baseline's run with more."""
    before = {
        layer.name: s.mode.weight_bits
        for layer, s in zip(baseline.prepared.layers, baseline.prepared.settings, strict=True)
        if s
    }
    after = {
        layer.name: s.mode.weight_bits
        for layer, s in zip(variant.prepared.layers, variant.prepared.settings, strict=True)
        if s and layer.kind in ("ternary", "binary")
    }
    less = [bits for name, bits in after.items() if bits < before.get(name, 0.0)]
    return max(less) if less else None


def with_sparsity(prepared: Prepared, sparsity: float) -> Prepared:
    """The same network with that fraction of zeros in every ternary layer."""
    zeros = np.where(ternary_layers(prepared), sparsity, prepared.weight_zeros)
    return replace(prepared, weight_zeros=zeros)


__all__: Sequence[str] = ("Explanation", "Part", "explain", "ternary_layers", "with_sparsity")
