"""Names of the kernels that a module runs, for reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from ttq_energy.kernels.fused_network import FusedNetwork

# Layers whose arithmetic dominates; the rest (norms, activations, pooling) run in torch.
_DENSE = {
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
    nn.Linear: "linear",
    nn.LSTM: "lstm",
    nn.GRU: "gru",
    nn.RNN: "rnn",
    nn.MultiheadAttention: "attention",
    nn.Embedding: "embedding",
}


def describe(model: nn.Module) -> str:
    """Name the distinct kernels that a module's layers run, most used first.

    For example "ttq-energy fp32 packed (avx2) x18 + torch float32 conv x1 + torch float32
    linear x1". Layers without arithmetic of their own are left out; a module with none of the
    known layers gives "torch".
    """
    native = {id(layer) for layer in _chained_dense_layers(model)}
    names = Counter(
        name.replace("torch", "ttq-energy", 1) if id(module) in native else name
        for module in model.modules()
        if (name := _kernel(module))
    )
    if not names:
        return "torch"
    return " + ".join(f"{name} x{count}" for name, count in names.most_common())


def _chained_dense_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Full-precision layers that a fused network runs on this package's own kernels."""
    for module in model.modules():
        if isinstance(module, FusedNetwork):
            for chain in module.chains():
                yield from chain.dense_layers()


def _kernel(module: nn.Module) -> str | None:
    if isinstance(getattr(module, "recurrences", None), nn.ModuleDict):
        return None  # a packed recurrent layer: its matrices are counted
    name = getattr(module, "kernel", None)
    if isinstance(name, str):
        return name
    package = type(module).__module__
    if package.startswith("torch.ao.nn"):
        if "modules" not in package or not hasattr(module, "weight"):
            return None
        return f"torch int8 {type(module).__name__.lower()}"
    for layer, short in _DENSE.items():
        if isinstance(module, layer):
            dtype = next((p.dtype for p in module.parameters()), None)
            return f"torch {str(dtype).removeprefix('torch.')} {short}"
    return None
