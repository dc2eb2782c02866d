"""Layers of a traced network as steps of a native chain (src/chain.h)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ttq_energy.kernels import reference
from ttq_energy.kernels.modules import TernaryConv2d, TernaryLinear

# Dense weights are put in the kernels' order at each call, which pays while they are few.
MOST_DENSE_CONV_WEIGHTS = 1 << 18
MOST_DENSE_LINEAR_WEIGHTS = 1 << 16

RELU_FUNCTIONS = (F.relu, torch.relu, torch.relu_)
ADDITIONS = (operator.add, operator.iadd, torch.add)
_UNBOUNDED = (0.0, math.inf)


class Kind(IntEnum):
    """The steps' numbers in src/chain.h."""

    CONVOLUTION = 1
    DENSE_CONVOLUTION = 2
    LINEAR = 3
    DENSE_LINEAR = 4
    MAX_POOL = 5
    AVERAGE_POOL = 6
    ADAPTIVE_POOL = 7
    SUBSAMPLE = 8
    NORM = 9
    CLAMP = 10
    ADD = 11
    FLATTEN = 12


@dataclass(frozen=True)
class Layer:
    """One step, its operands still nodes.

    Attributes:
        kind, relu, sizes, numbers: as src/chain.h says.
        operands: one node, or two.
        module: whose tensors it takes; None for none.
        in_place: whether torch would write the result over the first operand.
    """

    kind: Kind
    operands: tuple[fx.Node, ...]
    sizes: list[int] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    module: nn.Module | None = None
    relu: bool = False
    in_place: bool = False

    @property
    def is_relu(self) -> bool:
        """Whether it is ReLU alone."""
        return self.kind is Kind.CLAMP and tuple(self.numbers) == _UNBOUNDED

    @property
    def takes_relu(self) -> bool:
        """Whether a ReLU that follows can be part of it; packed layers have theirs already."""
        kinds = (Kind.DENSE_CONVOLUTION, Kind.DENSE_LINEAR, Kind.NORM, Kind.ADD)
        return self.kind in kinds and not self.relu

    @property
    def makes_a_view(self) -> bool:
        """Whether torch's result shares memory with the operand."""
        return self.kind in (Kind.FLATTEN, Kind.SUBSAMPLE)

    def with_relu(self) -> Layer:
        """The same with ReLU after it."""
        return replace(self, relu=True)


def is_identity(module: nn.Module | None) -> bool:
    """Whether a module gives back what it gets, in evaluation mode."""
    return type(module) in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


