"""``estimate``: energy and latency of counted layers on a target, with ranges."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.energy_model import targets as target_files
from ttq_energy.energy_model.mapping import Mapping as LayerMapping
from ttq_energy.energy_model.mapping import find_mapping, times
from ttq_energy.energy_model.pricing import Events, Pricer, Setting, coefficients, setting
from ttq_energy.energy_model.targets import Target
from ttq_energy.energy_model.workload import Layer, layers_of
from ttq_energy.errors import InputError, unknown_name

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SAMPLES = 1000
PERCENTILES = (2.5, 97.5)
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Total:
    """Sums over all layers; energies are modelled, the range that of the target's figures."""

    energy_j: float
    energy_low_j: float
    energy_high_j: float
    latency_s: float


@dataclass(frozen=True)
class Estimate:
    """What a network would need on a target: all figures are modelled, none is measured.

    Attributes:
        layers: one row a layer: layer, macs, latency_s, energy_j, energy_low_j, energy_high_j,
            dram_bytes, buffer_bytes (between the on-chip buffer and the array), active_units,
            mode (the arithmetic it runs at), mapping (tile sizes) and bound ("compute",
            "dram" or "buffer": what sets its latency).
        components: one row a layer and component: layer, component, energy_j, energy_low_j,
            energy_high_j.
        total: over all layers.
        target: the target.
        batch_size: examples in the call that all figures are for.
        draws_j: (samples,) totals under each draw of the target's figures.
        notes: what a reader must know: widths that the target does not have, a network that does
            not fit.
    """

    layers: pd.DataFrame
    components: pd.DataFrame
    total: Total
    target: Target
    batch_size: int
    draws_j: NDArray[np.float64] = field(repr=False)
    events: Events = field(repr=False)
    prepared: Prepared = field(repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """Layers with settings and mappings on a target: what does not depend on zeros."""

    target: Target
    layers: tuple[Layer, ...]
    settings: tuple[Setting | None, ...]
    pricer: Pricer
    weight_zeros: NDArray[np.float64]
    input_zeros: NDArray[np.float64]
    output_zeros: NDArray[np.float64]
    scale_multiplies: NDArray[np.float64]

    def events(self) -> Events:
        return self.pricer.events(
            self.weight_zeros, self.input_zeros, self.output_zeros, self.scale_multiplies
        )


def prepare(
    counts: pd.DataFrame,
    target: str | Target,
    activation_zeros: Mapping[str, float] | None = None,
    batch_size: int | None = None,
    mapping: Mapping[str, Mapping[str, int]] | None = None,
) -> Prepared:
    """Settings and mappings of every layer; see :func:`estimate` for the arguments."""
    if not isinstance(target, (str, os.PathLike, Target)):
        raise InputError(f"target: expected a name, a file or a Target, got {target!r}")
    chosen = target if isinstance(target, Target) else target_files.load(target)
    layers = tuple(layers_of(counts, batch_size))
    names = [layer.name for layer in layers]
    zeros = _zeros_by_layer(activation_zeros or {}, names)
    for name in mapping or {}:
        if name not in names:
            raise unknown_name("layer", name, names, "mapping")
    inputs = np.array([zeros.get(name, 0.0) for name in names])
    outputs = _zeros_of_outputs(layers, zeros)
    settings, pricer = _laid_out(chosen, layers, inputs, outputs, mapping or {})
    return Prepared(
        chosen,
        layers,
        settings,
        pricer,
        np.array([layer.weight_zero_fraction for layer in layers]),
        inputs,
        outputs,
        np.array([float(layer.scale_multiplies) for layer in layers]),
    )


def _laid_out(
    target: Target,
    layers: Sequence[Layer],
    input_zeros: NDArray[np.float64],
    output_zeros: NDArray[np.float64],
    mapping: Mapping[str, Mapping[str, int]],
) -> tuple[tuple[Setting | None, ...], Pricer]:
    """The setting and mapping of every layer that multiplies."""
    settings: list[Setting | None] = []
    mappings: list[LayerMapping | None] = []
    for layer, zeros_in, zeros_out in zip(layers, input_zeros, output_zeros, strict=True):
        if layer.geometry is None:
            settings.append(None)
            mappings.append(None)
            continue
        own = setting(target, layer, float(zeros_in), float(zeros_out))
        settings.append(own)
        found = find_mapping(layer.geometry, target, own.widths, mapping.get(layer.name))
        mappings.append(times(found, layer.calls))
    return tuple(settings), Pricer(target, layers, settings, mappings)


def rebuilt(
    prepared: Prepared,
    *,
    target: Target | None = None,
    activation_bits: int | None = None,
    weight_bits: float | None = None,
) -> Prepared:
    """The same layers and zeros at other widths, or on another target; mapped anew.

    Args:
        activation_bits: of every layer with products; None keeps each layer's own.
        weight_bits: of dense weights; None keeps them.
    """
    layers = tuple(
        replace(
            layer,
            activation_bits=activation_bits or layer.activation_bits,
            weight_bits=weight_bits if weight_bits and layer.kind == "dense" else layer.weight_bits,
        )
        for layer in prepared.layers
    )
    chosen = target or prepared.target
    settings, pricer = _laid_out(chosen, layers, prepared.input_zeros, prepared.output_zeros, {})
    return replace(prepared, target=chosen, layers=layers, settings=settings, pricer=pricer)


def estimate(
    counts: pd.DataFrame,
    target: str | Target = "generic-45nm",
    activation_zeros: Mapping[str, float] | None = None,
    batch_size: int | None = None,
    mapping: Mapping[str, Mapping[str, int]] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Estimate:
    """Price counted layers on a target.

    Args:
        counts: what :func:`ttq_energy.count` gives.
        target: a name or file of :mod:`ttq_energy.energy_model.targets`, or a loaded target.
        activation_zeros: fraction of zeros, 0 to 1, in the input of layers, by layer; none where
            not given. ``energy_model.activation_zeros`` measures them.
        batch_size: examples in one call; None takes the batch that was counted. All figures are
            for the whole call.
        mapping: for row-stationary targets: m, n, e, p, q, r, t by layer; searched where not given.
        samples: draws of the target's figures behind low and high (95 %).
        seed: of the draws; the same seed gives the same draws for the same target, so that the
            ratio of two estimates is taken under the same assumptions.

    Raises:
        InputError: an unknown target or layer, or a value out of range.
    """
    if samples < 2:
        raise InputError(f"samples: must be at least 2, got {samples}")
    prepared = prepare(counts, target, activation_zeros, batch_size, mapping)
    events = prepared.events()
    counted = int(counts["counted_batch"].iloc[0]) if len(counts) else 1
    return _assemble(prepared, events, batch_size or counted, samples, seed)


def _zeros_by_layer(given: Mapping[str, float], names: list[str]) -> dict[str, float]:
    for name, value in given.items():
        if name not in names:
            raise unknown_name("layer", name, names, "activation_zeros")
        if not 0.0 <= float(value) <= 1.0:
            raise InputError(f"activation_zeros: '{name}': must be from 0 to 1, got {value}")
    return {name: float(value) for name, value in given.items()}


def _zeros_of_outputs(layers: tuple[Layer, ...], zeros: Mapping[str, float]) -> Any:
    """A layer's output is taken to be as sparse as the next layer of products finds its input."""
    result = np.zeros(len(layers))
    following = 0.0
    for index in range(len(layers) - 1, -1, -1):
        if layers[index].geometry is not None:
            result[index] = following
            following = zeros.get(layers[index].name, 0.0)
    return result


@functools.lru_cache(maxsize=256)
def _normal_draws(family: str, samples: int, seed: int) -> NDArray[np.float64]:
    """Standard normal draws with 95 % between -1 and 1; the same for every target."""
    rng = np.random.default_rng([seed, zlib.crc32(family.encode())])
    drawn = rng.standard_normal(samples) / NORMAL_95
    drawn.setflags(write=False)
    return drawn


def draws(target: Target, samples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Each coefficient under each draw, pJ (samples,); keyed by name, so stable between layers.

    A coefficient is log-normal on either side of its value, with its low and high at 2.5 and
    97.5 %.
    """
    drawn = {}
    for name, (_, figure) in coefficients(target).items():
        z = _normal_draws(_family(name), samples, seed)
        if figure.value <= 0:
            drawn[name] = np.zeros(samples)
            continue
        down = np.log(figure.value / max(figure.low, figure.value * 1e-6))
        up = np.log(figure.high / figure.value)
        drawn[name] = figure.value * np.exp(np.where(z < 0, down, up) * z)
    return drawn


def _family(name: str) -> str:
    """Reading and writing one memory err together."""
    return name.replace("write ", "read ", 1)


def _assemble(
    prepared: Prepared, events: Events, batch_size: int, samples: int, seed: int
) -> Estimate:
    import pandas as pd

    prices = coefficients(prepared.target)
    drawn = draws(prepared.target, samples, seed)
    names = [layer.name for layer in prepared.layers]
    size = len(names)
    by_component: dict[str, tuple[Any, Any, Any]] = {}
    all_draws = np.zeros((size, samples))
    parts: dict[str, list[str]] = {}
    for name, (component, _) in prices.items():
        if name in events.counts:
            parts.setdefault(component, []).append(name)
    for component, members in parts.items():
        counted = np.stack([np.broadcast_to(events.counts[m], size) for m in members], axis=1)
        value = counted @ np.array([prices[m][1].value for m in members]) * 1e-12
        drawn_here = counted @ np.stack([drawn[m] for m in members]) * 1e-12
        low, high = percentiles(drawn_here)
        all_draws += drawn_here
        by_component[component] = (value, low, high)
    energy = sum((v for v, _, _ in by_component.values()), np.zeros(size))
    low, high = percentiles(all_draws)
    total_draws = all_draws.sum(axis=0)
    total_low, total_high = percentiles(total_draws[None, :])
    layers = pd.DataFrame(
        {
            "layer": names,
            "macs": [round(layer.macs) for layer in prepared.layers],
            "latency_s": events.latency_s,
            "energy_j": energy,
            "energy_low_j": np.minimum(low, energy),
            "energy_high_j": np.maximum(high, energy),
            "dram_bytes": events.dram_bytes,
            "buffer_bytes": events.buffer_bytes,
            "active_units": events.active_units,
            "mode": [s.mode.name if s else "" for s in prepared.settings],
            "mapping": [m.tiles if m else {} for m in prepared.pricer.mappings],
            "bound": _bounds(prepared, events),
        }
    )
    components = pd.DataFrame(
        {
            "layer": np.repeat(names, len(by_component)),
            "component": list(by_component) * size,
            "energy_j": _interleaved([v for v, _, _ in by_component.values()]),
            "energy_low_j": _interleaved([np.minimum(lo, v) for v, lo, _ in by_component.values()]),
            "energy_high_j": _interleaved([np.maximum(h, v) for v, _, h in by_component.values()]),
        }
    )
    value = float(energy.sum())
    total = Total(
        value,
        min(float(total_low[0]), value),
        max(float(total_high[0]), value),
        float(np.sum(events.latency_s)),
    )
    return Estimate(
        layers,
        components,
        total,
        prepared.target,
        batch_size,
        total_draws,
        events,
        prepared,
        _notes(prepared),
    )


def _notes(prepared: Prepared) -> tuple[str, ...]:
    target, notes = prepared.target, []
    pairs = [
        (layer, own) for layer, own in zip(prepared.layers, prepared.settings, strict=True) if own
    ]
    narrowed = [
        own.mode.name
        for layer, own in pairs
        if own.mode.activation_bits < layer.activation_bits
        or (layer.kind == "dense" and own.mode.weight_bits < layer.weight_bits)
    ]
    if narrowed:
        modes = ", ".join(sorted(set(narrowed)))
        notes.append(
            f"{len(narrowed)} of {len(pairs)} layers are wider than {target.name} computes and are "
            f"taken as quantized to {modes}; their accuracy then is another"
        )
    size = sum(level.size_bytes for level in target.levels if level.role == "buffer")
    needed = sum(layer.weight_elements * own.mode.weight_bits / 8 for layer, own in pairs)
    if target.level("dram") is None and needed > size:
        notes.append(
            f"uncompressed weights need {needed / 1e6:.1f} MB and {target.name} has "
            f"{size / 1e6:.1f} MB and no DRAM: what does not fit is not charged"
        )
    return tuple(notes)


def _interleaved(columns: list[Any]) -> Any:
    return np.stack(columns, axis=1).ravel()


def percentiles(values: Any) -> tuple[Any, Any]:
    """2.5 and 97.5 % along the last axis; nearest rank, which needs no full sort."""
    samples = values.shape[-1]
    ranks = [round(p / 100 * (samples - 1)) for p in PERCENTILES]
    parted = np.partition(values, ranks, axis=-1)
    return parted[..., ranks[0]], parted[..., ranks[1]]


def _bounds(prepared: Prepared, events: Events) -> list[str]:
    labels = np.array(["compute", "dram", "buffer"])
    times_s = np.stack(
        [
            np.broadcast_to(t, len(prepared.layers))
            for t in (events.compute_s, events.dram_s, events.buffer_s)
        ]
    )
    return [str(label) for label in labels[np.argmax(times_s, axis=0)]]


@dataclass(frozen=True)
class EnergyRatio:
    """variant / baseline, modelled: below 1 the variant needs less.

    Attributes:
        ratio, low, high: of energy; the range is 95 % over the target's figures, each draw used
            for both sides.
        latency_ratio: of latency.
        verdict: "saves", "costs" or "undecided".
    """

    ratio: float
    low: float
    high: float
    latency_ratio: float
    verdict: str


def compare_estimates(baseline: Estimate, variant: Estimate) -> EnergyRatio:
    """The ratio of two estimates on one target, under the same draws of its figures.

    Raises:
        InputError: the two are of different targets, batch sizes, samples or seeds.
    """
    if baseline.target.name != variant.target.name or baseline.batch_size != variant.batch_size:
        raise InputError("estimates: expected two of the same target and batch size")
    if baseline.draws_j.shape != variant.draws_j.shape:
        raise InputError("estimates: expected two with the same number of samples")
    low, high = percentiles((variant.draws_j / baseline.draws_j)[None, :])
    ratio = variant.total.energy_j / baseline.total.energy_j
    low_ratio, high_ratio = min(float(low[0]), ratio), max(float(high[0]), ratio)
    verdict = "saves" if high_ratio < 1 else ("costs" if low_ratio > 1 else "undecided")
    return EnergyRatio(
        ratio,
        low_ratio,
        high_ratio,
        variant.total.latency_s / baseline.total.latency_s,
        verdict,
    )
