"""Whole stacks of packed layers in one native call, for a step of one token.

A step of a large network streams its weights through the caches, so that between two native calls
even the interpreter comes back from memory: some hundred microseconds a step, as much as a tenth of
the arithmetic. A stack here gathers once what native code is told of all its layers, sees at each
step that nothing of it changed, and makes one call. It gives None where some layer is not packed or
is watched by hooks, or where anything but the values of the result is asked for; the layers then
run one by one.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Iterable, Sequence
from operator import is_, itemgetter
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ttq_energy.kernels import decoding, isa
from ttq_energy.kernels.modules import TernaryLinear
from ttq_energy.kernels.siblings import packed
from ttq_energy.kernels.watching import forward_hooks, unobserved

_BUFFERS = itemgetter("packed", "scale_pos", "scale_neg", "bias")
_SETTINGS = itemgetter("relu", "activations", "in_features", "out_features")


class _Watch:
    """What gathered addresses depend on: sees in some microseconds whether they still hold."""

    def __init__(
        self,
        modules: Iterable[nn.Module],
        matrices: Sequence[TernaryLinear],
        norms: Sequence[nn.RMSNorm] = (),
    ) -> None:
        everything = [*modules, *matrices, *norms]
        self._modules = everything
        self._kinds = list(map(type, everything))
        self._attributes = [module.__dict__ for module in everything]
        self._hooks = forward_hooks(everything)
        self._children = [
            (module._modules, tuple(module._modules.values()))
            for module in everything
            if module._modules
        ]
        self._held: list[tuple[Callable[[Any], Any], Any, Any]] = []
        for matrix in matrices:
            self._held.append((_BUFFERS, matrix._buffers, _BUFFERS(matrix._buffers)))
            self._held.append((_SETTINGS, matrix.__dict__, _SETTINGS(matrix.__dict__)))
        for norm in norms:
            weight = itemgetter("weight", "weight")
            self._held.append((weight, norm._parameters, weight(norm._parameters)))
            epsilon = itemgetter("eps", "eps")
            self._held.append((epsilon, norm.__dict__, epsilon(norm.__dict__)))
        self._tensors = [
            value for _, _, values in self._held for value in values if isinstance(value, Tensor)
        ]
        self._addresses = list(map(Tensor.data_ptr, self._tensors))

    def holds(self) -> bool:
        """No hook or patch, and the same modules, tensors and addresses as when gathered."""
        try:
            return self._same()
        except KeyError:  # a parameter or buffer was taken out, as parametrizations do
            return False

    def _same(self) -> bool:
        if any(map(len, self._hooks)) or list(map(type, self._modules)) != self._kinds:
            return False
        for attributes in self._attributes:
            if "forward" in attributes:
                return False
        for children, kept in self._children:
            if len(children) != len(kept) or not all(map(is_, children.values(), kept)):
                return False
        for get, place, values in self._held:
            if not all(map(is_, get(place), values)):
                return False
        return list(map(Tensor.data_ptr, self._tensors)) == self._addresses


def _numbers(layer: TernaryLinear) -> tuple[int, ...]:
    """What native code is told of a matrix."""
    codes, scale_pos, scale_neg, bias = _BUFFERS(layer._buffers)
    address = 0 if bias is None else bias.data_ptr()
    scales = scale_pos.data_ptr(), scale_neg.data_ptr()
    return codes.data_ptr(), codes.numel(), layer.out_features, *scales, address


def _fits(layer: nn.Module, columns: int, rows: int, activations: str) -> bool:
    return (
        packed(layer)
        and layer.in_features == columns
        and layer.out_features == rows
        and layer.activations == activations
        and not layer.relu
    )


class DecoderParts(NamedTuple):
    """The modules of one pre-normalized decoder layer (that of Llama, arXiv 2302.13971).

    Attributes:
        attention: q, k, v and o projections.
        feed_forward: gate, up and down projections of a SwiGLU layer.
        norms: RMS norms before attention and before the feed-forward layer.
        others: the modules around them, whose hooks must be respected too.
    """

    attention: tuple[nn.Module, nn.Module, nn.Module, nn.Module]
    feed_forward: tuple[nn.Module, nn.Module, nn.Module]
    norms: tuple[nn.Module, nn.Module]
    others: tuple[nn.Module, ...]


class StackParts(NamedTuple):
    """A decoder's layers in order, the norm behind them, and the modules around them.

    A layer that does not compute what its parts say is None.
    """

    layers: list[DecoderParts | None]
    last: nn.Module
    around: tuple[nn.Module, ...]


class _Decoder(NamedTuple):
    """A gathered stack of decoder layers; sizes as the native call names them."""

    watch: _Watch
    numbers: list[tuple[int, ...]]
    epsilons: array[float]
    last_norm: int
    int8: bool
    width: int
    query: int
    key: int
    wide: int


class _Cache(NamedTuple):
    """A cache's tensors, not kept alive, and the addresses of everything, for one decoder."""

    decoder: _Decoder
    tensors: list[weakref.ref[Tensor]]
    addresses: list[int]
    shape: torch.Size
    numbers: array[int]


