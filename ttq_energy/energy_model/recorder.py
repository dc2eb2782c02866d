"""Watches one forward pass: module hooks say where, a dispatch mode says what was computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ttq_energy.energy_model import op_kinds, products
from ttq_energy.energy_model.geometry import Geometry, matrix_product
from ttq_energy.energy_model.layer_kinds import (
    LayerKinds,
    Owner,
    Scope,
    linear_rows,
    parameters_of,
    recurrent_rows,
    ternary_geometry,
)
from ttq_energy.energy_model.weights import NO_WEIGHT, WeightInfo, combined, zeros_in
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

    def uses(self, owners: Iterable[Owner]) -> None:
        """Parameters of these owners are weights of this layer."""
        for owner in owners:
            if not owner.parameter_ids <= self.parameters:
                self.weight = combined(self.weight, owner.weight)
            self.parameters |= owner.parameter_ids


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
        if self.looking:
            return  # A weight norm that gives the latent weight which is looked at.
        self.ran.add(id(module))
        outer = self.scopes[-1] if self.scopes else None
        self.looking = True
        try:
            self.scopes.append(self.kinds.scope(module, outer))
        finally:
            self.looking = False

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.looking:
            return
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
            entry = self._product(scope.layer, scope.op, geometry, scope.weight, first, calls=calls)
            entry.activation_bits = scope.activation_bits
            entry.parameters |= scope.parameter_ids
        elif scope.role == "recurrent" and first is not None:
            self._recurrent(module, scope, args, kwargs)
        elif scope.role == "quantizer" and result is not None:
            self.kinds.produced(scope.layer, scope.weight, result)
        elif scope.role == "plain" and first is not None and result is not None:
            self._plain(module, scope, first, result)
        elif scope.role == "linear" and not scope.counted and first is not None:
            # An operator that is not known ran instead of a product: count from the shapes.
            for geometry in linear_rows(module, first):
                entry = self._product(scope.layer, scope.op, geometry, scope.weight, first)
                entry.parameters |= scope.parameter_ids

    def _recurrent(self, module: nn.Module, scope: Scope, args: Any, kwargs: Any) -> None:
        data = args[0] if args else next(iter(kwargs.values()))
        for row in recurrent_rows(module, data, scope.layer):
            weight = self.kinds.weight_of(module, row.parameter)
            layer = f"{scope.layer}.{row.parameter}" if row.parameter else f"{scope.layer}:gates"
            if row.geometry is not None:
                first = row.sampled
                entry = self._product(layer, scope.op, row.geometry, weight, first, calls=row.calls)
                entry.parameters |= parameters_of(module, row.parameter)
                # Steps of a packed sequence hold different numbers of sequences.
                surplus = row.calls * row.geometry.batch - row.rows
                _lessen(entry, surplus * row.geometry.macs // row.geometry.batch)
            else:
                entry = self._entry(layer, "elementwise", None, NO_WEIGHT)
                entry.multiplies += row.multiplies
                entry.adds += row.adds
                entry.input_elements += row.elements
                entry.output_elements += row.elements

    def _plain(self, module: nn.Module, scope: Scope, first: Tensor, result: Tensor) -> None:
        weight = self.kinds.own_parameters(module)
        made_over = self.kinds.owner(first)
        if made_over is not None and scope.op != "embedding":
            # A weight norm, or a layer norm of a table: no work on activations.
            self.kinds.derived([made_over, *self.kinds.owners_of(module)], result)
            return
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
        elif not self._prepares_weights(args, output) and scope.role != "linear":
            self._simple(scope, func, name, args, output)
        return output

    def _prepares_weights(self, args: tuple[Any, ...], output: Any) -> bool:
        """Whether parameters alone go in (a cast, a fold, an exponential): no work on activations.

        What comes out is a parameter from then on.
        """
        tensors = [a for a in _flat(args) if isinstance(a, Tensor)]
        owners = [o for t in tensors if (o := self.kinds.owner(t)) is not None]
        if not tensors or len(owners) < len(tensors):
            return False
        self.kinds.derived(owners, output)
        return True

    def _handler(self, name: str) -> Callable[..., None] | None:
        if name in op_kinds.CONVOLUTIONS:
            return self._convolution
        if name in op_kinds.ATTENTION:
            return self._attention
        if name in op_kinds.MATRIX_PRODUCTS:
            return self._matrix
        if name in op_kinds.GROUPED_PRODUCTS:
            return self._grouped
        return None

    def _simple(
        self, scope: Scope, func: Any, name: str, args: tuple[Any, ...], output: Any
    ) -> None:
        base = name if name in op_kinds.COSTS else name.rstrip("_")
        cost = op_kinds.cost_of(func, base)
        result = _first_tensor((output,))
        tensors = [a for a in _flat(args) if isinstance(a, Tensor)]
        if base in op_kinds.MOVING_PARAMETERS:
            self._stored(tensors)
            return
        if result is None or not result.numel() or not tensors:
            return
        real = result.is_floating_point() or result.is_complex() or cost_is_embedding(cost)
        label = f"{scope.layer}:{base.strip('_')}" if scope.layer else base.strip("_")
        owners = [o for t in tensors if (o := self.kinds.owner(t)) is not None]
        if cost is None:
            if op_kinds.is_unknown(func, base) and (real or func.namespace != "aten"):
                self._unknown(owners[0].layer if owners else label, base.strip("_"), owners)
            return
        if not real:
            return
        if cost.op == "embedding" and owners:
            label = owners[0].layer
        entry = self._entry(label, cost.op, None, NO_WEIGHT)
        entry.uses(owners)
        inputs = [t for t in tensors if self.kinds.owner(t) is None]
        counted = result.numel()
        if inputs and base in op_kinds.REDUCING:
            counted = inputs[0].numel()
        elif inputs and base in op_kinds.SCATTERING:
            counted = inputs[-1].numel()
        # A complex product is four real ones and two sums; a complex sum, two.
        parts = 4 if result.is_complex() else 1
        entry.multiplies += parts * cost.multiplies * counted
        entry.adds += (cost.adds + (parts > 1) * (cost.adds + 2 * cost.multiplies)) * counted
        entry.input_elements += sum(t.numel() for t in inputs)
        entry.output_elements += result.numel()

    def _unknown(self, layer: str, op: str, owners: list[Owner]) -> None:
        entry = self._entry(layer, op, None, NO_WEIGHT)
        entry.supported = False
        entry.uses(owners)

    def _stored(self, tensors: Iterable[Tensor]) -> None:
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
        geometry = products.convolution(
            x.shape, w.shape, output.shape, stride, dilation, groups, transposed
        )
        op = f"conv{'_transpose' if transposed else ''}{w.dim() - 2}d"
        self._weighted(scope, op, geometry, x, w, args[2] if len(args) > 2 else None)

    def _matrix(
        self, scope: Scope, name: str, args: tuple[Any, ...], kwargs: Any, output: Tensor
    ) -> None:
        found = products.matrix(name, args, output, lambda t: self.kinds.owner(t) is not None)
        self._weighted(scope, "linear", found.geometry, found.x, found.w, found.bias)

    def _grouped(
        self, scope: Scope, name: str, args: tuple[Any, ...], kwargs: Any, output: Tensor
    ) -> None:
        x, w = args[:2]
        ends = next((t for t in args[2:] if isinstance(t, Tensor)), kwargs.get("offs"))
        geometry, macs = products.grouped(x, w, ends)
        entry = self._weighted(scope, "linear", geometry, x, w, None)
        # Groups hold different numbers of rows; the loop nest has the mean, rounded up.
        _lessen(entry, geometry.macs - macs)

    def _attention(
        self, scope: Scope, name: str, args: tuple[Any, ...], kwargs: Any, output: Any
    ) -> None:
        q, k, v = args[:3]
        self._stored((q, k, v))
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
            entry = self._product(layer, "attention", geometry, NO_WEIGHT, q)
            entry.second_elements += (k.numel() + v.numel()) if index == 0 else 0

    def _weighted(
        self, scope: Scope, op: str, geometry: Geometry, x: Tensor, w: Tensor, bias: Any
    ) -> Entry:
        owner = self.kinds.owner(w)
        if self.kinds.owner(x) is not None and (scope.role == "linear" or owner is not None):
            self._stored([x])  # A learned query or latent array, which a layer takes as its input.
        if scope.role == "linear":
            scope.counted = True
            entry = self._product(scope.layer, scope.op_for(op), geometry, scope.weight, x)
            entry.parameters |= scope.parameter_ids
            return entry
        if owner is not None:
            entry = self._product(owner.layer, scope.op_for(op), geometry, owner.weight, x)
            entry.parameters |= owner.parameter_ids
            of_bias = self.kinds.owner(bias) if isinstance(bias, Tensor) else None
            if of_bias is not None:
                entry.parameters |= of_bias.parameter_ids
            return entry
        attention = scope.in_attention
        kind = "attention" if attention else (op if op.startswith("conv") else "matmul")
        layer = scope.layer if attention and scope.layer else f"{scope.layer}:{kind}".lstrip(":")
        entry = self._product(layer, kind, geometry, NO_WEIGHT, x)
        entry.second_elements += w.numel()
        return entry

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
    ) -> Entry:
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
        return entry


def cost_is_embedding(cost: op_kinds.Cost | None) -> bool:
    """Whether an operator looks up table rows, whose index is not a float."""
    return cost is not None and cost.op == "embedding"


def _lessen(entry: Entry, macs: int) -> None:
    """Take away multiply-accumulates that the loop nest has and the layer does not."""
    geometry = entry.geometry
    assert geometry is not None
    entry.macs -= macs
    entry.input_elements -= macs * geometry.inputs // geometry.macs
    entry.output_elements -= macs * geometry.outputs // geometry.macs


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
