"""Which weights of a model can be quantized, which are, and in which order its layers run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ttq_energy.errors import InputError
from ttq_energy.quantization import rules
from ttq_energy.quantization.quantizer import Quantizer
from ttq_energy.quantization.rules import Ternary

_MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
KNOWN_KINDS = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
"""Layers that count as first or last, whether they can be quantized or not."""
ROOT = "model"
"""What a layer is called that is the whole model."""


@dataclass(frozen=True)
class Weight:
    """A weight that can be quantized.

    Attributes:
        layer: what tables call it: the module's path, followed by the parameter's name where a
            module has several ("lstm.weight_ih_l0", "attention.in_proj_weight").
        path: of the module; empty for the whole model.
        module: that holds it.
        parameter: its attribute.
        parts: layers stacked along its first dimension (3 for attention's q, k, v).
    """

    layer: str
    path: str
    module: nn.Module
    parameter: str
    parts: int = 1


@dataclass(frozen=True)
class QuantizedWeight(Weight):
    """A weight with a quantizer."""

    @property
    def quantizer(self) -> Quantizer:
        found: Quantizer = self._chain[len(self._chain) - 1]  # type: ignore[assignment]
        return found

    @property
    def _chain(self) -> parametrize.ParametrizationList:
        parametrizations: Any = self.module.parametrizations
        chain: parametrize.ParametrizationList = parametrizations[self.parameter]
        return chain

    def latent(self) -> Tensor:
        """The full-precision weight behind it, without gradient."""
        chain = self._chain
        with torch.no_grad():
            if chain.is_tensor:
                value: Tensor = chain.original
                rest = list(chain)[:-1]
            else:
                originals = [getattr(chain, f"original{i}") for i in range(chain.ntensors)]
                value = chain[0](*originals)
                rest = list(chain)[1:-1]
            for step in rest:
                value = step(value)
        return value.detach()

    def ternary(self) -> Ternary:
        """Signs and scales, blocks by elements; see :meth:`Quantizer.ternary`."""
        with torch.no_grad():
            return self.quantizer.ternary(self.latent())

    def effective(self) -> Tensor:
        """The weight that the forward pass uses, without gradient."""
        with torch.no_grad():
            value: Tensor = self.quantizer(self.latent())
        return value.detach()

    def codes(self) -> Tensor:
        """int8 codes in the weight's shape."""
        return self.ternary().codes().view(self.latent().shape)

    def scales(self) -> tuple[Tensor, Tensor]:
        """Wp and Wn: one number each, or one for each output."""
        ternary, outputs = self.ternary(), self.latent().shape[0]
        pairs = []
        for scale in (ternary.w_pos, ternary.w_neg):
            flat = scale.flatten()
            repeated = flat.repeat_interleave(outputs // flat.numel())
            pairs.append(flat[0].clone() if flat.numel() == 1 else repeated)
        return pairs[0], pairs[1]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel and ``torch.compile``."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def refuse_unfit(model: Any, where: str) -> None:
    """Refuse what is no module of initialized, unpacked weights; one line that begins ``where``.

    Raises:
        InputError: not a module, one with lazy parameters, or one that ``convert`` made.
    """
    from ttq_energy.kernels.modules import TernaryModule
    from ttq_energy.kernels.recurrent import TernaryGRU, TernaryLSTM

    if not isinstance(model, nn.Module):
        raise InputError(f"{where}: expected a torch module, got {type(model).__name__}")
    for path, module in model.named_modules():
        if isinstance(module, TernaryModule | TernaryLSTM | TernaryGRU):
            raise InputError(
                f"{where}: this model is already converted (layer '{path or ROOT}' is packed); "
                "expected one before convert"
            )
    refuse_uninitialized(model, where)


def refuse_uninitialized(model: nn.Module, where: str) -> None:
    """Refuse a model with lazy parameters, whose shapes are not known yet."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise InputError(
                f"{where}: the parameter '{name}' is not initialized yet; run the model once on an "
                "input first"
            )


def refuse_unfit_weight(weight: Weight, where: str) -> None:
    """Refuse a weight that no quantizer fits: computed elsewhere, of no numbers, or not real."""
    own, name = weight.module, weight.parameter
    if not parametrize.is_parametrized(own, name) and name not in own._parameters:
        raise InputError(
            f"{where}: layer '{weight.layer}': its '{name}' is no parameter but made by a hook, "
            "as torch.nn.utils.weight_norm does; expected torch.nn.utils.parametrizations, or the "
            "layer in skip"
        )
    value = getattr(own, name)
    if not value.is_floating_point():
        raise InputError(
            f"{where}: layer '{weight.layer}': expected floating-point weights, got {value.dtype}"
        )
    if value.numel() == 0:
        raise InputError(f"{where}: layer '{weight.layer}': holds no weights; name it in skip")


def quantizable_weights(model: nn.Module) -> list[Weight]:
    """Every weight that ``prepare_`` knows how to quantize, in order of registration."""
    return [weight for path, module in model.named_modules() for weight in _weights(path, module)]


def _weights(path: str, module: nn.Module) -> Iterator[Weight]:
    def named(parameter: str, parts: int = 1) -> Weight:
        layer = f"{path}.{parameter}" if path else parameter
        return Weight(layer, path, module, parameter, parts)

    if isinstance(module, _MATRIX_LAYERS):
        yield Weight(path or ROOT, path, module, "weight")
    elif isinstance(module, nn.LSTM | nn.GRU) and not module.proj_size:
        for name in module._flat_weights_names:
            if name.startswith("weight"):
                yield named(name)
    elif isinstance(module, nn.MultiheadAttention):
        if module._qkv_same_embed_dim:
            yield named("in_proj_weight", 3)
        else:
            yield from map(named, ("q_proj_weight", "k_proj_weight", "v_proj_weight"))


def quantized_layers(model: nn.Module) -> dict[str, QuantizedWeight]:
    """The weights that ``prepare_`` quantized, by layer name."""
    found = {}
    for weight in quantizable_weights(unwrapped(model)):
        if not parametrize.is_parametrized(weight.module, weight.parameter):
            continue
        parametrizations: Any = weight.module.parametrizations
        chain = parametrizations[weight.parameter]
        places = [i for i, step in enumerate(chain) if isinstance(step, Quantizer)]
        if not places:
            continue
        if places != [len(chain) - 1]:
            raise InputError(
                f"layer '{weight.layer}': a parametrization stands behind its quantizer; "
                "expected the quantizer to be the last"
            )
        found[weight.layer] = QuantizedWeight(
            weight.layer, weight.path, weight.module, weight.parameter, weight.parts
        )
    return found


def effective_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model as if its quantized values were ordinary weights.

    The names are those of the model before ``prepare_``, which can load it.
    """
    model = unwrapped(model)
    quantized = {f"{w.path}.{w.parameter}".lstrip("."): w for w in quantized_layers(model).values()}
    hidden = tuple(f"{w.path}.parametrizations.".lstrip(".") for w in quantized.values())
    state = {
        name: value.detach().clone()
        for name, value in model.state_dict().items()
        if not name.startswith(hidden or ("\0",))
    }
    return state | {name: weight.effective().clone() for name, weight in quantized.items()}


def call_order(model: nn.Module, example_input: Any = None) -> list[str]:
    """Paths of the layers with weights in the order in which they run; one may appear twice.

    With an example input the model runs once in evaluation mode. Without one the order is that of
    the graph which torch.fx finds, and where it finds none, that of registration.

    Args:
        model: any module.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments.

    Raises:
        InputError: the model does not take the example input.
    """
    attention = [p for p, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    inner = tuple(f"{path}.".lstrip(".") for path in attention)
    weighted = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, KNOWN_KINDS) and not (inner and path.startswith(inner))
    }
    if example_input is not None:
        return _observed_order(model, weighted, example_input)
    return _traced_order(model, weighted) or list(weighted)


def _observed_order(
    model: nn.Module, weighted: Mapping[str, nn.Module], example_input: Any
) -> list[str]:
    calls: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
        for path, module in weighted.items()
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            if isinstance(example_input, Mapping):
                model(**example_input)
            else:
                model(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"example_input: the model does not take it: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return calls


def _traced_order(model: nn.Module, weighted: Mapping[str, nn.Module]) -> list[str]:
    try:
        graph = fx.Tracer().trace(model)
    except Exception:
        # Tracing runs the user's code with stand-ins; whatever that raises means "no graph".
        return []
    targets = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    return [target for target in targets if target in weighted]


def can_pack(weight: QuantizedWeight) -> bool:
    """Whether a quantized weight is ternary."""
    return rules.is_ternary(weight.quantizer.config)