class _Forgetful:
    """Holds addresses, which no copy of a module may take with it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class DecoderStack(_Forgetful):
    """Decoder layers and the norm behind them, one token at a time."""

    def __init__(self) -> None:
        self._decoder: _Decoder | None = None
        self._cache: _Cache | None = None

    def step(
        self,
        parts: Callable[[], StackParts],
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        position: int,
    ) -> Tensor | None:
        """One token of each sequence through the layers; its key and value go into the cache.

        Args:
            parts: gives the modules; called when something changed.
            x: (N, 1, width), the embedded tokens.
            cos, sin, position: as in :func:`decoding.attend`.
            keys, values: of each layer, as there.

        Returns:
            (N, 1, width) behind the last norm; None where the layers must run one by one (what the
            cache holds at ``position`` is then not defined).
        """
        if x.dim() != 3 or x.shape[1] != 1 or not decoding.applies(x, cos, sin):
            return None
        decoder = self._decoder
        if decoder is None or not decoder.watch.holds():
            decoder = self._decoder = _gather_decoder(parts(), len(keys))
            if decoder is None:
                return None
        cache = self._cached(decoder, keys, values)
        batch, _, width = x.shape
        if cache is None or width != decoder.width or batch != cache.shape[0]:
            return None
        _, kv_heads, capacity, head_dim = cache.shape
        tables = cos.shape == sin.shape and cos.dim() == 2 and cos.shape[1] == head_dim
        contiguous = cos.is_contiguous() and sin.is_contiguous()
        if not tables or not contiguous or not 0 <= position < min(capacity, cos.shape[0]):
            return None
        y = x.clone(memory_format=torch.contiguous_format)
        row = 4 * position * head_dim
        finite = isa.native().decoder_step(
            y.data_ptr(),
            cache.numbers.buffer_info()[0],
            decoder.epsilons.buffer_info()[0],
            len(decoder.numbers),
            decoder.last_norm,
            decoder.int8,
            cos.data_ptr() + row,
            sin.data_ptr() + row,
            batch,
            width,
            decoder.query // head_dim,
            kv_heads,
            head_dim,
            decoder.wide,
            capacity,
            position,
            torch.get_num_threads(),
        )
        return y if finite else None

    def _cached(
        self, decoder: _Decoder, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> _Cache | None:
        tensors = [*keys, *values]
        cache = self._cache
        if (
            cache is not None
            and cache.decoder is decoder
            and len(tensors) == len(cache.tensors)
            and all(kept() is tensor for kept, tensor in zip(cache.tensors, tensors, strict=True))
            and list(map(Tensor.data_ptr, tensors)) == cache.addresses
        ):
            return cache
        layers = len(decoder.numbers)
        if len(keys) != layers or len(values) != layers or not decoding.applies(*tensors):
            return None
        shape = tensors[0].shape
        fits = all(t.shape == shape and t.is_contiguous() for t in tensors)
        if not fits or len(shape) != 4 or not tensors[0].numel() or shape[3] % 2:
            return None
        kv_heads, head_dim = shape[1], shape[3]
        if decoder.key != kv_heads * head_dim or decoder.query % decoder.key:
            return None
        addresses = list(map(Tensor.data_ptr, tensors))
        numbers = array("Q")
        for layer, matrices in enumerate(decoder.numbers):
            numbers.extend((*matrices, addresses[layer], addresses[layers + layer]))
        self._cache = _Cache(decoder, [weakref.ref(t) for t in tensors], addresses, shape, numbers)
        return self._cache


def _gather_decoder(stack: StackParts, count: int) -> _Decoder | None:
    """The stack of ``count`` layers for the native call; None where it cannot run there."""
    layers = [layer for layer in stack.layers if layer is not None]
    last, around = stack.last, stack.around
    if len(layers) != count or not layers:
        return None
    first = layers[0].attention[0]
    widening = layers[0].feed_forward[0]
    if not packed(first) or not packed(widening) or not packed(layers[0].attention[1]):
        return None
    width, query, kind = first.in_features, first.out_features, first.activations
    key, wide = layers[0].attention[1].out_features, widening.out_features
    all_numbers: list[tuple[int, ...]] = []
    matrices: list[TernaryLinear] = []
    norms: list[nn.RMSNorm] = []
    others = list(around)
    for parts in layers:
        q, k, v, o = parts.attention
        gate, up, down = parts.feed_forward
        numbers: list[int] = []
        for matrix, columns, rows in (
            (q, width, query),
            (k, width, key),
            (v, width, key),
            (o, query, width),
            (gate, width, wide),
            (up, width, wide),
            (down, wide, width),
        ):
            if not _fits(matrix, columns, rows, kind):
                return None
            assert isinstance(matrix, TernaryLinear)
            matrices.append(matrix)
            numbers += _numbers(matrix)
        numbers += (_weight(norm, width) for norm in parts.norms)
        all_numbers.append(tuple(numbers))
        others += parts.others
        norms += (norm for norm in parts.norms if isinstance(norm, nn.RMSNorm))
    if not isinstance(last, nn.RMSNorm) or len(norms) != 2 * count:
        return None
    norms.append(last)
    if not all(_weight(norm, width) for norm in norms):
        return None
    if not all(unobserved(module) for module in (*norms, *others)):
        return None
    watch = _Watch(others, matrices, norms)
    epsilons = array("d", [norm.eps or 0.0 for norm in norms])
    return _Decoder(
        watch, all_numbers, epsilons, _weight(last, width), kind == "int8", width, query, key, wide
    )


def _weight(norm: nn.Module, width: int) -> int:
    """Address of a norm's weights; 0 where native code cannot take them."""
    if type(norm) not in (nn.RMSNorm, decoding.RMSNorm):
        return 0
    weight = norm._parameters.get("weight")
    if weight is None or norm.eps is None or weight.shape != (width,):
        return 0
    fits = weight.dtype == torch.float32 and weight.is_cpu and weight.is_contiguous()
    return weight.data_ptr() if fits else 0


