"""The dense rivals on a GPU: each precision eager, compiled and as a CUDA graph."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttq_energy.errors import unknown_name
from ttq_energy.kernels.dense import _folded
from ttq_energy.kernels.gpu.forms import Build, CastNetwork, Form, fastest, replayed

BASELINES = ("fp32", "tf32", "fp16", "bf16", "int8")
"""fp32 with TF32 off, fp32 with TF32 on, half precisions, and W8A8."""
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
}
"""What activations are between the layers of each."""
_LEAST_INT_MM_ROWS = 17  # torch._int_mm refuses fewer
_RECOMPILE_LIMITS = {
    "recompile_limit": 4096,
    "accumulated_recompile_limit": 4096,
    "fail_on_recompile_limit_hit": True,
}
"""torch counts compilations by source line and then goes on uncompiled; here many networks share
one line."""


class DenseForm(nn.Module):
    """A network that runs with torch's flags as its precision needs, whatever the process's are.

    TF32 is on or off, and cuDNN looks for the fastest of its convolutions.
    """

    def __init__(self, module: nn.Module, tf32: bool = False) -> None:
        super().__init__()
        self.module, self.tf32 = module, tf32

    def forward(self, x: Tensor) -> object:
        """The wrapped network's outputs."""
        with _flags(self.tf32):
            return self.module(x)


@contextlib.contextmanager
def _flags(tf32: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


class Int8Linear(nn.Module):
    """W8A8: weights with one scale an output, activations with one a row, quantized as they come.

    The product is torch._int_mm (cuBLASLt's int8 tensor-core kernels).
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        weight = dense.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.register_buffer("weight", torch.round(weight / scale).to(torch.int8))
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if dense.bias is None else dense.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out) in x's dtype."""
        rows = x.reshape(-1, self.in_features)
        row_scale = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-30) / 127
        integers = torch.round(rows / row_scale).to(torch.int8)
        short = max(0, _LEAST_INT_MM_ROWS - rows.shape[0])
        product = torch._int_mm(F.pad(integers, (0, 0, 0, short)), self.weight.t())
        y = product[: rows.shape[0]].float() * row_scale * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)


def int8_network(model: nn.Module) -> tuple[nn.Module, int]:
    """A bfloat16 copy with int8 linear layers, where sizes allow; and how many became int8."""
    network = copy.deepcopy(model).eval().to(torch.bfloat16)
    dense = dict(model.named_modules())
    changed = 0
    for name, part in list(network.named_modules()):
        source = dense.get(name)
        fits = type(source) is nn.Linear and not (source.in_features % 8 or source.out_features % 8)
        if not fits or not name:
            continue
        assert isinstance(source, nn.Linear)
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, Int8Linear(source).to(source.weight.device))
        changed += 1
        del part
    return network, changed


def baseline(model: nn.Module, example: Tensor, precision: str, *, compiled: bool = True) -> Form:
    """The fastest dense form of a network in one precision.

    Args:
        model: a float32 network on the GPU; not changed.
        example: an input batch on the GPU.
        precision: one of :data:`BASELINES`.
        compiled: also try torch.compile (a minute or so for a large network).

    Returns:
        The module, which takes the example and gives float32, and its name: the precision and
        whether it runs eager, compiled or as a CUDA graph.

    Raises:
        InputError: an unknown precision.
        RuntimeError: no form runs.
    """
    return fastest(ways(model, example, precision, compiled=compiled), example)


def ways(
    model: nn.Module,
    example: Tensor,
    precision: str,
    *,
    compiled: bool = True,
    cast: bool = True,
) -> list[Build]:
    """Every form that :func:`baseline` tries, each to be built by calling it; same arguments.

    With ``cast`` False the forms take and give activations of ``DTYPES[precision]``, as inside a
    network of that precision; ``example`` is then of that dtype.
    """
    if precision not in BASELINES:
        raise unknown_name("precision", precision, BASELINES)
    if cast:
        model, _ = _folded(model, example)
    return [
        build
        for network, name in _networks(model, precision, cast)
        for build in _ways(network, precision == "tf32", name, example, compiled)
    ]


def _networks(model: nn.Module, precision: str, cast: bool) -> Iterator[Form]:
    layouts = (False, True) if any(isinstance(m, nn.Conv2d) for m in model.modules()) else (False,)
    dtype = DTYPES[precision]

    def taking_float32(network: nn.Module) -> nn.Module:
        return CastNetwork(network, dtype) if cast and dtype != torch.float32 else network

    for channels_last in layouts:
        network = copy.deepcopy(model).eval()
        suffix = ""
        if channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            suffix = " (channels_last)"
        name = f"torch {precision}{suffix}"
        if precision == "int8":
            network, changed = int8_network(network)
            rest = "; the rest bf16" if len(layouts) > 1 else ""
            name = f"torch int8 (_int_mm in {changed} layers{rest}){suffix}"
            if not changed:
                name = f"torch bf16{suffix}; no layer has an int8 kernel"
        else:
            network = network.to(dtype)
        yield taking_float32(network), name
    if precision == "int8":
        for network, name in _torchao(model):
            yield taking_float32(network), name


def _torchao(model: nn.Module) -> Iterator[Form]:
    """torchao's W8A8, where it is installed."""
    try:
        quantization = importlib.import_module("torchao.quantization")
        network = copy.deepcopy(model).eval().to(torch.bfloat16)
        quantization.quantize_(network, quantization.Int8DynamicActivationInt8WeightConfig())
    except Exception:
        # An optional rival: absent, or at odds with this torch or this network, it does not run.
        return
    yield network, "torchao int8"


def _ways(
    network: nn.Module, tf32: bool, name: str, example: Tensor, compiled: bool
) -> list[Build]:
    eager = DenseForm(network, tf32)
    ways: list[Build] = [
        lambda: (eager, f"{name}, eager"),
        lambda: (replayed(eager, example), f"{name}, CUDA graph"),
    ]
    if compiled:
        fused = DenseForm(_Compiled(network), tf32)
        ways += [
            lambda: (fused, f"{name}, compiled"),
            lambda: (replayed(fused, example), f"{name}, compiled, CUDA graph"),
        ]
    return ways


class _Compiled(nn.Module):
    """torch.compile kept out of the module tree's names, for the shape of the first call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._run = (torch.compile(module, dynamic=False),)
        self._is_compiled = False

    def forward(self, x: Tensor) -> object:
        if self._is_compiled:
            return self._run[0](x)
        config = torch._dynamo.config
        limits = {name: value for name, value in _RECOMPILE_LIMITS.items() if hasattr(config, name)}
        with config.patch(limits):
            y: object = self._run[0](x)
        self._is_compiled = True
        return y
