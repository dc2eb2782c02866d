"""``count``: what every layer of a network computes, from one run of it."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ttq_energy.energy_model.geometry import GEOMETRY_COLUMNS
from ttq_energy.energy_model.recorder import Entry, Recorder
from ttq_energy.errors import InputError, unknown_name
from ttq_energy.quantization.layers import refuse_uninitialized, unwrapped
from ttq_energy.run import TABLES
from ttq_energy.variants import BUILT_IN

if TYPE_CHECKING:
    import pandas as pd

    from ttq_energy.energy_model.weights import WeightInfo

LAYER_COLUMNS = [c for c in TABLES["layers"].names if c not in ("model", "variant")]
EXTRA_COLUMNS = (
    "weight_kind",
    "scale_values",
    "scale_multiplies",
    "parameters",
    "second_operand_elements",
    "zeros_per_output",
    "calls",
    "counted_batch",
    *GEOMETRY_COLUMNS,
)
"""What estimating needs beyond the Run's columns."""

VARIANT_BITS = {"bf16": 16, "int8": 8, "ttq-int8": 8}


def count(
    model: nn.Module,
    example_input: Any,
    *,
    activation_bits: int | None = None,
    weight_bits: float | None = None,
    variant: str | None = None,
    sparsity: float | None = None,
) -> pd.DataFrame:
    """Count what each layer of a network computes for an example input.

    The model runs once, in evaluation mode and without gradients; nothing of it is changed. A
    multiply-accumulate is counted once (torch's flop counter counts two operations). Causal
    attention counts the full square, as torch does.

    Args:
        model: any module: full precision, prepared by ``prepare_`` or packed by ``convert``.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments. All
            figures are for this input as a whole; its first dimension is the batch.
        activation_bits: width that layers compute with. In a model with ternary layers it holds
            for those (their input); elsewhere for every layer, weights included. None takes the
            tensors' own.
        weight_bits: stored width of dense weights; None takes ``activation_bits`` as said, or the
            tensors' own.
        variant: counts the network as if quantized that way ("ttq", "int8", ...); the model
            itself stays as it is, and runs as it is. First and last layer are kept, as
            ``prepare_`` does. Wp and Wn count as two numbers unless the rule makes them one.
        sparsity: with ``variant``: the fraction of zeros in each ternary layer. None takes the
            zeros that the variant's own threshold leaves of these weights.

    Returns:
        One row a layer in order of execution, the columns of a Run's ``layers`` table (without
        model and variant) and those that estimating needs. ``multiplies`` and ``adds`` of ternary
        layers leave zero weights out and hold, for each output, two multiplies and one add for
        Wp and Wn (one multiply where they are equal). ``parameters`` and ``weight_bytes`` stand
        with the first layer that uses a weight; another that shares it (tied embeddings, a layer
        run with two shapes) has 0. ``supported`` is False where something is not counted:
        operators of which nothing is known, in their place, and modules that own parameters which
        no known operator used, last.

    Raises:
        InputError: the model does not take the input, an unknown variant, or a variant or
            sparsity that does not fit the model.
    """
    model = unwrapped(model)
    _check_number("sparsity", sparsity)
    _check_number("activation_bits", activation_bits)
    _check_number("weight_bits", weight_bits)
    if sparsity is not None and not 0.0 <= sparsity < 1.0:
        raise InputError(f"sparsity: must be at least 0 and below 1, got {sparsity}")
    taken_as: dict[tuple[int, str], WeightInfo] = {}
    if variant is not None:
        taken_as = _as_variant(model, variant, sparsity, example_input)
        activation_bits = activation_bits or VARIANT_BITS.get(variant)
    elif sparsity is not None:
        raise InputError("sparsity: needs a ternary variant, such as variant='ttq'")
    if isinstance(model, nn.Module):
        refuse_uninitialized(model, "model")
    recorder = _record(model, example_input, sample_zeros=False, taken_as=taken_as)
    entries = _named_apart(recorder)
    entries += _unsupported(model, recorder)
    widths = _Widths(entries, activation_bits, weight_bits)
    batch = _batch_of(example_input)
    owned = _Owned(model)
    import pandas as pd

    frame = pd.DataFrame(
        [_row(entry, widths, batch, owned) for entry in entries],
        columns=[*LAYER_COLUMNS, *EXTRA_COLUMNS],
    )
    frame["supported"] = frame["supported"].astype(bool)
    frame.attrs["batch_size"] = batch
    return frame


