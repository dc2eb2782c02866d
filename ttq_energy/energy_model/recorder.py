"""Watches one forward pass: module hooks say where, a dispatch mode says what was computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ttq_energy.energy_model import op_kinds
from ttq_energy.energy_model.geometry import Geometry, matrix_product
from ttq_energy.energy_model.layer_kinds import (
    LayerKinds,
    Scope,
    linear_rows,
    recurrent_rows,
    ternary_geometry,
)
from ttq_energy.energy_model.weights import NO_WEIGHT, WeightInfo, zeros_in
from ttq_energy.kernels.modules import TernaryModule


@dataclass
class Entry:
    """What one layer did in the pass, summed over its calls.

    Attributes:
        geometry: of its multiply-accumulates; None for other operators.
        calls: times that geometry ran.
        second_elements: of the second operand where it is not a parameter.
        macs: dense; may differ from the geometry's (transposed convolutions do not).
        sampled_zeros, sampled_inputs: zeros and elements seen in its input.
    """

    layer: str
    op: str
    geometry: Geometry | None
    weight: WeightInfo
    calls: int = 0
    macs: int = 0
    multiplies: float = 0.0
    adds: float = 0.0
    input_elements: int = 0
    output_elements: int = 0
    second_elements: int = 0
    activation_bits: int = 32
    supported: bool = True
    sampled_zeros: int = 0
    sampled_inputs: int = 0
    parameters: set[int] = field(default_factory=set)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects :class:`Entry` objects while a model runs inside it.

    Args:
        model: what will run.
        sample_zeros: also count the zeros in each layer's input.
        taken_as: see :class:`LayerKinds`.
    """

    def __init__(
        self,
        model: nn.Module,
        sample_zeros: bool = False,
        taken_as: Mapping[tuple[int, str], WeightInfo] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds = LayerKinds(model, taken_as or {})
        self.entries: dict[tuple[str, str, Geometry | None], Entry] = {}
        self.scopes: list[Scope] = []
        self.sample_zeros = sample_zeros
        self.ran: set[int] = set()
        self.looking = False
        """True while weights are read for their zeros, which is no work of the model's."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled; saying so would import torch._dynamo, which takes seconds."""
        return False

    # -- where ------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Hooks on every module of the model, for the time of the block."""
        handles = []
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(
                module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            )
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.ran.add(id(module))
        outer = self.scopes[-1] if self.scopes else None
        self.looking = True
        try:
            self.scopes.append(self.kinds.scope(module, outer))
        finally:
            self.looking = False

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.looking = True
        try:
            self._account(self.scopes.pop(), module, args, kwargs, output)
        finally:
            self.looking = False

    def _account(
        self, scope: Scope, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        if scope.hidden or output is None:
            return
        first = _first_tensor((*args, *kwargs.values()))
        result = _first_tensor((output,))
        if isinstance(module, TernaryModule) and first is not None and result is not None:
            geometry, calls = ternary_geometry(module, first, result)
            self._product(scope.layer, scope.op, geometry, scope.weight, first, calls=calls)
            self.entries[scope.layer, scope.op, geometry].activation_bits = scope.activation_bits
        elif scope.role == "recurrent" and first is not None:
            self._recurrent(module, scope, args, kwargs)
        elif scope.role == "quantizer" and result is not None:
            self.kinds.produced(scope.layer, scope.weight, result)
        elif scope.role == "plain" and first is not None and result is not None:
            self._plain(module, scope, first, result)
        elif scope.role == "linear" and not scope.counted and first is not None:
            # An operator that is not known ran instead of a product: count from the shapes.
            for geometry in linear_rows(module, first):
                self._product(scope.layer, scope.op, geometry, scope.weight, first)

    def _recurrent(self, module: nn.Module, scope: Scope, args: Any, kwargs: Any) -> None:
        data = args[0] if args else next(iter(kwargs.values()))
        for row in recurrent_rows(module, data, scope.layer):
            weight = self.kinds.weight_of(module, row.parameter)
            layer = f"{scope.layer}.{row.parameter}" if row.parameter else f"{scope.layer}:gates"
            if row.geometry is not None:
                first = row.sampled
                self._product(layer, scope.op, row.geometry, weight, first, calls=row.calls)
                entry = self.entries[layer, scope.op, row.geometry]
                entry.parameters.update(id(p) for p in module.parameters())
                # Steps of a packed sequence hold different numbers of sequences.
                surplus = row.calls * row.geometry.batch - row.rows
                entry.macs -= surplus * row.geometry.macs // row.geometry.batch
                entry.input_elements -= surplus * row.geometry.inputs // row.geometry.batch
                entry.output_elements -= surplus * row.geometry.outputs // row.geometry.batch
            else:
                entry = self._entry(layer, "elementwise", None, NO_WEIGHT)
                entry.multiplies += row.multiplies
                entry.adds += row.adds
                entry.input_elements += row.elements
                entry.output_elements += row.elements

    def _plain(self, module: nn.Module, scope: Scope, first: Tensor, result: Tensor) -> None:
        weight = self.kinds.own_parameters(module)
        entry = self._entry(scope.layer, scope.op, None, weight)
        entry.parameters.update(id(p) for p in module.parameters())
        counted = max(first.numel(), result.numel()) if scope.op == "pool" else result.numel()
        entry.multiplies += scope.cost[0] * counted
        entry.adds += scope.cost[1] * counted
        entry.input_elements += first.numel()
        entry.output_elements += result.numel()

    # -- what -------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.looking:
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        known = self._handler(name)
        if known is None and name not in op_kinds.COSTS and name.rstrip("_") not in op_kinds.COSTS:
            with self:
                simpler = func.decompose(*args, **kwargs)
            if simpler is not NotImplemented:
                return simpler
        output = func(*args, **kwargs)
        scope = self.scopes[-1] if self.scopes else self.kinds.root
        if scope.ignores_inner:
            return output
        if known is not None:
            known(scope, name, args, kwargs, output)
        elif scope.role != "linear":
            self._simple(scope, name, args, output)
        return output

    def _handler(self, name: str) -> Callable[..., None] | None:
        if name in op_kinds.CONVOLUTIONS:
            return self._convolution
        if name in op_kinds.ATTENTION:
            return self._attention
        if name in op_kinds.MATRIX_PRODUCTS:
            return self._matrix
        return None

    def _simple(self, scope: Scope, name: str, args: tuple[Any, ...], output: Any) -> None:
        base = name if name in op_kinds.COSTS else name.rstrip("_")
        cost = op_kinds.COSTS.get(base)
        result = _first_tensor((output,))
        tensors = [a for a in _flat(args) if isinstance(a, Tensor)]
        floating = result is not None and (result.is_floating_point() or cost_is_embedding(cost))
        if base in op_kinds.MOVING_PARAMETERS:
            self._stored(tensors)
            return
        if cost is None or result is None or not floating or result.numel() == 0:
            return
        if any(self.kinds.owner(t) for t in tensors) and all(self.kinds.owner(t) for t in tensors):
            return  # Prepares weights alone (a cast, a fold): no work on activations.
        label = f"{scope.layer}:{base.strip('_')}" if scope.layer else base.strip("_")
        owners = [o for t in tensors if (o := self.kinds.owner(t)) is not None]
        if cost.op == "embedding" and owners:
            label = owners[0].layer
        entry = self._entry(label, cost.op, None, NO_WEIGHT)
        for owner in owners:
            if not entry.parameters & owner.parameter_ids:
                entry.weight = owner.weight
            entry.parameters |= owner.parameter_ids
        inputs = [t for t in tensors if self.kinds.owner(t) is None]
        counted = inputs[0].numel() if base in op_kinds.REDUCING and inputs else result.numel()
        entry.multiplies += cost.multiplies * counted
        entry.adds += cost.adds * counted
        entry.input_elements += sum(t.numel() for t in inputs)
        entry.output_elements += result.numel()

    def _stored(self, tensors: list[Tensor]) -> None:
        """Parameters that are copied into the activations (a class token) are only read."""
        for tensor in tensors:
            owner = self.kinds.owner(tensor)
            if owner is not None:
                entry = self._entry(owner.layer, "embedding", None, owner.weight)
                entry.parameters |= owner.parameter_ids
                entry.output_elements += tensor.numel()

    def _convolution(
        self, scope: Scope, name: str, args: tuple[Any, ...], kwargs: Any, output: Tensor
    ) -> None:
        x, w = args[0], args[1]
        transposed = len(args) > 6 and bool(args[6])
        groups = args[8] if len(args) > 8 else kwargs.get("groups", 1)
        if name == "_conv_depthwise2d":
            groups = w.shape[0]
        stride = list(args[3]) if name in ("convolution", "_convolution") else [1, 1]
        dilation = list(args[5]) if len(args) > 5 and isinstance(args[5], (list, tuple)) else [1]
        geometry = convolution_geometry(
            x.shape, w.shape, output.shape, stride, dilation, groups, transposed
        )
        op = f"conv{'_transpose' if transposed else ''}{w.dim() - 2}d"
        self._weighted(scope, op, geometry, x, w, args[2] if len(args) > 2 else None)

    def _matrix(
        self, scope: Scope, name: str, args: tuple[Any, ...], kwargs: Any, output: Tensor
    ) -> None:
        first = 1 if name in op_kinds.ADDING_PRODUCTS else 0
        a, b = args[first], args[first + 1]
        groups = 1
        if name == "linear":
            rows, inner, columns = a.numel() // a.shape[-1], a.shape[-1], output.shape[-1]
        elif name in ("bmm", "baddbmm", "addbmm"):
            groups, rows, inner = a.shape
            columns = b.shape[2]
            if b.stride(0) == 0 and self.kinds.owner(b) is not None:
                # A linear layer on inputs of an odd layout: one matrix for all, not one for each.
                groups, rows = 1, groups * rows
        elif name in ("mv", "addmv"):
            rows, inner, columns = a.shape[0], a.shape[1], 1
        elif name in ("dot", "vdot"):
            rows, inner, columns = 1, a.shape[0], 1
        else:
            rows, inner, columns = a.shape[0], a.shape[1], b.shape[1]
        if self.kinds.owner(a) is not None and self.kinds.owner(b) is None:
            # The parameter stands on the left: (A x)^T = x^T A^T.
            a, b, rows, columns = b, a, columns, rows
        bias = args[0] if first else (args[2] if name == "linear" and len(args) > 2 else None)
        self._weighted(scope, "linear", matrix_product(rows, inner, columns, groups), a, b, bias)

    def _attention(
        self, scope: Scope, name: str, args: tuple[Any, ...], kwargs: Any, output: Any
    ) -> None:
        q, k, v = args[:3]
        heads = 1
        for size in q.shape[:-2]:
            heads *= size
        inner, values = q.shape[-1], v.shape[-1]
        if inner == values:
            products = [matrix_product(q.shape[-2], inner, 2 * k.shape[-2], heads)]
        else:
            products = [
                matrix_product(q.shape[-2], inner, k.shape[-2], heads),
                matrix_product(q.shape[-2], k.shape[-2], values, heads),
            ]
        layer = scope.layer or "attention"
        for index, geometry in enumerate(products):
            self._product(layer, "attention", geometry, NO_WEIGHT, q)
            entry = self.entries[layer, "attention", geometry]
            entry.second_elements += (k.numel() + v.numel()) if index == 0 else 0

    def _weighted(
        self, scope: Scope, op: str, geometry: Geometry, x: Tensor, w: Tensor, bias: Any
    ) -> None:
        if scope.role == "linear":
            scope.counted = True
            self._product(scope.layer, scope.op_for(op), geometry, scope.weight, x)
            self.entries[scope.layer, scope.op_for(op), geometry].parameters |= scope.parameter_ids
            return
        owner = self.kinds.owner(w)
        if owner is not None:
            layer = owner.layer
            self._product(layer, scope.op_for(op), geometry, owner.weight, x)
            entry = self.entries[layer, scope.op_for(op), geometry]
            entry.parameters |= owner.parameter_ids
            of_bias = self.kinds.owner(bias) if isinstance(bias, Tensor) else None
            if of_bias is not None:
                entry.parameters |= of_bias.parameter_ids
            return
        attention = scope.in_attention
        kind = "attention" if attention else (op if op.startswith("conv") else "matmul")
        layer = scope.layer if attention and scope.layer else f"{scope.layer}:{kind}".lstrip(":")
        self._product(layer, kind, geometry, NO_WEIGHT, x)
        self.entries[layer, kind, geometry].second_elements += w.numel()

    # -- rows -------------------------------------------------------------------------------------

    def _entry(self, layer: str, op: str, geometry: Geometry | None, weight: WeightInfo) -> Entry:
        key = (layer, op, geometry)
        if key not in self.entries:
            self.entries[key] = Entry(layer, op, geometry, weight)
        return self.entries[key]

    def _product(
        self,
        layer: str,
        op: str,
        geometry: Geometry,
        weight: WeightInfo,
        x: Tensor | None,
        calls: int = 1,
    ) -> None:
        entry = self._entry(layer, op, geometry, weight)
        entry.calls += calls
        entry.macs += calls * geometry.macs
        entry.input_elements += calls * geometry.inputs
        entry.output_elements += calls * geometry.outputs
        if x is not None:
            entry.activation_bits = x.element_size() * 8
            if self.sample_zeros and x.device.type != "meta":
                entry.sampled_inputs += x.numel()
                entry.sampled_zeros += zeros_in(x)


def cost_is_embedding(cost: op_kinds.Cost | None) -> bool:
    """Whether an operator looks up table rows, whose index is not a float."""
    return cost is not None and cost.op == "embedding"


def convolution_geometry(
    x: Any, w: Any, y: Any, stride: list[int], dilation: list[int], groups: int, transposed: bool
) -> Geometry:
    """The loop nest of a convolution of any rank, from shapes of input, weight and output.

    A transposed one is the matrix product before its results are spread and added. A
    three-dimensional one folds depth into height.
    """
    rank = len(w) - 2
    if len(x) == rank + 1:
        x, y = (1, *x), (1, *y)
    space_in, space_out, kernel = x[2:], y[2:], w[2:]
    stride = (stride * rank)[:rank] if len(stride) == 1 else stride
    dilation = (dilation * rank)[:rank] if len(dilation) == 1 else dilation
    taps = 1
    for size in kernel:
        taps *= size
    if transposed:
        positions = x[0]
        for size in space_in:
            positions *= size
        return matrix_product(positions, x[1] // groups, w[1] * taps, groups)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = slice(0, rank - 1), rank - 1
    return Geometry(
        batch=x[0],
        groups=groups,
        in_channels=x[1] // groups,
        out_channels=w[0] // groups,
        kernel_h=_product_of(kernel[height]),
        kernel_w=kernel[width],
        reach_h=_product_of(reach[height]),
        reach_w=reach[width],
        stride_h=_product_of(stride[height]),
        stride_w=stride[width],
        in_h=_product_of(space_in[height]),
        in_w=space_in[width],
        out_h=_product_of(space_out[height]),
        out_w=space_out[width],
    )


def _product_of(sizes: Any) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _first_tensor(values: Any) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (list, tuple)):
            found = _first_tensor(value)
            if found is not None:
                return found
        elif isinstance(value, dict) or hasattr(value, "values"):
            items = value.values() if callable(getattr(value, "values", None)) else ()
            found = _first_tensor(items)
            if found is not None:
                return found
    return None
