"""Whole networks for the kernel benchmark: converted ternary ones against torch's best forms."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from kernels_race import Contender
from kernels_rivals import first_line, note
from torch import Tensor, nn

import ttq_energy as te
from ttq_energy import models
from ttq_energy.kernels import dense, isa
from ttq_energy.kernels.modules import TernaryModule

THRESHOLD = 0.05
PART_CALLS = 10


@dataclass(frozen=True)
class Network:
    """A network to race.

    Attributes:
        name: as printed.
        model: registered name.
        batch: inputs at once.
        options: of the model.
        position: decode one token at this position of the sequence, with a cache that holds what
            came before; None runs the example input whole.
    """

    name: str
    model: str
    batch: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    position: int | None = None

    @property
    def work(self) -> str:
        decode = "" if self.position is None else f", decoding token {self.position + 1}"
        return f"{self.name} batch {self.batch}{decode}"


# The language models' sizes put the float32 weights far above any last-level cache; their
# vocabularies are the default one and, apart, one as large as usual for words.
LSTM = {"embedding_size": 1024, "hidden_size": 2048, "n_layers": 2}
TRANSFORMER = {"d_model": 2048, "n_layers": 4, "n_heads": 16, "context": 256}
WORDS = {"vocab": 10000}
NETWORKS = (
    Network("resnet20", "resnet20"),
    Network("resnet20", "resnet20", 128),
    Network("alexnet", "alexnet"),
    Network("lstm-lm 2 x 2048", "lstm-lm", options=LSTM, position=16),
    Network("transformer-lm 4 x 2048", "transformer-lm", options=TRANSFORMER, position=128),
    Network("lstm-lm, 10000 words", "lstm-lm", options=LSTM | WORDS, position=16),
    Network(
        "transformer-lm, 10000 words", "transformer-lm", options=TRANSFORMER | WORDS, position=128
    ),
)


class Decoding(nn.Module):
    """One decoding step, the same at every call: the cache is set back to where it was."""

    def __init__(self, model: nn.Module, position: int) -> None:
        super().__init__()
        self.model = model
        self.position = position
        self.cache: Any = None

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        self.cache = None  # it has the weights' dtype, which may change now
        moved: nn.Module = super()._apply(*args, **kwargs)
        return moved

    def forward(self, token: Tensor) -> Tensor:
        """Logits (1, 1, vocab) of the token after ``token`` (1, 1)."""
        if self.cache is None:
            self.cache = self.model.new_cache(1)
            self.model(token.expand(1, self.position), self.cache)
        if hasattr(self.cache, "length"):
            self.cache.length = self.position
        logits: Tensor = self.model(token, self.cache)
        return logits


def contenders(network: Network, compile: bool) -> tuple[list[Contender], float]:
    """The network's forms, and its multiply-accumulates.

    The dense forms are those of :mod:`ttq_energy.kernels.dense`: the fastest of NCHW and
    channels_last (and compiled, if asked for), static or dynamic int8.
    """
    torch.manual_seed(0)
    model = models.build(network.model, **network.options).eval()
    ternary = models.build(network.model, **network.options)
    te.prepare_(ternary, te.TTQ(threshold=THRESHOLD))
    ternary.eval()
    x = models.example_input(network.model, network.batch, **network.options)
    if network.position is not None:
        x = x[:1, :1]
        model = Decoding(model, network.position)
        with torch.inference_mode():
            model(x)  # fills the cache, so that the count is of one step
    macs = float(te.count(copy.deepcopy(model), x)["macs"].sum())
    found: list[Contender] = []
    for kind in ("fp32", "int8"):
        if network.position is None:
            packed = te.convert(ternary, activations=kind, example_input=x).eval()
        else:
            packed = Decoding(te.convert(ternary, activations=kind).eval(), network.position)
        name = f"ttq-energy {kind} ({isa.active()})"
        found.append(Contender(name, _caller(packed, x), weight_bytes(packed), ours=True))
        note_parts(network.work, name, packed, x)
    for name, network_ in _dense_forms(model, x, compile):
        found.append(Contender(name, _caller(network_, x), weight_bytes(network_)))
    return found, macs


def _dense_forms(model: nn.Module, x: Tensor, compile: bool) -> Iterator[tuple[str, nn.Module]]:
    builders: tuple[Callable[[], tuple[nn.Module, str]], ...] = (
        lambda: _best_fp32(model, x, compile),
        lambda: dense.bf16(model, x),
        lambda: dense.int8(model, x),
    )
    for build in builders:
        try:
            form, name = build()
        except Exception as error:
            note(f"a dense form is left out: {first_line(error)}")
            continue
        yield name, form


def _best_fp32(model: nn.Module, x: Tensor, compile: bool) -> tuple[nn.Module, str]:
    if compile:
        try:
            return dense.best_fp32(model, x, compile=True)
        except Exception as error:
            # Without a C++ compiler, or on a network that torch.compile does not take.
            note(f"torch.compile is left out: {first_line(error)}")
    return dense.best_fp32(model, x)


def _caller(network: nn.Module, x: Tensor) -> Callable[[], Any]:
    return lambda: network(x)


def weight_bytes(network: nn.Module) -> int:
    """Bytes of the weights that one call reads; of embeddings, a row, which is not counted."""
    total = 0
    for module in network.modules():
        if isinstance(module, TernaryModule):
            total += module.weight_bytes
        elif not isinstance(module, nn.Embedding):
            total += sum(p.numel() * p.element_size() for p in module.parameters(recurse=False))
            packed = getattr(module, "_packed_params", None)
            if packed is not None and hasattr(module, "weight"):
                total += module.weight().numel()
    return total


def note_parts(work: str, name: str, network: nn.Module, x: Tensor) -> None:
    """Print where a converted network's time goes: packed layers, dense layers, all else.

    Hooks see each layer, so chains of layers run one by one here.
    """
    seconds = {"packed": 0.0, "dense": 0.0}
    started: dict[int, float] = {}
    hooks = []
    inner: set[nn.Module] = set()
    for module in network.modules():
        kind = _part(module)
        if kind is None or module in inner:
            continue
        inner.update(module.modules())

        def enter(module: nn.Module, *_: Any) -> None:
            started[id(module)] = time.perf_counter()

        def leave(module: nn.Module, *_: Any, kind: str = kind) -> None:
            seconds[kind] += time.perf_counter() - started[id(module)]

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    with torch.inference_mode():
        network(x)
        seconds.update(packed=0.0, dense=0.0)
        start = time.perf_counter()
        for _ in range(PART_CALLS):
            network(x)
        whole = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    shares = {kind: 100 * spent / whole for kind, spent in seconds.items()}
    rest = 100 - sum(shares.values())
    note(
        f"{work}, {name}, layer by layer: {shares['packed']:.0f} % of the time in packed layers,"
        f" {shares['dense']:.0f} % in dense ones, {rest:.0f} % elsewhere"
    )


def _part(module: nn.Module) -> str | None:
    if isinstance(getattr(module, "recurrences", None), nn.ModuleDict):
        return "packed"
    if isinstance(module, TernaryModule):
        return "packed"
    return "dense" if isinstance(module, nn.Linear | nn.Conv2d) else None
