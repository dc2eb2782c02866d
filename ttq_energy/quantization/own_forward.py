"""Layers whose class changes what Linear or a convolution does, and weights read past their layer.

timm's ``StdConv2d`` standardizes its weight, ``Conv2dSame`` pads by the input's size; T5 and
Swin v2 read a linear layer's weight from outside. Each is tried out here, not known by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttq_energy.errors import InputError

_KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU)
_CLOSE = 1e-4
"""Relative; two ways of float32 arithmetic differ by rounding, two operations by far more."""


def is_plain(module: nn.Module) -> bool:
    """Whether a Linear, convolution, LSTM or GRU computes what torch's own does."""
    kind = next((k for k in _KINDS if isinstance(module, k)), None)
    if kind is None or "forward" in module.__dict__:
        return kind is None
    own: Any = type(module)
    base: Any = kind
    methods = ["forward"] + ["_conv_forward"] * hasattr(base, "_conv_forward")
    return all(getattr(own, name) is getattr(base, name) for name in methods)


def uses_its_weight(module: nn.Module) -> bool:
    """Whether the output is linear in the weight, so that ternary weights stay ternary in use.

    False for layers that standardize or normalize their weight first.
    """
    if is_plain(module):
        return True
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return False
    with _undisturbed(module):
        first, second = torch.randn_like(weight), torch.randn_like(weight)
        for x in _probes(module):
            try:
                parts = [
                    _first(torch.func.functional_call(module, {"weight": value}, (x,)))
                    for value in (first + second, torch.zeros_like(weight), first, second)
                ]
                whole, nothing, one, other = parts
                if not _equal(whole + nothing, one + other):
                    return False
            except (RuntimeError, ValueError, TypeError):
                return False
    return True


def plain_form(module: nn.Module, weight: Tensor) -> tuple[nn.Module | None, nn.Module] | None:
    """A plain layer, and what pads its input first, that compute the same; None where none does.

    Args:
        module: a Linear or convolution.
        weight: the one that it uses.
    """
    if is_plain(module):
        return None, module
    candidates: list[tuple[nn.Module | None, nn.Module]] = [(None, _plain(module, weight))]
    if isinstance(module, nn.Conv2d):
        candidates.append((SamePad2d(module), _plain(module, weight, padding=0)))
    with _undisturbed(module):
        for before, layer in candidates:
            if all(_alike(module, before, layer, x) for x in _probes(module)):
                return before, layer
    return None


class SamePad2d(nn.Module):
    """TensorFlow's SAME padding: ceil(size / stride) outputs, the odd pixel behind.

    Source: tensorflow.org/api_docs/python/tf/nn, "Notes on padding".

    Args:
        convolution: whose kernel, stride and dilation decide.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.kernel_size = convolution.kernel_size
        self.stride, self.dilation = convolution.stride, convolution.dilation

    def forward(self, x: Tensor) -> Tensor:
        """(..., h, w), padded with zeros."""
        around: list[int] = []
        for axis in (1, 0):
            size, step = x.shape[axis - 2], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            missing = max(0, (-(-size // step) - 1) * step + reach - size)
            around += [missing // 2, missing - missing // 2]
        return F.pad(x, around)


def dense_copy(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The module as it was before ``prepare_``, with these weights in place of its own.

    Args:
        module: with parametrized weights.
        weights: values by parameter.
    """
    kind: Any = type(module).__bases__[0]
    made: nn.Module = kind.__new__(kind)
    made.__dict__.update(module.__dict__)
    for held in ("_parameters", "_buffers", "_modules"):
        made.__dict__[held] = dict(getattr(module, held))
    del made._modules["parametrizations"]
    kept = {name: value for name, value in module._parameters.items() if value is not None}
    for name, tensor in {**kept, **weights}.items():
        own = nn.Parameter(tensor.detach().clone(), requires_grad=False)
        made.register_parameter(name, own)
    return made


