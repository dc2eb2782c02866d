"""Fold batch norms and fuse ReLU and residual additions into the layers before them."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from ttq_energy.kernels.chain_steps import ADDITIONS, RELU_FUNCTIONS
from ttq_energy.kernels.fused_network import FusedNetwork
from ttq_energy.kernels.modules import TernaryConv1d, TernaryConv2d, TernaryLinear, TernaryModule

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_DENSE_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


class _Tracer(fx.Tracer):
    """Traces down to torch's modules and to packed layers, which stay whole."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        own = type(module).__module__.startswith("ttq_energy.kernels")
        return own or super().is_leaf_module(module, qualified_name)


def trace(model: nn.Module) -> fx.GraphModule | None:
    """The graph of a copy of the model in evaluation mode; None where it cannot be traced."""
    copied = copy.deepcopy(model).eval()
    try:
        graph = _Tracer().trace(copied)
    except Exception:
        # Tracing runs the user's code with stand-ins; whatever that raises means "no graph".
        return None
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None  # an annotation as a string, which fx cannot pickle
    return fx.GraphModule(copied, graph, type(model).__name__)


def fuse(model: nn.Module, example_input: Any) -> nn.Module:
    """A new module with batch norms folded and ReLU and residual additions fused.

    Batch norms fold into packed and into dense convolutions and linear layers; ReLU and an
    addition of equal shape fuse into packed layers. Each fusion needs the intermediate result
    to have no other use. The result is for inference.

    Args:
        model: any module; it is not changed.
        example_input: a tensor, or a tuple of the arguments of ``forward``.

    Returns:
        The fused module; a copy of the model, not fused, where torch.fx cannot trace it.
    """
    graph_module = trace(model)
    if graph_module is None or not _propagate_shapes(graph_module, example_input):
        return copy.deepcopy(model).eval()
    fold_batch_norms(graph_module)
    for node in list(graph_module.graph.nodes):
        _fuse_residual(graph_module, node)
    for node in list(graph_module.graph.nodes):
        _fuse_relu(graph_module, node)
    graph_module.graph.lint()
    graph_module.delete_all_unused_submodules()
    return FusedNetwork(graph_module, graph_module.graph, type(model).__name__).requires_grad_(
        False
    )


def _propagate_shapes(graph_module: fx.GraphModule, example_input: Any) -> bool:
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    try:
        # ShapeProp prints a traceback before it raises; failing here is an answer, not an error.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            ShapeProp(graph_module).propagate(*arguments)
    except Exception:
        return False
    return True


def fold_batch_norms(graph_module: fx.GraphModule) -> None:
    """Fold every batch norm that alone follows a convolution or linear layer into it."""
    for node in list(graph_module.graph.nodes):
        norm = _module(graph_module, node)
        if not isinstance(norm, _BATCH_NORMS) or norm.running_mean is None:
            continue
        source = node.args[0]
        layer = _module(graph_module, source)
        if layer is None or len(source.users) != 1 or _shared(graph_module, source):
            continue
        if isinstance(layer, TernaryModule):
            if not isinstance(layer, TernaryConv2d | TernaryLinear) or layer.relu:
                continue
            if isinstance(layer, TernaryLinear) and not _is_matrix(source):
                continue
            layer.fold_output(*_affine(norm))
        elif isinstance(layer, _DENSE_CONVOLUTIONS):
            graph_module.set_submodule(source.target, fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear) and type(layer) is nn.Linear and _is_matrix(source):
            graph_module.set_submodule(source.target, fuse_linear_bn_eval(layer, norm))
        else:
            continue
        node.replace_all_uses_with(source)
        graph_module.graph.erase_node(node)
    graph_module.graph.lint()
    graph_module.recompile()


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of an evaluated batch norm, in float64 until the end."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale.float(), shift.float()


def _module(graph_module: fx.GraphModule, node: Any) -> nn.Module | None:
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    return None


def _shared(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node's module is called from elsewhere too (then it must not change)."""
    layer = _module(graph_module, node)
    calls = [n for n in graph_module.graph.nodes if _module(graph_module, n) is layer]
    return len(calls) > 1


def _shape(node: Any) -> tuple[int, ...] | None:
    metadata = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return tuple(metadata.shape) if isinstance(metadata, TensorMetadata) else None


def _is_matrix(node: fx.Node) -> bool:
    shape = _shape(node)
    return shape is not None and len(shape) == 2


def _fusible(graph_module: fx.GraphModule, node: Any) -> TernaryModule | None:
    """The packed layer that a node calls, where its result has one use and nothing follows."""
    layer = _module(graph_module, node)
    if not isinstance(layer, TernaryLinear | TernaryConv2d | TernaryConv1d) or layer.relu:
        return None
    alone = len(node.users) == 1 and not _shared(graph_module, node)
    return layer if alone else None


def _fuse_residual(graph_module: fx.GraphModule, node: fx.Node) -> None:
    addition = (node.op == "call_function" and node.target in ADDITIONS) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )
    if not addition or len(node.args) != 2 or node.kwargs:
        return
    order = {n: i for i, n in enumerate(graph_module.graph.nodes)}
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or left is right:
        return
    # The later layer takes the addition, so that the other operand exists when it runs.
    for layer_node, other in sorted(
        ((left, right), (right, left)), key=lambda operands: -order[operands[0]]
    ):
        layer = _fusible(graph_module, layer_node)
        if layer is None or len(layer_node.args) != 1 or layer_node.kwargs:
            continue
        if _shape(layer_node) is None or _shape(layer_node) != _shape(other):
            continue
        with graph_module.graph.inserting_before(node):
            fused = graph_module.graph.call_module(
                str(layer_node.target), (layer_node.args[0], other)
            )
        fused.meta.update(node.meta)
        node.replace_all_uses_with(fused)
        graph_module.graph.erase_node(node)
        graph_module.graph.erase_node(layer_node)
        return


def _fuse_relu(graph_module: fx.GraphModule, node: fx.Node) -> None:
    module = _module(graph_module, node)
    relu = (
        type(module) is nn.ReLU
        or (node.op == "call_function" and node.target in RELU_FUNCTIONS)
        or (node.op == "call_method" and node.target in ("relu", "relu_"))
    )
    if not relu or not node.args:
        return
    source = node.args[0]
    layer = _fusible(graph_module, source)
    if layer is None:
        return
    layer.relu = True
    assert isinstance(source, fx.Node)
    node.replace_all_uses_with(source)
    graph_module.graph.erase_node(node)
