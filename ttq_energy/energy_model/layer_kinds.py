"""What each module is to the counter: its name, its role, its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ttq_energy.energy_model import products, weights
from ttq_energy.energy_model.geometry import Geometry, matrix_product
from ttq_energy.energy_model.weights import NO_WEIGHT, WeightInfo
from ttq_energy.kernels.modules import TernaryModule
from ttq_energy.kernels.recurrent import TernaryGRU, TernaryLSTM
from ttq_energy.quantization.layers import QuantizedWeight, can_pack, quantized_layers
from ttq_energy.quantization.summary import packed_layers

ROOT = "model"
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_IGNORED = (nn.Dropout, nn.modules.dropout._DropoutNd, nn.Identity, nn.Flatten, nn.Unflatten)
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_GATE_OPERATIONS = {"LSTM": (3, 6), "GRU": (3, 7), "RNN": (0, 2)}
"""(multiplies, adds and nonlinear functions) for each hidden value and step."""


@dataclass
class Scope:
    """A module while it runs.

    Attributes:
        layer: its name in tables; empty for the root.
        role: "linear" (products inside belong to it), "ternary", "recurrent", "quantizer",
            "plain" (one operator of a known kind), "ignored" or "container".
        op: what tables call it.
        hidden: an outer scope already accounts for everything in it.
    """

    layer: str
    role: str
    op: str = ""
    weight: WeightInfo = NO_WEIGHT
    cost: tuple[float, float] = (0.0, 0.0)
    hidden: bool = False
    in_attention: bool = False
    recurrent_op: str = ""
    activation_bits: int = 32
    counted: bool = False
    parameter_ids: frozenset[int] = frozenset()

    @property
    def ignores_inner(self) -> bool:
        return self.hidden or self.role not in ("container", "linear")

    def op_for(self, op: str) -> str:
        """Products inside an LSTM or GRU built from modules bear its name."""
        return self.recurrent_op or op


@dataclass(frozen=True)
class Owner:
    """Who a parameter tensor belongs to."""

    layer: str
    weight: WeightInfo
    parameter_ids: frozenset[int]


@dataclass
class LayerKinds:
    """Names, roles and weights of a model's modules.

    Args:
        model: any module; its weights are read once, here and when first needed.
        taken_as: what dense weights count as instead, by module id and parameter name.
    """

    model: nn.Module
    taken_as: Mapping[tuple[int, str], WeightInfo] = field(default_factory=dict)
    names: dict[int, str] = field(init=False)
    root: Scope = field(init=False)

    def __post_init__(self) -> None:
        self.names = {id(module): name for name, module in self.model.named_modules()}
        self.root = Scope("", "container")
        self.quantized = quantized_layers(self.model)
        self._quantizer_layer = {id(w.quantizer): name for name, w in self.quantized.items()}
        self._packed_names = {id(module): name for name, module in packed_layers(self.model)}
        self._infos: dict[tuple[int, str], WeightInfo] = {}
        self._owners: dict[int, Owner] = {}
        self._alive: list[Tensor] = []
        self._parameters = self._find_parameters()

    # -- scopes -----------------------------------------------------------------------------------

    def scope(self, module: nn.Module, outer: Scope | None) -> Scope:
        """The scope that a module opens inside another."""
        made = self._scope(module)
        if outer is not None:
            made.hidden = outer.ignores_inner
            made.in_attention = made.in_attention or outer.in_attention
            made.recurrent_op = made.recurrent_op or outer.recurrent_op
            if made.op in ("linear",) and made.recurrent_op:
                made.op = made.recurrent_op
        return made

    def _scope(self, module: nn.Module) -> Scope:
        path = self.names.get(id(module), "")
        layer = path or ROOT
        if id(module) in self._quantizer_layer:
            name = self._quantizer_layer[id(module)]
            return Scope(name, "quantizer", weight=self._quantized_info(self.quantized[name]))
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            return Scope(path, "container")
        if isinstance(module, TernaryModule):
            op = "linear" if len(module.shape) == 2 else f"conv{len(module.codes().shape) - 2}d"
            bits = 8 if module.activations == "int8" else 32
            return Scope(
                self._packed_names.get(id(module), layer),
                "ternary",
                op,
                self._packed_info(module),
                activation_bits=bits,
                parameter_ids=frozenset((id(module), *(id(p) for p in module.parameters()))),
            )
        if isinstance(module, _LINEAR):
            return Scope(
                layer,
                "linear",
                "linear" if isinstance(module, nn.Linear) else _conv_name(module),
                self.weight_of(module, "weight"),
                parameter_ids=frozenset(id(p) for p in module.parameters()),
            )
        if isinstance(module, _RECURRENT):
            return Scope(layer, "recurrent", _recurrent_kind(module).lower())
        if isinstance(module, _IGNORED):
            return Scope(layer, "ignored")
        plain = _plain_kind(module)
        if plain is not None:
            return Scope(layer, "plain", plain[0], cost=plain[1])
        name = type(module).__name__.lower()
        return Scope(
            path,
            "container",
            in_attention="attention" in name or "attn" in name,
            recurrent_op=_own_recurrence(module, name),
        )

    # -- weights ----------------------------------------------------------------------------------

    def weight_of(self, module: nn.Module, parameter: str) -> WeightInfo:
        """Weights of one parameter of a module, quantized or not."""
        if not parameter:
            return NO_WEIGHT
        key = (id(module), parameter)
        if key not in self._infos:
            self._infos[key] = self._read(module, parameter)
        return self._infos[key]

    def _read(self, module: nn.Module, parameter: str) -> WeightInfo:
        for quantized in self.quantized.values():
            if quantized.module is module and quantized.parameter == parameter:
                return self._quantized_info(quantized, _bias_elements(module, parameter))
        taken_as = self.taken_as.get((id(module), parameter))
        if taken_as is not None:
            more = _bias_elements(module, parameter)
            return replace(taken_as, parameters=taken_as.parameters + more)
        value = getattr(module, parameter)
        if isinstance(module, nn.modules.conv._ConvNd) and module.transposed:
            value = value.transpose(0, 1)
        return weights.dense(value, parameters=value.numel() + _bias_elements(module, parameter))

    def _quantized_info(self, quantized: QuantizedWeight, bias: int = 0) -> WeightInfo:
        # Asked for by the layer and by its quantizer; reading codes takes longer than running it.
        key = (id(quantized.module), f"{quantized.parameter} quantized")
        if key not in self._infos:
            self._infos[key] = self._read_quantized(quantized)
        info = self._infos[key]
        return replace(info, parameters=info.parameters + bias)

    def _read_quantized(self, quantized: QuantizedWeight) -> WeightInfo:
        if can_pack(quantized):
            quantizer = quantized.quantizer
            return weights.as_ternary(
                quantizer.config, quantized.latent(), quantized.parts, quantizer.scales_equal()
            )
        bits = float(getattr(quantized.quantizer.config, "bits", 32))
        effective = quantized.effective()
        return weights.dense(effective, bits)

    def _packed_info(self, module: TernaryModule) -> WeightInfo:
        key = (id(module), "")
        if key not in self._infos:
            codes = module.codes()
            bias = 0 if module.bias is None else module.bias.numel()
            info = weights.ternary(codes, module.w_pos, module.w_neg, codes.numel() + bias)
            self._infos[key] = info
        return self._infos[key]

    def own_parameters(self, module: nn.Module) -> WeightInfo:
        """All parameters of a norm, activation or embedding module together."""
        key = (id(module), "*")
        if key not in self._infos:
            values = [p for p in module.parameters() if p is not None]
            elements = sum(p.numel() for p in values)
            zeros = sum(int(weights._zeros_per_output(p).sum()) for p in values)
            bits = values[0].element_size() * 8 if values else 32
            import numpy as np

            self._infos[key] = WeightInfo(
                elements, np.array([zeros]), "dense" if values else "none", bits, 0, 0, elements
            )
        return self._infos[key]

    # -- parameters as they turn up in operators --------------------------------------------------

    def _find_parameters(self) -> dict[int, tuple[str, Tensor, nn.Module, str]]:
        found: dict[int, tuple[str, Tensor, nn.Module, str]] = {}
        for path, module in self.model.named_modules():
            for name, value in module.named_parameters(recurse=False):
                label = f"{path}.{name}" if path else name
                if name == "weight" and path:
                    label = path
                found.setdefault(_storage(value), (label, value, module, name))
        return found

    def owner(self, tensor: Tensor) -> Owner | None:
        """The parameter that a tensor is, or is a view of; None for an activation."""
        key = _storage(tensor)
        if key in self._owners:
            return self._owners[key]
        if key not in self._parameters:
            return None
        label, value, module, name = self._parameters[key]
        info = self.taken_as.get((id(module), name))
        if info is None:
            info = weights.dense(value.detach()) if value.dim() else NO_WEIGHT
        made = Owner(label, info, frozenset({id(value)}))
        self._owners[key] = made
        return made

    def owners_of(self, module: nn.Module) -> list[Owner]:
        """The owners of a module's parameters."""
        found = (self.owner(parameter) for parameter in module.parameters())
        return [owner for owner in found if owner is not None]

    def derived(self, owners: Sequence[Owner], made: Any) -> None:
        """Tensors made of parameters alone belong to the largest of those, as it does itself."""
        chief = max(owners, key=lambda owner: owner.weight.elements)
        for tensor in made if isinstance(made, (list, tuple)) else (made,):
            if not isinstance(tensor, Tensor) or self.owner(tensor) is not None:
                continue
            same = chief.weight.kind != "dense" and tensor.numel() == chief.weight.elements
            info = chief.weight if same else weights.dense(tensor)
            ids = frozenset().union(*(owner.parameter_ids for owner in owners))
            self._alive.append(tensor)
            self._owners[_storage(tensor)] = Owner(chief.layer, info, ids)

    def produced(self, layer: str, info: WeightInfo, tensor: Tensor) -> None:
        """A quantizer gave this tensor: it stands for the layer's weight from now on."""
        self._alive.append(tensor)
        chain = self.quantized[layer]._chain
        ids = frozenset(id(p) for p in chain.parameters())
        self._owners[_storage(tensor)] = Owner(layer, info, ids)


