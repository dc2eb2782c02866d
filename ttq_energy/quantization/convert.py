"""``convert``: a new model that runs on packed ternary kernels."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.kernels import fusion
from ttq_energy.kernels.modules import (
    TernaryConv1d,
    TernaryConv2d,
    TernaryLinear,
    TernaryModule,
)
from ttq_energy.kernels.packing import ACTIVATIONS
from ttq_energy.kernels.recurrent import TernaryGRU, TernaryLSTM
from ttq_energy.quantization import own_forward
from ttq_energy.quantization.attention import TernaryMultiheadAttention
from ttq_energy.quantization.layers import (
    QuantizedWeight,
    call_order,
    can_pack,
    quantized_layers,
    refuse_unfit,
    unwrapped,
)

Weights = dict[str, QuantizedWeight]
"""The quantized weights of one module by parameter name."""
_FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def convert(model: nn.Module, activations: str = "fp32", example_input: Any = None) -> nn.Module:
    """A new model, in evaluation mode, whose quantized layers run on packed ternary kernels.

    The packed weights equal the effective ones of ``model`` bit for bit; ``model`` is not changed
    and shares no tensor with the result. Layers in full precision are copied.

    Args:
        model: prepared by ``prepare_``; may stand inside DistributedDataParallel or torch.compile.
        activations: "fp32" computes with float32 activations; "int8" quantizes the input of each
            packed layer as it comes.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments. If given,
            batch normalization, ReLU and residual additions are fused into the layers before them,
            where torch.fx can trace the model and no module has a forward hook, which could tell;
            outputs then agree to rounding. Layers whose weight the module around them multiplies
            with itself are then seen and kept in floats.

    Layers of a class of their own (``Conv2dSame``) are packed where a plain layer computes the
    same. Those that cannot be packed keep their ternary values in float arithmetic, a warning
    names them, and ``kernels.describe`` shows them as torch's.

    Raises:
        InputError: no quantized layer or none that can be packed, weights that are not ternary, or
            an unknown ``activations``.
    """
    if activations not in ACTIVATIONS:
        raise unknown_name("activations", activations, ACTIVATIONS)
    refuse_unfit(model, "convert")
    model = unwrapped(model)
    quantized = quantized_layers(model)
    if not quantized:
        raise InputError("convert: the model has no quantized layer; expected one after prepare_")
    for weight in quantized.values():
        if not can_pack(weight):
            raise InputError(
                f"convert: layer '{weight.layer}': {weight.quantizer.config} has more than three "
                "weight values; only ternary and binary weights can be packed"
            )
        _refuse_weightless(weight)
    # Filling deepcopy's memo makes it place the packed modules instead of copying the prepared
    # ones: a copy of those would share their class, and undoing its parametrization would break
    # the original.
    memo: dict[int, Any] = {}
    bypassed = _bypassed(model, quantized, example_input)
    in_floats: list[str] = []
    for module in dict.fromkeys(weight.module for weight in quantized.values()):
        if not isinstance(module, nn.MultiheadAttention):
            own = {w.parameter: w for w in quantized.values() if w.module is module}
            name = next(iter(own.values())).layer
            made = None if name in bypassed else _pack(module, own, activations)
            if made is None:
                in_floats.append(name)
                values = {parameter: w.effective() for parameter, w in own.items()}
                made = own_forward.dense_copy(module, values)
            memo[id(module)] = made
    _tell_of_floats(in_floats, quantized)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            own = {w.parameter: w for w in quantized.values() if w.module is module}
            if own or id(module.out_proj) in memo:
                memo[id(module)] = _pack_attention(module, own, activations, memo)
    hooked = [_keep_hooks(part, memo.get(id(part))) for part in model.modules()]
    packed: nn.Module = copy.deepcopy(model, memo).eval()
    return packed if example_input is None or any(hooked) else fusion.fuse(packed, example_input)


def _refuse_weightless(weight: QuantizedWeight) -> None:
    latent = weight.latent()
    if latent.is_meta:
        raise InputError(f"convert: layer '{weight.layer}': on the device 'meta' it has no weights")
    if not all(bool(t.isfinite().all()) for t in (latent, *weight.scales())):
        raise InputError(
            f"convert: layer '{weight.layer}': its weights or scales are not finite; has the "
            "training diverged?"
        )


def _keep_hooks(module: nn.Module, packed: nn.Module | None) -> bool:
    """Give a packed module the forward hooks of the one that it replaces; whether there are any."""
    if packed is not None:
        for name in _FORWARD_HOOKS:
            packed.__dict__[name] = copy.copy(module.__dict__[name])
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _bypassed(model: nn.Module, quantized: Weights, example_input: Any) -> set[str]:
    """Layers whose weight is multiplied with outside of them, in a run on the example input."""
    attention = {
        id(inner)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner in module.modules()
    }
    layers = {
        name: (weight.quantizer, weight.module)
        for name, weight in quantized.items()
        if id(weight.module) not in attention
    }
    if example_input is None or not layers:
        return set()
    seen = own_forward.Bypassed(layers)
    with seen.watching():
        call_order(model, example_input)
    return seen.instead_of_called


def _tell_of_floats(layers: list[str], quantized: Weights) -> None:
    if not layers:
        return
    if len(layers) == len(quantized):
        raise InputError(
            f"convert: no layer can be packed: {_listed(layers)} compute something else than "
            "torch's own layer with their weights, or are not called themselves"
        )
    warnings.warn(
        f"convert: {len(layers)} of {len(quantized)} quantized weights stay in float arithmetic, "
        "as their layer computes something else than torch's own or is not called itself: "
        f"{_listed(layers)}",
        stacklevel=3,
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _pack(module: nn.Module, weights: Weights, activations: str) -> nn.Module | None:
    """The packed module; None where no kernel computes what this one does."""
    before: nn.Module | None = None
    if not own_forward.is_plain(module):
        if list(weights) != ["weight"]:
            return None
        found = own_forward.plain_form(module, weights["weight"].effective())
        if found is None:
            return None
        before, module = found
    kind = next(kind for kind in _PACKERS if isinstance(module, kind))
    packed = _PACKERS[kind](module, weights, activations)
    if list(weights) == ["weight"] and isinstance(packed, TernaryModule):
        weight = weights["weight"]
        packed.weight = own_forward.PackedValues.of(weight.layer, weight.latent())
    return packed if before is None else nn.Sequential(before, packed)


def _bias(module: nn.Module, name: str = "bias") -> Tensor | None:
    bias = getattr(module, name)
    return None if bias is None else bias.detach().clone()


def _triple(weight: QuantizedWeight) -> tuple[Tensor, Tensor, Tensor]:
    return (weight.codes(), *weight.scales())


def _pack_linear(module: Any, weights: Weights, activations: str) -> nn.Module:
    packed = TernaryLinear(*_triple(weights["weight"]), _bias(module), activations=activations)
    return packed.to(_half_type(weights["weight"]))


def _half_type(weight: QuantizedWeight) -> torch.dtype | None:
    """The type of a layer in half precision, which it must also give; else None."""
    dtype = weight.latent().dtype
    return dtype if dtype in (torch.float16, torch.bfloat16) else None


def _pack_conv(kind: type[TernaryConv2d]) -> Callable[[Any, Weights, str], nn.Module]:
    def pack(module: Any, weights: Weights, activations: str) -> nn.Module:
        before, padding = _padding(module)
        packed = kind(
            *_triple(weights["weight"]),
            _bias(module),
            stride=module.stride,
            padding=padding,
            dilation=module.dilation,
            groups=module.groups,
            activations=activations,
        ).to(_half_type(weights["weight"]))
        return packed if before is None else nn.Sequential(before, packed)

    return pack


def _padding(module: Any) -> tuple[nn.Module | None, Any]:
    """A module that pads before the convolution, where its own padding cannot, and that padding."""
    around = module._reversed_padding_repeated_twice
    zeros = module.padding_mode == "zeros"
    if zeros and module.padding == "valid":
        return None, (0,) * len(module.kernel_size)
    if zeros and not isinstance(module.padding, str):
        return None, module.padding
    if zeros and around[::2] == around[1::2]:
        return None, tuple(reversed(around[::2]))
    kind = {
        "zeros": "Zero",
        "reflect": "Reflection",
        "replicate": "Replication",
        "circular": "Circular",
    }[module.padding_mode]
    pad: nn.Module = getattr(nn, f"{kind}Pad{len(module.kernel_size)}d")(tuple(around))
    return pad, (0,) * len(module.kernel_size)


def _pack_recurrent(
    kind: type[TernaryLSTM] | type[TernaryGRU],
) -> Callable[[Any, Weights, str], nn.Module]:
    def pack(module: Any, weights: Weights, activations: str) -> nn.Module:
        parameters = {
            name: _triple(weights[name]) if name in weights else getattr(module, name).detach()
            for name in module._flat_weights_names
        }
        return kind(
            parameters,
            num_layers=module.num_layers,
            batch_first=module.batch_first,
            bidirectional=module.bidirectional,
            activations=activations,
        )

    return pack


def _pack_attention(
    module: nn.MultiheadAttention, weights: Weights, activations: str, memo: dict[int, Any]
) -> nn.Module:
    bias = _bias(module, "in_proj_bias")
    names: dict[str, Tensor | None] = {"in_proj": bias}
    if not module._qkv_same_embed_dim:
        parts = [None] * 3 if bias is None else list(bias.chunk(3))
        names = dict(zip(("q_proj", "k_proj", "v_proj"), parts, strict=True))
    projections: dict[str, nn.Module] = {
        name: _projection(module, f"{name}_weight", own, weights, activations)
        for name, own in names.items()
    }
    projections["out_proj"] = memo.get(id(module.out_proj)) or copy.deepcopy(module.out_proj)
    return TernaryMultiheadAttention(module, projections)


def _projection(
    module: nn.Module, name: str, bias: Tensor | None, weights: Weights, activations: str
) -> nn.Module:
    if name in weights:
        return TernaryLinear(*_triple(weights[name]), bias, activations=activations)
    weight = getattr(module, name).detach()
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    dense.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        dense.bias = nn.Parameter(bias, requires_grad=False)
    return dense


_PACKERS: dict[type[nn.Module], Callable[[Any, Weights, str], nn.Module]] = {
    nn.Linear: _pack_linear,
    nn.Conv2d: _pack_conv(TernaryConv2d),
    nn.Conv1d: _pack_conv(TernaryConv1d),
    nn.LSTM: _pack_recurrent(TernaryLSTM),
    nn.GRU: _pack_recurrent(TernaryGRU),
}
