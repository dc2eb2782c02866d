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
from ttq_energy.kernels.gpu.forms import Build, CastNetwork, Form, fastest
from ttq_energy.kernels.gpu.graphs import graphed

BASELINES = ("fp32", "tf32", "fp16", "bf16", "int8")
"""fp32 with TF32 off, fp32 with TF32 on, half precisions, and W8A8."""
_LEAST_INT_MM_ROWS = 17  # torch._int_mm refuses fewer


class Float32Network(nn.Module):
    """A float32 network that runs with TF32 on or off, whatever the process's own setting is."""

    def __init__(self, module: nn.Module, tf32: bool) -> None:
        super().__init__()
        self.module, self.tf32 = module, tf32

    def forward(self, x: Tensor) -> object:
        """The wrapped network's outputs."""
        with _tf32(self.tf32):
            return self.module(x)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = allowed, allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


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
    model: nn.Module, example: Tensor, precision: str, *, compiled: bool = True
) -> list[Build]:
    """Every form that :func:`baseline` tries, each to be built by calling it; same arguments."""
    if precision not in BASELINES:
        raise unknown_name("precision", precision, BASELINES)
    model, _ = _folded(model, example)
    return [
        build
        for network, name in _networks(model, precision)
        for build in _ways(network, name, example, compiled)
    ]


def _networks(model: nn.Module, precision: str) -> Iterator[Form]:
    layouts = (False, True) if any(isinstance(m, nn.Conv2d) for m in model.modules()) else (False,)
    for channels_last in layouts:
        network = copy.deepcopy(model).eval()
        suffix = ""
        if channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            suffix = " (channels_last)"
        if precision in ("fp32", "tf32"):
            yield Float32Network(network, precision == "tf32"), f"torch {precision}{suffix}"
        elif precision in ("fp16", "bf16"):
            dtype = torch.float16 if precision == "fp16" else torch.bfloat16
            yield CastNetwork(network.to(dtype), dtype), f"torch {precision}{suffix}"
        else:
            int8, changed = int8_network(network)
            rest = "; the rest bf16" if channels_last or len(layouts) > 1 else ""
            name = f"torch int8 (_int_mm in {changed} layers{rest}){suffix}"
            if changed:
                yield CastNetwork(int8, torch.bfloat16), name
            else:
                name = f"torch bf16{suffix}; no layer has an int8 kernel"
                yield CastNetwork(int8, torch.bfloat16), name
    if precision == "int8":
        yield from _torchao(model)


def _torchao(model: nn.Module) -> Iterator[Form]:
    """torchao's W8A8, where it is installed."""
    try:
        quantization = importlib.import_module("torchao.quantization")
        network = copy.deepcopy(model).eval().to(torch.bfloat16)
        quantization.quantize_(network, quantization.Int8DynamicActivationInt8WeightConfig())
    except Exception:
        # An optional rival: absent, or at odds with this torch or this network, it does not run.
        return
    yield CastNetwork(network, torch.bfloat16), "torchao int8"


def _ways(network: nn.Module, name: str, example: Tensor, compiled: bool) -> list[Build]:
    ways: list[Build] = [
        lambda: (network, f"{name}, eager"),
        lambda: (graphed(network, example), f"{name}, CUDA graph"),
    ]
    if compiled:
        ways += [
            lambda: (_compiled(network), f"{name}, compiled"),
            lambda: (graphed(_compiled(network), example), f"{name}, compiled, CUDA graph"),
        ]
    return ways


class _Compiled(nn.Module):
    """torch.compile kept out of the module tree's names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._run = torch.compile(module)

    def forward(self, x: Tensor) -> object:
        return self._run(x)


def _compiled(network: nn.Module) -> nn.Module:
    return _Compiled(network)