@dataclass(frozen=True)
class RecurrentRow:
    """One matrix of a recurrent layer, or its gates (no parameter).

    Attributes:
        geometry: of one step.
        calls: steps that read the matrix anew.
        rows: that meet the matrix in all; less than calls times the geometry's where a packed
            sequence's steps hold different numbers of sequences.
    """

    parameter: str
    geometry: Geometry | None
    calls: int
    rows: int
    sampled: Tensor | None = None
    elements: int = 0
    multiplies: float = 0.0
    adds: float = 0.0


def recurrent_rows(module: Any, data: Any, layer: str) -> Iterator[RecurrentRow]:
    """The matrix products of ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and their cells.

    The input matrix meets all steps at once; the hidden matrix meets one step at a time.
    """
    kind = _recurrent_kind(module)
    gates = _GATES[kind]
    if isinstance(module, nn.RNNCellBase):
        batch, steps, tokens, layers, directions = _cell_sizes(data)
    else:
        batch, steps, tokens = _sequence_sizes(module, data)
        layers, directions = module.num_layers, 2 if module.bidirectional else 1
    hidden = module.hidden_size
    projected = getattr(module, "proj_size", 0) or hidden
    sampled = data if isinstance(data, Tensor) else data.data
    for index in range(layers):
        width = module.input_size if index == 0 else projected * directions
        for direction in range(directions):
            end = "" if isinstance(module, nn.RNNCellBase) else f"_l{index}"
            end += "_reverse" if direction else ""
            first = sampled if index == 0 else None
            yield RecurrentRow(
                f"weight_ih{end}", matrix_product(tokens, width, gates * hidden), 1, tokens, first
            )
            yield RecurrentRow(
                f"weight_hh{end}", matrix_product(batch, projected, gates * hidden), steps, tokens
            )
            if projected != hidden:
                yield RecurrentRow(
                    f"weight_hr{end}", matrix_product(batch, hidden, projected), steps, tokens
                )
    elements = tokens * hidden * layers * directions
    multiplies, adds = _GATE_OPERATIONS[kind]
    yield RecurrentRow("", None, 1, tokens, None, elements, multiplies * elements, adds * elements)


