"""Finds the stretches of a traced network that run as chains, and puts one call in their places."""

from __future__ import annotations

import operator

from torch import fx, nn

from ttq_energy.kernels.chain import Chain
from ttq_energy.kernels.chain_steps import Kind, Layer, is_identity, layer_of
from ttq_energy.kernels.modules import TernaryConv2d


def chained_form(
    network: fx.GraphModule,
) -> tuple[fx.GraphModule | None, list[Chain], dict[str, nn.Module]]:
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