def activation_zeros(model: nn.Module, example_input: Any) -> dict[str, float]:
    """The fraction of zeros in the input of every layer that multiplies, measured in one run.

    Args:
        model, example_input: as :func:`count`.

    Returns:
        By layer, 0 to 1; layers whose input could not be seen are left out.
    """
    recorder = _record(unwrapped(model), example_input, sample_zeros=True)
    return {
        entry.layer: entry.sampled_zeros / entry.sampled_inputs
        for entry in _named_apart(recorder)
        if entry.sampled_inputs
    }


def _check_number(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise InputError(f"{name}: expected a number, got {value!r}")


def _record(
    model: nn.Module,
    example_input: Any,
    sample_zeros: bool,
    taken_as: Mapping[tuple[int, str], WeightInfo] | None = None,
) -> Recorder:
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch module, got {type(model).__name__}")
    if _batch_of(example_input) == 0:
        raise InputError("example_input: expected at least one example, got an empty batch")
    recorder = Recorder(model, sample_zeros, taken_as)
    modes = {module: module.training for module in model.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    random_state = torch.random.get_rng_state()
    try:
        # torch's fused encoder would hide its layers from the counter.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), recorder.watching(model.eval()):
            _call(model, example_input)
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()
        text = reason[0] if reason else type(error).__name__
        raise InputError(f"example_input: the model does not take it: {text}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.random.set_rng_state(random_state)
        for module, training in modes.items():
            module.training = training
    return recorder


def _call(model: nn.Module, example_input: Any) -> Any:
    if isinstance(example_input, Mapping):
        return model(**example_input)
    if isinstance(example_input, tuple):
        return model(*example_input)
    return model(example_input)


def _batch_of(example_input: Any) -> int:
    values = example_input.values() if isinstance(example_input, Mapping) else example_input
    if isinstance(example_input, Tensor):
        values = (example_input,)
    if not isinstance(values, Iterable):
        return 1
    first = next((v for v in values if isinstance(v, Tensor)), None)
    return int(first.shape[0]) if first is not None and first.dim() > 0 else 1


def _as_variant(
    model: nn.Module, variant: str, sparsity: float | None, example_input: Any
) -> dict[tuple[int, str], WeightInfo]:
    """What the weights that a variant quantizes would be, by module id and parameter name.

    Quantizing a copy of the model and running that would give the same numbers in ten times the
    time: shapes say what is computed, and thresholds alone say which weights are zero.
    """
    from ttq_energy.energy_model.weights import as_ternary
    from ttq_energy.quantization import config_from_dict
    from ttq_energy.quantization.prepare import chosen_weights

    if variant not in BUILT_IN:
        raise unknown_name("variant", variant, BUILT_IN)
    quantizer = BUILT_IN[variant].quantizer
    if quantizer is None:
        if sparsity is not None:
            raise InputError(f"sparsity: the variant '{variant}' has no ternary weights")
        return {}
    settings = dict(quantizer)
    if sparsity is not None:
        if settings["type"] != "TTQ":
            raise InputError(f"sparsity: the variant '{variant}' sets its own zeros")
        settings["sparsity"] = sparsity
    with torch.no_grad():
        return {
            (id(weight.module), weight.parameter): as_ternary(
                config, getattr(weight.module, weight.parameter), weight.parts
            )
            for weight, config in chosen_weights(
                model, config_from_dict(settings), example_input=example_input
            )
        }


def _named_apart(recorder: Recorder) -> list[Entry]:
    """Entries with names of their own: a layer that ran with several shapes gets #2, #3, ..."""
    seen: dict[str, int] = {}
    entries = list(recorder.entries.values())
    for entry in entries:
        seen[entry.layer] = seen.get(entry.layer, 0) + 1
        if seen[entry.layer] > 1:
            entry.layer = f"{entry.layer}#{seen[entry.layer]}"
    return entries


def _unsupported(model: nn.Module, recorder: Recorder) -> list[Entry]:
    """Modules that ran and own parameters which no entry accounts for."""
    from ttq_energy.energy_model.weights import dense

    used = set().union(*(entry.parameters for entry in recorder.entries.values()), set())
    supported_kinds = recorder.kinds
    entries = []
    for path, module in model.named_modules():
        if id(module) not in recorder.ran or supported_kinds._scope(module).role not in (
            "container",
            "linear",
        ):
            continue
        own = [p for p in module.parameters(recurse=False) if id(p) not in used]
        if not own or _known_elsewhere(module, recorder):
            continue
        flat = torch.cat([p.detach().reshape(-1) for p in own])
        entry = Entry(path or "model", type(module).__name__, None, dense(flat), supported=False)
        entry.parameters = {id(p) for p in own}
        entries.append(entry)
    return entries


def _known_elsewhere(module: nn.Module, recorder: Recorder) -> bool:
    """Biases and gains of modules whose products were counted belong to those."""
    return isinstance(module, nn.MultiheadAttention)


class _Widths:
    """Stored and computing widths of each entry."""

    def __init__(
        self, entries: list[Entry], activation_bits: int | None, weight_bits: float | None
    ) -> None:
        self.any_ternary = any(e.weight.kind in ("ternary", "binary") for e in entries)
        self.activation_bits, self.weight_bits = activation_bits, weight_bits

    def activations(self, entry: Entry) -> int:
        ternary = entry.weight.kind in ("ternary", "binary")
        if self.activation_bits is None or (self.any_ternary and not ternary):
            return entry.activation_bits
        return self.activation_bits

    def weights(self, entry: Entry) -> float:
        if entry.weight.kind != "dense":
            return entry.weight.bits
        if self.weight_bits is not None:
            return self.weight_bits
        if self.activation_bits is not None and not self.any_ternary:
            return min(entry.weight.bits, self.activation_bits)
        return entry.weight.bits


def _is_scale(name: str) -> bool:
    """Whether a parameter is a parametrization's own and not what it makes the weight from."""
    *path, last = name.split(".")
    return "parametrizations" in path and not last.startswith("original")


class _Owned:
    """Parameters by row, each once: by the first row that uses it.

    Wp and Wn are left out, so that a model counts the same before and after ``prepare_``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.elements = {
            id(p): 0 if _is_scale(name) else p.numel() for name, p in model.named_parameters()
        }
        self.seen: set[int] = set()
        self.stored: set[tuple[int, str]] = set()

    def take(self, entry: Entry) -> tuple[int, bool]:
        """(parameters that no row before had, whether its weights are stored with such a row)."""
        new = entry.parameters - self.seen
        self.seen |= new
        of_module = entry.parameters and all(i in self.elements for i in entry.parameters)
        found = sum(self.elements.get(i, 0) for i in new)
        if not of_module and (new or not entry.parameters):
            found = entry.weight.parameters  # Packed codes are no parameters of torch's.
        # A weight of two kinds (a table tied to a ternary layer) is stored twice.
        kind = entry.weight.kind
        places = {(i, kind) for i in entry.parameters}
        again = bool(places) and places <= self.stored
        self.stored |= places
        return found, again


def _row(entry: Entry, widths: _Widths, batch: int, owned: _Owned) -> dict[str, Any]:
    weight, geometry = entry.weight, entry.geometry
    parameters, stored_before = owned.take(entry)
    multiplies, adds = entry.multiplies, entry.adds
    if geometry is not None:
        multiplies, adds = _operations(entry)
    bits = widths.weights(entry)
    stored = (weight.elements * bits + weight.scale_values * 32) / 8
    row: dict[str, Any] = {
        "layer": entry.layer,
        "op": entry.op,
        "macs": entry.macs,
        "multiplies": round(multiplies),
        "adds": round(adds),
        "weight_elements": weight.elements,
        "weight_bits": float(bits),
        "weight_bytes": 0.0 if stored_before else float(stored),
        "weight_zero_fraction": weight.zero_fraction,
        "input_elements": entry.input_elements,
        "output_elements": entry.output_elements,
        "activation_bits": widths.activations(entry),
        "supported": entry.supported,
        "weight_kind": weight.kind,
        "scale_values": weight.scale_values,
        "scale_multiplies": weight.scale_multiplies,
        "parameters": parameters,
        "second_operand_elements": entry.second_elements,
        "zeros_per_output": np.asarray(weight.zeros_per_output),
        "calls": entry.calls,
        "counted_batch": batch,
    }
    for name in GEOMETRY_COLUMNS:
        row[name] = 0 if geometry is None else getattr(geometry, name)
    return row


def _operations(entry: Entry) -> tuple[float, float]:
    """(multiplies, adds) of a layer of products; see :func:`count`."""
    weight = entry.weight
    if weight.kind not in ("ternary", "binary"):
        return float(entry.macs), float(entry.macs)
    nonzeros = weight.elements - int(weight.zeros_per_output.sum())
    accumulates = nonzeros * (entry.macs // max(1, weight.elements))
    scalings = weight.scale_multiplies * entry.output_elements
    return scalings, accumulates + scalings - entry.output_elements