class _Recurrent(NamedTuple):
    """Gathered recurrent layers."""

    watch: _Watch
    numbers: array[int]
    int8: bool
    gates: int
    inputs: int


class RecurrentStack(_Forgetful):
    """Recurrent layers in one direction, one token at a time."""

    def __init__(self) -> None:
        self._layers: _Recurrent | None = None

    def step(
        self,
        layers: Callable[[], list[tuple[nn.Module, nn.Module]]],
        x: Tensor,
        h: Tensor,
        c: Tensor | None,
    ) -> tuple[Tensor, Tensor | None] | None:
        """One step of all layers: an LSTM with ``c``, a GRU without.

        Args:
            layers: gives each layer's input and hidden matrix; called when something changed.
            x: (N, inputs).
            h, c: (layers, N, hidden).

        Returns:
            The new h and c; None where the layers must run one by one.
        """
        if not decoding.applies(x, h, *(() if c is None else (c,))):
            return None
        gathered = self._layers
        if gathered is None or not gathered.watch.holds():
            gathered = self._layers = _gather_recurrent(layers())
            if gathered is None:
                return None
        batch, hidden = x.shape[0], h.shape[-1]
        fits = x.shape[1] == gathered.inputs and gathered.gates == (3 if c is None else 4) * hidden
        if not fits or batch == 0:
            return None
        x, h = x.contiguous(), h.contiguous()
        cells = None if c is None else c.clone(memory_format=torch.contiguous_format)
        out = torch.empty_like(h)
        finite = isa.native().recurrent_step(
            gathered.numbers.buffer_info()[0],
            h.shape[0],
            gathered.int8,
            batch,
            gathered.inputs,
            hidden,
            x.data_ptr(),
            h.data_ptr(),
            0 if cells is None else cells.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return (out, cells) if finite else None


def _gather_recurrent(layers: list[tuple[nn.Module, nn.Module]]) -> _Recurrent | None:
    """The layers for the native call; None where some matrix cannot run there."""
    first, hidden = layers[0]
    if not packed(first) or not packed(hidden):
        return None
    gates, inputs, kind = first.out_features, first.in_features, first.activations
    numbers = array("Q")
    matrices: list[TernaryLinear] = []
    columns = inputs
    for pair in layers:
        for matrix, size in zip(pair, (columns, hidden.in_features), strict=True):
            if not _fits(matrix, size, gates, kind):
                return None
            assert isinstance(matrix, TernaryLinear)
            matrices.append(matrix)
            numbers.extend(_numbers(matrix))
        columns = hidden.in_features
    return _Recurrent(_Watch((), matrices), numbers, kind == "int8", gates, inputs)
