"""From mapped layers to events: how often each priced thing happens, and how long a layer takes.

Every function is vectorised over layers (the last axis) and, for what-if questions, over any
leading axes of zero fractions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.energy_model import storage
from ttq_energy.energy_model.figures import ZERO, Figure
from ttq_energy.energy_model.mapping import Mapping as LayerMapping
from ttq_energy.energy_model.mapping import Widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttq_energy.energy_model.targets import Level, Mode, Target, WeightFormat
    from ttq_energy.energy_model.workload import Layer


@dataclass(frozen=True)
class Setting:
    """How one layer runs on a target, before its mapping.

    Attributes:
        mode: the arithmetic.
        formats: every format its stored weights could take, dense among them as None.
    """

    mode: Mode
    formats: tuple[WeightFormat | None, ...]
    widths: Widths


@dataclass
class Events:
    """Counts of priced things, each (..., layers), by coefficient; and times.

    Attributes:
        counts: by coefficient name.
        weight_counts: the part of ``counts`` that moves or decodes weights.
        latency_s, compute_s, dram_s, buffer_s: (..., layers).
        dram_bytes, buffer_bytes: (..., layers).
    """

    counts: dict[str, Any] = field(default_factory=dict)
    weight_counts: dict[str, Any] = field(default_factory=dict)
    latency_s: Any = 0.0
    compute_s: Any = 0.0
    dram_s: Any = 0.0
    buffer_s: Any = 0.0
    dram_bytes: Any = 0.0
    weight_dram_bytes: Any = 0.0
    buffer_bytes: Any = 0.0
    active_units: Any = 0.0


def choose_mode(target: Target, kind: str, weight_bits: float, activation_bits: int) -> Mode:
    """The mode that runs a layer: least energy among those wide enough, else the widest.

    Ternary weights may run in any mode; dense ones in those that multiply.
    """
    allowed = [m for m in target.modes if _runs(m, kind)] or list(target.modes)
    needed = 2.0 if kind == "ternary" else (1.0 if kind == "binary" else weight_bits)
    fitting = [
        m for m in allowed if m.activation_bits >= activation_bits and m.weight_bits >= needed
    ]
    if fitting:
        return min(fitting, key=_energy_of)
    enough = [m for m in allowed if m.weight_bits >= needed]
    enough = enough or [m for m in allowed if m.weight_bits == max(a.weight_bits for a in allowed)]
    widest = max(m.activation_bits for m in enough)
    return min((m for m in enough if m.activation_bits == widest), key=_energy_of)


def compressed_bits(target: Target, bits: Any, zeros: Any) -> Any:
    """Bits of an activation in DRAM: run-length pairs of (zeros before, value), or as it is."""
    if target.activation_compression == "none":
        return bits * np.ones_like(zeros)
    # Eyeriss packs three pairs and an end bit into 64 bits: 1/3 bit more a pair.
    entries = storage.run_length_entries(zeros, target.run_bits, 1 << 16)
    return np.minimum(bits, (bits + target.run_bits + 1 / 3) * entries)


def _runs(mode: Mode, kind: str) -> bool:
    if mode.weights == "ternary":
        return kind in ("ternary", "binary")
    if mode.weights == "binary":
        return kind == "binary"
    return True


def _energy_of(mode: Mode) -> tuple[float, float]:
    return mode.multiply_pj.value + mode.add_pj.value, mode.weight_bits


def setting(target: Target, layer: Layer, input_zeros: float, output_zeros: float) -> Setting:
    """Mode, formats and widths of a layer.

    Args:
        input_zeros, output_zeros: fractions that compress what goes to DRAM; the search for a
            mapping sees them to the nearest twentieth.
    """
    activation_bits = layer.activation_bits
    weight_bits = layer.weight_bits if layer.weight_elements else float(activation_bits)
    mode = choose_mode(target, layer.kind, weight_bits, activation_bits)
    formats: list[WeightFormat | None] = [None]
    ternary = layer.kind in ("ternary", "binary")
    if layer.weight_elements:
        formats += [f for f in target.formats if ternary or f.scheme not in storage.TERNARY_ONLY]
    weight = mode.weight_bits if layer.weight_elements else float(mode.activation_bits)
    packed = [f for f in formats if f is not None and f.expanded_in == "array"]
    if packed and layer.kind in ("ternary", "binary"):
        weight = min(weight, min(float(storage.expected_bits(f.scheme, 0.5)) for f in packed))
    bits = float(mode.activation_bits)
    packed_input, packed_output = (
        float(compressed_bits(target, bits, np.asarray(round(20 * zeros) / 20)))
        for zeros in (input_zeros, output_zeros)
    )
    widths = Widths(weight, bits, bits, mode.accumulator_bits, packed_input, packed_output)
    return Setting(mode, tuple(formats), widths)


def coefficients(target: Target) -> dict[str, tuple[str, Figure]]:
    """Every priced thing of a target: its component and its price in pJ (static: pJ a second)."""
    found: dict[str, tuple[str, Figure]] = {}
    for mode in target.modes:
        found[f"multiply {mode.name}"] = ("arithmetic", mode.multiply_pj)
        found[f"add {mode.name}"] = ("arithmetic", mode.add_pj)
        found[f"scale {mode.name}"] = ("arithmetic", mode.scale_pj)
    for level in target.levels:
        component = "dram" if level.role == "dram" else level.name
        found[f"read {level.name}"] = (component, level.read_pj.scaled(1 / level.access_bits))
        if level.write_pj != level.read_pj:
            found[f"write {level.name}"] = (
                component,
                level.write_pj.scaled(1 / level.access_bits),
            )
    for form in target.formats:
        found[f"decode {form.scheme}"] = ("decode", form.decode_pj)
    found["vector"] = ("vector", target.vector_pj)
    found["static"] = ("static", target.static_w.scaled(1e12))
    return {name: pair for name, pair in found.items() if pair[1] != ZERO}


class Pricer:
    """Events of mapped layers on one target.

    Args:
        target: where they run.
        layers: the layers, in order.
        settings: of the layers with products; None for others.
        mappings: likewise, calls included.
    """

    def __init__(
        self,
        target: Target,
        layers: Sequence[Layer],
        settings: Sequence[Setting | None],
        mappings: Sequence[LayerMapping | None],
    ) -> None:
        self.target, self.layers = target, layers
        self.settings, self.mappings = settings, mappings
        self.products = np.array([m is not None for m in mappings])
        self.macs = self._of_layers(lambda layer: layer.macs)
        self.outputs = self._of_layers(lambda layer: layer.output_elements)
        self.weights = self._of_layers(lambda layer: layer.weight_elements)
        self.skips = {
            "weight": target.zero_weight == "skip",
            "activation": target.zero_activation == "skip",
        }

    def _of_layers(self, read: Any) -> NDArray[np.float64]:
        return np.array([float(read(layer)) for layer in self.layers])

    def _of_mappings(self, name: str) -> NDArray[np.float64]:
        return np.array([0.0 if m is None else float(getattr(m, name)) for m in self.mappings])

    def _of_modes(self, read: Any, default: float = 0.0) -> NDArray[np.float64]:
        return np.array([default if s is None else float(read(s)) for s in self.settings])

    def events(
        self, weight_zeros: Any, input_zeros: Any, output_zeros: Any, scale_multiplies: Any
    ) -> Events:
        """Count everything.

        Args:
            weight_zeros, input_zeros, output_zeros: fractions, (..., layers).
            scale_multiplies: Wp and Wn products an output, (layers,).
        """
        target, events = self.target, Events()
        done_w = 1.0 - weight_zeros if target.zero_weight != "none" else np.ones_like(weight_zeros)
        done_a = (
            1.0 - input_zeros if target.zero_activation != "none" else np.ones_like(input_zeros)
        )
        issued_w = done_w if self.skips["weight"] else np.ones_like(done_w)
        issued_a = done_a if self.skips["activation"] else np.ones_like(done_a)
        executed = self.macs * done_w * done_a * self.products
        issued = self.macs * issued_w * issued_a * self.products
        self._arithmetic(events, executed, scale_multiplies)
        self._registers(events, executed, issued)
        stored_bits, buffer_bits = self._weight_formats(events, weight_zeros)
        self._movement(
            events, stored_bits, buffer_bits, input_zeros, output_zeros, issued_w, issued_a
        )
        self._vector(events)
        self._latency(events, weight_zeros, issued_w, issued_a)
        return events

    def uses_formats(self) -> bool:
        """Whether some ternary layer was stored packed when events were last counted."""
        packed = getattr(self, "_chosen_formats", np.full(len(self.layers), -1)) >= 0
        ternary = np.array([layer.kind in ("ternary", "binary") for layer in self.layers])
        narrow = np.array(
            [s is not None and s.mode.weights in ("ternary", "binary") for s in self.settings]
        )
        return bool(((packed | narrow) & ternary).any())

    # -- energy -----------------------------------------------------------------------------------

    def _arithmetic(self, events: Events, executed: Any, scale_multiplies: Any) -> None:
        for mode in self.target.modes:
            chosen = np.array([s is not None and s.mode is mode for s in self.settings])
            if not chosen.any():
                continue
            here = executed * chosen
            adds_only = mode.weights in ("ternary", "binary")
            if not adds_only:
                _add(events, f"multiply {mode.name}", here)
            _add(events, f"add {mode.name}", here)
            if adds_only:
                scaled = chosen * self.outputs * scale_multiplies
                _add(events, f"scale {mode.name}", scaled)
                _add(
                    events,
                    f"add {mode.name}",
                    chosen * self.outputs * np.maximum(scale_multiplies - 1, 0),
                )

    def _registers(self, events: Events, executed: Any, issued: Any) -> None:
        bits = {
            "weight": self._of_modes(lambda s: s.widths.weight),
            "input": self._of_modes(lambda s: s.widths.input),
            "output": self._of_modes(lambda s: s.widths.accumulator),
        }
        for level in self.target.levels:
            if level.role != "register":
                continue
            for tensor, accesses in level.accesses_per_mac.items():
                happen = issued if tensor in level.not_gated else executed
                _add(events, f"read {level.name}", happen * accesses * bits[tensor])

    def _weight_formats(self, events: Events, weight_zeros: Any) -> tuple[Any, Any]:
        """Bits of a weight as stored in DRAM and in the buffer, in the smallest format."""
        dense = self._of_modes(
            lambda s: s.mode.weight_bits if s.formats else s.widths.weight, default=32.0
        )
        operand = np.array([layer.weight_elements == 0 for layer in self.layers])
        dense = np.where(operand, self._of_modes(lambda s: s.widths.input), dense)
        stored = np.broadcast_to(dense, np.shape(weight_zeros)).copy()
        buffered = stored.copy()
        chosen = np.full(stored.shape, -1)
        for number, form in enumerate(self.target.formats):
            usable = np.array([s is not None and form in s.formats for s in self.settings])
            if not usable.any():
                continue
            values = np.array(
                [
                    1.0 if layer.kind in ("ternary", "binary") else width
                    for layer, width in zip(self.layers, dense, strict=True)
                ]
            )
            bits = np.stack(
                [
                    storage.expected_bits(
                        form.scheme,
                        np.asarray(weight_zeros)[..., i],
                        columns=layer.columns,
                        index_bits=form.index_bits,
                        value_bits=values[i],
                        run=self._run(layer),
                    )
                    for i, layer in enumerate(self.layers)
                ],
                axis=-1,
            )
            better = usable & (bits < stored)
            stored = np.where(better, bits, stored)
            if form.expanded_in == "array":
                buffered = np.where(better, bits, buffered)
            chosen = np.where(better, number, chosen)
        self._chosen_formats = chosen
        return stored, buffered

    def _run(self, layer: Layer) -> int:
        """Weights of one column that one unit holds: run lengths start anew there."""
        return max(1, math.ceil(layer.out_channels / self.target.units))

    def _movement(
        self,
        events: Events,
        stored_bits: Any,
        buffer_bits: Any,
        input_zeros: Any,
        output_zeros: Any,
        issued_w: Any,
        issued_a: Any,
    ) -> None:
        target = self.target
        in_bits = self._of_modes(lambda s: s.widths.input)
        out_bits = self._of_modes(lambda s: s.widths.output)
        sum_bits = self._of_modes(lambda s: s.widths.accumulator)
        words = {
            n: self._of_mappings(n)
            for n in (
                "dram_weight",
                "dram_input",
                "dram_output",
                "dram_partial",
                "buffer_weight",
                "buffer_input",
                "buffer_output",
                "network_hops",
            )
        }
        on_chip = self._stays_on_chip(in_bits, out_bits)
        dram = target.level("dram")
        buffer = target.level("buffer")
        network = target.level("network")
        in_dram = words["dram_input"] * ~on_chip[0] * compressed_bits(target, in_bits, input_zeros)
        out_dram = (
            words["dram_output"] * ~on_chip[1] * compressed_bits(target, out_bits, output_zeros)
        )
        weight_dram = words["dram_weight"] * stored_bits
        partial_dram = words["dram_partial"] * sum_bits
        table_dram, extra_dram = self._unfused()
        reads = weight_dram + in_dram + partial_dram / 2 + table_dram + extra_dram
        writes = out_dram + partial_dram / 2
        if dram is not None:
            _move(events.counts, dram, reads, writes)
            _move(events.weight_counts, dram, weight_dram, 0.0)
            events.dram_bytes = (reads + writes) / 8
            events.weight_dram_bytes = weight_dram / 8
        else:
            reads, writes = 0.0 * reads, 0.0 * writes
            weight_dram, in_dram = 0.0 * weight_dram, 0.0 * in_dram
            events.dram_bytes = reads / 8
            events.weight_dram_bytes = reads / 8
        waits = in_dram * target.serial_input_fill + out_dram * target.serial_output_drain
        self._serial_bytes = waits / 8 if dram is not None else 0.0 * waits
        weights_pass = _holds(buffer, "weight")
        weights = words["buffer_weight"] * buffer_bits * issued_a if weights_pass else 0.0
        to_array = (
            words["buffer_input"] * in_bits * issued_a + words["buffer_output"] * sum_bits + weights
        )
        events.buffer_bytes = to_array / 8 * np.ones_like(stored_bits)
        self._output_bits = words["buffer_output"] * sum_bits / 2
        if buffer is not None:
            half = words["buffer_output"] * sum_bits / 2
            filled = weight_dram if weights_pass else 0.0
            _move(events.counts, buffer, to_array - half + writes, half + in_dram + filled)
            _move(events.weight_counts, buffer, weights, filled)
        if network is not None:
            past = 0.0 if weights_pass else words["dram_weight"] * in_bits
            hops = words["network_hops"] * sum_bits
            _move(events.counts, network, to_array + past + hops, 0.0)
            _move(events.weight_counts, network, weights + past, 0.0)
        for number, form in enumerate(target.formats):
            source = words["dram_weight"] if dram is not None else words["buffer_weight"]
            if form.expanded_in == "array":
                source = words["buffer_weight"]
            decoded = np.where(self._chosen_formats == number, source, 0.0)
            for counts in (events.counts, events.weight_counts):
                _count(counts, f"decode {form.scheme}", decoded * issued_w * issued_a)

    def _stays_on_chip(self, in_bits: Any, out_bits: Any) -> tuple[Any, Any]:
        """Whether each layer's input and output never leave the chip."""
        none = np.zeros(len(self.layers), dtype=bool)
        buffer = self.target.level("buffer")
        if not self.target.stay_on_chip or buffer is None:
            return none, none.copy()
        inputs = np.array([layer.input_elements for layer in self.layers]) * in_bits / 8
        outputs = self.outputs * out_bits / 8
        fits = self.products & (inputs + outputs <= buffer.size_bytes)
        places = np.flatnonzero(self.products)
        stays_in, stays_out = fits.copy(), fits.copy()
        if len(places):
            stays_in[places[0]] = stays_out[places[-1]] = False
            for before, after in itertools.pairwise(places):
                both = stays_out[before] and stays_in[after]
                stays_out[before] = stays_in[after] = both
        return stays_in, stays_out

    def _unfused(self) -> tuple[Any, Any]:
        """Bits that embeddings look up, and those that elementwise operators read again."""
        table = np.array(
            [
                layer.output_elements * layer.weight_bits if layer.op == "embedding" else 0.0
                for layer in self.layers
            ]
        )
        again = np.array(
            [
                max(0.0, layer.input_elements - layer.output_elements)
                * self._word_bits(layer.activation_bits)
                if layer.op == "elementwise" and not self.target.stay_on_chip
                else 0.0
                for layer in self.layers
            ]
        )
        return table, again

    def _word_bits(self, bits: int) -> int:
        """Of the narrowest word of the target that holds an activation, else its widest."""
        widths = sorted({mode.activation_bits for mode in self.target.modes})
        return next((width for width in widths if width >= bits), widths[-1])

    def _vector(self, events: Events) -> None:
        operations = np.array(
            [
                0.0 if product else layer.multiplies + layer.adds
                for layer, product in zip(self.layers, self.products, strict=True)
            ]
        )
        _add(events, "vector", operations)
        self._vector_s = operations / (self.target.vector_per_cycle * self.target.clock_hz)

    # -- time -------------------------------------------------------------------------------------

    def _latency(self, events: Events, weight_zeros: Any, issued_w: Any, issued_a: Any) -> None:
        target = self.target
        lanes = self._of_modes(lambda s: s.mode.macs_per_cycle, default=1.0)
        cycles = self._of_mappings("cycles") / lanes * issued_w * issued_a
        if self.skips["weight"]:
            cycles = cycles * self._imbalance(weight_zeros)
        load = self._of_mappings("load_cycles")
        events.compute_s = (cycles + load) / target.clock_hz + self._vector_s
        dram, buffer = target.level("dram"), target.level("buffer")
        events.dram_s = (
            events.dram_bytes / dram.bandwidth_bytes_per_s if dram else 0.0 * events.dram_bytes
        )
        events.buffer_s = 0.0 * events.buffer_bytes
        if buffer is not None:
            events.buffer_s = np.maximum(
                events.buffer_bytes / buffer.bandwidth_bytes_per_s,
                self._output_bits / 8 / buffer.output_bandwidth_bytes_per_s,
            )
        busy = np.maximum(np.maximum(events.compute_s, events.dram_s), events.buffer_s)
        if dram is not None:
            waits = self._serial_bytes / dram.bandwidth_bytes_per_s
            busy = np.maximum(np.maximum(events.compute_s, events.buffer_s) + waits, events.dram_s)
        events.latency_s = busy
        events.active_units = self._of_mappings("active_units")
        _add(events, "static", busy)

    def _imbalance(self, weight_zeros: Any) -> Any:
        """How much longer the fullest unit takes than the average one.

        With a queue of depth D before each of N units, and m entries a unit and column on average
        with variance m (1 - d), the wait is that of a queue in heavy traffic: the chance that
        one of N queues overflows stays small when the load is below 1 / (1 + ln(N) (1-d)/(m D)).
        Padding entries of the run-length code are executed too.
        """
        target = self.target
        factor = np.full_like(weight_zeros, target.imbalance.value, dtype=float)
        run = np.array([self._run(layer) for layer in self.layers])
        density = 1.0 - weight_zeros
        form = next((f for f in target.formats if f.scheme == "run-length"), None)
        entries = density
        if form is not None:
            entries = np.stack(
                [
                    storage.run_length_entries(
                        np.asarray(weight_zeros)[..., i], form.index_bits, int(run[i])
                    )
                    for i in range(len(run))
                ],
                axis=-1,
            )
            factor = factor * np.where(density > 0, entries / np.maximum(density, 1e-12), 1.0)
        if target.queue_depth is not None:
            load = np.maximum(density * run, 1e-9)
            spread = (1.0 - density) / (load * target.queue_depth)
            factor = factor * (1.0 + math.log(max(2, target.units)) * spread)
        return factor


def _holds(level: Level | None, tensor: str) -> bool:
    return level is not None and tensor in level.holds


def _add(events: Events, name: str, count: Any) -> None:
    _count(events.counts, name, count)


def _count(counts: dict[str, Any], name: str, count: Any) -> None:
    counts[name] = counts.get(name, 0.0) + count


def _move(counts: dict[str, Any], level: Level, reads: Any, writes: Any) -> None:
    """Bits read from and written to a level."""
    same = level.write_pj == level.read_pj
    _count(counts, f"read {level.name}", reads + writes if same else reads)
    if not same:
        _count(counts, f"write {level.name}", writes)


def totals(events: Events, prices: Mapping[str, tuple[str, Figure]]) -> Any:
    """Energy in joule over all layers, (...)."""
    return sum(
        np.sum(events.counts[name], axis=-1) * figure.value * 1e-12
        for name, (_, figure) in prices.items()
        if name in events.counts
    )
