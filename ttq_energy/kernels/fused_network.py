"""A traced network that runs stretches of its layers in one native call each.

A network of small convolutions spends as much time between its layers as in them. Here the layers
that the native code has (packed and small dense convolutions and linear layers, pooling, ReLU,
additions, shortcuts) are put together. The traced network stays what it is, layer by layer: it
serves compilers, tracers, other devices and types, gradients, and hooks on any layer.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ttq_energy.kernels import ops
from ttq_energy.kernels.chain import Chain
from ttq_energy.kernels.chain_graph import chained_form
from ttq_energy.kernels.watching import forward_hooks

_FORWARD = itertools.repeat("forward")


class FusedNetwork(fx.GraphModule):
    """A traced network whose layers run in chains where nothing needs to see each of them."""

    def recompile(self) -> Any:
        """As fx.GraphModule: makes ``forward`` from the graph, and drops the chains."""
        code = super().recompile()
        self.__dict__["_program"] = _Program()
        kind = type(self)
        kind.forward = _chained(kind.forward)
        if "__call__" in vars(kind):
            del kind.__call__  # which words errors otherwise, and takes a microsecond for it
        return code

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["_program"] = _Program()  # which holds on to tensors
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments = super().__reduce__()
        return _restore, (function, arguments)

    def chains(self) -> list[Chain]:
        """The chains that run here, made now if need be."""
        return list(self.__dict__["_program"].chains(self))


def _restore(function: Callable[..., fx.GraphModule], arguments: tuple[Any, ...]) -> FusedNetwork:
    arguments[0].pop("_program", None)
    plain = function(*arguments)
    return FusedNetwork(plain, plain.graph, type(plain).__name__)


def _chained(layered: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(layered)

    @functools.wraps(layered)
    def forward(self: FusedNetwork, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return layered(self, *args, **kwargs)
        if kwargs:
            bound = signature.bind(self, *args, **kwargs)
            args, kwargs = bound.args[1:], bound.kwargs
            if kwargs:
                return layered(self, *args, **kwargs)
        run = self.__dict__["_program"].ready(self, args)
        return layered(self, *args) if run is None else run(*args)

    return forward


class _Program:
    """The chained form of a network: made at its first use, never copied."""

    def __init__(self) -> None:
        self._made: _Made | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Program:
        return _Program()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Program, ()

    def chains(self, network: fx.GraphModule) -> list[Chain]:
        """The chains of the network as it is now."""
        return self._current(network).chains

    def ready(self, network: fx.GraphModule, args: tuple[Any, ...]) -> Callable[..., Any] | None:
        """What runs the arguments in chains; None where the layers must run one by one."""
        for x in args:
            if isinstance(x, Tensor) and not ops.is_plain(x):
                return None
        if torch.is_autocast_enabled("cpu"):
            return None
        made = self._current(network)
        return None if len(args) != made.inputs or made.is_watched() else made.run

    def _current(self, network: fx.GraphModule) -> _Made:
        made = self._made
        if made is None or not made.holds():
            made = self._made = _Made(network)
        return made


class _Made:
    """The chained form of a network whose modules were these."""

    def __init__(self, network: fx.GraphModule) -> None:
        root, self.chains, modules = chained_form(network)
        self.inputs = sum(node.op == "placeholder" for node in network.graph.nodes)
        self.run: Callable[..., Any] | None = root
        if root is not None and len(self.chains) == 1 and _is_one_call(root):
            self.run = self.chains[0].forward
        watched = list(modules.values())
        self._hooks = forward_hooks(watched)
        self._attributes = [m.__dict__ for m in watched]
        sensitive = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.BatchNorm1d, nn.BatchNorm2d)
        self._evaluating = [m for m in watched if isinstance(m, sensitive)]
        found = list(_bindings(network, modules))
        self._parents = [parent for parent, _, _ in found]
        self._names = [name for _, name, _ in found]
        self._modules = [module for _, _, module in found]

    def holds(self) -> bool:
        """Whether the same modules are still there."""
        return list(map(dict.get, self._parents, self._names)) == self._modules

    def is_watched(self) -> bool:
        """Whether something wants the layers one by one: hooks, training, gradients."""
        if any(self._hooks):
            return True
        if any(map(dict.__contains__, self._attributes, _FORWARD)):
            return True
        if any(module.training for module in self._evaluating):
            return True
        return torch.is_grad_enabled() and any(
            parameter is not None and parameter.requires_grad
            for chain in self.chains
            for parameter in chain.parameters_in_use()
        )


def _is_one_call(root: fx.GraphModule) -> bool:
    """Whether a graph gives one chain its inputs in their order, and gives back what that gives."""
    nodes = list(root.graph.nodes)
    given = [node for node in nodes if node.op == "placeholder"]
    call, output = nodes[-2:]
    whole = len(nodes) == len(given) + 2 and call.op == "call_module"
    return whole and list(call.args) == given and output.args[0] is call


def _bindings(
    network: nn.Module, modules: dict[str, nn.Module]
) -> Iterator[tuple[dict[str, Any], str, nn.Module]]:
    """Where the modules of these paths, and what they lie in, are found: dict, name, module."""
    paths = {path.rsplit(".", depth)[0] for path in modules for depth in range(path.count(".") + 1)}
    for path in sorted(paths):
        parent, _, name = path.rpartition(".")
        yield network.get_submodule(parent)._modules, name, network.get_submodule(path)