class Bypassed:
    """Sees which quantized weights are read while their layer is not running.

    Args:
        layers: quantizer and module by layer name.
    """

    def __init__(self, layers: Mapping[str, tuple[nn.Module, nn.Module]]) -> None:
        self.layers = layers
        self.read: set[str] = set()
        self.called: set[str] = set()
        self._running: Counter[str] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the layers and their quantizers for the time of the block."""
        hooks = []
        for name, (quantizer, module) in self.layers.items():
            hooks.append(quantizer.register_forward_pre_hook(self._reads(name)))
            hooks.append(module.register_forward_pre_hook(self._enters(name)))
            hooks.append(module.register_forward_hook(self._leaves(name), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def instead_of_called(self) -> set[str]:
        """Layers whose weight others multiply with, in their place."""
        return self.read - self.called

    def _reads(self, name: str) -> Callable[..., None]:
        def see(*_: Any) -> None:
            if not self._running[name]:
                self.read.add(name)

        return see

    def _enters(self, name: str) -> Callable[..., None]:
        def see(*_: Any) -> None:
            self.called.add(name)
            self._running[name] += 1

        return see

    def _leaves(self, name: str) -> Callable[..., None]:
        def see(*_: Any) -> None:
            self._running[name] -= 1

        return see


class PackedValues(Tensor):
    """Stands for a packed layer's ``weight``: shape, type and device can be asked, values cannot.

    T5 asks for its output layer's type; Swin v2 multiplies with a layer's weight itself, which has
    no floats once it is packed.
    """

    layer: str

    @staticmethod
    def of(layer: str, weight: Tensor) -> PackedValues:
        """In the place of this layer's weight, without its memory."""
        made = weight.new_zeros(()).expand(weight.shape).as_subclass(PackedValues)
        made.layer = layer
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        asks = getattr(func, "__name__", "") in _QUESTIONS
        if not asks:
            layer = next((a.layer for a in _flat(args) if isinstance(a, PackedValues)), "")
            raise InputError(
                f"layer '{layer}': the module around it reads its weight, which is packed and has "
                "no floats; give convert an example_input, which keeps such layers in floats, or "
                "skip the layer in prepare_"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: Any) -> PackedValues:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored, (self.layer, tuple(self.shape), self.dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PackedValues('{self.layer}', {tuple(self.shape)})"


_QUESTIONS = {"__get__", "size", "dim", "ndimension", "numel", "nelement", "element_size"}
_QUESTIONS |= {"is_floating_point", "is_complex", "get_device", "stride", "__len__"}


def _restored(layer: str, shape: tuple[int, ...], dtype: torch.dtype) -> PackedValues:
    return PackedValues.of(layer, torch.zeros((), dtype=dtype).expand(shape))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and the random state as before."""
    modes = {inner: inner.training for inner in module.modules()}
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        with torch.no_grad():
            module.eval()
            yield
    finally:
        torch.random.set_rng_state(state)
        for inner, training in modes.items():
            inner.training = training


def _probes(module: Any) -> list[Tensor]:
    """Two small inputs, of even and of odd size where there is one."""
    weight = module.weight
    if isinstance(module, nn.Linear):
        shapes = [(3, module.in_features), (2, 5, module.in_features)]
    else:
        reach = [
            (k - 1) * d + 2 * s + 1
            for k, d, s in zip(module.kernel_size, module.dilation, module.stride, strict=True)
        ]
        shapes = [(2, module.in_channels, *(r + more for r in reach)) for more in (0, 1)]
    return [torch.randn(*s, dtype=weight.dtype, device=weight.device) for s in shapes]


def _alike(module: nn.Module, before: nn.Module | None, layer: nn.Module, x: Tensor) -> bool:
    try:
        wanted = module(x)
        return _equal(layer(x if before is None else before(x)), wanted)
    except (RuntimeError, ValueError, TypeError):
        return False


def _first(output: Any) -> Any:
    """A router gives several results, its products first."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _equal(found: Any, wanted: Any) -> bool:
    if not (isinstance(found, Tensor) and isinstance(wanted, Tensor)):
        return False
    if found.shape != wanted.shape:
        return False
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    return bool((found - wanted).abs().max() <= _CLOSE * max(largest, 1e-30))


def _plain(module: Any, weight: Tensor, padding: Any = None) -> nn.Module:
    """torch's own layer with the settings of a subclass."""
    if isinstance(module, nn.Linear):
        made: Any = nn.Linear(module.in_features, module.out_features, module.bias is not None)
    else:
        kind: Any = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Conv1d
        made = kind(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            stride=module.stride,
            padding=module.padding if padding is None else padding,
            dilation=module.dilation,
            groups=module.groups,
            bias=module.bias is not None,
            padding_mode=module.padding_mode if padding is None else "zeros",
        )
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if module.bias is not None:
        made.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
    return made  # type: ignore[no-any-return]
