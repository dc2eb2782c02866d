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
        break_even_sparsity: least fraction of zeros in its ternary layers at which the variant
            needs no more than the baseline: 0 where it always pays, None where it never does.
        break_even_activation_bits: narrowest of 2, 4, 8, 16, 32 bits at which ternary weights still
            need less than dense weights of that same width; None where at none of them.
        verdict: one sentence.
    """

    ratio: EnergyRatio
    savings: tuple[Part, ...]
    remaining: tuple[Part, ...]
    break_even_sparsity: float | None
    break_even_activation_bits: int | None
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
    width = _break_even_width(baseline, variant)
    return Explanation(
        ratio,
        _savings(baseline, variant),
        _remaining(baseline, variant),
        sparsity,
        width,
        _verdict(variant, ratio, sparsity, width),
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
    parts = {
        "removed multipliers and narrower operands": before["computing"] - dense["computing"],
        "skipped or gated zeros": dense["computing"] - after["computing"],
        "weight traffic and decoding": before["moving"] - after["moving"],
        "fewer cycles (static power)": before["static"] - after["static"],
    }
    return tuple(Part(name, energy, energy / total) for name, energy in parts.items())


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
    """The first of 100 sparsities, 0 to 0.99, at which the variant costs no more."""
    own = variant.prepared
    ternary = ternary_layers(own)
    if not ternary.any():
        return None
    zeros = np.where(ternary, SPARSITIES[:, None], own.weight_zeros)
    shape = zeros.shape
    events = own.pricer.events(
        zeros,
        np.broadcast_to(own.input_zeros, shape),
        np.broadcast_to(own.output_zeros, shape),
        own.scale_multiplies,
    )
    energies = totals(events, coefficients(own.target))
    pays = np.flatnonzero(energies <= baseline.total.energy_j * (1 + 1e-9))
    return float(SPARSITIES[pays[0]]) if len(pays) else None


def _break_even_width(baseline: Estimate, variant: Estimate) -> int | None:
    """Ternary against dense weights of the activations' own width, at each width."""
    if not ternary_layers(variant.prepared).any():
        return None
    prices = coefficients(variant.target)
    for bits in ACTIVATION_WIDTHS:
        dense = rebuilt(baseline.prepared, activation_bits=bits, weight_bits=bits)
        thin = rebuilt(variant.prepared, activation_bits=bits, weight_bits=bits)
        if totals(thin.events(), prices) < totals(dense.events(), prices) * (1 - 1e-6):
            return bits
    return None


def _verdict(
    variant: Estimate, ratio: EnergyRatio, sparsity: float | None, width: int | None
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
    if target.zero_weight != "none":
        ways.append(f"{'skips' if target.zero_weight == 'skip' else 'gates'} zero weights")
    if variant.prepared.pricer.uses_formats():
        ways.append("stores them packed")
    span = f"{ratio.ratio:.2f} of the baseline's energy [{ratio.low:.2f}, {ratio.high:.2f}]"
    if not ways:
        return (
            f"{target.name} cannot use ternary weights: it multiplies them at full width, does not "
            f"see their zeros and does not store them packed; {span} is a change of width alone."
            if abs(ratio.ratio - 1) > 0.005
            else f"{target.name} cannot use ternary weights: it multiplies them at full width, "
            "does not see their zeros and does not store them packed."
        )
    how = ", ".join(ways)
    if ratio.verdict == "saves":
        return f"{target.name} can use ternary weights (it {how}): {span}."
    if ratio.verdict == "costs":
        return f"{target.name} does not profit from ternary weights although it {how}: {span}."
    return f"{target.name} may or may not profit from ternary weights (it {how}): {span}."


def with_sparsity(prepared: Prepared, sparsity: float) -> Prepared:
    """The same network with that fraction of zeros in every ternary layer."""
    zeros = np.where(ternary_layers(prepared), sparsity, prepared.weight_zeros)
    return replace(prepared, weight_zeros=zeros)


__all__: Sequence[str] = ("Explanation", "Part", "explain", "ternary_layers", "with_sparsity")