def parameters_of(module: nn.Module, name: str) -> set[int]:
    """Ids of what makes up one weight of a module, quantized or not, and of its bias."""
    wanted = {name, name.replace("weight", "bias")}
    return {id(value) for path, value in module.named_parameters() if wanted & set(path.split("."))}


def _cell_sizes(data: Tensor) -> tuple[int, int, int, int, int]:
    rows = data.shape[0] if data.dim() == 2 else 1
    return rows, 1, rows, 1, 1


def _sequence_sizes(module: nn.RNNBase, data: Any) -> tuple[int, int, int]:
    """(batch, steps, batch x steps) of a padded, unbatched or packed sequence."""
    if not isinstance(data, Tensor):
        steps, tokens = len(data.batch_sizes), int(data.batch_sizes.sum())
        return max(1, round(tokens / steps)), steps, tokens
    if data.dim() == 2:
        return 1, data.shape[0], data.shape[0]
    batch, steps = data.shape[0], data.shape[1]
    if not module.batch_first:
        batch, steps = steps, batch
    return batch, steps, batch * steps


def ternary_geometry(module: TernaryModule, x: Tensor, y: Tensor) -> tuple[Geometry, int]:
    """The loop nest of a packed layer from its shapes."""
    shape = tuple(module.codes().shape)
    if len(shape) == 2:
        return matrix_product(x.numel() // x.shape[-1], shape[1], shape[0]), 1
    own: Any = module
    rank = len(shape) - 2
    stride, dilation = (list(_tuple(v, rank)) for v in (own.stride, own.dilation))
    return (
        products.convolution(
            x.shape, shape, y.shape, stride[-rank:], dilation[-rank:], own.groups, False
        ),
        1,
    )


def linear_rows(module: nn.Module, x: Tensor) -> list[Geometry]:
    """The product of a linear layer whose operator was not seen."""
    if not isinstance(module, nn.Linear):
        return []
    rows = x.numel() // module.in_features
    return [matrix_product(rows, module.in_features, module.out_features)]


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return id(tensor)


def _bias_elements(module: nn.Module, parameter: str) -> int:
    name = parameter.replace("weight", "bias")
    value = getattr(module, name, None) if name != parameter else None
    return value.numel() if isinstance(value, Tensor) else 0


def _conv_name(module: Any) -> str:
    return f"conv{'_transpose' if module.transposed else ''}{len(module.kernel_size)}d"


def _recurrent_kind(module: nn.Module) -> str:
    name = type(module).__name__
    return "LSTM" if "LSTM" in name else ("GRU" if "GRU" in name else "RNN")


def _own_recurrence(module: nn.Module, name: str) -> str:
    """ "lstm" or "gru" for a cell of the user's own, whose linear layers are its gates.

    A network that is named after the recurrent layer it holds has linear layers beside it.
    """
    layers = (*_RECURRENT, TernaryLSTM, TernaryGRU)
    if any(isinstance(inner, layers) for inner in module.modules() if inner is not module):
        return ""
    return next((kind for kind in ("lstm", "gru") if kind in name), "")


def _plain_kind(module: nn.Module) -> tuple[str, tuple[float, float]] | None:
    """Op and (multiplies, adds) an element of modules that are one operator; None for others."""
    home, name = type(module).__module__, type(module).__name__
    leaf = not any(True for _ in module.children())
    if isinstance(module, _EMBEDDINGS):
        return "embedding", (0.0, 0.0)
    if home.startswith("torch.nn.modules.activation") and name != "MultiheadAttention":
        return "activation", (0.0, 1.0)
    if home.startswith("torch.nn.modules.pooling"):
        return "pool", (0.0, 1.0)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return "norm", (1.0, 1.0)
    if leaf and name.endswith("Norm"):
        return "norm", (3.0, 1.0 if "RMS" in name else 4.0)
    if isinstance(module, nn.LocalResponseNorm):
        return "norm", (float(module.size) + 2.0, float(module.size))
    return None
