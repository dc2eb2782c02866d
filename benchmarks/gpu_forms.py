"""What benchmarks/gpu.py compares: ternary, dense and rival forms of one linear layer on a GPU.

Each form holds several copies of its weights, together larger than the L2 cache, and a call runs
through all of them, so that weights come from memory. Activations have the form's own dtype on
both sides: nothing is cast around a layer.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttq_energy.kernels import gpu, pack_linear
from ttq_energy.kernels.gpu import baselines, forms

DEVICE = "cuda"
CACHES = 3.0
"""The copies of a layer's weights are together so many times the L2 cache."""
TERNARY = {
    "ttq bf16": (torch.bfloat16, "fp32", 0.7, 0.3),
    "ttq bf16, one scale": (torch.bfloat16, "fp32", 0.5, 0.5),
    "ttq fp16, one scale": (torch.float16, "fp32", 0.5, 0.5),
    "ttq fp32": (torch.float32, "fp32", 0.7, 0.3),
    "ttq int8": (torch.bfloat16, "int8", 0.7, 0.3),
}
DENSE_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
GEMLITE = "gemlite fp16, one scale"


@dataclass(frozen=True)
class Layer:
    """The layer, the batch, and the cache that its weights must not fit in."""

    rows: int
    columns: int
    batch: int
    l2_bytes: int

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    def copies(self, weight_bytes: int) -> int:
        """Copies that together are larger than the L2 cache, at least two."""
        return max(2, math.ceil(CACHES * self.l2_bytes / weight_bytes))

    def codes(self) -> Tensor:
        """A third of each code, made on the GPU."""
        return torch.randint(-1, 2, (self.rows, self.columns), dtype=torch.int8, device=DEVICE)

    def input(self, dtype: torch.dtype) -> Tensor:
        return torch.randn(self.batch, self.columns, device=DEVICE).to(dtype)


@dataclass
class Contender:
    """A form of the layer: ``module(example)`` runs ``copies`` layers of ``weight_bytes`` each."""

    name: str
    how: str
    module: nn.Module
    example: Tensor
    copies: int
    weight_bytes: int
    dense: bool
    times_s: tuple[float, ...] = ()

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)

    def call(self) -> object:
        return self.module(self.example)


class Chain(nn.Module):
    """The same input through each copy of a layer."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers]


class Ternary(nn.Module):
    """One ternary layer through the tuned GPU kernels."""

    def __init__(self, weight: gpu.DeviceWeight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return gpu.linear(x, self.weight)


class Call(nn.Module):
    """A layer that need not be a module."""

    def __init__(self, layer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._layer = [layer]

    def forward(self, x: Tensor) -> Tensor:
        return self._layer[0](x)


def synchronize() -> None:
    torch.cuda.synchronize()


@contextlib.contextmanager
def left_out(what: str) -> Iterator[None]:
    """Tell what fails (no memory, no compiler, a rival's limits) and go on; not a broken device."""
    try:
        yield
    except Exception as error:
        if "CUDA error" in str(error):
            raise
        print(f"  left out: {what}: {first_line(error)}", flush=True)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def built(
    name: str, build: Callable[[], tuple[nn.Module, str]], x: Tensor, copies: int, size: int
) -> list[Contender]:
    """The form, if it can be built and runs."""
    found = []
    with left_out(name), torch.inference_mode():
        module, how = build()
        module(x)
        synchronize()
        found.append(Contender(name, how, module, x, copies, size, dense=name in DENSE_BYTES))
    return found


def dense_contenders(layer: Layer, compiled: bool) -> Iterator[Contender]:
    """Every precision, eager, as a CUDA graph and compiled."""
    for precision, width in DENSE_BYTES.items():
        size = layer.elements * width
        copies = layer.copies(size)
        with left_out(precision):
            layers: list[nn.Module] = [
                nn.Linear(layer.columns, layer.rows, bias=False, device=DEVICE)
                for _ in range(copies)
            ]
            x = layer.input(baselines.DTYPES[precision])
            for build in baselines.ways(Chain(layers), x, precision, compiled=compiled, cast=False):
                yield from built(precision, build, x, copies, size)


def ternary_contenders(layer: Layer) -> Iterator[Contender]:
    """The project's kernels, eager and as a CUDA graph."""
    for name, (dtype, activations, w_pos, w_neg) in TERNARY.items():
        copies = layer.copies(layer.elements // 4)
        with left_out(name):
            weights = [
                gpu.repack(pack_linear(layer.codes(), w_pos, w_neg, activations))
                for _ in range(copies)
            ]
            x = layer.input(dtype)
            chain = Chain([Ternary(weight) for weight in weights])
            ways: dict[str, Callable[[], nn.Module]] = {
                "eager": lambda c=chain: c,
                "CUDA graph": lambda c=chain, x=x: forms.replayed(c, x),
            }
            for how, make in ways.items():

                def build(
                    make: Callable[[], nn.Module] = make,
                    how: str = how,
                    weight: gpu.DeviceWeight = weights[0],
                    x: Tensor = x,
                ) -> tuple[nn.Module, str]:
                    module = make()
                    module(x)
                    return module, f"{how}; {list(weight.ran.values())[-1]}"

                yield from built(name, build, x, copies, weights[0].weight_bytes)


def gemlite_contender(layer: Layer) -> Iterator[Contender]:
    """gemlite's 2-bit kernel on one scale in float16, where it is installed."""
    try:
        helper = importlib.import_module("gemlite.helper")
    except ImportError:
        print("  gemlite: not installed, not compared (pip install gemlite)")
        return
    size = layer.elements // 4
    copies = layer.copies(size)
    with left_out(GEMLITE):
        x = layer.input(torch.float16)
        scale = torch.full((layer.rows, 1), 0.5, dtype=torch.float16, device=DEVICE)
        zero = torch.ones((layer.rows, 1), dtype=torch.float16, device=DEVICE)
        packer = helper.A16Wn(device=f"{DEVICE}:0")
        chain = Chain(
            [
                Call(
                    packer.from_weights(
                        (layer.codes() + 1).to(torch.uint8), scale, zero, 2, layer.columns
                    )
                )
                for _ in range(copies)
            ]
        )
        ways = {"eager": lambda: chain, "CUDA graph": lambda: forms.replayed(chain, x)}
        for how, make in ways.items():
            yield from built(GEMLITE, lambda how=how, make=make: (make(), how), x, copies, size)


def time_all(contenders: list[Contender], rounds: int) -> list[Contender]:
    """Give each one layer's seconds in every round, timed in turns; drops those that fail."""
    running = []
    for contender in contenders:
        with left_out(f"{contender.name}, {contender.how}"), torch.inference_mode():
            contender.call()
            synchronize()
            running.append(contender)
    with torch.inference_mode():
        times = forms.interleaved(
            [contender.call for contender in running], synchronize, rounds=rounds, block_s=0.03
        )
    for contender, seconds in zip(running, times, strict=True):
        contender.times_s = tuple(s / contender.copies for s in seconds)
    return running
