"""``prepare_``: put quantizers on a model's weights, in place."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.quantization import own_forward
from ttq_energy.quantization.configs import Config, check_config
from ttq_energy.quantization.layers import (
    KNOWN_KINDS,
    Weight,
    call_order,
    quantizable_weights,
    quantized_layers,
    refuse_unfit,
    refuse_unfit_weight,
)
from ttq_energy.quantization.quantizer import Quantizer

TELL_FROM = 0.1
"""Least share of the parameters in other kinds of modules that is worth a warning."""


def prepare_(
    model: nn.Module,
    config: Config,
    skip: Iterable[str] | None = None,
    *,
    example_input: Any = None,
    overrides: Mapping[str, Config | None] | None = None,
) -> nn.Module:
    """Make a model's weights quantized and trainable, in place.

    Quantized are the weights of Linear, Conv1d and Conv2d (grouped and depthwise too), LSTM and
    GRU, and attention's projections. Embeddings, biases and normalization stay as they are; so do
    layers that make other weights of theirs first (weight standardization), in which ternary values
    would not stay ternary. A warning says what share of the parameters other kinds of modules hold
    (experts in one tensor), where it is more than a tenth. The
    latent weight stays the same parameter object, so a tied embedding keeps full precision and
    an optimizer made before goes on.

    Args:
        model: any module.
        config: how, for every layer that ``overrides`` does not name.
        skip: layers that stay in full precision, by exact name: a module's path, or a weight's
            ("lstm.weight_ih_l0"). None keeps the first and the last layer with weights, embeddings
            counted, by the order in which they run: seen with ``example_input``, else in
            the graph that torch.fx finds, else as registered. ``()`` keeps none.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments.
        overrides: a configuration for single layers, or None for full precision; it stands above
            ``skip``.

    Returns:
        The same model.

    Raises:
        InputError: an unknown layer name, a model already prepared, or nothing left to quantize.
            The model is then unchanged.
    """
    for weight, own in chosen_weights(model, config, skip, example_input, overrides):
        value = getattr(weight.module, weight.parameter)
        quantizer = Quantizer(own, value.detach(), weight.parts).train(weight.module.training)
        with torch.no_grad():
            parametrize.register_parametrization(weight.module, weight.parameter, quantizer)
        if isinstance(weight.module, nn.RNNBase):
            _read_weights_fresh(weight.module)
    return model


def chosen_weights(
    model: nn.Module,
    config: Config,
    skip: Iterable[str] | None = None,
    example_input: Any = None,
    overrides: Mapping[str, Config | None] | None = None,
) -> list[tuple[Weight, Config]]:
    """The weights that :func:`prepare_` quantizes and how; arguments and errors are its own."""
    check_config(config)
    refuse_unfit(model, "prepare_")
    if quantized_layers(model):
        raise InputError("prepare_: this model is already prepared; expected full precision")
    every = quantizable_weights(model)
    weights = [weight for weight in every if own_forward.uses_its_weight(weight.module)]
    unfit = {weight.layer: weight for weight in every if weight not in weights}
    for name, own in (overrides or {}).items():
        if own is not None and name in unfit:
            kind = type(unfit[name].module).__name__
            raise InputError(
                f"overrides: layer '{name}': {kind} makes other weights of its own, in which "
                "ternary values would not stay ternary"
            )
    chosen = _choose(model, weights, config, skip, example_input, overrides or {}, set(unfit))
    left = _left_out(model, unfit)
    if not chosen:
        raise InputError(_nothing_left(weights, skip) + (f"; {left}" if left else ""))
    for weight, _ in chosen:
        refuse_unfit_weight(weight, "prepare_")
    if left:
        warnings.warn(f"prepare_: {left}", stacklevel=3)
    return chosen


def _left_out(model: nn.Module, unfit: Mapping[str, Weight]) -> str:
    """One sentence on the matrices that no kind of layer knows; empty below a tenth of all."""
    kinds: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    unfit_modules = {id(weight.module) for weight in unfit.values()}
    for module in model.modules():
        known = isinstance(module, (*KNOWN_KINDS, parametrize.ParametrizationList))
        if known and id(module) not in unfit_modules:
            continue
        own = sum(p.numel() for p in module.parameters(recurse=False) if p.dim() > 1)
        if own:
            kinds[type(module).__name__] += 1
            elements[type(module).__name__] += own
    share = elements.total() / max(1, sum(p.numel() for p in model.parameters()))
    if share < TELL_FROM:
        return ""
    named = ", ".join(f"{name} x{kinds[name]}" for name, _ in elements.most_common(4))
    return f"{share:.0%} of the parameters stay in full precision, in kinds of modules: {named}"


def _choose(
    model: nn.Module,
    weights: list[Weight],
    config: Config,
    skip: Iterable[str] | None,
    example_input: Any,
    overrides: Mapping[str, Config | None],
    unfit: set[str],
) -> list[tuple[Weight, Config]]:
    valid = {weight.path for weight in weights if weight.path} | {w.layer for w in weights} | unfit
    for name, own in overrides.items():
        if name not in valid:
            raise unknown_name("layer", name, valid, "overrides")
        if own is not None:
            check_config(own)
    if skip is None:
        calls = call_order(model, example_input)
        kept = {calls[0], calls[-1]} if calls else set()
        kept_weights = {weight.layer for weight in weights if weight.path in kept}
        kept_weights |= {
            w.layer for w in weights if w.path.rpartition(".")[0] in _attention(model, kept)
        }
    else:
        kept_weights = set(_checked_names(skip, valid))
    chosen = []
    for weight in weights:
        own = None if kept_weights & {weight.path, weight.layer} else config
        for name in (weight.path, weight.layer):
            own = overrides.get(name, own)
        if own is not None:
            chosen.append((weight, own))
    return chosen


def _attention(model: nn.Module, paths: set[str]) -> set[str]:
    """Those of the paths that are attention, whose output projection is a module inside."""
    return {p for p in paths if isinstance(model.get_submodule(p), nn.MultiheadAttention)}


def _checked_names(skip: Iterable[str], valid: set[str]) -> list[str]:
    if isinstance(skip, str):
        raise InputError(f"skip: expected a list of layer names, got the text '{skip}'")
    names = list(skip)
    for name in names:
        if name not in valid:
            raise unknown_name("layer", name, valid, "skip")
    return names


def _nothing_left(weights: list[Weight], skip: Iterable[str] | None) -> str:
    if not weights:
        return (
            "prepare_: the model has no weight that can be quantized; expected a Linear, Conv1d, "
            "Conv2d, LSTM, GRU or MultiheadAttention"
        )
    if skip is None:
        return (
            "prepare_: nothing is left to quantize: the first and the last layer keep full "
            "precision by default; give skip=() to quantize them too"
        )
    return "prepare_: nothing is left to quantize: skip and overrides name every layer"


def _read_weights_fresh(module: nn.RNNBase) -> None:
    """Let a recurrent layer read its weights at each use instead of keeping them in a list.

    The list would hold last step's quantized tensors, which cannot be copied (EMA) and are not
    what the parameters are after an optimizer's step. The class is this module's own, made by
    ``register_parametrization``.
    """
    module.__dict__.pop("_flat_weights", None)
    own: Any = type(module)
    own._flat_weights = property(
        lambda self: [getattr(self, name) for name in self._flat_weights_names],
        lambda self, value: None,
    )
    own._update_flat_weights = lambda self: None