def layer_of(graph_module: fx.GraphModule, node: fx.Node) -> Layer | None:
    """The step that does what a node does; None where there is none."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        make = _MODULES.get(type(module))
        if make is None or node.kwargs or not all(isinstance(a, fx.Node) for a in node.args):
            return None
        return make(module, tuple(a for a in node.args if isinstance(a, fx.Node)))
    if node.op not in ("call_function", "call_method"):
        return None
    return _function(node)


def _packed_conv(module: Any, operands: tuple[fx.Node, ...]) -> Layer:
    channels, height, width = module.shape[1:]
    sizes = [
        *_geometry(module),
        channels,
        reference.conv_columns(channels, height * width),
        int(reference.shares_tables(channels)),
        int(module.activations == "int8"),
    ]
    return Layer(Kind.CONVOLUTION, operands, sizes, module=module)


def _geometry(module: Any) -> list[int]:
    return [
        module.out_channels,
        *module.kernel_size,
        *module.stride,
        *module.padding,
        *module.dilation,
        module.groups,
    ]


def _dense_conv(module: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str) or len(operands) != 1:
        return None
    if module.weight.numel() > MOST_DENSE_CONV_WEIGHTS:
        return None
    channels = module.weight.shape[1]
    taps = module.weight[0, 0].numel()
    aligned = int(channels % 4 == 0)
    sizes = [*_geometry(module), channels, channels * taps, aligned, 0]
    return Layer(Kind.DENSE_CONVOLUTION, operands, sizes, module=module)


def _packed_linear(module: Any, operands: tuple[fx.Node, ...]) -> Layer:
    sizes = [module.out_features, module.in_features, int(module.activations == "int8")]
    return Layer(Kind.LINEAR, operands, sizes, module=module)


def _dense_linear(module: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    if module.weight.numel() > MOST_DENSE_LINEAR_WEIGHTS:
        return None
    sizes = [module.out_features, module.in_features]
    return Layer(Kind.DENSE_LINEAR, operands, sizes, module=module)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _max_pool(module: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    if module.return_indices:
        return None
    return Layer(Kind.MAX_POOL, operands, _pool_sizes(module, _pair(module.dilation), False))


def _average_pool(module: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    if module.divisor_override is not None:
        return None
    return Layer(Kind.AVERAGE_POOL, operands, _pool_sizes(module, [1, 1], module.count_include_pad))


def _pool_sizes(module: Any, dilation: list[int], counts: bool) -> list[int]:
    stride = module.kernel_size if module.stride is None else module.stride
    sizes = [*_pair(module.kernel_size), *_pair(stride), *_pair(module.padding)]
    return [*sizes, *dilation, int(module.ceil_mode), int(counts)]


def _adaptive_pool(module: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    return _adaptive(_pair(module.output_size), operands)


def _adaptive(size: list[Any], operands: tuple[fx.Node, ...]) -> Layer | None:
    return None if None in size else Layer(Kind.ADAPTIVE_POOL, operands, size)


def _norm(module: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    if module.running_mean is None:
        return None
    return Layer(Kind.NORM, operands, [module.num_features], [module.eps], module)


def _relu(module: Any, operands: tuple[fx.Node, ...]) -> Layer:
    return Layer(Kind.CLAMP, operands, numbers=[*_UNBOUNDED], in_place=module.inplace)


def _clamp(module: Any, operands: tuple[fx.Node, ...]) -> Layer:
    bounds = [float(module.min_val), float(module.max_val)]
    return Layer(Kind.CLAMP, operands, numbers=bounds, in_place=module.inplace)


def _flatten(module: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    whole = module.start_dim == 1 and module.end_dim == -1
    return Layer(Kind.FLATTEN, operands) if whole else None


_MODULES: dict[type[nn.Module], Callable[[Any, tuple[fx.Node, ...]], Layer | None]] = {
    TernaryConv2d: _packed_conv,
    TernaryLinear: _packed_linear,
    nn.Conv2d: _dense_conv,
    nn.Linear: _dense_linear,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.BatchNorm2d: _norm,
    nn.BatchNorm1d: _norm,
    nn.ReLU: _relu,
    nn.ReLU6: _clamp,
    nn.Hardtanh: _clamp,
    nn.Flatten: _flatten,
}


def _function(node: fx.Node) -> Layer | None:
    target, args = node.target, node.args
    operands = tuple(a for a in args if isinstance(a, fx.Node))
    if target in ("relu", "relu_") or target in RELU_FUNCTIONS:
        in_place = target in ("relu_", torch.relu_) or bool(node.kwargs.get("inplace"))
        return Layer(Kind.CLAMP, operands, numbers=[*_UNBOUNDED], in_place=in_place)
    if target in ADDITIONS or target in ("add", "add_"):
        if len(operands) != 2 or len(args) != 2 or node.kwargs:
            return None
        return Layer(Kind.ADD, operands, in_place=target in (operator.iadd, "add_"))
    if len(operands) != 1 or not args or args[0] is not operands[0]:
        return None
    if target in (torch.flatten, "flatten"):
        whole = args[1:] == (1,) and not node.kwargs
        return Layer(Kind.FLATTEN, operands) if whole or node.kwargs == {"start_dim": 1} else None
    if target is operator.getitem:
        return _subsample(args[1], operands)
    if target is F.pad:
        return _channel_pad(node, operands)
    if target is F.adaptive_avg_pool2d and len(args) == 2 and not node.kwargs:
        size = args[1]
        return _adaptive(_pair(size) if isinstance(size, int | tuple | list) else [None], operands)
    return None


def _subsample(index: Any, operands: tuple[fx.Node, ...]) -> Layer | None:
    """x[:, :, ::height, ::width]."""
    if not isinstance(index, tuple) or len(index) != 4:
        return None
    if any(not isinstance(s, slice) or (s.start or 0) != 0 or s.stop is not None for s in index):
        return None
    steps = [1 if s.step is None else s.step for s in index]
    if any(not isinstance(step, int) or step < 1 for step in steps) or steps[:2] != [1, 1]:
        return None
    return Layer(Kind.SUBSAMPLE, operands, [*steps[2:], 0, 0])


def _channel_pad(node: fx.Node, operands: tuple[fx.Node, ...]) -> Layer | None:
    """F.pad(x, (0, 0, 0, 0, before, after)) with zeros."""
    amounts = node.args[1] if len(node.args) == 2 else node.kwargs.get("pad")
    options = {"mode": "constant", "value": None} | node.kwargs
    if options["mode"] != "constant" or options["value"] not in (None, 0):
        return None
    if not isinstance(amounts, tuple | list) or len(amounts) != 6 or any(amounts[:4]):
        return None
    before, after = amounts[4:]
    if not isinstance(before, int) or not isinstance(after, int) or before < 0 or after < 0:
        return None
    return Layer(Kind.SUBSAMPLE, operands, [1, 1, before, after])


def tensor_sources(layer: Layer) -> list[tuple[dict[str, Tensor | None], str]]:
    """Where a layer's tensors are found at each call, in the order of src/chain.h.

    What follows the tensors of packed layers (ReLU, bytes) is not among them.
    """
    module = layer.module
    if module is None:
        return []
    if isinstance(module, TernaryConv2d | TernaryLinear):
        names = ("packed", "scale_pos", "scale_neg", "bias")
        return [(module._buffers, name) for name in names]
    found = [(_parameters(module), "weight"), (_parameters(module), "bias")]
    if layer.kind is Kind.NORM:
        found += [(module._buffers, "running_mean"), (module._buffers, "running_var")]
    return found


def _parameters(module: nn.Module) -> dict[str, Tensor | None]:
    return module._parameters  # type: ignore[return-value]
