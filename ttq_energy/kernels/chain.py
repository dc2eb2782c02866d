"""Stretches of a fused network in one native call each.

A network of small convolutions spends as much time between its layers as in them. Here the layers
of a traced network that the native code has (packed and small dense convolutions and linear layers,
pooling, ReLU, additions, shortcuts) are put together; src/chain.h says how they run. The traced
network stays what it is, layer by layer: it serves compilers, tracers, other devices and types,
gradients, and hooks on any layer.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ttq_energy.kernels import isa, ops
from ttq_energy.kernels.chain_steps import Kind, Layer, is_identity, layer_of, tensor_sources
from ttq_energy.kernels.modules import TernaryConv2d

_Address = tuple[dict[str, Tensor | None], str]


class Chain(nn.Module):
    """Consecutive layers in one native call, or one by one where that cannot be.

    Args:
        layers: in the order of their execution, by the node of their result.
        inputs: the nodes whose values come from outside.
        outputs: the nodes whose values are given back.
        one_by_one: a module that does the same.
    """

    def __init__(
        self,
        layers: dict[fx.Node, Layer],
        inputs: list[fx.Node],
        outputs: list[fx.Node],
        one_by_one: nn.Module,
    ) -> None:
        super().__init__()
        # Not as a submodule: nobody but forward may find the layers here a second time.
        self.__dict__["one_by_one"] = one_by_one
        number = {node: i for i, node in enumerate([*inputs, *layers])}
        steps = [
            (
                int(layer.kind),
                number[layer.operands[0]],
                number[layer.operands[1]] if len(layer.operands) > 1 else -1,
                layer.relu,
                layer.sizes,
                layer.numbers,
            )
            for layer in layers.values()
        ]
        self._native = isa.native().Chain(len(inputs), steps, [number[node] for node in outputs])
        self._layers = list(layers.values())
        self._sources = [_source(layer) for layer in self._layers if layer.module is not None]
        self._shapes: dict[tuple[torch.Size, ...], list[list[int]] | None] = {}
        self._verified: list[int] | None = None
        self._held: list[Tensor] = []

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs: a tensor, or a tuple of several."""
        outputs = self._run(inputs)
        if outputs is None:
            one_by_one: nn.Module = self.__dict__["one_by_one"]
            return one_by_one(*inputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> list[Tensor] | None:
        for x in inputs:
            if type(x) is not Tensor or x.dtype != torch.float32 or not x.is_cpu:
                return None
        shapes = self._output_shapes(inputs)
        if shapes is None:
            return None
        addresses = self._addresses()
        if addresses is None:
            return None
        channels_last = any(ops.is_channels_last(x) for x in inputs if x.dim() == 4)
        form = torch.channels_last if channels_last else torch.contiguous_format
        images = inputs[0].shape[0]
        outputs = [
            torch.empty(
                (images, *shape), memory_format=form if len(shape) == 3 else torch.contiguous_format
            )
            for shape in shapes
        ]
        good = self._native.run(
            [[x.data_ptr(), *x.shape, *x.stride()] for x in inputs],
            addresses,
            [y.data_ptr() for y in outputs],
            channels_last,
            torch.get_num_threads(),
        )
        return outputs if good else None

    def _output_shapes(self, inputs: tuple[Tensor, ...]) -> list[list[int]] | None:
        """Of each output without the batch; None where the layers do not take the inputs."""
        key = tuple(x.shape for x in inputs)
        if key not in self._shapes:
            if len(self._shapes) >= 1024:
                self._shapes.clear()
            try:
                self._shapes[key] = self._native.shapes(
                    [[0, *x.shape, *x.stride()] for x in inputs]
                )
            except ValueError:
                # What is wrong is told by the layers themselves.
                self._shapes[key] = None
        return self._shapes[key]

    def _addresses(self) -> list[int] | None:
        """The layers' tensors for the native code; None where it cannot read them."""
        addresses: list[int] = []
        for source in self._sources:
            addresses += source()
        return addresses if addresses == self._verified or self._verify(addresses) else None

    def _verify(self, addresses: list[int]) -> bool:
        """Whether the native code can read the layers' tensors, which were not seen before."""
        self._verified, self._held = None, []
        held: list[Tensor] = []
        for layer in self._layers:
            for tensors, name in tensor_sources(layer):
                tensor = tensors[name]
                if tensor is None:
                    continue
                kind = torch.uint8 if name == "packed" else torch.float32
                if not tensor.is_cpu or tensor.dtype != kind or not tensor.is_contiguous():
                    return False
                held.append(tensor)
        self._held = held  # so that no other tensor gets one of these addresses
        self._verified = addresses
        return True

    def parameters_in_use(self) -> Iterator[Tensor]:
        """The dense layers' weights, which may want gradients."""
        for layer in self._layers:
            if layer.module is not None:
                yield from layer.module._parameters.values()  # type: ignore[misc]

    def dense_layers(self) -> list[nn.Module]:
        """Full-precision convolutions and linear layers that run natively here."""
        if self._addresses() is None:
            return []
        kinds = (Kind.DENSE_CONVOLUTION, Kind.DENSE_LINEAR)
        return [s.module for s in self._layers if s.kind in kinds and s.module is not None]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _source(layer: Layer) -> Callable[[], list[int]]:
    """What gives a layer's tensors at each call, as src/chain.h wants them."""
    if layer.kind not in (Kind.CONVOLUTION, Kind.LINEAR):
        sources = tensor_sources(layer)
        return lambda: [_address(tensors[name]) for tensors, name in sources]
    module: Any = layer.module
    buffers = module._buffers

    def packed() -> list[int]:
        codes, bias = buffers["packed"], buffers["bias"]
        found = [
            codes.data_ptr(),
            buffers["scale_pos"].data_ptr(),
            buffers["scale_neg"].data_ptr(),
            0 if bias is None else bias.data_ptr(),
            int(module.relu),
            codes.numel(),
        ]
        return found

    return packed


class FusedNetwork(fx.GraphModule):
    """A traced network whose layers run in chains where nothing needs to see each of them."""

    def recompile(self) -> Any:
        """As fx.GraphModule: makes ``forward`` from the graph, and drops the chains."""
        code = super().recompile()
        self.__dict__["_program"] = _Program()
        kind = type(self)
        kind.forward = _chained(kind.forward)
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
    @functools.wraps(layered)
    def forward(self: FusedNetwork, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or kwargs:
            return layered(self, *args, **kwargs)
        run = self.__dict__["_program"].ready(self, args)
        return layered(self, *args) if run is None else run(*args)

    return forward


class _Program:
    """The chained form of a network: made at its first use, never copied."""

    def __init__(self) -> None:
        self._run: nn.Module | None = None
        self._chains: list[Chain] = []
        self._found: list[tuple[dict[str, Any], str, nn.Module]] = []
        self._watched: list[nn.Module] = []
        self._evaluating: list[nn.Module] = []
        self._made = False

    def __deepcopy__(self, memo: dict[int, Any]) -> _Program:
        return _Program()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Program, ()

    def chains(self, network: fx.GraphModule) -> list[Chain]:
        if not self._made:
            self._make(network)
        return self._chains

    def ready(self, network: fx.GraphModule, args: tuple[Any, ...]) -> nn.Module | None:
        """What runs the arguments in chains; None where the layers must run one by one."""
        for x in args:
            if isinstance(x, Tensor) and not ops.is_plain(x):
                return None
        if torch.is_autocast_enabled("cpu"):
            return None
        if not self._made or any(modules.get(n) is not m for modules, n, m in self._found):
            self._make(network)
        if self._run is None or _global_hooks():
            return None
        for module in self._watched:
            if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
                return None
        for module in self._evaluating:
            if module.training:
                return None
        if torch.is_grad_enabled():
            for chain in self._chains:
                if any(p is not None and p.requires_grad for p in chain.parameters_in_use()):
                    return None
        return self._run

    def _make(self, network: fx.GraphModule) -> None:
        self._run, self._chains, modules = chained_form(network)
        self._watched = list(modules.values())
        sensitive = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.BatchNorm1d, nn.BatchNorm2d)
        self._evaluating = [m for m in self._watched if isinstance(m, sensitive)]
        self._found = list(_bindings(network, modules))
        self._made = True


def _bindings(
    network: nn.Module, modules: dict[str, nn.Module]
) -> Iterator[tuple[dict[str, Any], str, nn.Module]]:
    """Where the modules of these paths, and what they lie in, are found: dict, name, module."""
    paths = {path.rsplit(".", depth)[0] for path in modules for depth in range(path.count(".") + 1)}
    for path in sorted(paths):
        parent, _, name = path.rpartition(".")
        yield network.get_submodule(parent)._modules, name, network.get_submodule(path)


def _global_hooks() -> bool:
    hooks = nn.modules.module
    return bool(hooks._global_forward_hooks or hooks._global_forward_pre_hooks)


def chained_form(
    network: fx.GraphModule,
) -> tuple[nn.Module | None, list[Chain], dict[str, nn.Module]]:
    """A module that runs a traced network's layers in chains, and no second home for them.

    Returns:
        The module (None where no chain is worth it), its chains, and the modules by path that do
        not run as themselves in it.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(network.graph, copied)
    modules: dict[str, nn.Module] = {}
    if output is not None:
        graph.output(output)
    root = fx.GraphModule(network, graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            module = root.get_submodule(str(node.target))
            if is_identity(module):
                modules[str(node.target)] = module
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
    chains: list[Chain] = []
    # The last one first: what a stretch reads is then still there.
    for index, stretch in reversed(list(enumerate(_stretches(root)))):
        chain = _replace(root, stretch, f"_chain{index}")
        chains.insert(0, chain)
        for node in stretch:
            if node.op == "call_module":
                modules[str(node.target)] = root.get_submodule(str(node.target))
    if not chains:
        return None, [], modules
    graph.lint()
    root.delete_all_unused_submodules()
    root.recompile()
    return root, chains, modules


def _stretches(root: fx.GraphModule) -> list[dict[fx.Node, Layer]]:
    """Consecutive nodes with a packed convolution among them that are steps of a chain."""
    found: list[dict[fx.Node, Layer]] = []
    current: dict[fx.Node, Layer] = {}
    for node in root.graph.nodes:
        layer = layer_of(root, node)
        if layer is not None and (not layer.in_place or _may_overwrite(layer, current)):
            current[node] = layer
            continue
        if current:
            found.append(current)
        current = {}
    return [s for s in found if any(isinstance(a.module, TernaryConv2d) for a in s.values())]


def _may_overwrite(layer: Layer, current: dict[fx.Node, Layer]) -> bool:
    """Whether nobody can tell that an operation in place made a new value."""
    source = layer.operands[0]
    made = current.get(source)
    return made is not None and not made.makes_a_view and len(source.users) == 1


def _replace(root: fx.GraphModule, stretch: dict[fx.Node, Layer], name: str) -> Chain:
    """Put one call in the place of a stretch of nodes."""
    inputs = list(
        dict.fromkeys(n for s in stretch.values() for n in s.operands if n not in stretch)
    )
    outputs = [node for node in stretch if any(user not in stretch for user in node.users)]
    one_by_one = _extracted(root, list(stretch), inputs, outputs)
    layers, names = _merged(stretch, set(outputs))
    chain = Chain(layers, inputs, [names[node] for node in outputs], one_by_one)
    root.add_module(name, chain)
    last = next(reversed(stretch))
    with root.graph.inserting_after(last):
        call = root.graph.call_module(name, tuple(inputs))
    results = [call]
    if len(outputs) > 1:
        results = []
        for i in reversed(range(len(outputs))):
            with root.graph.inserting_after(call):
                results.insert(0, root.graph.call_function(operator.getitem, (call, i)))
    for node, result in zip(outputs, results, strict=True):
        node.replace_all_uses_with(result, lambda user: user not in stretch and user is not call)
    for node in reversed(stretch):
        root.graph.erase_node(node)
    return chain


def _extracted(
    root: fx.GraphModule, nodes: list[fx.Node], inputs: list[fx.Node], outputs: list[fx.Node]
) -> fx.GraphModule:
    """A module of these nodes alone, on the same layers."""
    graph = fx.Graph()
    copied = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copied[node] = graph.node_copy(node, lambda n: copied[n])
    results = tuple(copied[node] for node in outputs)
    graph.output(results[0] if len(results) == 1 else results)
    return fx.GraphModule(root, graph)


def _merged(
    stretch: dict[fx.Node, Layer], outputs: set[fx.Node]
) -> tuple[dict[fx.Node, Layer], dict[fx.Node, fx.Node]]:
    """Fewer steps: ReLU as part of what it follows, one copy for x[:, :, ::2, ::2] and padding.

    Returns:
        The steps, and for each node the one whose step makes its value.
    """
    layers: dict[fx.Node, Layer] = {}
    names: dict[fx.Node, fx.Node] = {}
    for node, layer in stretch.items():
        operands = tuple(names.get(n, n) for n in layer.operands)
        source = operands[0]
        before = layers.get(source)
        alone = (
            before is not None
            and layer.operands[0] not in outputs
            and len(layer.operands[0].users) == 1
        )
        names[node] = node
        if before is not None and alone and layer.is_relu and before.takes_relu:
            layers[source] = before.with_relu()
            names[node] = source
            continue
        if before is not None and alone and layer.kind is before.kind is Kind.SUBSAMPLE:
            del layers[source]
            operands = before.operands
            layer = _composed(before, layer)
        layers[node] = Layer(
            layer.kind, operands, layer.sizes, layer.numbers, layer.module, layer.relu
        )
    return layers, names


def _composed(first: Layer, second: Layer) -> Layer:
    """Two subsamplings in one."""
    sizes = [
        first.sizes[0] * second.sizes[0],
        first.sizes[1] * second.sizes[1],
        first.sizes[2] + second.sizes[2],
        first.sizes[3] + second.sizes[3],
    ]
    return Layer(Kind.SUBSAMPLE, first.operands, sizes)
